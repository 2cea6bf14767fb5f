"""The live facts: what a database was like when it was looked at, as far as the role could see. Immutable, no values.

Taken by `tasks.database.live`. What could not be seen is not guessed: it is `None` or missing, and `LiveFacts.unseen`
says what, why and how to see it. What the facts mean is judged in `tasks.planning.schema_debt` (indexes, keys,
constraints, bloat) and `tasks.planning.forecast` (how long, how much); who writes and who is in the way, here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Literal

from tasks.planning.catalog import ConstraintKind, Snapshot
from tasks.planning.names import TableName
from tasks.planning.plan import LockMode, LockUse


class Unseen(Snapshot):
    """Something that could not be looked at; ``remedy`` is what lets it be seen, empty where nothing does."""

    what: str
    why: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.what}: {self.why}{f' ({self.remedy})' if self.remedy else ''}"


# ------------------------------------------------------------------------------------------------ what is stored


class LiveTable(Snapshot):
    """A table or materialized view; of a partitioned table sizes and rows are those of its leaves together.

    ``rows`` is the estimate of the last VACUUM or ANALYZE, None where there never was one. The counters run since
    `LiveFacts.counted_since`. ``data_bytes`` is the average width of a row's values without its header, over the
    ``columns_measured`` of its ``columns`` whose statistics the role may see.
    """

    name: TableName
    kind: Literal["r", "p", "m"]
    root: TableName | None = None
    """The partitioned table that it is, in the end, a part of."""
    rows: int | None = None
    heap_bytes: int = 0
    toast_bytes: int = 0
    index_bytes: int = 0
    live_rows: int = 0
    dead_rows: int = 0
    changed_rows: int = 0
    """Since the last ANALYZE."""
    analyzed_at: datetime | None = None
    vacuumed_at: datetime | None = None
    seq_scans: int = 0
    seq_rows: int = 0
    """Rows that sequential scans have read."""
    index_scans: int = 0
    columns: int = 0
    columns_measured: int = 0
    data_bytes: float | None = None
    has_nulls: bool = False
    fillfactor: int = 100

    @property
    def bytes(self) -> int:
        """Everything that belongs to the table."""
        return self.heap_bytes + self.toast_bytes + self.index_bytes

    @property
    def known_rows(self) -> int:
        """The estimate, or what the counters know where there is none."""
        return self.live_rows if self.rows is None else self.rows


class IndexFacts(Snapshot):
    """An index. ``keys`` tell each key with all that decides which searches it serves, to be compared as text.

    ``columns`` are the keys' columns, None for an expression; ``included`` those of INCLUDE. ``being_built`` is None
    where the role cannot see it; ``key_bytes``, an entry's average width, None where it may not see the statistics.
    """

    name: str
    table: TableName
    method: str
    keys: tuple[str, ...]
    columns: tuple[str | None, ...]
    included: tuple[str, ...] = ()
    predicate: str = ""
    unique: bool = False
    primary: bool = False
    immediate: bool = True
    nulls_not_distinct: bool = False
    replica_identity: bool = False
    clustered: bool = False
    valid: bool = True
    being_built: bool | None = False
    constraint: str | None = None
    """The constraint it stands behind."""
    attached: bool = False
    """Part of an index of a partitioned table: it stands and falls with that one."""
    referenced: bool = False
    """A foreign key points to it."""
    partitioned: bool = False
    bytes: int = 0
    entries: int = 0
    scans: int = 0
    key_bytes: float | None = None
    fillfactor: int = 90

    @property
    def full_name(self) -> TableName:
        return TableName(self.table.schema, self.name)


class ForeignKeyFacts(Snapshot):
    """A declared foreign key; ``acts``: a change of the referenced row changes the referring ones (CASCADE, SET …)."""

    name: str
    table: TableName
    columns: tuple[str, ...]
    references: TableName
    referenced: tuple[str, ...] = ()
    """The columns there."""
    types: tuple[str, ...] = ()
    """The referring columns' types."""
    validated: bool = True
    acts: bool = False


class NotValid(Snapshot):
    """A constraint that was never checked against the rows that were there."""

    name: str
    table: TableName
    kind: ConstraintKind


