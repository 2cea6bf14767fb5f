"""The ledger: schema ``lockstep`` in the target database, the truth about every migration of it.

Reads return nothing where the schema does not exist, and need no more than SELECT. Writes are transactions of their
own, or part of the caller's open one; every change of state is checked against `tasks.planning.states`. A runner's
ledger carries a fence, which locks the migration's row and refuses a runner that has been replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from importlib.resources import files
from typing import Any, TypeVar

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow, class_row
from psycopg.types.json import Jsonb
from pydantic import BaseModel

from tasks.database.connection import limits
from tasks.database.queries import queries
from tasks.database.records import (
    ApprovalRecord,
    ByHandRecord,
    Decision,
    EventRecord,
    FailureSummary,
    GateRecord,
    Holder,
    MigrationRecord,
    PhaseRecord,
    ProgressRecord,
    StepRecord,
    ThrottleRecord,
)
from tasks.planning.errors import MigrationError, MissingPrivilege, RunnerBusy, SpecError, UnknownMigration
from tasks.planning.gates import GateResult
from tasks.planning.names import LOCKSTEP_SCHEMA
from tasks.planning.plan import Plan
from tasks.planning.states import (
    MIGRATION_TRANSITIONS,
    PHASE_TRANSITIONS,
    STEP_TRANSITIONS,
    UNFINISHED,
    MigrationState,
    PhaseState,
    StepState,
    check_transition,
)
from tasks.planning.throttle import Load

VERSION = 3
LOCK_TIMEOUT_MS = 5_000
"""The ledger's rows are held for moments only; the migration's own row for the length of a step, FOR SHARE."""
STATEMENT_TIMEOUT_MS = 30_000

Connection = psycopg.Connection[TupleRow]
Fence = Callable[[Connection], None]
_Record = TypeVar("_Record", bound=BaseModel)

_SQL = queries("ledger_queries")
_UNFINISHED = [state.value for state in UNFINISHED]


def install(connection: Connection) -> None:
    """Create the ledger where it is missing or of an older version; any number of processes may do so at once.

    Raises MissingPrivilege when the role may not create the schema, MigrationError when the ledger is a newer
    Lockstep's.
    """
    try:
        with _transaction(connection):
            connection.execute(_SQL["lock_ledger"])
            found = _version(connection)
            if found is None or found < VERSION:
                connection.execute((files("tasks.database") / "sql" / "ledger.sql").read_bytes())
            elif found > VERSION:
                raise MigrationError(
                    f"The ledger of this database has version {found}; this Lockstep knows version {VERSION}.",
                    safety="Nothing was touched.",
                    remedy="Install the newer Lockstep that wrote it.",
                )
    except psycopg.errors.InsufficientPrivilege:
        user, database = connection.info.user, connection.info.dbname
        raise MissingPrivilege(
            f"The role {user!r} may not create or use the schema {LOCKSTEP_SCHEMA!r} in the database {database!r}.",
            grant=f'GRANT CREATE ON DATABASE "{database}" TO "{user}"',
        ) from None


def _version(connection: Connection) -> int | None:
    if not is_installed(connection):
        return None
    row = connection.execute(_SQL["version"]).fetchone()
    return row[0] if row else None


def is_installed(connection: Connection) -> bool:
    """Whether the database has a ledger: a migration was registered in it, or begun by hand."""
    row = connection.execute(_SQL["exists"]).fetchone()
    return bool(row and row[0])


@contextmanager
def _transaction(connection: Connection) -> Iterator[None]:
    """A bounded transaction, or a part of the caller's, whose limits then hold."""
    if connection.info.transaction_status != TransactionStatus.IDLE:
        with connection.transaction():
            yield
        return
    try:
        with connection.transaction():
            limits(connection, lock_timeout_ms=LOCK_TIMEOUT_MS, statement_timeout_ms=STATEMENT_TIMEOUT_MS)
            yield
    except psycopg.errors.LockNotAvailable:
        raise RunnerBusy(
            "A running step, or another command, holds the ledger's rows of this migration.",
            remedy="Wait until it is through, then try again.",
        ) from None


