"""The tasks of going back: safety check, undo (in `tasks.phase`), verification; the ledger says what to undo."""

from __future__ import annotations

from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.approval import present_user
from tasks.database.catalog import snapshot
from tasks.database.connection import Target, connect
from tasks.database.ledger import Ledger
from tasks.databases import target_of
from tasks.gate import ask, evaluate, main_gate, tell
from tasks.narration import say
from tasks.outcome import Outcome
from tasks.planning.errors import RollbackRefused, RunnerBusy, SchemaChanged, UsageError
from tasks.planning.plan import Gate, Irreversible, Phase
from tasks.planning.schema_hash import schema_hash
from tasks.planning.states import MigrationState, PhaseState, StepState
from tasks.secrecy import discreet
from tasks.standing import SWITCH, Standing, losses, standing_of

TOUCHED = {PhaseState.RUNNING, PhaseState.FAILED, PhaseState.DONE}
OVER = {MigrationState.ROLLED_BACK, MigrationState.CLEANED}


@task(name="safety check", cache_policy=NO_CACHE, persist_result=False, retries=0)
def assess(migration: str, database: str, to: str | None, old_version_deployed: bool) -> tuple[str, ...]:
    """Return the phases to undo, last first, and mark the migration as going back.

    Raises RollbackRefused where going back would lose something or needs the operator's word.
    """
    with discreet():
        target = target_of(database)
        standing = standing_of(target, migration)
        if standing.state in OVER:
            return ()
        if standing.holder is not None and not standing.holder.expired:
            raise RunnerBusy(
                f"{migration} is being run by {standing.holder}.",
                remedy="Stop that run first, or wait until it has ended.",
            )
        if standing.state is MigrationState.FINISHED:
            raise _past_return(standing, "it is finished")
        phases = to_undo(standing, to)
        _refuse_irreversible(standing, phases)
        after_switch = standing.record.switched_at is not None and any(phase.name == SWITCH for phase in phases)
        if after_switch and not old_version_deployed:
            raise _word_needed(standing)
        if after_switch:
            for sentence in losses(standing):
                say(sentence)
            compared = main_gate(standing.plan.phases)
            if compared is not None:
                tell(evaluate(standing, compared[0], compared[1].name, target))
            _refuse_unheld(standing, target)
        with connect(target, role="rollback") as connection:
            ledger = Ledger(connection)
            if standing.state is not MigrationState.PLANNED:
                ledger.set_state(migration, MigrationState.ROLLING_BACK)
            ledger.event(migration, "rollback", {"who": present_user(), "to": to or "", "after_switch": after_switch})
        return tuple(phase.name for phase in phases)


def _refuse_unheld(standing: Standing, target: Target) -> None:
    """Refuse to go back while rows hold values that the old shape's constraints would not take back."""
    gates = [gate for phase in standing.plan.phases for gate in (phase.gate_before, phase.gate_after) if gate]
    checks = {check.id: check for gate in gates for check in gate.checks if check.kind == "unheld"}
    if not checks:
        return
    gate = Gate(name="way-back", title="The old shape holds every value", checks=tuple(checks.values()))
    result = ask(gate, "rollback", standing, target)
    failing = [check.summary for check in result.checks if not check.success]
    if failing:
        raise RollbackRefused(
            f"{standing.name} cannot go back yet: {'; '.join(failing)}.",
            safety="Nothing was changed: both shapes are there, and the new one has every value.",
            remedy="Write values into these rows' new columns that the old shape can hold, then roll back again.",
        )


def to_undo(standing: Standing, to: str | None) -> tuple[Phase, ...]:
    """Return the phases that left something, last first, down to but without ``to``. Raises UsageError."""
    names = [phase.name for phase in standing.plan.phases]
    if to is not None and to not in names:
        raise UsageError(f"{standing.name} has no phase {to!r}.", remedy=f"Its phases: {', '.join(names)}.")
    later = standing.plan.phases[names.index(to) + 1 :] if to is not None else standing.plan.phases
    return tuple(phase for phase in reversed(later) if standing.phases[phase.name].state in TOUCHED)


