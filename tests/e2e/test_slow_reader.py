"""A client that reads slowly: nothing is lost, and the server keeps only a bounded part of the answer for it."""

import socket

from tests.live_server import LiveServer, wait_until
from tests.provider_thread import play
from tests.raw_client import body_of, open_completion, read_to_its_end
from tests.scripted_provider import ScriptedProvider, finish, say
from tests.server_sent_events import parse_stream, text_of

PIECES = 20_000
PIECE = "x" * 1_000
"""20,000 pieces of 1 kB: more than the queue of a run and the kernel's buffers on both sides hold together."""
HELD_BYTES = 30_000_000
"""What the server may keep for a client that does not read: 4,096 pieces, and what the allocator makes of them."""


def test_an_answer_of_20_megabytes_reaches_a_slow_reader_whole_and_does_not_pile_up_in_the_server(
    server: LiveServer, provider: ScriptedProvider
) -> None:
    play(provider, [*say("warm"), *finish()], [*say(*[f"{i} {PIECE}" for i in range(PIECES)]), *finish(5, PIECES)])
    with open_completion(server, stream=True) as warm:
        warm.recv(65536)
    wait_until(lambda: len(provider.requests) == 1 and not provider.answering, 60, "the first answer has ended")
    # The server migrates its database in its first seconds: what that takes is no part of the answer.
    server.wait_for_rows(1, "request_id = %s", "raw")
    before = server.root.memory_info().rss
    with open_completion(server, stream=True, receive_buffer=65536, request_id="slow") as connection:
        wait_until(lambda: provider.answering, 60, "the provider answers")
        assert connection.recv(1, socket.MSG_PEEK), "the answer has begun, and is not read"
        wait_until(lambda: is_still(server), 90, "the server has stopped reading the provider")
        assert provider.answering == 1, "nobody has read anything: the provider, too, is held back"
        held = server.root.memory_info().rss - before
        assert held < HELD_BYTES, f"{held / 1e6:.1f} MB kept"
        received = read_to_its_end(connection)
    events = parse_stream(body_of(received))
    assert [event["content"] for event in events[:-1]] == [f"{i} {PIECE}" for i in range(PIECES)]
    assert events[-1]["metadata"]["usage"]["output_tokens"] == PIECES
    assert "error" not in events[-1]
    (row,) = server.wait_for_rows(1, "request_id = %s", "slow")
    assert row["status"] == "succeeded"


def is_still(server: LiveServer) -> bool:
    """Whether the server uses no CPU to speak of."""
    return server.root.cpu_percent(0.4) < 10


def test_a_slow_reader_does_not_slow_the_others(server: LiveServer, provider: ScriptedProvider) -> None:
    play(provider, [*say(*[PIECE] * 5_000), *finish()], *[[*say("Oui"), *finish()]] * 5)
    with open_completion(server, stream=True, receive_buffer=4096):
        wait_until(lambda: provider.requests, 60, "the provider is asked")
        for _ in range(5):
            with open_completion(server, stream=True) as other:
                other.settimeout(30)
                assert text_of(parse_stream(body_of(read_to_its_end(other)))) == "Oui"
    wait_until(lambda: provider.answering == 0, 30, "the slow reader's run ends with it")
