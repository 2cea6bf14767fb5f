"""Carries out one step: under its limits, behind the fence, recorded in the ledger, whatever happens to the connection.

A transactional step commits together with its ledger row; when the answer of a COMMIT is lost, the ledger alone says
whether it happened. Only 55P03 and 40P01 are tried again, as whole transactions. An interrupt stops the SQL.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import assert_never

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow

from tasks.database.backfill import run_backfill
from tasks.database.connection import below_deadlock_timeout, limits, session_limits
from tasks.database.data_change import change_rows, take_back
from tasks.database.failures import LOCK_REFUSED, connection_lost, described
from tasks.database.flyway_history import busy, lock_holders
from tasks.database.hours import AnyTime, Hours
from tasks.database.index_build import IndexConflict, build_index, drop_index, reindex
from tasks.database.lease import LOCK_TIMEOUT_MS, RECONNECTIONS, Lease
from tasks.database.ledger import Ledger
from tasks.database.locks import Blocker, Patience, lock_not_acquired, watch
from tasks.database.progress import Progress, Report
from tasks.database.snapshots import await_snapshots
from tasks.database.throttle import Throttle
from tasks.planning.errors import MigrationError, RollbackRefused, StepFailed
from tasks.planning.plan import (
    Action,
    Analyze,
    AwaitSnapshots,
    Backfill,
    BuildIndex,
    DeleteRows,
    DropIndex,
    Irreversible,
    Plan,
    Reindex,
    ReinsertRows,
    RestoreRows,
    Step,
    Transaction,
    UpdateRows,
)
from tasks.planning.states import StepState

Connection = psycopg.Connection[TupleRow]


class Executor:
    """Runs and undoes the steps of one plan with the sessions of one lease."""

    def __init__(
        self, lease: Lease, plan: Plan, *, patience: Patience | None = None, hours: Hours | None = None
    ) -> None:
        self._lease = lease
        self._plan = plan
        self._patience = patience or Patience()
        self._throttle = Throttle(lease, plan)
        self._hours = hours or AnyTime()

    def run_step(self, phase: str, step: Step, report: Report) -> None:
        """Carry a step out unless the ledger says that it is done.

        Raises StepFailed, LockNotAcquired, SyncFailing, LeaseLost, CannotConnect, and Waiting when the migration is
        paused or the step's hours are over; the step can then be run again.
        """

        def attempt() -> None:
            ledger = self._ledger()
            state = ledger.step(self._plan.name, step.id).state
            if state is StepState.DONE:
                return
            self._throttle.before_step(step, partial(self._held, report, step))
            self._hours.admit(step)
            if state is not StepState.RUNNING:
                ledger.begin_step(self._plan.name, step.id)
            self._perform(step, step.action, partial(ledger.finish_step, self._plan.name, step.id), report)

        self._surviving(phase, step, attempt)

    def repeat(self, phase: str, step: Step, report: Report) -> None:
        """Carry out once more a step that is done and idempotent; the ledger's row of it stays as it is."""
        self._surviving(phase, step, lambda: self._perform(step, step.action, lambda: None, report))

    def undo_step(self, phase: str, step: Step, report: Report) -> None:
        """Take a step back: its undo actions in order, each committed once; nothing where it left nothing.

        Raises RollbackRefused when it cannot be undone, else as `run_step`.
        """

        def attempt() -> None:
            ledger = self._ledger()
            record = ledger.step(self._plan.name, step.id)
            # A transaction that is not DONE was never committed; anything else may have left something.
            interrupted = record.state is StepState.RUNNING and not step.transactional
            if record.state is StepState.DONE or interrupted:
                for number, action in enumerate(_undo_actions(step)[record.undone :], start=record.undone + 1):
                    done = partial(ledger.undo_actions, self._plan.name, step.id, number)
                    self._perform(step, action, done, report)
            if record.state is not StepState.UNDONE:
                ledger.undo_step(self._plan.name, step.id)

        self._surviving(phase, step, attempt)

    # --- survival ------------------------------------------------------------------------------------------------

    def _surviving(self, phase: str, step: Step, attempt: Callable[[], None]) -> None:
        """Repeat an attempt after lost connections; it reads the ledger first, so nothing is done twice."""
        for remaining in reversed(range(RECONNECTIONS + 1)):
            try:
                with self._stopping():
                    self._lease.check()
                    attempt()
                return
            except psycopg.errors.QueryCanceled as error:
                raise (self._hours.ended() or _step_failed(phase, step, error)) from None
            except psycopg.Error as error:
                if not connection_lost(error):
                    raise _step_failed(phase, step, error) from None
                if not remaining:
                    raise _step_failed(phase, step, error) from None
            except IndexConflict as error:
                raise StepFailed(
                    f"{_where(phase, step)}: {error}.", phase=phase, step=step.id, sqlstate=None,
                    remedy="Drop or rename that index, then run again.",
                ) from None  # fmt: skip
            self._lease.recover()

    @contextmanager
    def _stopping(self) -> Iterator[None]:
        """Stop what runs on the server when the process is told to end."""
        try:
            yield
        except Exception:
            raise
        except BaseException:
            self._lease.cancel()
            raise

    def _ledger(self) -> Ledger:
        return Ledger(self._lease.session("work"), fence=self._lease.fence)

    def _held(self, report: Report, step: Step, why: str) -> None:
        """Tell why a step that has not begun waits, as long as its hours last."""
        table = ", ".join(str(lock.table) for lock in step.locks)
        report(Progress(step.id, step.title, table, 0, 0, 0.0, None, throttled=why))
        self._hours.check()

    # --- actions -------------------------------------------------------------------------------------------------

    def _perform(self, step: Step, action: Action, done: Callable[[], None], report: Report) -> None:
        """Carry one action out and record it with ``done``, in the action's own transaction where it has one."""
        match action:
            case Transaction():
                work = partial(self._transaction, step, action, done)
                self._patiently(step, work, lock_timeout_ms=_lock_timeout(step, action))
                return
            case BuildIndex():
                self._patiently(step, partial(self._build, step, action))
            case DropIndex():
                self._patiently(step, lambda: drop_index(self._fenced(), action.table, action.index))
            case Reindex():
                self._patiently(step, partial(self._reindex, step, action))
            case Analyze():
                self._patiently(step, partial(self._analyze, step, action), lock_timeout_ms=step.lock_timeout_ms)
            case AwaitSnapshots():
                self._await(step, report)
            case Backfill():
                run_backfill(
                    self._lease, self._plan.name, step, action, self._patience, self._throttle, self._hours, report
                )
            case UpdateRows() | DeleteRows():
                change_rows(
                    self._lease, self._plan.name, step, action, self._patience, self._throttle, self._hours, report
                )
            case RestoreRows() | ReinsertRows():
                take_back(self._lease, self._plan.name, step, action, self._patience, report)
            case _:
                assert_never(action)
        done()

    def _transaction(self, step: Step, action: Transaction, done: Callable[[], None]) -> None:
        connection = self._lease.session("work")
        with connection.transaction():
            own = action.statement_timeout_ms
            timeout = self._hours.limit(own if own is not None else step.statement_timeout_ms)
            lock_timeout = _lock_timeout(step, action)
            if len(step.locks) > 1:  # holds one table while it waits for another
                lock_timeout = below_deadlock_timeout(connection, lock_timeout)
            limits(connection, lock_timeout_ms=lock_timeout, statement_timeout_ms=timeout)
            self._pin_settings(connection)
            self._lease.fence(connection)
            for statement in action.statements:
                connection.execute(statement.encode())
            done()

    def _pin_settings(self, connection: Connection) -> None:
        """Set the plan's settings for the transaction, and look whether it really has them."""
        for name, value in self._plan.settings:
            set_row = connection.execute("SELECT set_config(%s, %s, true)", (name, value)).fetchone()
            show_row = connection.execute(sql.SQL("SHOW {}").format(sql.Identifier(*name.split(".")))).fetchone()
            if set_row != show_row:
                raise MigrationError(f"The session refused the setting {name} = {value}.")

    def _fenced(self) -> Connection:
        """Return the working session after a look at the fence: for statements that no transaction can hold."""
        connection = self._lease.session("work")
        with connection.transaction():
            limits(connection, lock_timeout_ms=LOCK_TIMEOUT_MS, statement_timeout_ms=LOCK_TIMEOUT_MS)
            self._lease.fence(connection)
        return connection

    def _build(self, step: Step, action: BuildIndex) -> None:
        build_index(self._fenced(), action, statement_timeout_ms=self._hours.limit(step.statement_timeout_ms))

    def _reindex(self, step: Step, action: Reindex) -> None:
        reindex(self._fenced(), action, statement_timeout_ms=self._hours.limit(step.statement_timeout_ms))

    def _analyze(self, step: Step, action: Analyze) -> None:
        connection = self._fenced()
        timeout = self._hours.limit(step.statement_timeout_ms)
        session_limits(connection, lock_timeout_ms=step.lock_timeout_ms, statement_timeout_ms=timeout)
        connection.execute(sql.SQL("ANALYZE {}").format(action.table.identifier))

    def _await(self, step: Step, report: Report) -> None:
        def hold(why: str) -> None:
            self._throttle.before_step(step, lambda _: None)  # it may be paused while it waits
            self._lease.check()
            self._held(report, step, why)

        await_snapshots(
            self._fenced(),
            self._plan.name,
            f"Step {step.id}",
            seconds=step.statement_timeout_ms / 1000,
            hold=hold,
        )

    def _patiently(self, step: Step, work: Callable[[], None], *, lock_timeout_ms: int = 0) -> None:
        """Repeat work while its lock is refused; raises LockNotAcquired, which names who was in the way.

        Without a short ``lock_timeout_ms`` it is work that itself waits for transactions, and gives way to them.
        """
        began, tries, blockers = time.monotonic(), 0, tuple[Blocker, ...]()
        holders, waiting = tuple[Blocker, ...](), False

        def once() -> None:
            nonlocal tries, blockers, holders, waiting
            tries += 1
            pid = self._lease.session("work").info.backend_pid
            looking = watch(self._lease.session("monitor"), pid, lock_timeout_ms=lock_timeout_ms)
            try:
                with looking:
                    work()
            except psycopg.errors.QueryCanceled:
                if looking.gave_way:
                    raise psycopg.errors.DeadlockDetected("gave way to a session that it waited for") from None
                raise
            except psycopg.errors.LockNotAvailable:
                holders = lock_holders(self._lease.session("monitor"), self._plan, step) or holders
                raise
            finally:
                blockers = looking.blockers or blockers
                waiting = looking.waiting

        try:
            retrying = self._patience.retrying() if lock_timeout_ms else self._patience.by_tries()
            retrying(once)
        except (*LOCK_REFUSED, psycopg.errors.QueryCanceled) as error:
            if isinstance(error, psycopg.errors.QueryCanceled):
                if (due := self._hours.ended()) is not None:
                    raise due from None
                if not waiting:
                    raise  # it took too long by itself
            tables = tuple(lock.table for lock in step.locks)
            seconds = time.monotonic() - began
            if holders and not blockers:
                raise busy(f"Step {step.id}", tables[0], holders, tries=tries, seconds=seconds) from None
            raise lock_not_acquired(f"Step {step.id}", tables, blockers, tries=tries, seconds=seconds) from None