@task(name="verify", task_run_name="verify", cache_policy=NO_CACHE, persist_result=False, retries=0)
def verify_undone(migration: str, database: str, to: str | None) -> Outcome:
    """Check that the schema is the one before the undone phases, and record the end of the rollback."""
    with discreet():
        target = target_of(database)
        standing = standing_of(target, migration)
        plan = standing.plan
        if standing.state in OVER:
            return Outcome("nothing", migration, database, f"{migration} is rolled back already: nothing to do.")
        expected = plan.phase(to).schema_after if to is not None else plan.schema_before
        with connect(target, role="rollback", settings=plan.settings) as connection:
            found = schema_hash(snapshot(connection), plan.scope)
            ledger = Ledger(connection)
            if found != expected:
                what = f"After going back, the schema of {migration} is not the one that was there before."
                if standing.state is not MigrationState.PLANNED:
                    ledger.set_state(migration, MigrationState.FAILED, what)
                raise SchemaChanged(
                    what,
                    expected=expected,
                    found=found,
                    remedy="Somebody else changed the tables meanwhile: compare them with the plan document.",
                )
            return _record_end(ledger, standing, to)


def _record_end(ledger: Ledger, standing: Standing, to: str | None) -> Outcome:
    name, database = standing.name, standing.plan.database
    for phase in standing.plan.phases:
        undone = standing.phases[phase.name].state is PhaseState.UNDONE
        if undone and phase.approval is not None and standing.approved(phase.name):
            # What was approved is gone; a new run must ask again.
            ledger.approve(name, phase.name, who=present_user(), why="rolled back", decision="rejected")
        if undone and phase.name == SWITCH:
            ledger.clear_switched(name)
    if to is not None:
        ledger.set_state(name, MigrationState.FAILED, f"went back to {to}, as asked")
        what = f"{name} went back to {to}; the schema is verified."
        return Outcome("rolled_back", name, database, what, f"lockstep run {name} --database {database}")
    ledger.set_state(name, MigrationState.ROLLED_BACK)
    return Outcome("rolled_back", name, database, f"{name} is rolled back: the schema is verified to be as before.")


def _refuse_irreversible(standing: Standing, phases: tuple[Phase, ...]) -> None:
    done = {step.step for step in standing.steps if step.state is StepState.DONE}
    lost = [
        (phase.name, step.undo.reason)
        for phase in phases
        for step in phase.steps
        if isinstance(step.undo, Irreversible) and step.id in done
    ]
    if lost:
        phase, reason = lost[0]
        raise _past_return(standing, f"{phase} has removed the old shape: {reason}")


def _past_return(standing: Standing, why: str) -> RollbackRefused:
    remedy = None
    if standing.plan.reverse:
        path = reverse_file(standing)
        remedy = (
            f"The way back is a migration of its own, written to {path}: read what it cannot recover, then\n"
            f"lockstep plan {path}   and   lockstep run {path}"
        )
    return RollbackRefused(
        f"{standing.name} is past the point of return: {why}.",
        safety="The data is safe in the new shape; nothing was touched.",
        remedy=remedy,
    )


def reverse_file(standing: Standing) -> Path:
    """Write the reverse migration that was generated with the plan, and return its path."""
    path = Path.cwd() / f"{standing.name}-reverse.yaml"
    if not path.exists():
        path.write_text(standing.plan.reverse)
    return path


def _word_needed(standing: Standing) -> RollbackRefused:
    lost = losses(standing)
    switched = f"{standing.record.switched_at:%Y-%m-%d %H:%M %Z}"
    return RollbackRefused(
        f"{standing.name} has switched ({switched}): the new application version may be using the new shape."
        + (f" What `down` cannot bring back: {' '.join(lost)}" if lost else ""),
        safety="Nothing was touched; both shapes are kept in step.",
        remedy=f"Deploy the old version everywhere, then:  lockstep rollback {standing.name} --old-version-deployed",
    )