class Ledger:
    """The ledger behind one autocommit connection, which the caller opens and closes."""

    def __init__(self, connection: Connection, *, fence: Fence | None = None) -> None:
        self._connection = connection
        self._fence = fence

    # --- reading -------------------------------------------------------------------------------------------------

    def now(self) -> datetime:
        """Return the server's time, which decides about leases, soaks and windows."""
        row = self._connection.execute(_SQL["now"]).fetchone()
        if row is None:
            raise LookupError("SELECT returned no row")
        moment: datetime = row[0]
        return moment

    def migration(self, name: str) -> MigrationRecord | None:
        return next(iter(self._read(MigrationRecord, "migration", name)), None)

    def known_migration(self, name: str) -> MigrationRecord:
        """Return the migration of this name; raises UnknownMigration."""
        record = self.migration(name)
        if record is None:
            raise UnknownMigration(f"No migration named {name!r} is recorded in this database.")
        return record

    def migrations(self) -> tuple[MigrationRecord, ...]:
        return self._read(MigrationRecord, "migrations", "")

    def latest(self, most: int) -> tuple[MigrationRecord, ...]:
        """Return so many migrations, the latest first: each carries its whole plan."""
        return self._read(MigrationRecord, "latest_migrations", "", most=most)

    def phases(self, name: str) -> tuple[PhaseRecord, ...]:
        return self._read(PhaseRecord, "phases", name)

    def steps(self, name: str) -> tuple[StepRecord, ...]:
        return self._read(StepRecord, "steps", name)

    def step(self, name: str, step: str) -> StepRecord:
        """Return one step; raises LookupError for one that was not registered."""
        return self._read(StepRecord, "step", name, step=step)[0]

    def progress(self, name: str) -> tuple[ProgressRecord, ...]:
        return self._read(ProgressRecord, "progress", name)

    def gates(self, name: str) -> tuple[GateRecord, ...]:
        """Return every gate result of the present run, oldest first."""
        return self._read(GateRecord, "gates", name)

    def approvals(self, name: str) -> tuple[ApprovalRecord, ...]:
        return self._read(ApprovalRecord, "approvals", name)

    def events(self, name: str) -> tuple[EventRecord, ...]:
        return self._read(EventRecord, "events", name)

    def failures(self, name: str) -> tuple[FailureSummary, ...]:
        """Return the open sync failures and conflicts, counted by table, direction and kind."""
        return self._read(FailureSummary, "failures", name)

    def throttle(self, name: str) -> ThrottleRecord:
        """Return what was asked of the migration while it runs, and what its runner last saw of the server."""
        found = self._read(ThrottleRecord, "throttle", name) if self._has("throttle") else ()
        return next(iter(found), ThrottleRecord())

    def refuse_by_hand(self, name: str) -> None:
        """Raise RunnerBusy where the scripts of the migration's runbook have begun steps and not taken them back.

        Raises MissingPrivilege where the role may not read the ledger.
        """
        found = self._read(ByHandRecord, "by_hand", name) if self._has("runbook") else ()
        if found and found[0].steps:
            raise RunnerBusy(
                f"The migration {name!r} is being carried out by hand: {found[0].steps} steps have been begun.",
                remedy="Go on with the scripts, or go back with them. If it is over, forget their notes:  DELETE FROM "
                f"lockstep.runbook WHERE migration = {sql.Literal(name).as_string()};",
            )

    def holder(self, name: str) -> Holder | None:
        """Return who runs the migration now (or died while running it, when the lease has expired)."""
        return next(iter(self._read(Holder, "holder", name)), None)

    # --- registering ---------------------------------------------------------------------------------------------

    def register(self, plan: Plan, spec_text: str) -> MigrationRecord:
        """Record a plan, creating the ledger if need be, and return what is now recorded.

        An unfinished migration of this name with the same change keeps its stored plan, but for window and throttle;
        one that has not begun, or is over, is replaced, and an event keeps its history. Raises SpecError when the
        change of an unfinished one differs, RunnerBusy when an unfinished migration covers one of the tables or this
        one is being run.
        """
        install(self._connection)
        with self._write():
            self._connection.execute(_SQL["lock_ledger"])
            stored = next(iter(self._select(MigrationRecord, "migration_for_update", name=plan.name)), None)
            if stored is not None and stored.state in UNFINISHED:
                if stored.change_hash != plan.change_hash:
                    raise SpecError(
                        f"The migration {plan.name!r} is unfinished ({stored.state}) and its spec has changed since.",
                        remedy="Restore the spec and run again, or roll the migration back first.",
                    )
                if (stored.plan.window, stored.plan.throttle) == (plan.window, plan.throttle):
                    return stored
                return self._rearrange(stored, plan, spec_text)
            values = {
                "name": plan.name,
                "plan": Jsonb(plan.model_dump(mode="json")),
                "spec": spec_text,
                "change_hash": plan.change_hash,
                "tables": [str(table) for table in plan.tables],
            }
            self._refuse_conflict("conflicting", values)
            if stored is None:
                self._execute("insert_migration", values)
            else:
                self._retire(stored)
                check_transition(MIGRATION_TRANSITIONS, stored.state, MigrationState.PLANNED)
                self._execute("replace_migration", values)
            self._insert_steps(plan)
            self.event(plan.name, "registered", {"change_hash": plan.change_hash})
            return self.known_migration(plan.name)

    def _rearrange(self, stored: MigrationRecord, plan: Plan, spec_text: str) -> MigrationRecord:
        """Let an unfinished migration work in another window or with other limits; a phase under way keeps its own."""
        moved = stored.plan.model_copy(update={"window": plan.window, "throttle": plan.throttle})
        values = {"name": plan.name, "plan": Jsonb(moved.model_dump(mode="json")), "spec": spec_text}
        self._execute("set_plan", values)
        if stored.plan.window != plan.window:
            self.event(plan.name, "window", {"from": str(stored.plan.window or ""), "to": str(plan.window or "")})
        if stored.plan.throttle != plan.throttle:
            self.event(plan.name, "limits", {"who": "the spec", "limits": plan.throttle.model_dump(mode="json")})
        return self.known_migration(plan.name)

    def _retire(self, stored: MigrationRecord) -> None:
        holder = self.holder(stored.name)
        if holder is not None and not holder.expired:
            raise RunnerBusy(f"The migration {stored.name!r} is being run by {holder}.")
        history = {
            "state": stored.state.value,
            "change_hash": stored.change_hash,
            "phases": {phase.phase: phase.state.value for phase in self.phases(stored.name)},
            "approvals": [approval.model_dump(mode="json") for approval in self.approvals(stored.name)],
        }
        self.event(stored.name, "replaced", history)
        self._execute("forget_run", {"name": stored.name})

    def _insert_steps(self, plan: Plan) -> None:
        number = 0
        for position, phase in enumerate(plan.phases):
            self._execute("insert_phase", {"name": plan.name, "phase": phase.name, "position": position})
            for step in phase.steps:
                row = {"name": plan.name, "phase": phase.name, "step": step.id, "position": number}
                self._execute("insert_step", row)
                number += 1

    def _refuse_conflict(self, query: str, values: Mapping[str, Any]) -> None:
        row = self._connection.execute(_SQL[query], {**values, "unfinished": _UNFINISHED}).fetchone()
        if row is not None:
            name, state, tables = row
            raise RunnerBusy(
                f"The migration {name!r} of {', '.join(tables)} is unfinished ({state}).",
                remedy=f"Finish it or roll it back first:  lockstep status {name}",
            )

    # --- states --------------------------------------------------------------------------------------------------

    def set_state(self, name: str, state: MigrationState, error: str | None = None) -> None:
        """Change a migration's state; ``error`` says why it failed or waits, and is cleared without one.

        Raises RunnerBusy when it would begin while another migration of its tables is unfinished, or it by hand.
        """
        with self._write(name):
            self._connection.execute(_SQL["lock_ledger"])
            stored = next(iter(self._select(MigrationRecord, "migration_for_update", name=name)), None)
            if stored is None:
                raise UnknownMigration(f"No migration named {name!r} is recorded in this database.")
            check_transition(MIGRATION_TRANSITIONS, stored.state, state)
            if state in UNFINISHED and stored.state not in UNFINISHED:
                self._refuse_conflict("conflicting_with_own_tables", {"name": name})
                self.refuse_by_hand(name)
            self._execute("set_state", {"name": name, "state": state.value, "error": error})
            if stored.state != state:
                self.event(name, "state", {"from": stored.state.value, "to": state.value})

    def set_switched(self, name: str) -> None:
        """Record that the new application version may be deployed; the first time counts."""
        with self._write(name):
            self._execute("set_switched", {"name": name})

    def clear_switched(self, name: str) -> None:
        """Record that the switch was undone."""
        with self._write(name):
            self._execute("clear_switched", {"name": name})

    def begin_phase(self, name: str, phase: str) -> None:
        """Mark a phase RUNNING and count the attempt."""
        with self._write(name):
            self._check_phase(name, phase, PhaseState.RUNNING)
            self._execute("phase_running", {"name": name, "phase": phase})

    def end_phase(self, name: str, phase: str, state: PhaseState, error: str | None = None) -> None:
        """Mark a phase DONE, FAILED (with the error's text) or UNDONE."""
        with self._write(name):
            self._check_phase(name, phase, state)
            self._execute("phase_ended", {"name": name, "phase": phase, "state": state.value, "error": error})

    def _check_phase(self, name: str, phase: str, wanted: PhaseState) -> None:
        row = self._connection.execute(_SQL["phase_state"], {"name": name, "phase": phase}).fetchone()
        if row is None:
            raise LookupError(f"the migration {name!r} has no phase {phase!r}")
        check_transition(PHASE_TRANSITIONS, PhaseState(row[0]), wanted)

    def begin_step(self, name: str, step: str) -> None:
        with self._write(name):
            self._check_step(name, step, StepState.RUNNING)
            self._execute("step_running", {"name": name, "step": step})

    def finish_step(self, name: str, step: str) -> None:
        """Mark a step DONE; inside the step's own transaction where it has one."""
        with self._write(name):
            self._check_step(name, step, StepState.DONE)
            self._execute("step_ended", {"name": name, "step": step, "state": StepState.DONE.value})

    def undo_actions(self, name: str, step: str, committed: int) -> None:
        """Record that the first ``committed`` undo actions of a step are done."""
        with self._write(name):
            self._execute("step_undone_actions", {"name": name, "step": step, "undone": committed})

    def undo_step(self, name: str, step: str) -> None:
        """Mark a step UNDONE and forget how far its backfill was, so that a new run begins anew."""
        with self._write(name):
            self._check_step(name, step, StepState.UNDONE)
            self._execute("step_ended", {"name": name, "step": step, "state": StepState.UNDONE.value})
            self._execute("forget_progress", {"name": name, "step": step})

    def _check_step(self, name: str, step: str, wanted: StepState) -> None:
        row = self._connection.execute(_SQL["step_state"], {"name": name, "step": step}).fetchone()
        if row is None:
            raise LookupError(f"the migration {name!r} has no step {step!r}")
        check_transition(STEP_TRANSITIONS, StepState(row[0]), wanted)

    # --- results, decisions, events ------------------------------------------------------------------------------

    def record_gate(self, name: str, result: GateResult) -> None:
        """Keep a gate's result; the newest of a gate counts."""
        row = {"name": name, "phase": result.phase, "gate": result.gate, "success": result.success}
        with self._write(name):
            self._execute("record_gate", {**row, "result": Jsonb(result.model_dump(mode="json"))})

    def approve(
        self,
        name: str,
        phase: str,
        *,
        who: str,
        why: str = "",
        decision: Decision = "approved",
        waive_soak: bool = False,
    ) -> None:
        """Record a human decision about a phase; the newest one counts."""
        self.known_migration(name)
        row = {"name": name, "phase": phase, "who": who, "why": why, "decision": decision, "waive_soak": waive_soak}
        with self._write():
            self._execute("approve", row)

    # --- pause and throttle --------------------------------------------------------------------------------------

    def pause(self, name: str, *, who: str, why: str = "") -> None:
        """Ask whoever runs the migration to stop, and let nobody begin it until `resume`; waits for no step."""
        with self._write():
            self._execute("pause", {"name": name, "who": who, "why": why})
            self.event(name, "paused", {"who": who, "why": why})

    def resume(self, name: str, *, who: str) -> bool:
        """Let a paused migration go on; return False when it was not paused."""
        with self._write():
            resumed = self._connection.execute(_SQL["resume"], {"name": name}).rowcount == 1
            if resumed:
                self.event(name, "resumed", {"who": who})
        return resumed

    def set_limits(self, name: str, limits: Mapping[str, Any], *, who: str) -> None:
        """Keep the limits that differ from the plan's; a runner takes them up within seconds."""
        with self._write():
            self._execute("set_limits", {"name": name, "limits": Jsonb(dict(limits))})
            self.event(name, "limits", {"who": who, "limits": dict(limits)})

    def record_look(self, name: str, reasons: Sequence[str], load: Load) -> None:
        """Keep what the runner sees of the server and why it waits, for `lockstep status`."""
        row = {"name": name, "reasons": list(reasons), "waits": bool(reasons)}
        with self._write(name):
            self._execute("record_look", {**row, "load": Jsonb(load.model_dump(mode="json"))})

    def event(self, name: str, kind: str, detail: Mapping[str, Any]) -> None:
        """Append to the migration's history; ``detail`` holds no value of a row."""
        with self._write():
            self._execute("event", {"name": name, "kind": kind, "detail": Jsonb(dict(detail))})

    # --- ways to the server --------------------------------------------------------------------------------------

    @contextmanager
    def _write(self, name: str | None = None) -> Iterator[None]:
        """A transaction; fenced when it changes the state of the migration ``name``."""
        with _transaction(self._connection):
            if name is not None and self._fence is not None:
                self._fence(self._connection)
            yield

    def _execute(self, query: str, values: Mapping[str, Any]) -> None:
        self._connection.execute(_SQL[query], values)

    def _read(self, record: type[_Record], query: str, name: str, **values: str | int) -> tuple[_Record, ...]:
        if not is_installed(self._connection):
            return ()
        try:
            return self._select(record, query, name=name, **values)
        except psycopg.errors.InsufficientPrivilege:
            user = self._connection.info.user
            raise MissingPrivilege(
                f"The role {user!r} may not read Lockstep's ledger.",
                grant=f'GRANT USAGE ON SCHEMA {LOCKSTEP_SCHEMA} TO "{user}"; '
                f'GRANT SELECT ON ALL TABLES IN SCHEMA {LOCKSTEP_SCHEMA} TO "{user}"',
            ) from None

    def _has(self, table: str) -> bool:
        """Whether the ledger has a table that those of earlier versions lack."""
        row = self._connection.execute(_SQL["has_table"], {"table": table}).fetchone()
        return bool(row and row[0])

    def _select(self, record: type[_Record], query: str, **values: str | int) -> tuple[_Record, ...]:
        with self._connection.cursor(row_factory=class_row(record)) as cursor:
            return tuple(cursor.execute(_SQL[query], values).fetchall())
