"""Whose fragment it is: each tool call whole and once, however a provider cuts, numbers or repeats its fragments.

OpenAI gives each call an `index`, and its id and name in its first fragment alone. Others leave the index out, give it
twice, count fragments with it, repeat id and name on each fragment, send calls whole and again, or let the arguments
grow instead of continuing them. What comes out of here is OpenAI's form.
"""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from domain.errors import ProviderCut
from services.llm.providers.surrogates import Halves

OWN_KEYS = frozenset({"index", "id", "type", "function"})
FLAT_KEYS = frozenset({"name", "arguments"})
WHOLE_ARGUMENTS = frozenset({"", "null", "None", "[]", '""'})
"""Arguments of a whole call that are no object; a fragment that goes on with a call is none of these but empty."""

MARKS = re.compile(r'\\.|["{}\[\]]', re.DOTALL)
AFTER_WHICH_AN_OBJECT_MAY_STAND = frozenset(":,[")


@dataclass(slots=True)
class _Fragment:
    """What one fragment says of its call."""

    given_index: int | None
    given_id: str
    name: str
    arguments: str
    more: dict[str, Any]

    @property
    def may_begin(self) -> bool:
        """Whether its arguments can be the first of a call."""
        text = self.arguments.strip()
        return text in WHOLE_ARGUMENTS or text.startswith("{")

    @property
    def is_empty(self) -> bool:
        return not (self.given_id or self.name or self.arguments or self.more)

    @property
    def is_blank(self) -> bool:
        """Whether it adds neither a name nor arguments."""
        return not self.name and not self.arguments.strip()

    def is_other(self, call: "_Call") -> bool:
        """Whether its arguments begin an object that is not this call's."""
        return self.arguments.lstrip().startswith("{") and not _same_object(self.arguments, call.arguments)


@dataclass(slots=True)
class _Call:
    """One call as far as it has come. `given_*` are the provider's, which may be wrong or missing."""

    index: int
    id: str
    given_id: str
    given_index: int | None
    name: str
    parts: list[str] = field(default_factory=list)
    held: str = ""
    more: dict[str, Any] = field(default_factory=dict)
    halves: Halves = field(default_factory=Halves)
    is_sent: bool = False
    has_braces: bool = False
    """Its arguments so far are `{}`, which some send before the real ones."""
    waits: bool = False
    """Its first fragment is held for an event, since it has no more than braces or half a name."""
    waits_for_name: bool = False
    """Its name may be half of one: it is held for an event."""
    is_named_again: bool = False
    """Its name has come once more, alone, after its arguments: another call of the same tool, if arguments follow."""
    _depth: int = 0
    _in_string: bool = False
    _escape: str = ""
    _has_begun: bool = False

    @property
    def arguments(self) -> str:
        self.parts = ["".join(self.parts)]
        return self.parts[0]

    @property
    def is_complete(self) -> bool:
        """Whether the arguments are a closed object, which nothing can follow."""
        return self._has_begun and self._depth == 0 and not self._in_string

    def is_repeated_by(self, fragment: "_Fragment") -> bool:
        return self.is_complete and fragment.name == self.name and _same_object(fragment.arguments, self.arguments)

    @property
    def is_half(self) -> bool:
        return self._depth > 0 or self._in_string

    def append(self, text: str) -> None:
        if not text:
            return
        self.parts.append(text)
        text, self._escape = self._escape + text, ""
        for mark in MARKS.findall(text):
            if mark == '"':
                self._in_string = not self._in_string
            elif not self._in_string and mark in "{[":
                self._depth += 1
                self._has_begun = True
            elif not self._in_string and mark in "}]":
                self._depth -= 1
        if (len(text) - len(text.rstrip("\\"))) % 2:
            self._escape = "\\"