class KeyFacts(Snapshot):
    """An integer column that is numbered: by a sequence, or by the application where it is a primary key without one.

    ``last`` is the sequence's last number, or the highest one in the statistics; None when there is none yet or it may
    not be seen (``seen``). ``rate`` is how many numbers a second were taken while it was looked at.
    """

    table: TableName
    column: str
    type: Literal["smallint", "integer", "bigint"]
    sequence: TableName | None = None
    sequence_max: int = 2**63 - 1
    sequence_min: int = 1
    increment: int = 1
    cycles: bool = False
    last: int | None = None
    seen: bool = True
    rate: float | None = None


# ------------------------------------------------------------------------------------------------ what happens


class Counters(Snapshot):
    """Rows written to one table since its counters began."""

    table: TableName
    inserted: int = 0
    updated: int = 0
    deleted: int = 0
    hot: int = 0
    """Updates among them that stayed in their page and touched no index."""


class SequenceMark(Snapshot):
    sequence: TableName
    last: int | None


class Written(Snapshot):
    """What had been written at a moment: `writes_between` two of them tells the rate. ``wal`` in bytes."""

    at: datetime
    wal: int | None = None
    tables: tuple[Counters, ...] = ()
    sequences: tuple[SequenceMark, ...] = ()


class WriteRate(Snapshot):
    """Rows a second, over ``seconds``; ``hot_share`` of the updates needed no index entry, None without an update."""

    table: TableName
    seconds: float
    inserted: float
    updated: float
    deleted: float
    hot_share: float | None = None

    @property
    def rows(self) -> float:
        return self.inserted + self.updated + self.deleted


class OpenTransaction(Snapshot):
    """An open transaction; ``query`` is its last query up to the first value.

    ``seconds`` is None where the role sees only that it ``holds`` locks on tables.
    """

    pid: int
    application: str = ""
    role: str = ""
    state: str = ""
    waits_for: str = ""
    """``wait_event_type``: ``Lock`` where it waits for somebody."""
    seconds: float | None = None
    query: str = ""
    holds_rows_back: bool = False
    """VACUUM, and the end of a concurrent index build, wait for its snapshot."""
    holds: tuple[LockUse, ...] = ()


class PreparedTransaction(Snapshot):
    """A transaction of a two-phase commit, which keeps its locks until somebody ends it."""

    name: str
    role: str
    seconds: float


class SlotFacts(Snapshot):
    """A replication slot. ``retained_bytes`` of WAL it holds back, ``safe_bytes`` may yet be written (None: no limit).

    ``transactions`` is the age of the oldest transaction whose rows it keeps from VACUUM.
    """

    name: str
    kind: Literal["physical", "logical"]
    plugin: str = ""
    database: str = ""
    active: bool = True
    wal_status: str = ""
    retained_bytes: int | None = None
    safe_bytes: int | None = None
    transactions: int | None = None


class StandbyFacts(Snapshot):
    name: str
    state: str = ""
    sync: str = ""
    behind_bytes: int | None = None
    behind_seconds: float | None = None
    """The server's own ``replay_lag``; None when nothing is left to replay, or nothing was measured yet."""


class Tablespace(Snapshot):
    name: str
    is_default: bool
    """New tables and indexes of the database go there."""
    bytes: int | None = None


NO_FREE_SPACE = Unseen(
    what="free disk space",
    why="SQL tells how much is used, never how much is free, nor on which disk WAL and temporary files are",
    remedy="compare what the forecast needs with `df` on the server, or with the provider's metrics",
)


class Disk(Snapshot):
    """What SQL knows of disks, in bytes. How much is free it does not: `NO_FREE_SPACE` always belongs to it.

    ``wal_bytes`` are the files in pg_wal now; ``max_wal_bytes`` is what checkpoints aim at; ``sort_bytes`` is
    maintenance_work_mem, beyond which an index build sorts on disk.
    """

    database_bytes: int | None = None
    tablespaces: tuple[Tablespace, ...] = ()
    wal_bytes: int | None = None
    max_wal_bytes: int = 2**30
    archives: bool = False
    sort_bytes: int = 64 * 2**20


class Publication(Snapshot):
    name: str
    all_tables: bool
    operations: tuple[str, ...]
    tables: tuple[TableName, ...]


