"""Fills a clone with made-up rows of the live tables' shape: as many in proportion, as wide, as many NULLs.

No row of the live database is read, and no value of its statistics. Rows satisfy the demands of both shapes
(`tasks.planning.demands`), and what they reference is there. What no made-up row satisfies stays empty, and is named.
"""

from __future__ import annotations

import itertools
import math
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, LiteralString

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow, dict_row

from tasks.database.connection import limits, session_limits
from tasks.database.queries import queries
from tasks.planning.catalog import Catalog, Column, Constraint, Table
from tasks.planning.demands import Condition, Demands, all_of
from tasks.planning.errors import Unsupported
from tasks.planning.live import LiveFacts
from tasks.planning.made_up import ROW, ColumnType, Shape, variants
from tasks.planning.names import TableName, display, verbatim
from tasks.planning.plan import Plan
from tasks.planning.rehearsal import RehearsedTable

Connection = psycopg.Connection[TupleRow]
Shapes = Mapping[tuple[TableName, str], Shape]

LEAST_ROWS = 1_000
"""In each table, though the live one has fewer: a rehearsal is also for what only rows show."""
CHUNK = 20_000
PROBED = 1_000
"""Rows that are made up to see which values fit."""
MOST_COMBINATIONS = 150
GOOD_SHARE, LEAST_SHARE = 0.9, 0.02
LOCK_TIMEOUT_MS = 1_000
PROBE_TIMEOUT_MS = 10_000
FILL_TIMEOUT_MS = 300_000
FILL_SECONDS = 300
"""Of one table: rows of which next to none is taken are not made up for ever."""

_INDEX_HEAD = re.compile(r"^CREATE UNIQUE INDEX (?:\"(?:[^\"]|\"\")+\"|[^\s\"]+) (?=ON )")
_LOUD: Mapping[str, LiteralString] = {"A": "ENABLE ALWAYS", "R": "ENABLE REPLICA"}
_SQL = queries("made_up_rows")


def column_shapes(live: Connection, plan: Plan, before: Catalog, after: Catalog) -> Shapes:
    """Return what is known, of the columns of what `fill` fills, but the values; nothing that the role may not see.

    Nothing of all, too, where the server does not tell it in time. Raises psycopg's errors of a lost connection only.
    """
    names = sorted(_demanded(plan, before, after))
    values = {"schemas": [name.schema for name in names], "tables": [name.name for name in names]}
    rows: list[dict[str, Any]] = []
    with _refused(live), live.transaction(), live.cursor(row_factory=dict_row) as cursor:
        live.execute("SET TRANSACTION READ ONLY")
        limits(live, lock_timeout_ms=LOCK_TIMEOUT_MS, statement_timeout_ms=PROBE_TIMEOUT_MS)
        rows = cursor.execute(_SQL["statistics"], values).fetchall()
    return {
        (TableName(row["schema"], row["table_name"]), row["column_name"]): Shape(
            row["width"], row["nulls"], row["distinct_values"]
        )
        for row in rows
    }


def fill(
    clone: Connection, plan: Plan, before: Catalog, after: Catalog, facts: LiveFacts, shapes: Shapes, *, most: int
) -> tuple[RehearsedTable, ...]:
    """Fill the plan's tables and what they reference; ``most`` rows in the largest, the others in proportion.

    ``clone`` is an autocommit connection of a superuser to a database with the schema ``before`` and no rows;
    ``after`` is the catalog that the change leads to. Raises psycopg's errors of a lost connection only.
    """
    session_limits(clone, lock_timeout_ms=LOCK_TIMEOUT_MS, statement_timeout_ms=FILL_TIMEOUT_MS)
    # No trigger or foreign key of the user's acts: the rows are what they would have let in.
    clone.execute("SET session_replication_role = replica")
    tables = _in_order(_demanded(plan, before, after))
    live = {demands.table.name: _live_rows(facts, demands.table) for demands in tables}
    largest = max(live.values(), default=0)
    share = min(1.0, most / largest) if largest else 0.0
    filled: dict[TableName, RehearsedTable] = {}
    for demands in tables:
        name = demands.table.name
        wanted = min(most, max(LEAST_ROWS, math.ceil(live[name] * share)))
        with _silenced(clone, demands.table):
            rows, why = _Filling(clone, demands, shapes, wanted, filled).fill()
        filled[name] = RehearsedTable(table=name, live_rows=live[name], rows=rows, why=why)
    clone.execute("RESET session_replication_role")
    for name in filled:
        # It computes what indexes and statistics are over, which the user's functions may refuse.
        with _refused(clone):
            clone.execute(sql.SQL("ANALYZE {}").format(name.identifier))
    return tuple(filled[name] for name in sorted(filled))


