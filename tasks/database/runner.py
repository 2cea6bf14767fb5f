"""Runs the phases of a registered migration: the lease around, the steps inside, the ledger beside."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType

import psycopg

from tasks.database.connection import Target
from tasks.database.crash import crash_point
from tasks.database.executor import Executor
from tasks.database.fingerprint import require_outcome, require_schema
from tasks.database.flyway_history import require_history
from tasks.database.hours import AnyTime, Hours, hours_of
from tasks.database.lease import Lease
from tasks.database.ledger import Ledger, install
from tasks.database.locks import Patience
from tasks.database.progress import Report
from tasks.database.records import StepRecord
from tasks.planning.errors import LeaseLost, LockstepError, StepFailed, Waiting
from tasks.planning.plan import Backfill, Irreversible, Phase, Plan, Step, passed_the_point_of_no_return, swap_id
from tasks.planning.states import IllegalTransition, PhaseState, StepState

NAMES_AND_TYPES = "42"
"""The class of SQLSTATE that says that something is not there, or is something else."""
NOT_NOW = "55000"
"""The SQLSTATE of the step that finds that Flyway has run something meanwhile."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, raised like Ctrl-C so that a running statement is cancelled and the lease released."""


@contextmanager
def open_runner(
    target: Target, name: str, *, settings: Sequence[tuple[str, str]] | None = None, patience: Patience | None = None
) -> Iterator[Runner]:
    """Hold the lease of a registered migration for the length of a block; nothing is held afterwards.

    ``settings`` are set in every session; the plan's own when None. Raises RunnerBusy, UnknownMigration, CannotConnect,
    MissingPrivilege.
    """
    lease = Lease(target, name, settings if settings is not None else ())
    with _sigterm_raises():
        lease.acquire()
        try:
            # The ledger may be that of an older Lockstep.
            lease.surviving(lambda: install(lease.session("ledger")))
            plan = lease.surviving(lambda: Ledger(lease.session("work")).known_migration(name).plan)
            if settings is None:
                lease.pin(plan.settings)
            yield Runner(lease, plan, patience)
        finally:
            lease.release()


