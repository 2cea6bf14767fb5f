"""The plan: the single source that the document shows, the executor runs, the ledger records and the tests read.

``Plan`` → ``Phase`` → ``Step`` → ``Action``. All frozen; a plan travels through the ledger as JSON and comes back
equal.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from tasks.planning.names import TableName
from tasks.planning.throttle import Limits
from tasks.planning.windows import Window


class Part(BaseModel):
    """Base of the plan's value types: frozen, and strict about its fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


LockMode = Literal[
    "ACCESS SHARE", "ROW SHARE", "ROW EXCLUSIVE", "SHARE UPDATE EXCLUSIVE",
    "SHARE", "SHARE ROW EXCLUSIVE", "EXCLUSIVE", "ACCESS EXCLUSIVE",
]  # fmt: skip

LOCK_ORDER: tuple[LockMode, ...] = get_args(LockMode)
"""From the weakest lock to the strongest."""


class LockUse(Part):
    """The strongest lock that a step takes on a table."""

    table: TableName
    mode: LockMode


Work = Literal["scan", "build", "rewrite", "backfill", "validation"]
"""What is done to every row of a table, so that its time is foretold from the table's size: `scan` reads with a simple
condition, `build` makes an index, `rewrite` makes table and indexes anew, `validation` checks a constraint."""


class Forecast(Part):
    """Seconds, at the size and rates known when planning; ``work`` on so many ``rows``, where it depends on them."""

    best: float
    worst: float
    work: Work | None = None
    rows: int = 0


# ------------------------------------------------------------------------------------------------ actions


class Transaction(Part):
    """Statements in one transaction, committed together with the step's ledger row."""

    kind: Literal["transaction"] = "transaction"
    statements: tuple[str, ...]
    statement_timeout_ms: int | None = None
    """Overrides the step's, e.g. for a validation that undoes a short step."""
    lock_timeout_ms: int | None = None
    """Overrides the step's, likewise."""


class BuildIndex(Part):
    """CREATE INDEX CONCURRENTLY. Already done when the index is valid; an invalid one is dropped and rebuilt."""

    kind: Literal["build_index"] = "build_index"
    table: TableName
    index: str
    statement: str


class DropIndex(Part):
    """DROP INDEX CONCURRENTLY IF EXISTS."""

    kind: Literal["drop_index"] = "drop_index"
    table: TableName
    index: str


class Reindex(Part):
    """REINDEX INDEX CONCURRENTLY. The ledger alone tells that it is done; what a failed one left is dropped first."""

    kind: Literal["reindex"] = "reindex"
    table: TableName
    index: str


class Analyze(Part):
    """Refresh the statistics, so that speed does not depend on a past ANALYZE."""

    kind: Literal["analyze"] = "analyze"
    table: TableName


class AwaitSnapshots(Part):
    """Wait until no transaction looks at the database as it was before the last finished phase ended.

    ``statement_timeout_ms`` of the step is how long.
    """

    kind: Literal["await_snapshots"] = "await_snapshots"


class Assignment(Part):
    """``column`` receives ``expression``: SQL over the row's own columns, cast to the column's type."""

    column: str
    expression: str


class Backfill(Part):
    """Fill the new shape of unfilled rows in key order, in batches, until none is left.

    ``unfilled`` is the predicate over the row that says it still has to be filled (bits of the integer marker
    ``lockstep_pending``); ``assignments`` fill the new columns of the unfilled groups only and clear their bits, so
    the marker is one of them. Runs with ``lockstep.direction`` set to ``direction``.
    """

    kind: Literal["backfill"] = "backfill"
    table: TableName
    key: tuple[str, ...]
    key_types: tuple[str, ...]
    unfilled: str
    assignments: tuple[Assignment, ...]
    personal_key: bool = False
    swapped: Backfill | None = None
    """The same as its columns are called once the table's step `swap_id` is done, where a column keeps its name."""
    direction: Literal["none", "fill"] = "none"
    """``fill`` calls the sync trigger on unfilled groups: behind a trigger of the user's, which may write an old column
    of the row that is being filled."""


def swap_id(table: TableName) -> str:
    """Return the id of the step in which a table's new columns take the names of the old ones."""
    return f"switch/swap/{table}"


class UpdateRows(Part):
    """An UPDATE of the user's in key order, in batches, until no row is due.

    ``due`` is the predicate that says that a row has still to be changed; ``assignments`` make it false, so no row is
    changed twice. Names in front of columns are ``alias``. Where ``kept`` is a table, it receives of every changed row,
    in the same transaction, the key (``k0`` …), the old values of ``columns`` (``b0`` …) and what was written into them
    (``w0`` …). The table's triggers fire, the sync among them.
    """

    kind: Literal["update_rows"] = "update_rows"
    table: TableName
    alias: str
    key: tuple[str, ...]
    key_types: tuple[str, ...]
    due: str
    assignments: tuple[Assignment, ...]
    columns: tuple[str, ...] = ()
    kept: TableName | None = None
    personal_key: bool = False