def _live_rows(facts: LiveFacts, table: Table) -> int:
    found = facts.table(table.name)
    return max(0, found.known_rows if found is not None else table.rows)


def _demanded(plan: Plan, before: Catalog, after: Catalog) -> Mapping[TableName, Demands]:
    """Return the plan's tables, those of its scope, and all that those reference, each with what its rows need."""
    found: dict[TableName, Demands] = {}
    wanted = {*plan.tables, *plan.scope}
    while wanted:
        name = wanted.pop()
        table = before.table(name)
        if table is not None and name not in found:
            found[name] = Demands(plan, table, after.table(name))
            wanted |= {key.references for key in found[name].foreign_keys if key.references is not None}
    return found


def _in_order(demanded: Mapping[TableName, Demands]) -> tuple[Demands, ...]:
    """Return the tables, those that are referenced first; in a circle the order is by name."""
    rest = {name: demanded[name] for name in sorted(demanded)}
    done: list[Demands] = []
    while rest:
        free = [name for name, demands in rest.items() if not _referenced(demands) & rest.keys()]
        done.extend(rest.pop(name) for name in free or [next(iter(rest))])
    return tuple(done)


def _referenced(demands: Demands) -> frozenset[TableName]:
    """Return the other tables that rows of this one reference."""
    found = (key.references for key in demands.foreign_keys)
    return frozenset(name for name in found if name is not None and name != demands.table.name)


@dataclass(frozen=True)
class _Domain:
    """What a column's type demands, where it is a domain."""

    not_null: bool
    checks: tuple[str, ...]