class ToolCalls:
    """The calls of one answer. `seen` is whether there is any."""

    __slots__ = ("_by_index", "_calls", "_last", "_positions", "_provider", "_tools", "_touched", "seen")

    def __init__(self, provider: str, tools: Collection[str] | None = None) -> None:
        """`tools`: the names that the request offers; a name that is none of them may go on in the next event."""
        self._provider = provider
        self._tools = tools
        self.seen = False
        self._calls: list[_Call] = []
        self._by_index: dict[int, _Call] = {}
        self._positions: list[_Call] = []
        """The calls of the last event, in its order."""
        self._touched: list[_Call] = []
        self._last: _Call | None = None

    @property
    def has_half(self) -> bool:
        """Whether a call's arguments have begun and not ended."""
        return any(call.is_half for call in self._calls)

    @property
    def holds_half(self) -> bool:
        return any(call.halves.held for call in self._calls)

    def normalise(self, fragments: Any) -> list[dict[str, Any]]:
        """The fragments of one event as OpenAI would have sent them. Raises `ProviderCut` for what is no fragment."""
        listed = [fragments] if isinstance(fragments, dict) else fragments
        if not isinstance(listed, list):
            raise self._unreadable()
        self._touched = []
        waiting = [call for call in self._calls if call.waits and call.name]
        sent: list[dict[str, Any]] = []
        for position, raw in enumerate(listed):
            fragment = self._read(raw)
            call = self._call_of(fragment, position, alone=len(listed) == 1)
            if call is None:
                continue
            self._touch(call, fragment)
            call.waits_for_name = self._may_go_on(call, fragment)
            if (normal := _normal_form(call, fragment)) is not None:
                sent.append(normal)
        self._positions = self._touched
        left = [call for call in waiting if not any(call is touched for touched in self._touched)]
        return [_empty(call) for call in left] + sent

    def settle(self) -> list[dict[str, Any]]:
        """At a finish reason: the calls that have no arguments after all."""
        return [_empty(call) for call in self._calls if call.waits and call.name]

    def end(self) -> list[dict[str, Any]]:
        """What was held back. Raises `ProviderCut` for a call that never names its tool."""
        empty = self.settle()
        if any(not call.is_sent for call in self._calls):
            raise ProviderCut(f"{self._provider} sent a tool call without a name", retryable=True)
        rests = [(call.index, call.halves.rest()) for call in self._calls]
        return empty + [{"index": index, "function": {"arguments": rest}} for index, rest in rests if rest]

    def _read(self, raw: Any) -> _Fragment:
        if not isinstance(raw, dict) or not raw.keys() & (OWN_KEYS | FLAT_KEYS):
            raise self._unreadable()
        function = raw.get("function")
        is_flat = function is None
        if is_flat:
            function = {key: raw[key] for key in FLAT_KEYS if key in raw}
        if not isinstance(function, dict):
            raise self._unreadable()
        more = {key: raw[key] for key in raw.keys() - OWN_KEYS - (FLAT_KEYS if is_flat else frozenset())}
        if more_of_function := {key: function[key] for key in function.keys() - FLAT_KEYS - {"index"}}:
            more["function"] = more_of_function
        name = function.get("name")
        return _Fragment(
            # Ollama puts it into the function.
            _index_of(raw.get("index", function.get("index"))),
            _id_of(raw.get("id")),
            name if isinstance(name, str) else "",
            _arguments_of(function.get("arguments")),
            more,
        )

    def _call_of(self, fragment: _Fragment, position: int, *, alone: bool) -> _Call | None:
        candidate = self._candidate(fragment, position, alone=alone)
        if candidate is not None and not self._is_another(fragment, candidate):
            return candidate
        if candidate is None and fragment.is_empty:
            return None
        if candidate is not None and candidate.is_named_again and not fragment.name:
            fragment.name = candidate.name
        return self._begin(fragment)

    def _candidate(self, fragment: _Fragment, position: int, *, alone: bool) -> _Call | None:
        """The call that the fragment belongs to unless it begins one: by id, by index, by position, or the last."""
        begins = fragment.may_begin and bool(fragment.name)
        index = fragment.given_index
        if fragment.given_id:
            same = [call for call in self._calls if call.given_id == fragment.given_id]
            fitting = [call for call in same if index is None or call.given_index in (None, index)]
            # The same call again under another index: a list of all calls, at the end.
            fitting = fitting or [call for call in same if begins and call.is_repeated_by(fragment)]
            if fitting or same:
                return fitting[-1] if fitting else None if begins else same[-1]
        if index is not None:
            if index in self._by_index:
                return self._by_index[index]
            is_new = fragment.name or (fragment.given_id and fragment.may_begin)
            return None if is_new else self._last
        if not alone and position < len(self._positions):
            return self._positions[position]
        return self._last

    def _is_another(self, fragment: _Fragment, candidate: _Call) -> bool:
        """Whether the fragment begins a call, though it goes by the id, the index or the place of this one."""
        same_id = fragment.given_id == candidate.given_id != ""
        other_id = not same_id and fragment.given_id != "" != candidate.given_id
        if not fragment.may_begin:
            return other_id and fragment.name != "" and candidate.is_complete
        if not fragment.name:
            # A call whose name is still to come, or came alone, after one that is complete.
            return candidate.is_complete and (other_id or (candidate.is_named_again and fragment.is_other(candidate)))
        if other_id or not candidate.name:
            return other_id
        if fragment.name != candidate.name:
            return self._name_with(fragment, candidate) is None
        if any(candidate is touched for touched in self._touched):
            return not (same_id and fragment.arguments == candidate.arguments)
        return (
            candidate.is_complete
            and bool(fragment.arguments.strip())
            and not _same_object(fragment.arguments, candidate.arguments)
        )

    def _may_go_on(self, call: _Call, fragment: _Fragment) -> bool:
        """Whether a name that has come without arguments may be half of one."""
        is_bare = fragment.name != "" and not fragment.arguments and not call.parts and not call.is_sent
        return is_bare and self._tools is not None and call.name not in self._tools and self._begins_a_tool(call.name)

    def _name_with(self, fragment: _Fragment, call: _Call) -> str | None:
        """The name of a call that goes on in this fragment, or grows in it; `None` for the name of another call."""
        if not call.waits_for_name or fragment.name in ("", call.name) or fragment.given_index != call.given_index:
            return None
        if fragment.given_id not in ("", call.given_id):
            return None
        grown = [fragment.name] if fragment.name.startswith(call.name) else []
        return next((name for name in (*grown, call.name + fragment.name) if self._begins_a_tool(name)), None)

    def _begins_a_tool(self, name: str) -> bool:
        """Whether it may be one, or its beginning; anything may where the request offers none."""
        return not self._tools or any(tool.startswith(name) for tool in self._tools)

    def _begin(self, fragment: _Fragment) -> _Call:
        index = len(self._calls)
        call_id = fragment.given_id or f"call_{uuid4().hex}"
        if any(call.id == call_id for call in self._calls):
            # Results are sent back under it: two calls cannot have the same.
            call_id = f"{call_id}_{index}"
        call = _Call(index, call_id, fragment.given_id, fragment.given_index, fragment.name)
        self._calls.append(call)
        self.seen = True
        return call

    def _touch(self, call: _Call, fragment: _Fragment) -> None:
        self._touched.append(call)
        self._last = call
        is_name_alone = fragment.name == call.name and not fragment.given_id and not fragment.arguments.strip()
        call.is_named_again = call.is_complete and (is_name_alone or (call.is_named_again and fragment.is_blank))
        call.name = self._name_with(fragment, call) or call.name or fragment.name
        if not call.given_id and fragment.given_id:
            call.given_id = fragment.given_id
            if not call.is_sent and all(other.id != fragment.given_id for other in self._calls):
                call.id = fragment.given_id
        if fragment.given_index is not None:
            self._by_index[fragment.given_index] = call

    def _unreadable(self) -> ProviderCut:
        return ProviderCut(f"{self._provider} sent tool calls that cannot be read", retryable=True)


