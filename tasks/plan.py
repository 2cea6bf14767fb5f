"""The task `plan`: from a spec to a recorded plan, or the recorded plan of a migration that is under way."""

from __future__ import annotations

from dataclasses import dataclass

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.artifacts import publish_markdown
from tasks.database.connection import Target, connect
from tasks.database.ledger import Ledger
from tasks.database.throttle import paused
from tasks.databases import target_of
from tasks.flyway_source import with_its_files
from tasks.narration import log, say
from tasks.outcome import Outcome
from tasks.plan_source import choose_database, is_spec, load_spec, make_plan, no_such_migration, require_phase
from tasks.planning.errors import UsageError
from tasks.planning.forecast import with_forecast
from tasks.planning.plan import Plan
from tasks.planning.report import render
from tasks.planning.spec import LoadedSpec
from tasks.planning.states import UNFINISHED, MigrationState
from tasks.planning.today import Survey
from tasks.secrecy import discreet
from tasks.survey import foreseen

OVER = {
    MigrationState.FINISHED: "it is finished.",
    MigrationState.ROLLED_BACK: "it was rolled back. To start it anew, give its spec file again:",
    MigrationState.CLEANED: "it is over and cleaned: only a summary is kept.",
}
"""Why a run by name finds nothing to do."""


@dataclass(frozen=True)
class Planned:
    """What is to be run: names, for the tasks that follow."""

    name: str
    database: str
    phases: tuple[str, ...]


@task(name="plan", task_run_name="plan", cache_policy=NO_CACHE, persist_result=False, retries=0)
def plan_migration(migration: str, database: str | None, until: str | None = None) -> Planned | Outcome:
    """Plan a migration and record it, or take up one that is recorded and unfinished; an outcome: nothing to do.

    ``migration`` is the path of a spec, or the name of a recorded migration (which needs ``database``). Raises
    UsageError for an ``until`` that is no phase of the plan: such a run would go on to the end.
    """
    with discreet():
        require_phase(until)
        planned = _planned(migration, database)
        if isinstance(planned, Planned):
            require_phase(until, planned.phases)
        return planned


def _planned(migration: str, database: str | None) -> Planned | Outcome:
    if not is_spec(migration):
        return _recorded(migration, database)
    loaded = load_spec(migration)
    target = target_of(choose_database(loaded, database, say))
    with connect(target, role="plan") as connection:
        stored = Ledger(connection).migration(loaded.spec.name)
    loaded = with_its_files(loaded, target, stored)
    plan = make_plan(loaded, target, stored)
    begins = plan.phases and (stored is None or stored.state not in UNFINISHED)
    seen = foreseen(target, plan, say) if begins else None
    return _register(loaded, plan if seen is None else with_forecast(plan, seen.expected), target, seen)


def _register(loaded: LoadedSpec, plan: Plan, target: Target, seen: Survey | None) -> Planned | Outcome:
    publish_markdown("plan", plan.name, render(plan, seen))
    if plan.is_empty:
        return _nothing(plan.name, target.name, "no file is pending." if loaded.flyway else "the change is in place.")
    with connect(target, role="plan") as connection:
        ledger = Ledger(connection)
        ledger.register(plan, loaded.text)
        ledger.event(plan.name, "spec", {"folder": str(loaded.folder.resolve())})
        pause = ledger.throttle(plan.name).pause
    say(f"{plan.name}: {len(plan.phases)} phases: {', '.join(phase.name for phase in plan.phases)}.")
    return _paused(plan.name, target.name, pause) if pause is not None else _begun(plan, target.name)


def _recorded(name: str, database: str | None) -> Planned | Outcome:
    if database is None:
        raise UsageError(f"There is no file {name!r}.", remedy="Give a spec, or a recorded name with --database NAME.")
    target = target_of(database)
    with connect(target, role="plan") as connection:
        ledger = Ledger(connection)
        record, pause = ledger.migration(name), ledger.throttle(name).pause
    if record is None:
        raise no_such_migration(name, database)
    if record.state in OVER:
        again = f"lockstep run SPEC --database {database}   (SPEC is the path of its file)"
        return _nothing(name, database, OVER[record.state], again if record.state == "rolled_back" else "")
    publish_markdown("plan", name, render(record.plan))
    return _paused(name, target.name, pause) if pause is not None else _begun(record.plan, target.name)


def _begun(plan: Plan, database: str) -> Planned:
    return Planned(plan.name, database, tuple(phase.name for phase in plan.phases))


def _paused(name: str, database: str, pause: str) -> Outcome:
    """A paused migration is not begun, and stays in the state that it is in."""
    waiting = paused(name, database, "", pause)
    log(waiting.what)
    return Outcome("waiting", name, database, waiting.what, waiting.remedy or "")


def _nothing(name: str, database: str, why: str, remedy: str = "") -> Outcome:
    log(f"{name}: nothing to do, {why}")
    return Outcome("nothing", name, database, f"{name}: nothing to do, {why}", remedy)