@dataclass
class _Filling:
    """One table of the clone that is to be filled with ``wanted`` rows; ``filled`` are those before it."""

    clone: Connection
    demands: Demands
    shapes: Shapes
    wanted: int
    filled: Mapping[TableName, RehearsedTable]
    _of_domain: dict[str, _Domain] = field(default_factory=dict)

    def fill(self) -> tuple[int, str]:
        """Return how many rows the table has, and why it has none or fewer."""
        if self.table.kind != "r" or self.table.partition_of is not None:
            return 0, "partitioned, or a foreign table: rows are made up for plain tables only"
        try:
            with self._unique_as_later():
                rows = self._insert(self._chosen())
        except _NoneFits as none:
            return 0, str(none)
        except Unsupported as refused:
            return 0, refused.what
        except psycopg.Error as error:
            if self.clone.closed or error.sqlstate is None:
                raise
            return self._count(), f"made-up rows were refused: {error.diag.message_primary} (SQLSTATE {error.sqlstate})"
        self._advance_sequences()
        return rows, "" if rows >= self.wanted else f"of {self.wanted:,} made-up rows its constraints take no more"

    @contextmanager
    def _unique_as_later(self) -> Iterator[None]:
        """Let no two rows be the same where the new shape allows none; the indexes for it are gone at the end."""
        names = [f"lockstep_made_up_{number}" for number in range(len(self.demands.unique_later))]
        try:
            for name, index in zip(names, self.demands.unique_later, strict=True):
                # Its own name may be that of an index that the change drops.
                of_table = _INDEX_HEAD.sub("", index.definition, count=1)
                self.clone.execute(
                    sql.SQL("CREATE UNIQUE INDEX {} {}").format(sql.Identifier(name), verbatim(of_table))
                )
            yield
        finally:
            if not self.clone.closed:
                for name in names:
                    self.clone.execute(
                        sql.SQL("DROP INDEX IF EXISTS {}").format(sql.Identifier(self.table.name.schema, name))
                    )

    @property
    def table(self) -> Table:
        return self.demands.table

    # -------------------------------------------------------------------------------------------- which values

    def _chosen(self) -> Mapping[str, sql.Composed]:
        """Return an expression for each column that is written. Raises _NoneFits where there is no such row."""
        options = {column.name: self._variants(column) for column in self.demands.written}
        for column in self.demands.written:
            if not options[column.name]:
                if column.not_null and column.default is None:
                    raise _NoneFits(f"no value is known for {display(column.name)} ({column.type})")
                del options[column.name]
        chosen: dict[str, sql.Composed] = {}
        conditions = tuple(self.demands.conditions())
        for part in _connected(options, conditions):
            chosen.update(self._fitting({name: options[name] for name in part}, conditions))
        return {name: chosen[name] for name in options}

    def _variants(self, column: Column) -> tuple[sql.Composed, ...]:
        type_ = self._type(column.type)
        return variants(
            column.name,
            type_,
            self._shape(column.name),
            rows=self.wanted,
            unique=frozenset({column.name}) in self.demands.unique,
            nullable=not self.demands.is_not_null(column) and not self._of_domain[column.type].not_null,
            named=(*self.demands.naming(column.name), *self._of_domain[column.type].checks),
        )

    def _shape(self, column: str) -> Shape:
        return self.shapes.get((self.table.name, column), Shape())

    def _type(self, name: str) -> ColumnType:
        row = self.clone.execute(_SQL["type"], {"type": name}).fetchone()
        base, labels, is_domain, not_null, checks = row if row is not None else (name, [], False, False, [])
        self._of_domain[name] = _Domain(bool(not_null), tuple(checks))
        # The type's own name has the modifier, of which a domain has none.
        return ColumnType(name, base if is_domain else name, tuple(labels))

    def _fitting(
        self, options: Mapping[str, Sequence[sql.Composed]], conditions: Sequence[Condition]
    ) -> Mapping[str, sql.Composed]:
        """Return the variants with which the most made-up rows satisfy the conditions on these columns."""
        concerned = tuple(item for item in conditions if item.columns and item.columns <= options.keys())
        best: tuple[float, Mapping[str, sql.Composed]] = 0.0, {}
        for values in itertools.islice(_by_distance(options), MOST_COMBINATIONS):
            share = self._share(values, concerned)
            if share > best[0]:
                best = share, values
            if share >= GOOD_SHARE:
                break
        if best[0] < LEAST_SHARE:
            raise _NoneFits(f"no made-up row satisfies the constraints on {', '.join(map(display, sorted(options)))}")
        return best[1]

    def _share(self, values: Mapping[str, sql.Composed], conditions: tuple[Condition, ...]) -> float:
        """Return which share of some made-up rows can be made and satisfies the conditions."""
        made = self._made_up(values, 1, PROBED, sql.SQL(""))
        columns = sql.SQL(", ").join(map(sql.Identifier, values))
        counted = sql.SQL("count(*) FILTER (WHERE {})::float8 / count(*), count(ROW({})::text)")
        statement = sql.SQL("SELECT {} FROM {}").format(counted.format(all_of(conditions), columns), made)
        try:
            with self.clone.transaction(force_rollback=True):
                limits(self.clone, lock_timeout_ms=LOCK_TIMEOUT_MS, statement_timeout_ms=PROBE_TIMEOUT_MS)
                row = self.clone.execute(statement).fetchone()
        except psycopg.Error as error:
            if self.clone.closed or error.sqlstate is None:
                raise
            return 0.0
        return float(row[0]) if row is not None else 0.0

    def _made_up(
        self, values: Mapping[str, sql.Composable], first: int, last: int, joins: sql.Composable
    ) -> sql.Composed:
        """Return made-up rows under the table's own name, by which an expression may call its columns."""
        columns = (sql.SQL("{} AS {}").format(value, sql.Identifier(name)) for name, value in values.items())
        return sql.SQL("(SELECT {} FROM pg_catalog.generate_series({}::bigint, {}) AS made (i){}) AS {}").format(
            sql.SQL(", ").join(columns),
            sql.Literal(first),
            sql.Literal(last),
            joins,
            sql.Identifier(self.table.name.name),
        )

    # -------------------------------------------------------------------------------------------- writing

    def _insert(self, chosen: Mapping[str, sql.Composed]) -> int:
        values, joins, found = self._referring(chosen)
        columns = sql.SQL(", ").join(map(sql.Identifier, values))
        conditions = tuple(item for item in (*self.demands.conditions(), *found) if item.columns <= values.keys())
        # A constraint that is checked late cannot be asked before the row is written.
        late = any(item.deferrable and item.kind != "foreign_key" for item in self.table.constraints)
        rows, first, written = 0, 1, 1
        until = time.monotonic() + FILL_SECONDS
        # Some are refused: what is missing is made up from further numbers, for as long as that leads anywhere.
        while rows < self.wanted and written and time.monotonic() < until:
            most = min(CHUNK, self.wanted - rows)
            last = first + 2 * most + 100
            written = self.clone.execute(
                sql.SQL("INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {} WHERE {} LIMIT {} {}").format(
                    self.table.name.identifier,
                    columns,
                    columns,
                    self._made_up(values, first, last, joins),
                    all_of(conditions),
                    sql.Literal(most),
                    sql.SQL("" if late else "ON CONFLICT DO NOTHING"),
                )
            ).rowcount
            rows, first = rows + written, last + 1
        return rows

    def _referring(
        self, chosen: Mapping[str, sql.Composed]
    ) -> tuple[Mapping[str, sql.Composable], sql.Composed, Sequence[Condition]]:
        """Return the values with those that reference rows taken from there, the joins for it, and what must be found.

        Raises _NoneFits where a column must reference a row, and there is none.
        """
        joins: list[sql.Composable] = []
        taken: set[str] = set()
        values: dict[str, sql.Composable] = dict(chosen)
        # First those over most columns: what they reference references what shorter ones over the same columns do.
        keys = sorted(self.demands.foreign_keys, key=lambda key: (key.references == self.table.name, -len(key.columns)))
        for number, key in enumerate(keys):
            free = [name for name in key.columns if name in values and name not in taken]
            if key.references is None or not free:
                continue
            parent = self.filled.get(key.references)
            if parent is None or not parent.rows:
                # Itself, a table of a circle, or one that stayed empty.
                values.update(self._without_parent(free, key, key.references, values))
                continue
            alias = sql.Identifier(f"parent_{number}")
            joins.append(self._join(key, key.references, alias, parent.rows, {c: values[c] for c in taken}))
            for column, referenced in zip(key.columns, key.referenced_columns, strict=True):
                if column in free:
                    values[column] = sql.SQL("{}.{}").format(alias, sql.Identifier(referenced))
            taken.update(key.columns)
        needed = [column.name for column in self.demands.written if self.demands.is_not_null(column)]
        found = [
            Condition(frozenset({name}), sql.SQL("{} IS NOT NULL").format(sql.Identifier(name)))
            for name in needed
            if name in taken
        ]
        return values, sql.SQL("").join(joins), found

    def _without_parent(
        self, free: Sequence[str], key: Constraint, references: TableName, values: Mapping[str, sql.Composable]
    ) -> Mapping[str, sql.Composable]:
        """Return values that reference nothing, or else, in a table that references itself, the row itself."""
        columns = [column for name in free if (column := self.table.column(name)) is not None]
        nullable = [column for column in columns if not self.demands.is_not_null(column)]
        if nullable:
            return {column.name: sql.SQL("NULL::{}").format(verbatim(column.type)) for column in nullable}
        referenced = dict(zip(key.columns, key.referenced_columns, strict=True))
        if references == self.table.name and all(referenced[name] in values for name in free):
            return {name: values[referenced[name]] for name in free}
        raise _NoneFits(f"{', '.join(map(display, free))} must reference a row of {references}, which has none here")

    def _join(
        self,
        key: Constraint,
        parent: TableName,
        alias: sql.Identifier,
        rows: int,
        taken: Mapping[str, sql.Composable],
    ) -> sql.Composed:
        """Number the rows that are referenced, and return the join by which each made-up row finds one.

        ``taken`` are values of the row that are decided: with those the referenced row has to agree.
        """
        numbered = sql.Identifier("pg_temp", f"lockstep_keys_{key.oid}")
        shared = {
            referenced: taken[name]
            for name, referenced in zip(key.columns, key.referenced_columns, strict=True)
            if name in taken
        }
        among = sql.SQL(", ").join(map(sql.Identifier, shared))
        self.clone.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(numbered))
        self.clone.execute(
            sql.SQL("CREATE TEMP TABLE {} AS SELECT pg_catalog.row_number() OVER ({}) AS n, {} FROM {}").format(
                sql.Identifier(f"lockstep_keys_{key.oid}"),
                sql.SQL("PARTITION BY {}").format(among) if shared else sql.SQL(""),
                sql.SQL(", ").join(map(sql.Identifier, key.referenced_columns)),
                parent.identifier,
            )
        )
        self.clone.execute(
            sql.SQL("CREATE INDEX ON {} ({})").format(
                numbered, sql.SQL(", ").join([*map(sql.Identifier, shared), sql.Identifier("n")])
            )
        )
        self.clone.execute(sql.SQL("ANALYZE {}").format(numbered))
        same = sql.SQL(" AND ").join(
            [
                sql.SQL("true"),
                *(sql.SQL("k.{} = {}").format(sql.Identifier(name), value) for name, value in shared.items()),
            ]
        )
        many: sql.Composable = sql.Literal(rows)
        if shared:
            many = sql.SQL("(SELECT max(k.n) FROM {} AS k WHERE {})").format(numbered, same)
        alone = not shared and any(columns <= set(key.columns) for columns in self.demands.unique)
        number = ROW if alone else sql.SQL("(pg_catalog.hashint8(made.i)::bigint & 2147483647)")
        found = sql.SQL("k.n = 1 + {} % {} AND {}").format(number, many, same)
        columns = [column for name in key.columns if (column := self.table.column(name)) is not None]
        if not any(self.demands.is_not_null(column) for column in columns if column.name not in taken):
            # As many rows as live reference nothing.
            nulls = round(1000 * (self._shape(key.columns[0]).nulls or 0.0))
            found = sql.SQL("(made.i * 7919) % 1000 >= {} AND {}").format(sql.Literal(nulls), found)
        return sql.SQL(" LEFT JOIN LATERAL (SELECT k.* FROM {} AS k WHERE {}) AS {} ON true").format(
            numbered, found, alias
        )

    def _count(self) -> int:
        row = self.clone.execute(sql.SQL("SELECT count(*) FROM {}").format(self.table.name.identifier)).fetchone()
        return int(row[0]) if row is not None else 0

    def _advance_sequences(self) -> None:
        """Let the sequences of its columns go on behind the made-up numbers."""
        name = self.table.name.identifier
        for column, sequence in self.clone.execute(_SQL["sequences"], {"table": name.as_string(self.clone)}).fetchall():
            # Some have no such number: the column is a text, or the sequence goes down, or not so far.
            with _refused(self.clone):
                self.clone.execute(
                    sql.SQL("SELECT pg_catalog.setval(%s::regclass, greatest(1, max({})::bigint)) FROM {}").format(
                        sql.Identifier(column), name
                    ),
                    (sequence,),
                )


