"""Schema debt: what a live database carries along that slows it, misleads it, or will stop it one day. Pure.

Judged from the live facts: foreign keys without an index, redundant and invalid indexes, tables read from begin to end,
constraints never validated, keys that run out of numbers, bloat. Each judgement keeps the numbers it is made of.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from math import ceil
from typing import Literal

from tasks.planning.catalog import Snapshot
from tasks.planning.live import ForeignKeyFacts, IndexFacts, KeyFacts, LiveFacts, LiveTable, WriteRate
from tasks.planning.names import TableName
from tasks.planning.referring import Search, finds_referring

LARGE_ROWS = 100_000
"""Below, a sequential scan takes some tens of milliseconds, and is often the right way."""
MANY_SCANS = 20
"""Fewer may be dumps, reports and Lockstep's own gates."""

CLOSE_TO_THE_END = 0.5
"""Half of the numbers gone: a key cannot be made wider in a hurry, and growth seldom stays as it is."""
MAX_YEARS = 1_000
"""What is farther away than a date can say is no date."""

LEAST_BLOAT_BYTES = 16 * 2**20
LEAST_BLOAT_SHARE = 0.3
"""The estimate knows neither padding between columns nor compressed values: less than this may be nothing."""

PAGE_HEADER, LINE_POINTER, ROW_HEADER, ENTRY_HEADER, BTREE_SPECIAL, ALIGNMENT = 24, 4, 23, 8, 16, 8
"""Bytes of PostgreSQL's page layout ("Database Page Layout" in its manual)."""

MAX_OF_TYPE = {"smallint": 2**15 - 1, "integer": 2**31 - 1, "bigint": 2**63 - 1}


# ------------------------------------------------------------------------------------------------ indexes


class MissingIndex(Snapshot):
    """A foreign key whose columns no index of the referring table begins with.

    Each DELETE, or UPDATE of the key, of a referenced row reads the whole referring table, ``rows`` of it.
    """

    key: ForeignKeyFacts
    rows: int
    bytes: int


def missing_indexes(facts: LiveFacts) -> tuple[MissingIndex, ...]:
    """Return the foreign keys without an index on the referring side, those of the largest tables first."""
    if not facts.sees_indexes:
        return ()
    indexes, tables = _by_table(facts.indexes), {table.name: table for table in facts.tables}
    found = [
        MissingIndex(key=key, rows=table.known_rows if table else 0, bytes=table.bytes if table else 0)
        for key in facts.foreign_keys
        if not any(_serves(index, key) for index in indexes.get(key.table, ()))
        for table in (tables.get(key.table),)
    ]
    return tuple(sorted(found, key=lambda item: (-item.rows, item.key.table, item.key.name)))


def _by_table(indexes: Iterable[IndexFacts]) -> Mapping[TableName, list[IndexFacts]]:
    found: dict[TableName, list[IndexFacts]] = {}
    for index in indexes:
        found.setdefault(index.table, []).append(index)
    return found


def _serves(index: IndexFacts, key: ForeignKeyFacts) -> bool:
    columns = tuple(column or "" for column in index.columns)
    return finds_referring(Search(index.method, columns, index.predicate, index.valid), key.columns)


Role = Literal["plain", "unique", "constraint"]


class Redundancy(Snapshot):
    """An index that another one makes superfluous.

    ``role``: a ``plain`` one can be dropped; of two ``unique`` ones over the same keys one is enough, but something may
    name it (ON CONFLICT ON CONSTRAINT, replica identity); behind a ``constraint`` it goes with that only. So the
    latter two are a person's decision.
    """

    index: IndexFacts
    by: IndexFacts
    role: Role
    same: bool
    """The other one has the same keys, else it begins with them."""


