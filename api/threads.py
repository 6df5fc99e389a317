"""The caller's threads: list them, read one, forget one. Runs use them through POST /completion."""

from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.responses import Response

from api.deps import CurrentServices, CurrentToken
from api.native_format import interrupt_of
from api.path_convertor import WHOLE
from api.schemas import MAX_OFFSET, UNAUTHORIZED, answers, error_example
from services.thread_state import conversation, read_thread_state
from services.threads import Thread

router = APIRouter(tags=["threads"])

ONE_THREAD = f"/threads/{{thread_id:{WHOLE}}}"

THREAD_EXAMPLE: dict[str, Any] = {
    "thread_id": "dossier-42",
    "agent": "V2",
    "turns": 1,
    "running": False,
    "created_at": "2026-11-20T09:00:00+00:00",
    "used_at": "2026-11-20T09:00:03+00:00",
    "last_run": {"run_id": "6f1c2f0e-54be-4d0c-8e3c-9a7d4f2f6f0b", "status": "succeeded"},
}
CONVERSATION_EXAMPLE: dict[str, Any] = {
    **THREAD_EXAMPLE,
    "messages": [
        {"role": "user", "content": "Je m'appelle Ada."},
        {"role": "assistant", "content": "Bonjour Ada !"},
    ],
    "interrupt": None,
}
PROBLEMS = {
    404: error_example("not_found", "thread 'dossier-42': there is no such thread"),
    503: error_example("database_unavailable", "threads need the database, and it does not answer now"),
    **UNAUTHORIZED,
}


@router.get(
    "/threads",
    summary="List your threads",
    responses=answers({"threads": [THREAD_EXAMPLE], "total": 1}) | PROBLEMS,
)
async def list_threads(
    services: CurrentServices,
    caller: CurrentToken,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    offset: Annotated[int, Query(ge=0, le=MAX_OFFSET)] = 0,
) -> dict[str, Any]:
    """The conversations that the server keeps for you, the last used first."""
    threads, total = await services.threads.find(caller.principal.owner, limit=limit, offset=offset)
    return {"threads": [_thread(thread) for thread in threads], "total": total}


@router.get(ONE_THREAD, summary="Read a thread", responses=answers(CONVERSATION_EXAMPLE) | PROBLEMS)
async def read_thread(thread_id: str, services: CurrentServices, caller: CurrentToken) -> dict[str, Any]:
    """A conversation, in OpenAI's shape of messages, and what its last run waits for."""
    thread = await services.threads.get_or_raise(thread_id, caller.principal.owner)
    state = await read_thread_state(services.agents.get_or_raise(thread.agent), thread.key)
    interrupts = () if thread.busy else state.interrupts
    return {**_thread(thread), "messages": conversation(state), "interrupt": interrupt_of(interrupts)}


@router.delete(
    ONE_THREAD,
    summary="Forget a thread",
    status_code=204,
    response_class=Response,
    responses={409: error_example("thread_busy", "thread 'dossier-42': a run is going on"), **PROBLEMS},
)
async def delete_thread(thread_id: str, services: CurrentServices, caller: CurrentToken) -> Response:
    """Deletes the conversation and everything that was kept of it. Its runs stay in the ledger, which holds no text."""
    await services.threads.delete(thread_id, caller.principal.owner)
    return Response(status_code=204)


def _thread(thread: Thread) -> dict[str, Any]:
    return {
        "thread_id": thread.thread_id,
        "agent": thread.agent,
        "turns": thread.turns,
        "running": thread.busy,
        "created_at": thread.created_at.isoformat(),
        "used_at": thread.used_at.isoformat(),
        # `lost`: its process died; what its graph had not kept is gone.
        "last_run": thread.last_run and {"run_id": str(thread.last_run), "status": thread.last_status},
    }