class QueryLatency(Snapshot):
    """A query's times since its counters were reset, in milliseconds; ``shape`` holds no value.

    ``relations`` are schema (empty where the query does not name it) and name of what it reads and writes.
    """

    queryid: str
    shape: str
    calls: int
    mean_ms: float
    worst_ms: float
    deviation_ms: float
    total_ms: float
    rows: int = 0
    relations: tuple[tuple[str, str], ...] = ()


class LiveFacts(Snapshot):
    """One look at a live database."""

    database: str
    role: str
    server_version: int
    taken_at: datetime
    block_size: int = 8192
    sees_all: bool = True
    """Whether the role sees other roles' sessions."""
    counted_since: datetime | None = None
    """When the counters began: None where they never were reset, or it cannot be seen."""
    tables: tuple[LiveTable, ...] = ()
    indexes: tuple[IndexFacts, ...] = ()
    sees_indexes: bool = True
    """Whether ``indexes`` are all that there are; where they could not be read, none is called missing."""
    foreign_keys: tuple[ForeignKeyFacts, ...] = ()
    not_valid: tuple[NotValid, ...] = ()
    keys: tuple[KeyFacts, ...] = ()
    rates: tuple[WriteRate, ...] = ()
    """While it was looked at; tables without a write are missing."""
    averages: tuple[WriteRate, ...] = ()
    """Since `counted_since`, where that is known."""
    wal_rate: float | None = None
    """Bytes a second of the whole server, while it was looked at."""
    transactions: tuple[OpenTransaction, ...] = ()
    prepared: tuple[PreparedTransaction, ...] = ()
    slots: tuple[SlotFacts, ...] = ()
    standbys: tuple[StandbyFacts, ...] = ()
    disk: Disk = Disk()
    publications: tuple[Publication, ...] = ()
    latencies: tuple[QueryLatency, ...] = ()
    unseen: tuple[Unseen, ...] = ()

    def table(self, name: TableName) -> LiveTable | None:
        return next((table for table in self.tables if table.name == name), None)

    def indexes_of(self, name: TableName) -> tuple[IndexFacts, ...]:
        return tuple(index for index in self.indexes if index.table == name)

    def latencies_of(self, name: TableName) -> tuple[QueryLatency, ...]:
        """Return the queries that name a table; one that names no schema may mean another table of that name."""
        meant = {(name.schema, name.name), ("", name.name)}
        return tuple(latency for latency in self.latencies if meant & set(latency.relations))

    def rate_of(self, name: TableName) -> WriteRate | None:
        """Return what is written to a table or its partitions while looked at, or on average where nothing was."""
        parts = {name} | {table.name for table in self.tables if table.root == name}
        return summed(name, self.rates, parts) or summed(name, self.averages, parts)

    def in_the_way(self, uses: Iterable[LockUse]) -> tuple[OpenTransaction, ...]:
        """Return who would keep these locks from being granted now, the oldest transaction first."""
        wanted = tuple(uses)
        return tuple(
            found
            for found in self.transactions
            if any(held.table == use.table and conflicts(held.mode, use.mode) for held in found.holds for use in wanted)
        )


# ------------------------------------------------------------------------------------------------ judgements

_CONFLICTS: Mapping[LockMode, tuple[LockMode, ...]] = {
    "ACCESS SHARE": ("ACCESS EXCLUSIVE",),
    "ROW SHARE": ("EXCLUSIVE", "ACCESS EXCLUSIVE"),
    "ROW EXCLUSIVE": ("SHARE", "SHARE ROW EXCLUSIVE", "EXCLUSIVE", "ACCESS EXCLUSIVE"),
    "SHARE UPDATE EXCLUSIVE": (
        "SHARE UPDATE EXCLUSIVE", "SHARE", "SHARE ROW EXCLUSIVE", "EXCLUSIVE", "ACCESS EXCLUSIVE",
    ),
    "SHARE": ("ROW EXCLUSIVE", "SHARE UPDATE EXCLUSIVE", "SHARE ROW EXCLUSIVE", "EXCLUSIVE", "ACCESS EXCLUSIVE"),
    "SHARE ROW EXCLUSIVE": (
        "ROW EXCLUSIVE", "SHARE UPDATE EXCLUSIVE", "SHARE", "SHARE ROW EXCLUSIVE", "EXCLUSIVE", "ACCESS EXCLUSIVE",
    ),
    "EXCLUSIVE": (
        "ROW SHARE", "ROW EXCLUSIVE", "SHARE UPDATE EXCLUSIVE", "SHARE", "SHARE ROW EXCLUSIVE", "EXCLUSIVE",
        "ACCESS EXCLUSIVE",
    ),
    "ACCESS EXCLUSIVE": (
        "ACCESS SHARE", "ROW SHARE", "ROW EXCLUSIVE", "SHARE UPDATE EXCLUSIVE", "SHARE", "SHARE ROW EXCLUSIVE",
        "EXCLUSIVE", "ACCESS EXCLUSIVE",
    ),
}  # fmt: skip
"""PostgreSQL's table of conflicting lock modes ("Explicit Locking" in its manual)."""
BLOCKS_WRITES = frozenset(_CONFLICTS["ROW EXCLUSIVE"])
"""Locks that keep the application from writing."""