class Runner:
    """Runs and undoes phases of one migration while it holds the lease."""

    def __init__(self, lease: Lease, plan: Plan, patience: Patience | None = None) -> None:
        self._lease = lease
        self.plan = plan
        self._patience = patience
        self._executor = Executor(lease, plan, patience=patience)

    @property
    def token(self) -> int:
        """The fencing token; a reconnection raises it."""
        return self._lease.token

    @property
    def ledger(self) -> Ledger:
        """The ledger on a living, fenced session of this runner."""
        self._lease.surviving(lambda: self._lease.session("ledger").execute("SELECT 1"))
        return self._ledger()

    def _ledger(self) -> Ledger:
        return Ledger(self._lease.session("ledger"), fence=self._lease.fence)

    def run_phase(self, name: str, report: Report) -> None:
        """Run the steps of a phase that are not done, in order; `finish_phase` then closes it, after its gate.

        An error is recorded, marks the phase FAILED and is raised; Waiting is raised only: the migration is paused, or
        the plan's window is closed, closes, or is too short for the next step. The phase is as it was, or RUNNING in
        the middle. Running it again continues with the step.
        """
        phase = self.plan.phase(name)
        self._run_phase(phase, report, hours_of(self._lease, self.plan, phase))

    def run_phase_at_any_time(self, name: str, report: Report) -> None:
        """Do what `run_phase` does without regard to the plan's window."""
        self._run_phase(self.plan.phase(name), report, AnyTime())

    def _run_phase(self, phase: Phase, report: Report, hours: Hours) -> None:
        self._lease.surviving(lambda: self._admit_next(phase, hours))
        self._lease.surviving(lambda: self._ledger().begin_phase(self.plan.name, phase.name))
        executor = Executor(self._lease, self.plan, patience=self._patience, hours=hours)
        with self._recording(phase.name):
            # Again until the ledger says so: after a failover the new primary may lack steps that were done.
            while remaining := self._remaining(phase):
                for step in remaining:
                    crash_point("before", step.id)
                    self._run_step(executor, phase, step, report)
                    crash_point("after", step.id)
                self._lease.surviving(lambda: self._begin_again(phase.name))

    def _begin_again(self, name: str) -> None:
        """Begin a phase whose beginning is not recorded: a failover lost it."""
        state = next(phase.state for phase in self._ledger().phases(self.plan.name) if phase.phase == name)
        if state is not PhaseState.RUNNING:
            self._ledger().begin_phase(self.plan.name, name)

    def _remaining(self, phase: Phase) -> list[Step]:
        records = self._lease.surviving(lambda: self._examined(phase))
        done = {step.step for step in records if step.state is StepState.DONE}
        return [step for step in phase.steps if step.id not in done]

    def _run_step(self, executor: Executor, phase: Phase, step: Step, report: Report) -> None:
        """Run a step; where its failure has to do with the schema, say who is to blame: raises SchemaChanged."""
        if isinstance(step.undo, Irreversible):
            # Others may have changed the tables while the steps before waited for locks and scanned.
            self._lease.surviving(lambda: self._examined(phase))
        try:
            executor.run_step(phase.name, step, report)
        except StepFailed as failure:
            if (failure.sqlstate or "").startswith((NAMES_AND_TYPES, NOT_NOW)):
                self._lease.surviving(lambda: self._examined(phase))
            raise

    def _admit_next(self, phase: Phase, hours: Hours) -> None:
        """Raise Waiting before the phase is marked RUNNING where its next step may not begin."""
        done = {step.step for step in self._ledger().steps(self.plan.name) if step.state is StepState.DONE}
        for step in phase.steps:
            if step.id not in done:
                hours.admit(step)
                return

    def _examined(self, phase: Phase) -> list[StepRecord]:
        """Return the phase's steps as recorded, after a look at whether history and schema are the expected ones."""
        every = self._ledger().steps(self.plan.name)
        require_history(
            self._lease.session("work"), self.plan, {step.step for step in every if step.state is StepState.DONE}
        )
        records = [step for step in every if step.phase == phase.name]
        require_schema(self._lease.session("work"), self.plan, phase, records)
        return records

    def settle(self, report: Report) -> None:
        """Fill what is unfilled by now, and close the recorded failures whose rows are in step again.

        For gates that are asked again after a repair: a row that could not be filled, or that was written without the
        trigger, is not visited by anything else. The user's own UPDATE and DELETE are never repeated: a row may satisfy
        their condition only since. Nothing before the backfill is done or once an old shape is gone.
        """
        records = {step.step: step for step in self.ledger.steps(self.plan.name)}
        done = {step.step for step in records.values() if step.state is StepState.DONE}
        if any(passed_the_point_of_no_return(phase, done) for phase in self.plan.phases if phase.name == "contract"):
            return
        for phase in self.plan.phases:
            for step in phase.steps:
                if isinstance(step.action, Backfill) and records[step.id].state is StepState.DONE:
                    self._executor.repeat(phase.name, _as_swapped(step, records), report)

    def finish_phase(self, name: str) -> None:
        """Mark a phase DONE. Raises SchemaChanged when the tables are not as it should have left them."""

        def finish() -> None:
            require_outcome(self._lease.session("work"), self.plan, self.plan.phase(name))
            self._ledger().end_phase(self.plan.name, name, PhaseState.DONE)

        self._lease.surviving(finish)

    def fail_phase(self, name: str, error: str) -> None:
        """Mark a phase FAILED, e.g. because its gate failed."""
        self.ledger.end_phase(self.plan.name, name, PhaseState.FAILED, error)

    def undo_phase(self, name: str, report: Report) -> None:
        """Undo the steps of a phase in reverse order and mark it UNDONE; raises RollbackRefused if one cannot be."""
        with self._recording(name):
            for step in reversed(self.plan.phase(name).steps):
                crash_point("before-undo", step.id)
                self._executor.undo_step(name, step, report)
                crash_point("after-undo", step.id)
            self._lease.surviving(lambda: self._ledger().end_phase(self.plan.name, name, PhaseState.UNDONE))

    @contextmanager
    def _recording(self, phase: str) -> Iterator[None]:
        """Mark the phase FAILED when the block fails or is interrupted.

        A replaced runner records nothing, and a phase that was told to wait goes on from where it is.
        """
        try:
            yield
        except (LeaseLost, Waiting):
            raise
        except BaseException as error:
            text = error.what if isinstance(error, LockstepError) else f"interrupted ({type(error).__name__})"
            # A phase that never ran cannot become FAILED (IllegalTransition); its undo had nothing to do.
            with contextlib.suppress(psycopg.Error, LockstepError, IllegalTransition):
                self.fail_phase(phase, text)
            raise


def _as_swapped(step: Step, records: Mapping[str, StepRecord]) -> Step:
    """Return the step with its columns as they are called now: those that keep their name swap at the switch."""
    if not isinstance(step.action, Backfill) or step.action.swapped is None:
        return step
    swap = records.get(swap_id(step.action.table))
    if swap is None or swap.state is not StepState.DONE:
        return step
    return step.model_copy(update={"action": step.action.swapped})


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Let SIGTERM stop the SQL as Ctrl-C does, unless the program handles it already (Prefect does)."""

    def raise_terminated(_number: int, _frame: FrameType | None) -> None:
        raise Terminated("SIGTERM")

    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if not ours:
        yield
        return
    signal.signal(signal.SIGTERM, raise_terminated)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