def redundant_indexes(facts: LiveFacts) -> tuple[Redundancy, ...]:
    """Return the indexes that others make superfluous, the largest first; of two that are the same only one."""
    found: list[Redundancy] = []
    for indexes in _by_table(facts.indexes).values():
        # Those that must stay come first, so that the other one of a pair is named.
        gone: set[str] = set()
        ordered = sorted(indexes, key=_keeping)
        for index in ordered:
            others = (other for other in reversed(ordered) if other.name not in gone and other is not index)
            by = next((other for other in others if _replaces(other, index)), None)
            if by is not None:
                gone.add(index.name)
                found.append(Redundancy(index=index, by=by, role=_role(index), same=by.keys == index.keys))
    return tuple(sorted(found, key=lambda item: (-item.index.bytes, item.index.full_name)))


def _role(index: IndexFacts) -> Role:
    if index.constraint is not None or index.referenced:
        return "constraint"
    return "unique" if index.unique else "plain"


def _keeping(index: IndexFacts) -> tuple[bool, bool, bool, bool, bool, int, str]:
    """Order indexes by what there is to keep them for."""
    return (
        index.primary,
        index.constraint is not None or index.referenced,
        index.replica_identity,
        index.unique,
        index.clustered,
        len(index.keys),
        index.name,
    )


def _replaces(other: IndexFacts, index: IndexFacts) -> bool:
    """Whether whatever the index does the other one does as well."""
    if not (other.valid and index.valid) or index.replica_identity or index.attached or index.primary:
        return False
    if (other.method, other.predicate) != (index.method, index.predicate) or index.partitioned != other.partitioned:
        return False
    if not set(index.included) <= {*other.included, *(column for column in other.columns if column is not None)}:
        return False
    if index.unique:
        return (
            other.unique
            and other.keys == index.keys
            and other.nulls_not_distinct == index.nulls_not_distinct
            and (other.immediate or not index.immediate)
        )
    if index.method != "btree":
        return other.keys == index.keys
    return other.keys[: len(index.keys)] == index.keys


class InvalidIndex(Snapshot):
    """An index that no query uses but every write maintains.

    ``state``: ``failed``, the rest of a CONCURRENTLY that did not get through; ``being built``; ``incomplete``, of a
    partitioned table, until every partition has its part; ``unknown``: failed, or built by a session that the role
    does not see.
    """

    index: IndexFacts
    state: Literal["failed", "being built", "incomplete", "unknown"]


def invalid_indexes(facts: LiveFacts) -> tuple[InvalidIndex, ...]:
    return tuple(InvalidIndex(index=index, state=_state(index)) for index in facts.indexes if not index.valid)


def _state(index: IndexFacts) -> Literal["failed", "being built", "incomplete", "unknown"]:
    if index.partitioned:
        return "incomplete"
    if index.being_built is None:
        return "unknown"
    return "being built" if index.being_built else "failed"


# ------------------------------------------------------------------------------------------------ scans


class ScannedTable(Snapshot):
    """A large table that is often read from begin to end; an index may be missing, or a query may want all of it."""

    table: LiveTable
    rows_a_scan: int
    share: float
    """Sequential scans among all scans of it."""


def scanned_tables(facts: LiveFacts, *, large: int = LARGE_ROWS) -> tuple[ScannedTable, ...]:
    """Return the tables of at least ``large`` rows that are scanned often and read to the end, the most read first."""
    found = [
        ScannedTable(
            table=table,
            rows_a_scan=table.seq_rows // table.seq_scans,
            share=table.seq_scans / (table.seq_scans + table.index_scans),
        )
        for table in facts.tables
        # A scan with LIMIT, or one that found what it looked for, ends early.
        if table.known_rows >= large
        and table.seq_scans >= MANY_SCANS
        and table.seq_rows >= large * table.seq_scans // 2
    ]
    return tuple(sorted(found, key=lambda item: (-item.table.seq_rows, item.table.name)))


# ------------------------------------------------------------------------------------------------ keys


