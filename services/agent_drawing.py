"""An agent's graph as a drawing: Mermaid text, or SVG made here without a browser. Each is made once a graph.

graphlay says where nodes and edges go; this file says how they look. Names are the agent author's: they are escaped.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from html import escape
from typing import Any
from unicodedata import east_asian_width

from langchain_core.runnables.graph import Edge, Graph, Node
from langgraph.graph import END, START
from langgraph.graph.state import CompiledStateGraph

MAX_NAME_CHARS = 40
CHAR_WIDTH = 7.3
"""Pixels an average character takes at the size of `FONT`; measured in Chromium with its default sans-serif."""

FONT = 'font-family="system-ui, sans-serif" font-size="13" text-anchor="middle" dominant-baseline="central"'
NODE_HEIGHT, LABEL_HEIGHT, LAYER_GAP, PADDING = 38.0, 18.0, 64.0, 20.0
INK, PAPER, START_FILL, NODE_FILL, END_FILL = "#2b2f3a", "#ffffff", "#ffffff", "#f2f0ff", "#bfb6fc"
CONDITIONAL = 'stroke-dasharray="6 4"'

# What XML 1.0 cannot hold, not even escaped.
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_NOT_MERMAID = re.compile(r"[^\w .,:+*/=?!'-]")


@lru_cache(maxsize=256)
def draw_mermaid(graph: CompiledStateGraph[Any]) -> str:
    """The graph as Mermaid text."""
    drawn = graph.get_graph()
    nodes = {key: Node(node.id, _mermaid(node.name), node.data, node.metadata) for key, node in drawn.nodes.items()}
    edges = [edge._replace(data=_mermaid(str(edge.data)) if edge.data else None) for edge in drawn.edges]
    return Graph(nodes, edges).draw_mermaid()


@lru_cache(maxsize=256)
def draw_svg(graph: CompiledStateGraph[Any], title: str) -> str:
    """The graph as an SVG document, from top to bottom; conditional edges are dashed and named."""
    drawn = graph.get_graph()
    placed = _place(drawn)
    left, top, width, height = _bounds(placed)
    name = _xml(title)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{width:g}" height="{height:g}" '
            f'viewBox="{left:g} {top:g} {width:g} {height:g}">',
            f"<title>{name}</title>",
            '<defs><marker id="arrow" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
            f'orient="auto-start-reverse"><path d="M0 0 10 5 0 10z" fill="{INK}"/></marker></defs>',
            f'<rect x="{left:g}" y="{top:g}" width="{width:g}" height="{height:g}" fill="{PAPER}"/>',
            *(_line(edge) for edge in placed.edges),
            *(_box(node) for node in placed.nodes),
            *(_label(edge) for edge in placed.edges if edge.label),
            "</svg>\n",
        ]
    )


@dataclass(frozen=True, slots=True)
class _PlacedNode:
    id: str
    name: str
    is_subgraph: bool
    x: float
    y: float
    width: float


@dataclass(frozen=True, slots=True)
class _PlacedEdge:
    points: Sequence[tuple[float, float]]
    conditional: bool
    label: str
    at: tuple[float, float]


@dataclass(frozen=True, slots=True)
class _Placed:
    nodes: Sequence[_PlacedNode]
    edges: Sequence[_PlacedEdge]


def _place(drawn: Graph) -> _Placed:
    """Where everything goes, from START at the top to END at the bottom."""
    import graphlay

    request = graphlay.Graph()
    for node in drawn.nodes.values():
        rank = {START: "first", END: "last"}.get(node.id, "free")
        request.node(node.id, width=_node_width(node), height=NODE_HEIGHT, rank=rank)
    for edge in drawn.edges:
        more: dict[str, Any] = {}
        if label := _edge_label(edge):
            more["label_size"] = {"width": _text_width(label) + 8, "height": LABEL_HEIGHT}
        request.edge(edge.source, edge.target, **more)
    options = {
        "direction": "topbottom",
        "spacing": {"layer_gap": LAYER_GAP},
        # Back edges go up, as their author thinks of them, whatever makes fewer of them.
        "cycles": {"strategy": "follow_flow"},
    }
    layout = graphlay.layout(request, options=options)
    nodes = [
        _PlacedNode(
            node.id,
            _node_name(node),
            isinstance(node.data, CompiledStateGraph),
            place["center"]["x"],
            place["center"]["y"],
            place["size"]["width"],
        )
        for node, place in zip(drawn.nodes.values(), layout.nodes, strict=True)
    ]
    edges = [_placed_edge(edge, route) for edge, route in zip(drawn.edges, layout.edges, strict=True)]
    return _Placed(nodes, edges)


def _placed_edge(edge: Edge, route: dict[str, Any]) -> _PlacedEdge:
    points = [(point["x"], point["y"]) for point in route["points"]]
    anchor = route.get("label_anchor")
    at = (anchor["x"], anchor["y"]) if anchor else points[len(points) // 2]
    return _PlacedEdge(points, edge.conditional, _edge_label(edge), at)


def _bounds(placed: _Placed) -> tuple[float, float, float, float]:
    xs, ys = zip(*_extremes(placed), strict=True)
    left, top = min(xs) - PADDING, min(ys) - PADDING
    return left, top, max(xs) + PADDING - left, max(ys) + PADDING - top


def _extremes(placed: _Placed) -> Iterator[tuple[float, float]]:
    for node in placed.nodes:
        for sign in (-1, 1):
            yield node.x + sign * node.width / 2, node.y + sign * NODE_HEIGHT / 2
    for edge in placed.edges:
        yield from edge.points
        if edge.label:
            half = _text_width(edge.label) / 2 + 4
            yield from ((edge.at[0] - half, edge.at[1]), (edge.at[0] + half, edge.at[1]))


def _line(edge: _PlacedEdge) -> str:
    points = " ".join(f"{x:g},{y:g}" for x, y in edge.points)
    dashes = f" {CONDITIONAL}" if edge.conditional else ""
    return (
        f'<polyline points="{points}" fill="none" stroke="{INK}" stroke-width="1.5" stroke-linejoin="round"{dashes} '
        f'marker-end="url(#arrow)"/>'
    )


def _box(node: _PlacedNode) -> str:
    """START and END are pills; a subgraph has a second border."""
    left, top = node.x - node.width / 2, node.y - NODE_HEIGHT / 2
    fill = {START: START_FILL, END: END_FILL}.get(node.id, NODE_FILL)
    radius = NODE_HEIGHT / 2 if node.id in {START, END} else 6
    border = f'stroke="{INK}" stroke-width="1.5"'
    inner = ""
    if node.is_subgraph:
        inner = (
            f'<rect x="{left + 4:g}" y="{top + 4:g}" width="{node.width - 8:g}" height="{NODE_HEIGHT - 8:g}" rx="3" '
            f'fill="none" stroke="{INK}" stroke-width="1"/>'
        )
    return (
        f'<g><title>{_xml(node.id)}</title><rect x="{left:g}" y="{top:g}" width="{node.width:g}" '
        f'height="{NODE_HEIGHT:g}" rx="{radius:g}" fill="{fill}" {border}/>{inner}'
        f'<text x="{node.x:g}" y="{node.y:g}" fill="{INK}" {FONT}>{_xml(node.name)}</text></g>'
    )


def _label(edge: _PlacedEdge) -> str:
    (x, y), width = edge.at, _text_width(edge.label)
    return (
        f'<rect x="{x - width / 2 - 2:g}" y="{y - LABEL_HEIGHT / 2:g}" width="{width + 4:g}" '
        f'height="{LABEL_HEIGHT:g}" fill="{PAPER}"/>'
        f'<text x="{x:g}" y="{y:g}" fill="{INK}" {FONT}>{_xml(edge.label)}</text>'
    )


def _node_name(node: Node) -> str:
    return {START: "start", END: "end"}.get(node.id) or _short(node.name)


def _node_width(node: Node) -> float:
    return max(60.0, _text_width(_node_name(node)) + 32)


def _edge_label(edge: Edge) -> str:
    return _short(str(edge.data)) if edge.data else ""


def _short(text: str) -> str:
    line = " ".join(_NOT_XML.sub(" ", text).split())
    return line if len(line) <= MAX_NAME_CHARS else line[: MAX_NAME_CHARS - 1] + "…"


def _text_width(text: str) -> float:
    return CHAR_WIDTH * sum(2 if east_asian_width(character) in "WF" else 1 for character in text)


def _xml(text: str) -> str:
    return escape(_NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text), quote=False)


def _mermaid(text: str) -> str:
    """What Mermaid reads as its own signs, written as its entities."""
    line = " ".join(_NOT_XML.sub(" ", text).split())
    return _NOT_MERMAID.sub(lambda sign: f"#{ord(sign[0])};", line)
