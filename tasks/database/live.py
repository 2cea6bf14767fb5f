"""Looks at a live database for the planner: read-only, briefly, and as far as the role may see.

Each section of the facts is a statement of its own, in a read-only transaction with limits: what fails or takes
too long is missing, and said. Nothing that is kept holds a value of a row: queries are kept up to their first value.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.rows import TupleRow, dict_row

from tasks.database.connection import limits
from tasks.database.failures import connection_lost
from tasks.database.locks import MAX_QUERY, query_shape
from tasks.database.queries import queries
from tasks.planning import parser
from tasks.planning.live import (
    NO_FREE_SPACE,
    Counters,
    Disk,
    ForeignKeyFacts,
    IndexFacts,
    KeyFacts,
    LiveFacts,
    LiveTable,
    NotValid,
    OpenTransaction,
    PreparedTransaction,
    Publication,
    QueryLatency,
    SequenceMark,
    SlotFacts,
    StandbyFacts,
    Tablespace,
    Unseen,
    Written,
    averages_since,
    taken_between,
    wal_rate,
    writes_between,
)
from tasks.planning.names import TableName
from tasks.planning.plan import LockUse

Connection = psycopg.Connection[TupleRow]
Row = dict[str, Any]

STATEMENT_TIMEOUT_MS = 10_000
"""For each section; the indexes of five thousand tables take three seconds."""
LOCK_TIMEOUT_MS = 200
"""Sizes are read under ACCESS SHARE, which waits only behind DDL: estimates will do then."""
SAMPLE_SECONDS = 5.0
"""Between two looks at the counters. A session reports what it wrote at most once a second."""
SEQUENCES_AT_ONCE = 100
"""Each is locked until its transaction ends, and a full lock table fails whatever statement needs a lock next."""
MOST_TRANSACTIONS = 100
MOST_STATEMENTS = 50
OLDEST_STATEMENTS = (1, 8)
"""The version of pg_stat_statements that PostgreSQL 13 brought: before it the columns have other names."""

# Where the first literal, number or comment of a normalised query begins; `$1` stands for a value, and is none.
_FIRST_VALUE = re.compile(r"""'|\$(?!\d)|--|/\*|(?<![\w"$])\d|\b[eEbBxXnN](?=')|\b[uU]&(?=')""")

INDEXES = "indexes"

_FILE = queries("live_facts")
_OF_RELATIONS = ("sizes", "size_estimates", "tables")
_SQL = {**_FILE, **{name: _FILE["relations"] + b"\n" + _FILE[name] for name in _OF_RELATIONS}}


class _Look:
    """One look: runs sections and remembers what could not be seen."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.unseen: list[Unseen] = []

    @contextmanager
    def reading(self) -> Iterator[psycopg.Cursor[Row]]:
        """A read-only transaction with limits, in which names mean the system's own."""
        with self._connection.transaction():
            self._connection.execute("SET TRANSACTION READ ONLY")
            self._connection.execute("SELECT set_config('search_path', '', true), set_config('jit', 'off', true)")
            limits(self._connection, lock_timeout_ms=LOCK_TIMEOUT_MS, statement_timeout_ms=STATEMENT_TIMEOUT_MS)
            with self._connection.cursor(row_factory=dict_row) as cursor:
                yield cursor

    def rows(self, section: str, what: str, values: Mapping[str, object] | None = None) -> list[Row]:
        """Return the rows of a section; none, and a word about it, where the server does not tell them."""
        try:
            with self.reading() as cursor:
                return cursor.execute(_SQL[section], values).fetchall()
        except psycopg.Error as error:
            self.miss(what, error)
            return []

    def miss(self, what: str, error: psycopg.Error) -> None:
        """Remember what could not be seen. Raises what says that the connection is lost."""
        if connection_lost(error):
            raise error
        self.unseen.append(Unseen(what=what, why=_why(error), remedy=self._remedy(error)))

    def hide(self, what: str, why: str, remedy: str = "") -> None:
        self.unseen.append(Unseen(what=what, why=why, remedy=remedy))

    @property
    def user(self) -> str:
        return self._connection.info.user

    def monitor(self) -> str:
        """Return the statement that lets the role see other roles' sessions."""
        return f'GRANT pg_monitor TO "{self.user}"'

    def _remedy(self, error: psycopg.Error) -> str:
        return self.monitor() if isinstance(error, psycopg.errors.InsufficientPrivilege) else ""


def _why(error: psycopg.Error) -> str:
    match error:
        case psycopg.errors.InsufficientPrivilege():
            return "the role may not see it"
        case psycopg.errors.LockNotAvailable():
            return f"another session holds an ACCESS EXCLUSIVE lock (waited {LOCK_TIMEOUT_MS} ms)"
        case psycopg.errors.QueryCanceled():
            return f"it took longer than {STATEMENT_TIMEOUT_MS // 1000} s"
        case _:
            return f"the server does not tell it (SQLSTATE {error.sqlstate})"


def look(connection: Connection, *, sample_seconds: float = SAMPLE_SECONDS) -> LiveFacts:
    """Return the live facts of a database.

    ``connection`` is in autocommit, outside a transaction. The counters are looked at twice, ``sample_seconds`` apart
    at least: all else is read in between. Raises psycopg's errors of a lost connection only.
    """
    looking = _Look(connection)
    with looking.reading() as cursor:
        sight = cursor.execute(_SQL["sight"]).fetchone()
    if sight is None:
        raise LookupError("a SELECT without FROM returned no row")
    began = time.monotonic()
    first = _written(looking)
    facts = LiveFacts(
        database=sight["database"],
        role=sight["role"],
        server_version=sight["server_version"],
        taken_at=sight["taken_at"],
        block_size=sight["block_size"],
        sees_all=sight["sees_all"],
        counted_since=sight["counted_since"],
        tables=_tables(looking),
        indexes=_indexes(looking),
        foreign_keys=_foreign_keys(looking),
        not_valid=_not_valid(looking),
        keys=_keys(looking, first),
        transactions=_transactions(looking, sees_all=sight["sees_all"]),
        prepared=_prepared(looking),
        slots=tuple(SlotFacts.model_validate(row) for row in looking.rows("slots", "replication slots")),
        standbys=_standbys(looking, sees_all=sight["sees_all"]),
        disk=_disk(looking),
        publications=_publications(looking),
        latencies=_latencies(looking, sees_all=sight["sees_all"]),
    )
    if not sight["counts"]:
        looking.hide("write rates and scans", "the server does not count them", "SET track_counts = on")
    time.sleep(max(0.0, sample_seconds - (time.monotonic() - began)))
    told = {"unseen": _once(looking.unseen), "sees_indexes": all(item.what != INDEXES for item in looking.unseen)}
    return _with_rates(facts, first, _written(looking)).model_copy(update=told)


def _with_rates(facts: LiveFacts, first: Written | None, second: Written | None) -> LiveFacts:
    if first is None or second is None:
        return facts
    taken = taken_between(first, second)
    keys = [
        key if key.sequence is None else key.model_copy(update={"rate": taken.get(key.sequence)}) for key in facts.keys
    ]
    return facts.model_copy(
        update={
            "rates": writes_between(first, second),
            "averages": averages_since(second, facts.counted_since),
            "wal_rate": wal_rate(first, second),
            "keys": tuple(keys),
        }
    )


def _once(unseen: Sequence[Unseen]) -> tuple[Unseen, ...]:
    return tuple(dict.fromkeys((*unseen, NO_FREE_SPACE)))


# ------------------------------------------------------------------------------------------------ what is stored


def _tables(looking: _Look) -> tuple[LiveTable, ...]:
    sizes = _sizes(looking)
    found = []
    for row in looking.rows("tables", "tables and their statistics"):
        name = TableName(row.pop("schema"), row.pop("name"))
        root = row.pop("root")
        table = {**row, "name": name, "root": TableName(*root) if root else None, **sizes.get(name, {})}
        found.append(LiveTable.model_validate(table))
    blind = [table.name for table in found if table.rows and table.columns_measured < table.columns]
    if blind:
        shown = ", ".join(map(str, blind[:5])) + (f" and {len(blind) - 5} more" if len(blind) > 5 else "")
        looking.hide(
            "row widths and bloat of some tables",
            f"there are no statistics of all columns that the role may see: {shown}",
            f'GRANT SELECT ON {blind[0]} TO "{looking.user}", or ANALYZE',
        )
    return tuple(found)


def _sizes(looking: _Look) -> Mapping[TableName, Row]:
    try:
        with looking.reading() as cursor:
            rows = cursor.execute(_SQL["sizes"]).fetchall()
    except (psycopg.errors.LockNotAvailable, psycopg.errors.QueryCanceled) as error:
        looking.miss("exact sizes of tables (shown are those of the last VACUUM or ANALYZE)", error)
        rows = looking.rows("size_estimates", "sizes of tables")
    return {TableName(row.pop("schema"), row.pop("name")): row for row in rows}


def _named(row: Row) -> Row:
    """Put the table's name where its schema and name were."""
    table = TableName(row.pop("schema"), row.pop("table_name"))
    return {**row, "table": table}


def _indexes(looking: _Look) -> tuple[IndexFacts, ...]:
    return tuple(IndexFacts.model_validate(_named(row)) for row in looking.rows("indexes", INDEXES))


def _foreign_keys(looking: _Look) -> tuple[ForeignKeyFacts, ...]:
    found = []
    for row in looking.rows("foreign_keys", "foreign keys"):
        references = TableName(row.pop("referenced_schema"), row.pop("referenced_table"))
        found.append(ForeignKeyFacts.model_validate({**_named(row), "references": references}))
    return tuple(found)


def _not_valid(looking: _Look) -> tuple[NotValid, ...]:
    return tuple(NotValid.model_validate(_named(row)) for row in looking.rows("not_valid", "constraints NOT VALID"))


def _keys(looking: _Look, written: Written | None) -> tuple[KeyFacts, ...]:
    last = {mark.sequence: mark.last for mark in written.sequences} if written is not None else {}
    found = []
    for row in looking.rows("keys", "keys and sequences"):
        sequence = TableName(*row["sequence"]) if row["sequence"] else None
        row = {**_named(row), "sequence": sequence}
        found.append(KeyFacts.model_validate(row if sequence is None else {**row, "last": last.get(sequence)}))
    for key in found:
        if not key.seen and key.sequence is not None:
            looking.hide(
                f"the last number of {key.table}.{key.column}",
                "the role may not see it",
                f'GRANT SELECT ON SEQUENCE {key.sequence} TO "{looking.user}"',
            )
    return tuple(found)


def _publications(looking: _Look) -> tuple[Publication, ...]:
    return tuple(
        Publication.model_validate({**row, "tables": [TableName(*table) for table in row["tables"]]})
        for row in looking.rows("publications", "publications")
    )


# ------------------------------------------------------------------------------------------------ what happens


def _written(looking: _Look) -> Written | None:
    for row in looking.rows("written", "write rates and the last numbers of sequences"):
        return Written(
            at=row["at"],
            wal=row["wal"],
            tables=tuple(
                Counters.model_validate({**item, "table": TableName(*item["table"])}) for item in row["tables"]
            ),
            sequences=tuple(_last_numbers(looking)),
        )
    return None


def _last_numbers(looking: _Look) -> Iterator[SequenceMark]:
    oids = [row["oid"] for row in looking.rows("sequences", "sequences")]
    for first in range(0, len(oids), SEQUENCES_AT_ONCE):
        some = {"oids": oids[first : first + SEQUENCES_AT_ONCE]}
        for row in looking.rows("last_values", "the last numbers of some sequences", some):
            yield SequenceMark(sequence=TableName(row["schema"], row["name"]), last=row["last"])


def _transactions(looking: _Look, *, sees_all: bool) -> tuple[OpenTransaction, ...]:
    if not sees_all:
        looking.hide(
            "how long other roles' transactions are open, and what they run",
            "the role sees only the locks that they hold on tables",
            looking.monitor(),
        )
    return tuple(
        OpenTransaction.model_validate(
            {
                **row,
                "query": query_shape(row["query"]) if row["seconds"] is not None else "",
                "holds": _strongest(row["holds"]),
            }
        )
        for row in looking.rows("transactions", "open transactions", {"most": MOST_TRANSACTIONS})
    )


def _strongest(held: Sequence[Row]) -> tuple[LockUse, ...]:
    uses = (LockUse(table=TableName(*item["table"]), mode=item["mode"]) for item in held)
    return tuple(sorted(uses, key=lambda use: (use.table, use.mode)))


def _prepared(looking: _Look) -> tuple[PreparedTransaction, ...]:
    return tuple(PreparedTransaction.model_validate(row) for row in looking.rows("prepared", "prepared transactions"))


def _standbys(looking: _Look, *, sees_all: bool) -> tuple[StandbyFacts, ...]:
    if not sees_all:
        looking.hide("standbys and their lag", "the role may not see them", looking.monitor())
        return ()
    return tuple(StandbyFacts.model_validate(row) for row in looking.rows("standbys", "standbys and their lag"))


def _disk(looking: _Look) -> Disk:
    files = looking.rows("wal_files", "how much WAL is on disk")
    for row in looking.rows("disk", "the size of the database"):
        disk = Disk(
            **{**row, "tablespaces": tuple(Tablespace.model_validate(item) for item in row["tablespaces"] or ())},
            wal_bytes=files[0]["bytes"] if files else None,
        )
        hidden = [space.name for space in disk.tablespaces if space.bytes is None]
        if hidden:
            looking.hide(
                f"the size of the tablespace {', '.join(hidden)}", "the role may not see it", looking.monitor()
            )
        return disk
    return Disk()


# ------------------------------------------------------------------------------------------------ latencies


def _latencies(looking: _Look, *, sees_all: bool) -> tuple[QueryLatency, ...]:
    what = "baseline latencies"
    found = looking.rows("statements_extension", what)
    if not found:
        looking.hide(
            what, "the extension pg_stat_statements is not in this database", "CREATE EXTENSION pg_stat_statements"
        )
        return ()
    extension = found[0]
    if tuple(map(int, extension["version"].split("."))) < OLDEST_STATEMENTS:
        looking.hide(
            what,
            f"pg_stat_statements is of version {extension['version']}",
            "ALTER EXTENSION pg_stat_statements UPDATE",
        )
        return ()
    if not extension["usable"]:
        schema = extension["schema"]
        looking.hide(what, "the role may not see them", f'GRANT USAGE ON SCHEMA "{schema}" TO "{looking.user}"')
        return ()
    try:
        with looking.reading() as cursor:
            cursor.execute(_SQL["search_in"], {"schema": extension["schema"]})
            rows = cursor.execute(_SQL["statements"], {"most": MOST_STATEMENTS}).fetchall()
    except psycopg.errors.ObjectNotInPrerequisiteState:
        looking.hide(what, "pg_stat_statements is not loaded", "shared_preload_libraries = 'pg_stat_statements'")
        return ()
    except psycopg.Error as error:
        looking.miss(what, error)
        return ()
    if not sees_all:
        looking.hide("baseline latencies of other roles' queries", "the role may not see them", looking.monitor())
    return tuple(
        QueryLatency(
            shape=normalised_shape(query),
            relations=_relations(query),
            mean_ms=row["total_ms"] / row["calls"],
            **row,
        )
        for row in rows
        for query in (row.pop("query"),)
    )


def _relations(query: str) -> tuple[tuple[str, str], ...]:
    """Return what the query names; nothing of one that this parser does not read: a newer server's, or cut off."""
    try:
        return tuple(sorted(parser.relations(query)))
    except parser.SyntaxFault:
        return ()


def normalised_shape(query: str) -> str:
    """Return a query of pg_stat_statements up to its first value: what was normalised reads ``$1``.

    >>> normalised_shape("SELECT a FROM t WHERE id = $1 AND name = $2 -- of Ada")
    'SELECT a FROM t WHERE id = $1 AND name = $2 …'
    >>> normalised_shape("ALTER ROLE ada PASSWORD 'secret'")
    'ALTER ROLE ada PASSWORD …'
    """
    match = _FIRST_VALUE.search(query)
    shape = " ".join((query[: match.start()] if match else query).split())
    return f"{shape[:MAX_QUERY]} …".lstrip() if match is not None or len(shape) > MAX_QUERY else shape