class DeleteRows(Part):
    """A DELETE of the user's, as `UpdateRows`; ``kept`` receives the key and all ``columns`` (``b0`` …) of each row."""

    kind: Literal["delete_rows"] = "delete_rows"
    table: TableName
    alias: str
    key: tuple[str, ...]
    key_types: tuple[str, ...]
    due: str
    columns: tuple[str, ...]
    kept: TableName
    personal_key: bool = False


class RestoreRows(Part):
    """Undo `UpdateRows`: rows that still hold what was written get their old values; others are the application's."""

    kind: Literal["restore_rows"] = "restore_rows"
    table: TableName
    key: tuple[str, ...]
    columns: tuple[str, ...]
    kept: TableName


class ReinsertRows(Part):
    """Undo `DeleteRows`, the last deleted first; a row whose key or unique value is taken meanwhile stays away."""

    kind: Literal["reinsert_rows"] = "reinsert_rows"
    table: TableName
    key: tuple[str, ...]
    columns: tuple[str, ...]
    kept: TableName


RowChange = UpdateRows | DeleteRows
IN_BATCHES = (Backfill, UpdateRows, DeleteRows)
"""What goes on where it stopped: in the middle of a step, from its cursor and the rows' marks."""
Action = Annotated[
    Transaction
    | BuildIndex
    | DropIndex
    | Reindex
    | Analyze
    | AwaitSnapshots
    | Backfill
    | UpdateRows
    | DeleteRows
    | RestoreRows
    | ReinsertRows,
    Field(discriminator="kind"),
]


class Irreversible(Part):
    """Why a step cannot be undone by a statement, and what brings the data back instead."""

    reason: str


# ------------------------------------------------------------------------------------------------ steps


class Step(Part):
    """One unit of execution: done entirely or not at all, resumable, recorded.

    ``undo`` is what rolls it back, in order; empty means there is nothing to undo (an ANALYZE, a validation that
    falls with its constraint). Timeouts are milliseconds; ``statement_timeout_ms`` 0 means none.
    """

    id: str
    title: str
    action: Action
    locks: tuple[LockUse, ...] = ()
    lock_timeout_ms: int = 200
    statement_timeout_ms: int = 5_000
    undo: tuple[Action, ...] | Irreversible = ()
    forecast: Forecast = Forecast(best=0.0, worst=0.0)
    undo_forecast: Forecast | None = None
    """How long its undo takes on the database as it was looked at; None where nobody looked, or there is no undo."""
    schema_after: str = ""
    """Schema hash once the step is done; filled by proving the plan on a clone."""

    @property
    def transactional(self) -> bool:
        return isinstance(self.action, Transaction)


Severity = Literal["CRITICAL", "WARNING", "INFO"]

CheckKind = Literal[
    "orphans", "duplicates", "rule", "parity", "unfilled", "sync_failures", "sync_conflicts", "unheld", "aggregates",
    "row_count", "schema", "index_validity", "constraint_validity", "old_writers", "not_null", "due",
    "sync_trigger",
]  # fmt: skip


class Check(Part):
    """One expectation of a gate.

    ``sql`` is one read-only SELECT, so one snapshot, that returns exactly one row
    ``(failing bigint, evaluated bigint, sample jsonb, observed jsonb)``: how many units fail, how many were looked
    at, up to ten keys of failing ones (never other values; hashed when the key is personal), and measured numbers
    to show. The check holds when ``failing`` is 0. ``corruption`` says that a failure means wrong data in the
    database (which triggers the automatic rollback before the switch), not merely a state to wait for.
    """

    id: str
    kind: CheckKind
    title: str
    severity: Severity
    table: TableName | None
    sql: str
    corruption: bool = False


class Gate(Part):
    """A named suite of checks, run before or after a phase. Fails closed: no checks is a failure."""

    name: str
    title: str
    checks: tuple[Check, ...]
    user_suites: tuple[str, ...] = ()
    """Paths of the user's own suites, relative to the spec's folder."""


class Approval(Part):
    """A human decision that a phase waits for."""

    question: str


class Phase(Part):
    """A stage of the migration that is retried as a whole and rolled back as a whole."""

    name: str
    purpose: str
    application: str
    """What the application has to do, or may do, from here on."""
    steps: tuple[Step, ...]
    gate_before: Gate | None = None
    gate_after: Gate | None = None
    approval: Approval | None = None
    heavy: bool = False
    """Long-running work that stays inside the plan's window, where there is one."""
    schema_before: str = ""
    schema_after: str = ""
    """Schema hashes; filled by proving the plan on the clone."""
    schema_text: str = ""
    """What ``schema_before`` is the hash of, so that a difference can be named."""


def passed_the_point_of_no_return(phase: Phase, done: Collection[str]) -> bool:
    """Whether one of the steps ``done`` (their ids) of contract ends an old shape, or gives what is new its name.

    Those before it only add demands, which can be taken back.
    """
    last = [step for step in phase.steps if step.id in {f"{phase.name}/{lock.table}" for lock in step.locks}]
    return any(step.id in done for step in last or phase.steps)


