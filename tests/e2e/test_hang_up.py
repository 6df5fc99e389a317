"""A client that leaves: the provider's work ends at once, and what was consumed is in the ledger, once."""

import pytest

from tests.live_server import LiveServer, wait_until
from tests.provider_thread import play
from tests.raw_client import open_completion, read_until
from tests.scripted_provider import ScriptedProvider, Stall, Wait, finish, say

LIMIT_S = 30.0
"""Half of what a silent provider is given."""


def leave_and_count(server: LiveServer, provider: ScriptedProvider, request_id: str) -> dict[str, object]:
    """Wait for the provider to be left, and for the one row that says so."""
    wait_until(provider.left_early.is_set, LIMIT_S, "the provider's connection is closed")
    (row,) = server.wait_for_rows(1, "request_id = %s", request_id)
    assert row["status"] == "cancelled"
    assert row["estimated"] is True
    return dict(row)


@pytest.mark.parametrize("stream", [True, False])
def test_leaving_in_the_middle_of_an_answer_ends_the_providers_work(
    server: LiveServer, provider: ScriptedProvider, stream: bool
) -> None:
    play(provider, [*say("La moi", "tié"), Stall()])
    name = f"middle-{stream}"
    connection = open_completion(server, stream=stream, request_id=name)
    if stream:
        read_until(connection, "tié".encode())
    else:
        wait_until(lambda: provider.answering, LIMIT_S, "the provider answers")
    connection.close()
    row = leave_and_count(server, provider, name)
    assert row["stream"] is stream
    assert row["error_code"] is None
    if stream:
        assert row["output_tokens"] == 2
        assert row["time_to_first_token_s"] is not None
        assert float(str(row["cost_eur"])) > 0
        assert row["calls"][0]["status"] == "cancelled"  # type: ignore[index]


@pytest.mark.parametrize("stream", [True, False])
def test_leaving_before_the_first_token_ends_the_providers_work(
    server: LiveServer, provider: ScriptedProvider, stream: bool
) -> None:
    play(provider, [Wait(0), Stall()])
    name = f"before-{stream}"
    connection = open_completion(server, stream=stream, request_id=name)
    wait_until(lambda: provider.answering, LIMIT_S, "the provider is asked")
    connection.close()
    assert leave_and_count(server, provider, name)["output_tokens"] == 0


def test_leaving_leaves_the_server_as_it_was(server: LiveServer, provider: ScriptedProvider) -> None:
    play(provider, *[[*say("a"), Stall()]] * 20, [*say("Oui"), *finish()])
    connections = [open_completion(server, stream=True, request_id=f"many-{i}") for i in range(20)]
    for connection in connections:
        read_until(connection, b'"a"')
    for connection in connections:
        connection.close()
    wait_until(lambda: provider.answering == 0, LIMIT_S, "every connection to the provider is closed")
    with open_completion(server, request_id="after") as connection:
        assert b"Oui" in read_until(connection, b"Oui")
    assert len(server.wait_for_rows(20, "request_id LIKE 'many-%%' AND status = %s", "cancelled")) == 20


def test_a_client_that_shuts_only_its_sending_side_is_gone_too(server: LiveServer, provider: ScriptedProvider) -> None:
    """HTTP/1.1 lets a server take it so; what matters is that the run ends and is counted, whatever it is taken for."""
    play(provider, [*say("a"), Wait(0.3), *finish()])
    connection = open_completion(server, stream=True, request_id="half")
    read_until(connection, b'"a"')
    connection.shutdown(1)
    (row,) = server.wait_for_rows(1, "request_id = %s", "half")
    assert row["status"] in {"cancelled", "succeeded"}
    connection.close()