def conflicts(held: LockMode, wanted: LockMode) -> bool:
    """Whether one session may not have the one lock on a table while another has the other.

    >>> conflicts("ACCESS SHARE", "ACCESS EXCLUSIVE"), conflicts("ROW EXCLUSIVE", "SHARE UPDATE EXCLUSIVE")
    (True, False)
    """
    return held in _CONFLICTS[wanted]


def writes_between(first: Written, second: Written) -> tuple[WriteRate, ...]:
    """Return what was written to each table between two looks, the busiest first; none of a table without a write.

    A table whose counters went back was reset, or made anew, meanwhile: nothing is said of it.
    """
    seconds = (second.at - first.at).total_seconds()
    earlier = {counters.table: counters for counters in first.tables}
    rates = [
        _rate(now, earlier.get(now.table, Counters(table=now.table)), seconds) for now in second.tables if seconds > 0
    ]
    return tuple(sorted((rate for rate in rates if rate is not None), key=lambda rate: (-rate.rows, rate.table)))


def averages_since(written: Written, since: datetime | None) -> tuple[WriteRate, ...]:
    """Return what was written to each table on average since the counters began; nothing where that is not known."""
    return () if since is None else writes_between(Written(at=since), written)


def _rate(now: Counters, before: Counters, seconds: float) -> WriteRate | None:
    inserted, updated = now.inserted - before.inserted, now.updated - before.updated
    deleted, hot = now.deleted - before.deleted, now.hot - before.hot
    if min(inserted, updated, deleted, hot) < 0 or not (inserted or updated or deleted):
        return None
    return WriteRate(
        table=now.table,
        seconds=seconds,
        inserted=inserted / seconds,
        updated=updated / seconds,
        deleted=deleted / seconds,
        # An update may be reported before it is known to be HOT.
        hot_share=min(1.0, hot / updated) if updated else None,
    )


def wal_rate(first: Written, second: Written) -> float | None:
    """Return the WAL between two looks in bytes a second."""
    seconds = (second.at - first.at).total_seconds()
    if first.wal is None or second.wal is None or seconds <= 0:
        return None
    return (second.wal - first.wal) / seconds


def taken_between(first: Written, second: Written) -> Mapping[TableName, float]:
    """Return how many numbers a second each sequence gave away between two looks, in the direction that it counts.

    A sequence that was never used before counts from its second look on, so it is missing.
    """
    seconds = (second.at - first.at).total_seconds()
    earlier = {mark.sequence: mark.last for mark in first.sequences}
    return {
        mark.sequence: abs(mark.last - before) / seconds
        for mark in second.sequences
        if seconds > 0 and mark.last is not None and (before := earlier.get(mark.sequence)) is not None
    }


def summed(name: TableName, rates: Iterable[WriteRate], tables: Iterable[TableName]) -> WriteRate | None:
    """Return the rates of several tables as those of one; None where none of them is written."""
    parts = frozenset(tables)
    found = [rate for rate in rates if rate.table in parts]
    if not found:
        return None
    updated = sum(rate.updated for rate in found)
    hot = sum(rate.updated * (rate.hot_share or 0.0) for rate in found)
    return WriteRate(
        table=name,
        seconds=max(rate.seconds for rate in found),
        inserted=sum(rate.inserted for rate in found),
        updated=updated,
        deleted=sum(rate.deleted for rate in found),
        hot_share=hot / updated if updated else None,
    )
