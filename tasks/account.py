"""A migration's standing in words: where is it, is the data safe, what is next, how to go back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

from tasks.planning.fit import remedy
from tasks.planning.states import MigrationState, PhaseState
from tasks.planning.throttle import seconds_shown
from tasks.standing import Standing, losses

PAUSABLE = frozenset({MigrationState.PLANNED, MigrationState.RUNNING, MigrationState.WAITING, MigrationState.FAILED})


@dataclass(frozen=True)
class Account:
    """The four answers of `lockstep status`."""

    where: str
    safe: str
    next: str
    back: str


def account_of(standing: Standing) -> Account:
    """Return the four answers for a migration."""
    return Account(_where(standing), _safe(standing), _next(standing), _back(standing))


def _where(standing: Standing) -> str:
    done = sum(1 for phase in standing.plan.phases if standing.finished(phase))
    state = standing.state.value.replace("_", " ")
    of = f"{done} of {len(standing.plan.phases)} phases are done"
    phase = standing.next_phase
    at = f", next is {phase.name}" if phase is not None and standing.state is not MigrationState.FINISHED else ""
    runner = ""
    if standing.holder is not None:
        runner = f"; its runner died ({standing.holder})" if standing.holder.expired else f"; run by {standing.holder}"
    if standing.state in {MigrationState.CLEANED, MigrationState.ROLLED_BACK}:
        return state.capitalize() + runner
    return f"{state.capitalize()}: {of}{at}{runner}{_throttled(standing)}"


def _throttled(standing: Standing) -> str:
    """Say why a living runner holds its work back."""
    found, alive = standing.throttle, standing.holder is not None and not standing.holder.expired
    if not alive or not found.reasons or found.since is None:
        return ""
    waited = seconds_shown((standing.now - found.since).total_seconds())
    return f"; throttled for {waited}: {'; '.join(found.reasons)}\n  lockstep throttle {standing.name}   (the limits)"


def _safe(standing: Standing) -> str:
    failing = sum(failure.count for failure in standing.failures if failure.kind == "failure")
    if failing:
        return (
            f"Yes: every write of the application stands. {failing:,} row(s) could not be brought into the other shape "
            "and are marked; the next gate stops on them."
        )
    red = [record.gate for record in standing.gates.values() if not record.success]
    if red and standing.state is MigrationState.FAILED:
        return (
            f"The gate {', '.join(red)} fails, so look at what it names before going on. No write of the application "
            "is lost: each step is done entirely or not at all, and the old shape is complete until contract."
        )
    match standing.state:
        case MigrationState.FINISHED | MigrationState.CLEANED:
            return "Yes: what was carried out is committed."
        case MigrationState.ROLLED_BACK:
            return "Yes: the schema is verified to be the one from before."
        case MigrationState.PLANNED:
            return "Yes: nothing was touched."
        case MigrationState.RUNNING | MigrationState.WAITING | MigrationState.FAILED | MigrationState.ROLLING_BACK:
            return "Yes: each step is done entirely or not at all, and the shapes are kept in step."
    assert_never(standing.state)


def _next(standing: Standing) -> str:
    name, database = standing.name, standing.plan.database
    run = f"lockstep run {name} --database {database}"
    if standing.throttle.pause is not None and standing.state in PAUSABLE:
        error = f"\n  {standing.record.error}" if standing.state is MigrationState.FAILED else ""
        return f"It is {standing.throttle.pause}.{error}\n  lockstep resume {name}   and then   {run}"
    match standing.state:
        case MigrationState.FINISHED:
            return f"Nothing. Remove the ledger's details:  lockstep cleanup {name}"
        case MigrationState.CLEANED | MigrationState.ROLLED_BACK:
            return "Nothing."
        case MigrationState.ROLLING_BACK:
            return f"lockstep rollback {name}   (goes on with going back)"
        case MigrationState.FAILED:
            why = standing.record.error or _phase_error(standing) or "it failed"
            return f"{why}\n  Repair the cause, then:  {run}"
        case MigrationState.PLANNED | MigrationState.RUNNING | MigrationState.WAITING:
            wait = standing.waits_for
            if wait is None:
                return run
            match wait.reason:
                case "soak":
                    return f"{wait.question} Then:  {run}"
                case "approval":
                    return f"{wait.question}  lockstep approve {name}   and then   {run}"
                case "window" if standing.state is MigrationState.WAITING:
                    return f"{wait.question}\n{remedy(name, database, wait.until)}"
                case "window" | "pause":  # being run, so without regard to the window; a pause is told above
                    return run
            assert_never(wait.reason)
    assert_never(standing.state)


def _back(standing: Standing) -> str:
    command = f"lockstep rollback {standing.name}"
    match standing.state:
        case MigrationState.ROLLED_BACK | MigrationState.PLANNED | MigrationState.CLEANED:
            return "There is nothing to go back from."
        case MigrationState.FINISHED:
            return "By a migration of its own, which going back writes for you:  " + command
        case MigrationState.RUNNING | MigrationState.WAITING | MigrationState.FAILED | MigrationState.ROLLING_BACK:
            if standing.record.switched_at is None:
                return f"{command}   (the application needs nothing: it uses the old shape)"
            lost = losses(standing)
            cost = f"  What `down` cannot bring back: {' '.join(lost)}" if lost else ""
            return f"Deploy the old version everywhere, then:  {command} --old-version-deployed{cost}"
    assert_never(standing.state)


def _phase_error(standing: Standing) -> str | None:
    failed = [phase.error for phase in standing.phases.values() if phase.state is PhaseState.FAILED]
    return failed[0] if failed else None
