"""The spec's own queries around a migration: timed before it, after the switch and at the end, and compared."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.artifacts import publish_markdown
from tasks.database.connection import Target, connect
from tasks.database.ledger import Ledger
from tasks.database.records import EventRecord
from tasks.database.timing import take
from tasks.databases import target_of
from tasks.narration import say
from tasks.planning.errors import MigrationError
from tasks.planning.plan import Plan
from tasks.planning.report import cell
from tasks.planning.timings import Timings, When, regressions, rows
from tasks.secrecy import discreet

EVENT = "queries"


def time_queries(migration: str, database: str, when: When) -> None:
    """Time the plan's queries, once at each moment, keep it in the ledger, and tell what is slower than before.

    Slower queries are a warning: nothing stops. What cannot be timed or kept is told, and stops nothing either.
    """
    try:
        with discreet():
            _time(migration, target_of(database), when)
    except MigrationError as error:
        say(f"queries, {when}: not timed. {error.what}")


def _time(migration: str, target: Target, when: When) -> None:
    with connect(target, role="queries") as connection:
        ledger = Ledger(connection)
        plan = ledger.known_migration(migration).plan
        taken = timings_of(ledger.events(migration))
        if not plan.queries or any(known.when == when for known in taken):
            return
        if when == "before" and any(phase.attempts for phase in ledger.phases(migration)):
            return  # it is too late for that
        with connect(target, role="queries", settings=plan.settings) as reading:
            now = take(reading, plan.queries, when)
        ledger.event(migration, EVENT, now.model_dump(mode="json"))
    _tell(migration, (*taken, now))


def timings_now(target: Target, plan: Plan) -> Timings | None:
    """Return what the plan's queries take now, None where it has none."""
    if not plan.queries:
        return None
    with connect(target, role="plan", settings=plan.settings) as reading:
        return take(reading, plan.queries, "before")


def timings_of(events: Sequence[EventRecord]) -> tuple[Timings, ...]:
    """Return what was timed since the plan was recorded, in order."""
    found: list[Timings] = []
    for event in events:
        match event.kind:
            case "registered":
                found = []
            case kind if kind == EVENT:
                found.append(Timings.model_validate(event.detail))
            case _:
                continue
    return tuple(found)


def warnings(taken: Sequence[Timings]) -> tuple[str, ...]:
    """Return what the last look shows to be slower than the one before the migration."""
    if len(taken) < 2 or taken[0].when != "before":
        return ()
    return regressions(taken[0], taken[-1])


def _tell(migration: str, taken: Sequence[Timings]) -> None:
    found = warnings(taken)
    for sentence in found:
        say(f"WARNING, queries {taken[-1].when}: {sentence}")
    if not found:
        say(f"queries, {taken[-1].when}: {'timed' if len(taken) == 1 else 'none is slower than before by much'}")
    head = ["query", *(moment.when for moment in taken)]
    table = [head, ["---"] * len(head), *rows(taken)]
    lines = ["| " + " | ".join(cell(text) for text in row) + " |" for row in table]
    publish_markdown("queries", migration, "\n".join([*lines, "", *(f"- WARNING: {sentence}" for sentence in found)]))
