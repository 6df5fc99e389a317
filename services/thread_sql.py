"""The statements of threads. `thread_id` is the server's key of a thread; `name` is the id that its owner uses.

A run holds a thread while `run_id` is set, its process lives (`holder`), and its lease has not run out: the first says
within moments that a process was killed, the second within `LEASE_S` that its machine has vanished.
"""

from core.presence import is_present

HOLDERS = int.from_bytes(b"thrd")
"""The first half of the advisory locks of processes that hold threads."""
LEASE_S = 30.0

OWN = "owner = %(owner)s AND coalesce(name, thread_id) = %(name)s"
_LEASED_UNTIL = f"now() + interval '{LEASE_S} seconds'"
# A former version's server sets no holder.
_HELD = f"""(
    threads.run_id IS NOT NULL AND threads.leased_until > now()
    AND (threads.holder IS NULL OR {is_present("threads.holder", HOLDERS)})
)"""
# Whose hold a new one follows was cut off.
_CUT_OFF = """
    last_run = coalesce(threads.run_id, threads.last_run),
    last_status = CASE WHEN threads.run_id IS NULL THEN threads.last_status ELSE 'lost' END,
    whole_at = CASE WHEN threads.run_id IS NULL THEN threads.whole_at END
"""
# A turn of a former version's server counts too, and says nothing of the state.
_IS_WHOLE = "coalesce(whole_at = turns, false) AS is_whole"

TAKE = f"""
    INSERT INTO threads (thread_id, name, owner, agent, run_id, holder, leased_until)
    VALUES (%(key)s, %(name)s, %(owner)s, %(agent)s, %(run_id)s, %(holder)s, {_LEASED_UNTIL})
    ON CONFLICT (owner, (coalesce(name, thread_id))) DO UPDATE
        SET run_id = EXCLUDED.run_id, holder = EXCLUDED.holder, leased_until = EXCLUDED.leased_until, used_at = now(),
            {_CUT_OFF}
        WHERE threads.agent = EXCLUDED.agent AND NOT {_HELD}
    RETURNING thread_id AS key, turns, messages, xmax = 0 AS is_new, {_IS_WHOLE}
"""  # noqa: S608  # nosec B608 - constants of ours
RETAKE = f"""
    UPDATE threads SET run_id = %(run_id)s, holder = %(holder)s, leased_until = {_LEASED_UNTIL}, used_at = now(),
        {_CUT_OFF}
    WHERE {OWN} AND agent = %(agent)s AND NOT {_HELD}
    RETURNING thread_id AS key, turns, messages, false AS is_new, {_IS_WHOLE}
"""  # noqa: S608  # nosec B608 - constants of ours
RENEW = f"""
    UPDATE threads SET holder = %(holder)s, leased_until = {_LEASED_UNTIL}
    WHERE thread_id = ANY(%(keys)s) AND run_id = ANY(%(runs)s) RETURNING run_id
"""  # noqa: S608  # nosec B608 - a constant of ours
# Without a status the run was refused before it began: it leaves no trace.
RELEASE = f"""
    UPDATE threads SET run_id = NULL, holder = NULL, leased_until = NULL, used_at = now(),
        turns = turns + %(turns)s, messages = %(messages)s,
        last_run = CASE WHEN %(status)s::text IS NULL THEN last_run ELSE run_id END,
        last_status = coalesce(%(status)s::text, last_status),
        whole_at = CASE WHEN %(status)s::text IS NULL THEN whole_at WHEN %(is_whole)s THEN turns + %(turns)s END
    WHERE {OWN} AND run_id = %(run_id)s
"""  # noqa: S608  # nosec B608 - a constant of ours
UNUSED = f"""
    SELECT thread_id FROM threads WHERE used_at < now() - make_interval(days => %s) AND NOT {_HELD}
    ORDER BY used_at LIMIT %s
"""  # noqa: S608  # nosec B608 - a constant of ours
HOLD = f"""
    UPDATE threads SET run_id = gen_random_uuid(), holder = %(holder)s, leased_until = {_LEASED_UNTIL}
    WHERE thread_id = ANY(%(keys)s) AND owner = coalesce(%(owner)s, owner)
        AND used_at <= now() - make_interval(days => %(days)s) AND NOT {_HELD}
    RETURNING thread_id
"""  # noqa: S608  # nosec B608 - constants of ours
_FIELDS = f"""
    key, thread_id, agent, turns, created_at, used_at, busy,
    coalesce(run_id, last_run) AS last_run,
    CASE WHEN busy THEN 'running' WHEN run_id IS NOT NULL THEN 'lost' ELSE last_status END AS last_status
    FROM (
        SELECT thread_id AS key, coalesce(name, thread_id) AS thread_id, agent, turns, created_at, used_at, run_id,
            last_run, last_status, {_HELD} AS busy
        FROM threads
"""  # noqa: S608  # nosec B608 - a constant of ours
LOOK = f"SELECT {_FIELDS} WHERE {OWN} ) AS found"  # nosec B608 - constants of ours
LIST = f"""
    SELECT count(*) OVER () AS total, {_FIELDS} WHERE owner = %s ) AS found
    ORDER BY used_at DESC, key LIMIT %s OFFSET %s
"""  # nosec B608 - constants of ours
