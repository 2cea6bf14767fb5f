"""The task `plan`: from a spec to a recorded plan, or the recorded plan of a migration that is under way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.artifacts import publish_markdown
from tasks.database.connection import Target, connect
from tasks.database.ledger import Ledger
from tasks.databases import target_of
from tasks.narration import say
from tasks.plan_source import database_in, is_spec, make_plan
from tasks.planning.errors import UnknownMigration, UsageError
from tasks.planning.plan import Plan
from tasks.planning.report import render
from tasks.planning.spec import LoadedSpec, PhaseName, load
from tasks.planning.states import UNFINISHED
from tasks.secrecy import discreet


@dataclass(frozen=True)
class Planned:
    """What is to be run: names, for the tasks that follow. No phases: there is nothing to do."""

    name: str
    database: str
    phases: tuple[str, ...]


@task(name="plan", task_run_name="plan", cache_policy=NO_CACHE, persist_result=False, retries=0)
def plan_migration(migration: str, database: str | None, until: str | None = None) -> Planned:
    """Plan a migration and record it, or take up one that is recorded and unfinished.

    ``migration`` is the path of a spec, or the name of a recorded migration (which needs ``database``). Raises
    UsageError for an ``until`` that is no phase of the plan: such a run would go on to the end.
    """
    with discreet():
        if until is not None and until not in get_args(PhaseName):
            raise _no_such_phase(until, get_args(PhaseName))
        planned = _planned(migration, database)
        if until is not None and planned.phases and until not in planned.phases:
            raise _no_such_phase(until, planned.phases)
        return planned


def _no_such_phase(until: str, phases: Sequence[str]) -> UsageError:
    return UsageError(f"There is no phase {until!r} to stop after.", remedy=f"Phases: {', '.join(phases)}.")


def _planned(migration: str, database: str | None) -> Planned:
    if not is_spec(migration):
        return _recorded(migration, database)
    loaded = load(Path(migration))
    target = target_of(database or database_in(loaded))
    with connect(target, role="plan") as connection:
        stored = Ledger(connection).migration(loaded.spec.name)
    return _register(loaded, make_plan(loaded, target, stored), target)


def _register(loaded: LoadedSpec, plan: Plan, target: Target) -> Planned:
    publish_markdown("plan", plan.name, render(plan))
    if plan.is_empty:
        say(f"{plan.name}: nothing to do, the change is in place.")
        return Planned(plan.name, target.name, ())
    with connect(target, role="plan") as connection:
        ledger = Ledger(connection)
        ledger.register(plan, loaded.text)
        ledger.event(plan.name, "spec", {"folder": str(loaded.folder.resolve())})
    say(f"{plan.name}: {len(plan.phases)} phases: {', '.join(phase.name for phase in plan.phases)}.")
    return Planned(plan.name, target.name, tuple(phase.name for phase in plan.phases))


def _recorded(name: str, database: str | None) -> Planned:
    if database is None:
        raise UsageError(f"There is no file {name!r}.", remedy="Give a spec, or a recorded name with --database NAME.")
    target = target_of(database)
    with connect(target, role="plan") as connection:
        record = Ledger(connection).migration(name)
    if record is None:
        raise UnknownMigration(
            f"There is no file {name!r}, and no migration of that name is recorded in {database!r}.",
            remedy="Give the path of its spec.",
        )
    if record.state not in UNFINISHED and record.state != "planned":
        say(f"{name}: nothing to do, it is {record.state.value.replace('_', ' ')}.")
        return Planned(name, target.name, ())
    publish_markdown("plan", name, render(record.plan))
    return Planned(name, target.name, tuple(phase.name for phase in record.plan.phases))