Inserts = Literal["told", "old", "new"]
"""Which side an INSERT of the application writes: told by what it gives, or known, under one name, by the stage."""


class MappedGroup(Part):
    """Columns that belong together: ``old`` and ``new`` of one table, with the canonical expressions both ways.

    ``up`` has one entry for every new column, ``down`` one for every old column; an empty ``down`` is a one-way
    group (the new columns are derived, the old ones stay).
    """

    table: TableName
    old: tuple[str, ...]
    new: tuple[str, ...]
    up: tuple[Assignment, ...]
    down: tuple[Assignment, ...]
    bits: int = 0
    """The group's bits in the marker column ``lockstep_pending``; 0 when the table has no marker (yet)."""
    inserts: Inserts = "told"
    switched: MappedGroup | None = None
    """The same group as its columns are called from the switch on, where a column keeps its name."""

    @property
    def from_switch(self) -> MappedGroup:
        """The group with the names that hold from the switch on."""
        return self.switched or self

    @property
    def old_writes(self) -> tuple[str, ...]:
        """The columns that the old application version writes in this stage."""
        return self.new if self.inserts == "new" else self.old

    @property
    def new_writes(self) -> tuple[str, ...]:
        """The columns that the new application version writes in this stage."""
        return self.old if self.inserts == "old" else self.new


class Note(Part):
    """A remark of the planner with its severity, e.g. an example value that the old shape cannot hold."""

    severity: Severity
    text: str
    of_way_back: bool = False
    """It tells what going back would lose."""


RiskLevel = Literal["CRITICAL", "HIGH", "MEDIUM", "LOW"]


class Risk(Part):
    """What is risky about one difference that the change makes, by the table of rules in `tasks.planning.risks`."""

    rule: str
    level: RiskLevel
    what: str
    concerns: str
    mitigation: str
    tolerance: str
    """The downtime that it may cost at most, in words."""


class TableFacts(Part):
    """What the catalog says of a table that the plan changes, in words; sizes are the server's estimates."""

    name: TableName
    rows: int
    bytes: int
    toast_bytes: int = 0
    """Of ``bytes``."""
    columns: tuple[str, ...]
    constraints: tuple[str, ...]
    indexes: tuple[str, ...]
    dependents: tuple[str, ...]
    referenced_by: tuple[str, ...]
    weaknesses: tuple[str, ...]


class FlywayFile(Part):
    """A file of a Flyway folder that the migration carries out: what its row in the history table says."""

    script: str
    version: str | None
    """As Flyway stores it: ``V1_001`` is ``1.001``; None for a repeatable migration."""
    description: str
    checksum: int


class FlywayHistory(Part):
    """Flyway's history table, and the files that were pending when the plan was made, in their order."""

    table: TableName
    last_rank: int
    """The highest ``installed_rank`` then; 0 for an empty table."""
    files: tuple[FlywayFile, ...]
    above_target: tuple[str, ...] = ()
    """Files that are left for later, and that a Flyway without this target would run."""
    passed_over: tuple[str, ...] = ()
    """Files that look like migrations and that Flyway does not take for any, each with the reason."""


Strategy = Literal["direct", "expand-contract", "shadow-table", "blue-green"]
RollbackTier = Literal["immediate", "emergency", "planned", "none"]


class Plan(Part):
    """How one migration is carried out on one database."""

    name: str
    database: str
    strategy: Strategy
    why: str
    change: str
    """The user's SQL as given."""
    change_hash: str
    """SHA-256 of the spec's meaning (change, mapping, gates); a stored plan is resumed only with the same one."""
    server_version: int
    phases: tuple[Phase, ...]
    groups: tuple[MappedGroup, ...] = ()
    tables: tuple[TableName, ...] = ()
    """Every table that the migration changes; another migration of one of them is refused meanwhile."""
    personal: tuple[str, ...] = ()
    """``schema.table.column`` of personal data."""
    scope: tuple[TableName, ...] = ()
    """The tables that the schema hash covers: the changed ones and what depends on them."""
    schema_before: str = ""
    schema_target: str = ""
    settings: tuple[tuple[str, str], ...] = ()
    """Session settings pinned in the clone and in every session of the executor (TimeZone, search_path …)."""
    soak_seconds: int = 0
    throttle: Limits = Limits()
    window: Window | None = None
    """When heavy phases may work; None is always."""
    queries: tuple[str, ...] = ()
    """The user's own, timed before the migration, after the switch and at the end."""
    notes: tuple[Note, ...] = ()
    current: tuple[TableFacts, ...] = ()
    """The changed tables as they were when the plan was made."""
    risks: tuple[Risk, ...] = ()
    """Of every difference that the change makes, the worst first."""
    flyway: FlywayHistory | None = None
    """Of a Flyway folder: the files that this migration carries out, and the table that will say so."""
    reverse: str = ""
    """After contract: the spec (YAML) of the migration that goes back, with what cannot be recovered in comments."""

    def phase(self, name: str) -> Phase:
        return next(phase for phase in self.phases if phase.name == name)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do: the change is already in place."""
        return not self.phases