def _lock_timeout(step: Step, action: Transaction) -> int:
    return action.lock_timeout_ms if action.lock_timeout_ms is not None else step.lock_timeout_ms


def _undo_actions(step: Step) -> tuple[Action, ...]:
    match step.undo:
        case Irreversible(reason=reason):
            raise RollbackRefused(f"Step {step.id} cannot be undone: {reason}")
        case actions:
            return actions


def _where(phase: str, step: Step) -> str:
    return f"Phase {phase}, step {step.id}"


def _step_failed(phase: str, step: Step, error: psycopg.Error) -> StepFailed:
    match error:
        case psycopg.errors.UniqueViolation():
            remedy = "Rows have the same key where the new shape wants it unique. Repair them, then run again."
        case psycopg.errors.CheckViolation() | psycopg.errors.NotNullViolation() | psycopg.errors.ForeignKeyViolation():
            remedy = (
                "Rows break what this step demands; new ones are refused already. Repair them, then run again: it "
                "continues with this step. Or roll back, which takes the demand away."
            )
        case psycopg.errors.QueryCanceled():
            remedy = (
                f"It took longer than its {step.statement_timeout_ms} ms, or was cancelled. Run again when it is quiet."
            )
        case psycopg.errors.DiskFull():
            remedy = (
                "The server's disk is full, and the application's writes need space too. Free some, or move something "
                "to another tablespace; then run again: it goes on where it stopped."
            )
        case psycopg.OperationalError() if connection_lost(error):
            remedy = f"The connection was lost {RECONNECTIONS} times in this step: look at the server's log."
        case _:
            remedy = "Repair the cause, then run again: it continues with this step. Or roll back."
    return StepFailed(
        f"{_where(phase, step)} ({step.title}) failed: {described(error)}.",
        phase=phase, step=step.id, sqlstate=error.sqlstate, remedy=remedy,
    )  # fmt: skip
