"""Drawings: what the graph has is in them, and nothing that an author wrote is read as a drawing's own signs."""

from typing import Any
from xml.etree import ElementTree

import pytest
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.graph.state import CompiledStateGraph

from services.agent_drawing import draw_mermaid, draw_svg

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = 'a"]; <script>alert(1)</script>&amp;\x01\n(]} 日本 --> b'


def graph_of(*nodes: str, edges: list[tuple[str, str]], choices: dict[str, dict[str, str]] | None = None) -> Any:
    graph: StateGraph[Any] = StateGraph(MessagesState)
    for node in nodes:
        graph.add_node(node, lambda _: {})
    for one, other in edges:
        graph.add_edge(one, other)
    for node, ways in (choices or {}).items():
        graph.add_conditional_edges(node, lambda _: "", ways)
    return graph.compile()


def parsed(graph: CompiledStateGraph[Any], title: str = "t") -> ElementTree.Element:
    return ElementTree.fromstring(draw_svg(graph, title))  # noqa: S314 - our own drawing


def texts(svg: ElementTree.Element) -> list[str]:
    return [element.text or "" for element in svg.iter(f"{SVG}text")]


def places(svg: ElementTree.Element) -> dict[str, tuple[float, float]]:
    return {e.text or "": (float(e.get("x", "")), float(e.get("y", ""))) for e in svg.iter(f"{SVG}text")}


@pytest.fixture(scope="module")
def looping() -> Any:
    """Six nodes, a way back, and one that goes back to itself."""
    return graph_of(
        "plan",
        "search",
        "grade",
        "write",
        "review",
        "polish",
        edges=[(START, "plan"), ("plan", "search"), ("search", "grade"), ("write", "review"), ("polish", END)],
        choices={
            "grade": {"good": "write", "bad": "search"},
            "review": {"again": "review", "replan": "plan", "done": "polish"},
        },
    )


def test_every_node_is_drawn_below_those_that_lead_to_it(looping):
    where = places(parsed(looping))
    order = ["start", "plan", "search", "grade", "write", "review", "polish", "end"]
    heights = [where[name][1] for name in order]
    assert heights == sorted(heights)
    assert len(set(heights)) == len(heights)


def test_conditional_edges_are_dashed_and_named_and_the_others_are_not(looping):
    lines = list(parsed(looping).iter(f"{SVG}polyline"))
    assert sum("stroke-dasharray" in line.attrib for line in lines) == 5
    assert sum("stroke-dasharray" not in line.attrib for line in lines) == 5
    assert {"good", "bad", "again", "replan", "done"} <= set(texts(parsed(looping)))


def test_everything_is_inside_the_picture_and_no_two_nodes_overlap(looping):
    svg = parsed(looping)
    left, top, width, height = map(float, svg.get("viewBox", "").split())
    for line in svg.iter(f"{SVG}polyline"):
        for point in line.get("points", "").split():
            x, y = map(float, point.split(","))
            assert left < x < left + width
            assert top < y < top + height
    boxes = [
        tuple(float(rect.get(name, "")) for name in ("x", "y", "width", "height"))
        for rect in svg.findall(f"{SVG}g/{SVG}rect")
    ]
    for index, (x, y, w, h) in enumerate(boxes):
        for other_x, other_y, other_w, other_h in boxes[index + 1 :]:
            assert x + w <= other_x or other_x + other_w <= x or y + h <= other_y or other_y + other_h <= y


def test_start_and_end_look_unlike_the_rest_and_unlike_each_other(looping):
    rects = {group.findtext(f"{SVG}title"): group.find(f"{SVG}rect") for group in parsed(looping).iter(f"{SVG}g")}
    looks = {(rects[name].get("rx"), rects[name].get("fill")) for name in (START, "plan", END)}
    assert len(looks) == 3


def test_a_subgraph_is_one_node_with_a_second_border():
    inner = graph_of("deep", edges=[(START, "deep"), ("deep", END)])
    graph: StateGraph[Any] = StateGraph(MessagesState)
    graph.add_node("sub", inner)
    graph.add_node("plain", lambda _: {})
    graph.add_edge(START, "sub")
    graph.add_edge("sub", "plain")
    svg = parsed(graph.compile())
    assert "deep" not in texts(svg)
    borders = {group.findtext(f"{SVG}title"): len(group.findall(f"{SVG}rect")) for group in svg.iter(f"{SVG}g")}
    assert borders == {START: 1, "sub": 2, "plain": 1, END: 1}


def test_an_authors_names_are_text_in_svg():
    graph = graph_of(HOSTILE, edges=[(START, HOSTILE)], choices={HOSTILE: {"<b>\x00\ud800": END, "x": HOSTILE}})
    drawn = draw_svg(graph, "<i>&\x02")
    drawn.encode()
    assert "<script" not in drawn
    assert "<b>" not in drawn
    assert "<i>" not in drawn
    svg = parsed(graph, "<i>&\x02")
    assert svg.findtext(f"{SVG}title") == "<i>&\N{REPLACEMENT CHARACTER}"
    assert any(text.startswith('a"]; <script>') for text in texts(svg))


def test_an_authors_names_are_text_in_mermaid():
    drawn = draw_mermaid(graph_of(HOSTILE, edges=[(START, HOSTILE), (HOSTILE, END)]))
    assert "<script" not in drawn
    assert '"]' not in drawn
    assert "\x01" not in drawn
    line = next(line for line in drawn.splitlines() if "日本" in line)
    assert line.rstrip(";").endswith(")")
    assert drawn.count("-->") == 2


def test_a_long_name_is_cut_and_whole_in_its_title():
    name = "n" * 200
    svg = parsed(graph_of(name, edges=[(START, name), (name, END)]))
    assert "n" * 39 + "…" in texts(svg)
    assert name in [group.findtext(f"{SVG}title") for group in svg.iter(f"{SVG}g")]


def test_mermaid_tells_the_same_nodes_and_ways(looping):
    drawn = draw_mermaid(looping)
    assert "graph TD" in drawn
    assert "plan --> search" in drawn
    assert "grade -. &nbsp;bad&nbsp; .-> search" in drawn


def test_a_drawing_is_made_once(looping):
    assert draw_svg(looping, "t") is draw_svg(looping, "t")
    assert draw_mermaid(looping) is draw_mermaid(looping)


def test_nothing_is_below_the_end_even_where_it_is_near():
    ways = {"a": {"go on": "b", "stop": END}, "c": {"again": "a"}}
    where = places(parsed(graph_of("a", "b", "c", edges=[(START, "a"), ("b", "c")], choices=ways)))
    assert where["end"][1] >= max(where[name][1] for name in ("start", "a", "b", "c"))
    assert where["start"][1] < min(where[name][1] for name in ("a", "b", "c"))


def test_a_node_that_nothing_leads_to_is_drawn_too():
    graph = graph_of("a", "lost", edges=[(START, "a"), ("a", END), ("lost", END)])
    assert {"a", "lost"} <= set(texts(parsed(graph)))