class _NoneFits(Exception):
    """No made-up row fits; the text says of what."""


@contextmanager
def _silenced(clone: Connection, table: Table) -> Iterator[None]:
    """Switch off the triggers that act for replicas too, which is what the session is."""
    loud = [item for item in table.triggers if item.enabled in _LOUD]
    command = sql.SQL("ALTER TABLE {} {} TRIGGER {}")
    for item in loud:
        clone.execute(command.format(table.name.identifier, sql.SQL("DISABLE"), sql.Identifier(item.name)))
    yield
    for item in loud:
        mode = sql.SQL(_LOUD[item.enabled])
        clone.execute(command.format(table.name.identifier, mode, sql.Identifier(item.name)))


@contextmanager
def _refused(clone: Connection) -> Iterator[None]:
    """Go on where the server refuses a statement that the rehearsal can do without."""
    try:
        yield
    except psycopg.Error as error:
        if clone.closed or error.sqlstate is None:
            raise


def _connected(options: Mapping[str, object], conditions: Sequence[Condition]) -> tuple[frozenset[str], ...]:
    """Return the columns in parts that no condition connects."""
    parts = [frozenset({name}) for name in options]
    for condition in conditions:
        joined = [part for part in parts if part & condition.columns]
        if joined and condition.columns <= options.keys():
            parts = [part for part in parts if part not in joined] + [frozenset[str]().union(*joined)]
    return tuple(parts)


def _by_distance(options: Mapping[str, Sequence[sql.Composed]]) -> Iterator[Mapping[str, sql.Composed]]:
    """Yield combinations of the columns' variants, first those that differ in few columns from the first ones."""
    first = {name: found[0] for name, found in options.items()}
    yield first
    for name, found in options.items():
        yield from ({**first, name: value} for value in found[1:])
    for pair in itertools.combinations(options, 2):
        yield from (
            {**first, **dict(zip(pair, values, strict=True))}
            for values in itertools.product(*(options[name][1:] for name in pair))
        )
    if len(options) > 2:
        yield from (dict(zip(options, values, strict=True)) for values in itertools.product(*options.values()))