class Exhaustion(Snapshot):
    """How far a key is on the way to its last number. ``ends_at`` is None at a rate of nothing, or where it cycles.

    ``rate`` is numbers a second, and ``measured`` says how it is known: from the sequence while it was looked at, from
    the rows inserted meanwhile, or from the average since the counters began, whichever is fastest.
    """

    key: KeyFacts
    limit: int
    used: float
    left: int
    rate: float
    measured: Literal["sequence", "inserts", "average", "none"]
    ends_at: datetime | None
    refers_to: TableName | None = None
    """``key`` is no key itself: it refers to one of a wider type, and ends before that one does."""


def exhaustion(facts: LiveFacts) -> tuple[Exhaustion, ...]:
    """Return every key whose last number is known, the one that ends first at the front, then by what is used up.

    A column that refers to a key and has a narrower type is among them: it takes the key's numbers.
    """
    now, always = _inserted(facts, facts.rates), _inserted(facts, facts.averages)
    found = [
        _exhaustion(facts.taken_at, narrow, key.last, now.get(key.table, 0.0), always.get(key.table, 0.0)).model_copy(
            update={"refers_to": None if narrow is key else key.table}
        )
        for key, narrow in _with_referring(facts)
        if key.last is not None
    ]
    never = datetime.max.replace(tzinfo=facts.taken_at.tzinfo)
    return tuple(sorted(found, key=lambda item: (item.ends_at or never, -item.used, item.key.table, item.key.column)))


def near_exhaustion(facts: LiveFacts, *, years: float = 5.0) -> tuple[Exhaustion, ...]:
    """Return the keys that end within ``years`` at today's rate, or have used up half of their numbers."""
    horizon = facts.taken_at + timedelta(days=365.25 * years)
    return tuple(
        item
        for item in exhaustion(facts)
        if item.used >= CLOSE_TO_THE_END or (item.ends_at is not None and item.ends_at <= horizon)
    )


def _with_referring(facts: LiveFacts) -> Iterator[tuple[KeyFacts, KeyFacts]]:
    """Yield every key with itself, and with each narrower column that refers to it."""
    keys = {(key.table, key.column): key for key in facts.keys}
    for key in facts.keys:
        yield key, key
    for reference in facts.foreign_keys:
        for column, type_, referenced in zip(reference.columns, reference.types, reference.referenced, strict=True):
            wider = keys.get((reference.references, referenced))
            if wider is not None and type_ in MAX_OF_TYPE and MAX_OF_TYPE[type_] < MAX_OF_TYPE[wider.type]:
                yield wider, wider.model_copy(update={"table": reference.table, "column": column, "type": type_})


def _inserted(facts: LiveFacts, rates: Iterable[WriteRate]) -> Mapping[TableName, float]:
    """Return the rows a second inserted into each table, a partitioned one's together."""
    roots = {table.name: table.root for table in facts.tables}
    found: dict[TableName, float] = {}
    for rate in rates:
        name = roots.get(rate.table) or rate.table
        found[name] = found.get(name, 0.0) + rate.inserted
    return found


def _exhaustion(moment: datetime, key: KeyFacts, last: int, now: float, always: float) -> Exhaustion:
    step = abs(key.increment) or 1
    highest = MAX_OF_TYPE[key.type]
    if key.increment > 0:
        limit = min(highest, key.sequence_max)
        left, used = max(0, limit - last) // step, max(0.0, last / limit) if limit > 0 else 1.0
    else:
        limit = max(-highest - 1, key.sequence_min)
        left, used = max(0, last - limit) // step, max(0.0, last / limit) if limit < 0 else 1.0
    rate, measured = _numbers_a_second(key, now * step, always * step)
    ends = None if rate == 0 or key.cycles else _after(moment, left / (rate / step))
    return Exhaustion(key=key, limit=limit, used=min(1.0, used), left=left, rate=rate, measured=measured, ends_at=ends)


def _numbers_a_second(
    key: KeyFacts, now: float, always: float
) -> tuple[float, Literal["sequence", "inserts", "average", "none"]]:
    fastest = max(key.rate or 0.0, now, always)
    if fastest == 0:
        return 0.0, "none"
    if fastest == key.rate:
        return fastest, "sequence"
    return (fastest, "inserts") if fastest == now else (fastest, "average")