def _normal_form(call: _Call, fragment: _Fragment) -> dict[str, Any] | None:
    """The fragment in OpenAI's form; `None` while the call cannot begin yet, and for what came before."""
    text = fragment.arguments.strip()
    call.has_braces = not call.is_sent and not call.parts and (text == "{}" or (call.has_braces and not text))
    call.waits = call.has_braces
    new = "" if call.waits else _new_arguments(call, fragment)
    call.append(new)
    call.waits = call.waits or call.waits_for_name
    new = call.halves.join(new)
    if not call.is_sent:
        call.held += new
        call.more |= fragment.more
        return None if call.waits or not call.name else _first(call, call.held)
    if not new and not fragment.more and (fragment.arguments or fragment.name or fragment.given_id):
        return None
    return _with_more({"index": call.index, "function": {"arguments": new}}, fragment.more)


def _first(call: _Call, arguments: str) -> dict[str, Any]:
    call.is_sent = True
    function = {"name": call.name, "arguments": arguments}
    return _with_more({"index": call.index, "id": call.id, "type": "function", "function": function}, call.more)


def _empty(call: _Call) -> dict[str, Any]:
    """The first fragment of a call that waited for what did not come."""
    arguments = "" if call.waits_for_name else "{}"
    call.waits = call.waits_for_name = False
    call.append(arguments)
    return _first(call, arguments)


def _new_arguments(call: _Call, fragment: _Fragment) -> str:
    """What of the fragment's arguments has not come before."""
    text = fragment.arguments
    if not text or not call.parts:
        return text
    repeats = bool(fragment.name or fragment.given_id)
    if call.is_complete:
        return ""
    if not text.lstrip().startswith("{") and not repeats:
        return text
    before = call.arguments
    if repeats and text == before:
        return ""
    # Arguments that grow. An object inside an object may begin like it where one may stand: then the fragment must
    # repeat more than the arguments to be taken for the whole so far.
    grows = before.lstrip().startswith("{") and text.startswith(before)
    if grows and (repeats or before.rstrip()[-1] not in AFTER_WHICH_AN_OBJECT_MAY_STAND):
        return text[len(before) :]
    return text


def _with_more(fragment: dict[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """The fragment with the vendor's fields, beside ours and inside `function`."""
    if not more:
        return fragment
    function = {**fragment["function"], **more.get("function", {})}
    return {**fragment, **more, "function": function}


def _index_of(value: Any) -> int | None:
    if isinstance(value, str) and value.strip().isdecimal():
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _id_of(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) else ""


def _arguments_of(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _same_object(one: str, other: str) -> bool:
    if one == other:
        return True
    try:
        return bool(json.loads(one) == json.loads(other))
    except (ValueError, RecursionError):
        return False