def _after(moment: datetime, seconds: float) -> datetime | None:
    return moment + timedelta(seconds=seconds) if seconds < MAX_YEARS * 365.25 * 86_400 else None


# ------------------------------------------------------------------------------------------------ bloat


class Bloat(Snapshot):
    """How much larger a table or index is than its rows need, by the statistics: an estimate, never a measurement.

    ``basis`` says of what it is made, to be shown with it. Of an index with many equal keys it is too low, because
    PostgreSQL keeps them once.
    """

    relation: TableName
    kind: Literal["table", "index"]
    table: TableName
    bytes: int
    expected_bytes: int
    basis: str

    @property
    def wasted_bytes(self) -> int:
        return max(0, self.bytes - self.expected_bytes)

    @property
    def share(self) -> float:
        """The wasted part of the whole, 0 to 1."""
        return self.wasted_bytes / self.bytes if self.bytes else 0.0


def bloat(facts: LiveFacts) -> tuple[Bloat, ...]:
    """Return the estimate of every table and B-tree whose statistics the role may see, the largest waste first."""
    found = [*_bloat_of_tables(facts), *_bloat_of_indexes(facts)]
    return tuple(sorted(found, key=lambda item: (-item.wasted_bytes, item.relation)))


def notable_bloat(facts: LiveFacts) -> tuple[Bloat, ...]:
    """Return the estimates that are large enough to be more than the estimate's own error."""
    return tuple(
        item for item in bloat(facts) if item.wasted_bytes >= LEAST_BLOAT_BYTES and item.share >= LEAST_BLOAT_SHARE
    )


def _bloat_of_tables(facts: LiveFacts) -> Iterator[Bloat]:
    for table in facts.tables:
        whole = table.columns_measured == table.columns and table.columns > 0
        if table.kind == "p" or not whole or table.data_bytes is None or table.rows is None:
            continue
        rows = table.rows
        yield Bloat(
            relation=table.name,
            kind="table",
            table=table.name,
            bytes=table.heap_bytes,
            expected_bytes=_pages(rows, row_bytes(table), facts.block_size, table.fillfactor) * facts.block_size,
            basis=f"estimated from {rows:,} rows of {table.data_bytes:.0f} bytes on average (statistics)",
        )


def _bloat_of_indexes(facts: LiveFacts) -> Iterator[Bloat]:
    for index in facts.indexes:
        if index.method != "btree" or index.partitioned or not index.valid or index.key_bytes is None:
            continue
        entry = ENTRY_HEADER + _aligned(ceil(index.key_bytes)) + LINE_POINTER
        room = facts.block_size - PAGE_HEADER - BTREE_SPECIAL
        leaves = ceil(index.entries * entry / (room * index.fillfactor / 100))
        # The pages above the leaves hold an entry for each page below; the first page is the index's own.
        above, pages = leaves, leaves + 1
        while above > 1:
            above = ceil(above * entry / room)
            pages += above
        yield Bloat(
            relation=index.full_name,
            kind="index",
            table=index.table,
            bytes=index.bytes,
            expected_bytes=pages * facts.block_size,
            basis=f"estimated from {index.entries:,} entries of {index.key_bytes:.0f} bytes on average (statistics)",
        )


def row_bytes(table: LiveTable) -> int:
    """Return what a row of average width takes in its page, header and line pointer included."""
    bitmap = ceil(table.columns / 8) if table.has_nulls else 0
    return _aligned(ROW_HEADER + bitmap) + _aligned(ceil(table.data_bytes or 0.0)) + LINE_POINTER


def _pages(rows: int, size: int, block: int, fillfactor: int) -> int:
    # A row lies in one page, so a page's rest remains free.
    fitting = max(1, int((block - PAGE_HEADER) * fillfactor / 100) // size)
    return ceil(rows / fitting)


def _aligned(size: int) -> int:
    return ceil(size / ALIGNMENT) * ALIGNMENT
