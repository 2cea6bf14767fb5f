"""The data changes of a migration: which UPDATE fills a new column, and which statements change rows that are there.

An UPDATE of columns that the change itself adds says how they are computed: it becomes their `up`, so that the sync
trigger also fills the rows that the old application writes meanwhile. Every other UPDATE and DELETE is carried out row
by row on the expanded table, after the new shape is filled and before constraints are built: `RowStatement`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import assert_never

from psycopg import sql

from tasks.planning.catalog import Catalog, Column, Table
from tasks.planning.checks.rows import key_columns
from tasks.planning.data_statements import Verb, Written, columns_in_subqueries, tables_read
from tasks.planning.errors import SpecError, Unsupported
from tasks.planning.expression_tree import renamed
from tasks.planning.expressions import is_same, substitute
from tasks.planning.names import TableName, display
from tasks.planning.parser import column_references, has_subquery
from tasks.planning.plan import Assignment
from tasks.planning.refused_rows import refuse_cascades, refuse_deferrable, refuse_followers, refuse_parents
from tasks.planning.refused_using import refuse_lost_using
from tasks.planning.statements import NamesBefore, Statement, find_table
from tasks.planning.strategies.expand_contract.mapping import Wanted

_SPLIT = "Split it: one migration for each of the two."


@dataclass(frozen=True)
class RowStatement:
    """An UPDATE or DELETE in the names of the expanded table, which has the old columns and the new ones."""

    number: int
    """Of the statement in the change, from 1; 0 for what Lockstep fills by itself."""
    verb: Verb
    table: TableName
    alias: str
    assignments: tuple[Assignment, ...]
    where: str | None

    @property
    def title(self) -> str:
        return f"statement {self.number}"

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(assignment.column for assignment in self.assignments)

    @property
    def expressions(self) -> tuple[str, ...]:
        return (*(one.expression for one in self.assignments), *([self.where] if self.where else []))


@dataclass(frozen=True)
class DataChanges:
    """What the change does to data."""

    populated: Mapping[TableName, Mapping[str, str]] = field(default_factory=dict)
    """The `up` of new columns, by table and column."""
    statements: tuple[RowStatement, ...] = ()
    late: frozenset[tuple[TableName, str]] = frozenset()
    """New columns whose DEFAULT is for later rows only: set apart from ADD COLUMN, or volatile."""

    @property
    def tables(self) -> tuple[TableName, ...]:
        return tuple(dict.fromkeys(statement.table for statement in self.statements))

    def of(self, table: TableName) -> tuple[RowStatement, ...]:
        return tuple(statement for statement in self.statements if statement.table == table)

    def late_columns(self, table: TableName) -> frozenset[str]:
        return frozenset(column for name, column in self.late if name == table)


NO_DATA = DataChanges()


def data_changes(
    parsed: Sequence[Statement], before: Catalog, after: Catalog, path: Sequence[str],
    volatile: frozenset[tuple[TableName, str]] = frozenset(),
) -> DataChanges:  # fmt: skip
    """Return what the statements do to data; ``volatile`` are new columns whose DEFAULT differs from row to row.

    Raises:
        SpecError: a table without a key.
        Unsupported: what cannot be carried out row by row with the same result, by name.
    """
    found = _Reader(parsed, before, after, path, volatile).read()
    refuse_lost_using(parsed, before, after, path)
    return found


def with_populated(
    wanted: Mapping[TableName, Mapping[str, Wanted]], populated: Mapping[TableName, Mapping[str, str]]
) -> dict[TableName, dict[str, Wanted]]:
    """Return the spec's mapping with what the change's own UPDATEs say. Raises `SpecError` where they differ."""
    merged = {table: dict(columns) for table, columns in wanted.items()}
    for table, columns in populated.items():
        for column, up in columns.items():
            spec = merged.setdefault(table, {}).get(column, Wanted())
            if spec.up is not None and not is_same(spec.up, up):
                raise SpecError(
                    f"mapping {table}.{column}: up is {spec.up!r}, but the change's own UPDATE says {up!r}.",
                    remedy="Say it once: remove the UPDATE from the change, or `up` from the mapping.",
                )
            merged[table][column] = Wanted(up, spec.down)
    return merged


class _Reader:
    def __init__(
        self, parsed: Sequence[Statement], before: Catalog, after: Catalog, path: Sequence[str],
        volatile: frozenset[tuple[TableName, str]],
    ) -> None:  # fmt: skip
        self._parsed = parsed
        self.before = before
        self._after = after
        self._path = path
        self._volatile = volatile
        self._populated: dict[TableName, dict[str, str]] = {}
        self._statements: list[RowStatement] = []
        self._last = NamesBefore()
        for statement in parsed:
            self._last.follow(statement)

    def read(self) -> DataChanges:
        defaulted = set(self._defaulted())
        late = self._late(defaulted)
        names = NamesBefore()
        altered: set[TableName] = set()
        for number, statement in enumerate(self._parsed, start=1):
            if statement.data is not None:
                place = _Place(self, number, statement.data, names, altered, defaulted)
                self._take(place)
            elif statement.kind.startswith(("alter_", "rename_")):
                altered |= {found.name for name in statement.tables if (found := self.table(names.table(name)))}
            names.follow(statement)
        fills = tuple(self._fill(table, column) for table, column in sorted(self._volatile))
        return DataChanges(self._populated, (*fills, *self._statements), late)

    # --- tables and defaults -------------------------------------------------------------------------------------

    def table(self, name: TableName) -> Table | None:
        return find_table(self.before, name, self._path)

    def pair(self, written: TableName, what: str) -> tuple[Table, Table]:
        """Return the table before and after the change."""
        before = self.table(written)
        if before is None:
            raise Unsupported(
                f"{what} of {display(written.name)}, which is no table before the change",
                instead="Fill a new table, or change rows behind a view, apart from the migration.",
            )
        after = next((table for table in self._after.tables if table.oid == before.oid), None)
        if after is None:
            raise Unsupported(f"{what} of {before.name}, which the change drops", instead="Leave the statement out.")
        return before, after

    def changed_before(self, name: TableName) -> tuple[RowStatement, ...]:
        """Return the statements on the table that stand before the one that is being read."""
        return tuple(statement for statement in self._statements if statement.table == name)

    def last_name(self, table: TableName, first: str) -> str:
        """Return the name that a column of the change has at its end."""
        return next((now for now, once in self._last.columns(table).items() if once == first), first)

    def same_columns(self, table: Table) -> bool:
        after = next((other for other in self._after.tables if other.oid == table.oid), None)
        return after is not None and [(c.attnum, c.name, c.type) for c in table.columns] == [
            (c.attnum, c.name, c.type) for c in after.columns
        ]

    def _defaulted(self) -> Iterator[tuple[TableName, str]]:
        names = NamesBefore()
        for statement in self._parsed:
            for written, column in statement.defaulted:
                found = self.table(names.table(written))
                if found is not None:
                    yield found.name, self.last_name(names.table(written), names.column(written, column))
            names.follow(statement)

    def _late(self, defaulted: set[tuple[TableName, str]]) -> frozenset[tuple[TableName, str]]:
        later = {table.oid: table for table in self._after.tables}
        found = set(self._volatile)
        for table in self.before.tables:
            numbers = {column.attnum for column in table.columns}
            for column in later[table.oid].columns if table.oid in later else ():
                plain = column.default is not None and not column.generated and not column.identity
                if column.attnum not in numbers and plain and (table.name, column.name) not in defaulted:
                    found.add((table.name, column.name))
        return frozenset(found)

    def _fill(self, name: TableName, column: str) -> RowStatement:
        before = self.before.table(name)
        after = next(table for table in self._after.tables if before is not None and table.oid == before.oid)
        found = after.column(column)
        if before is None or found is None or found.default is None:
            raise LookupError(f"{name} has no new column {column} with a default")
        require_plain(self.before, before, f"the DEFAULT of {name}.{display(column)}, which differs from row to row,")
        missing = sql.SQL("{} IS NULL").format(sql.Identifier(column)).as_string()
        return RowStatement(
            0, "update", name, name.name, (Assignment(column=column, expression=found.default),), missing
        )

    # --- statements ----------------------------------------------------------------------------------------------

    def _take(self, place: _Place) -> None:
        found = place.statement()
        if place.populates:
            self._populate(place, found)
            return
        overwritten = set(self._populated.get(found.table, {})) & set(found.columns)
        if overwritten:
            raise Unsupported(
                f"{place.what}, which sets {', '.join(sorted(overwritten))} a second time in another way",
                instead="Compute the column in one UPDATE.",
            )
        for column, up in self._populated.get(found.table, {}).items():
            if column_references(up) & set(found.columns):
                raise Unsupported(
                    f"{place.what}, which changes what the new column {display(column)} was computed from before: the "
                    "sync would let it follow",
                    instead="Write this UPDATE before the one that fills the new column.",
                )
        self._statements.append(found)

    def _populate(self, place: _Place, found: RowStatement) -> None:
        """Compose what this UPDATE says with what those before it said."""
        known = self._populated.setdefault(found.table, {})
        types = {column.name: column.type for column in place.new}
        values = {name: known.get(name, f"NULL::{type_}") for name, type_ in types.items()}

        def over_old(expression: str) -> str:
            read = column_references(expression) & set(values)
            return substitute(expression, {name: values[name] for name in read}) if read else expression

        where = found.where
        first = [name for name in found.columns if name not in known]
        if where is not None and any(is_same(where, f"{sql.Identifier(name).as_string()} IS NULL") for name in first):
            where = None
        condition = over_old(where) if where is not None else None
        composed = {}
        for assignment in found.assignments:
            value = over_old(assignment.expression)
            if condition is not None:
                otherwise = f" ELSE ({known[assignment.column]})" if assignment.column in known else ""
                value = f"CASE WHEN ({condition}) THEN ({value}){otherwise} END"
            composed[assignment.column] = value
        known |= composed


class _Place:
    """One data statement where it stands: its names resolved, and refused where a batch would not do the same."""

    def __init__(
        self, reader: _Reader, number: int, written: Written, names: NamesBefore, altered: set[TableName],
        defaulted: set[tuple[TableName, str]],
    ) -> None:  # fmt: skip
        self.what = f"{written.verb.upper()} of {display(written.table.name)} (statement {number} of the change)"
        self._reader = reader
        self._number = number
        self._written = written
        self._first = names.table(written.table)
        self._renamed = names.columns(written.table)
        self._before, self._after = reader.pair(self._first, self.what)
        self._is_altered = self._before.name in altered
        self._defaulted = defaulted
        require_plain(reader.before, self._before, self.what)

    @property
    def new(self) -> tuple[Column, ...]:
        """The columns that the change adds."""
        numbers = {column.attnum for column in self._before.columns}
        return tuple(column for column in self._after.columns if column.attnum not in numbers)

    @property
    def populates(self) -> bool:
        """Whether the statement says how new columns follow from the row, for every row, now and later."""
        if self._written.verb == "delete":
            return False
        targets = [self._after.column(self._physical(name)) for name, _ in self._written.assignments]
        added = {column.name for column in self.new}
        if not all(column is not None and column.name in added and column.default is None for column in targets):
            return False
        beyond = any(has_subquery(expression) for expression in self._written.expressions)
        if beyond and any(column is not None and column.not_null for column in targets):
            raise Unsupported(
                f"{self.what}, which fills a NOT NULL column from other rows: rows written meanwhile would get nothing",
                instead="Put the subquery into a function of the row's columns and name it as the mapping's up, or "
                "give the column a DEFAULT.",
            )
        return not beyond

    def statement(self) -> RowStatement:
        if self._after.name != self._before.name and not self.populates:
            raise Unsupported(f"{self.what} in one change with a new name of the table", instead=_SPLIT)
        found = RowStatement(
            number=self._number,
            verb=self._written.verb,
            table=self._before.name,
            alias=self._written.alias,
            assignments=tuple(
                Assignment(column=self._physical(name), expression=self._in_physical_names(expression))
                for name, expression in self._written.assignments
            ),
            where=self._in_physical_names(self._written.where) if self._written.where is not None else None,
        )
        self._refuse_targets(found)
        self._refuse_retyped(found)
        self._refuse_loosened(found)
        for expression in self._written.expressions:
            self._refuse_subqueries(expression)
        match found.verb:
            case "delete":
                refuse_cascades(self.what, self._before, self._reader.before)
                earlier = self._reader.changed_before(self._before.name)
                refuse_parents(self.what, self._before, {name for other in earlier for name in other.columns})
            case "update":
                refuse_deferrable(self.what, self._before, found.columns)
                refuse_followers(self.what, self._before, found.columns, self._reader.before)
            case unreachable:
                assert_never(unreachable)
        return found

    # --- names ---------------------------------------------------------------------------------------------------

    def _physical(self, name: str) -> str:
        """Return what a column that is written as ``name`` is called while both shapes exist."""
        first = self._renamed.get(name, name)
        old = self._before.column(first)
        if old is None:
            return self._reader.last_name(self._first, first)
        kept = {column.attnum for column in self._after.columns}
        reused = name not in self._renamed and name in self._renamed.values()
        replaced = old.attnum not in kept and self._after.column(first) is not None
        if reused or replaced:
            raise Unsupported(
                f"{self.what}: {display(name)} is the name of two columns in this change",
                instead="Give the new column another name.",
            )
        return first

    def _in_physical_names(self, expression: str) -> str:
        names = {name: self._physical(name) for name in column_references(expression)}
        moved = {name: physical for name, physical in names.items() if name != physical}
        if moved and has_subquery(expression):
            raise Unsupported(
                f"{self.what}, whose subquery stands beside columns that the change renames",
                instead="Write the statement before the rename.",
            )
        return renamed(expression, moved) if moved else expression

    # --- refusals ------------------------------------------------------------------------------------------------

    def _refuse_targets(self, found: RowStatement) -> None:
        key = set(key_columns(self._before)) & set(found.columns)
        if key:
            raise Unsupported(
                f"{self.what}, which changes {', '.join(sorted(key))} of the table's key: no batch could find its rows "
                "again",
                instead="Change keys by the application, or run the statement by itself while nothing writes.",
            )
        added = {column.name for column in self.new}
        if set(found.columns) & added and set(found.columns) - added:
            raise Unsupported(
                f"{self.what}, which sets columns that the change adds together with others",
                instead="Write two UPDATEs: one for the new columns, one for the others.",
            )

    def _refuse_retyped(self, found: RowStatement) -> None:
        """After ALTER … TYPE the statement means the new type; the rows' column still has the old one."""
        read = set(found.columns) | {name for text in found.expressions for name in column_references(text)}
        later = {column.attnum: column for column in self._after.columns}
        for column in self._before.columns:
            after = later.get(column.attnum)
            if column.name in read and after is not None and after.type != column.type and self._is_altered:
                raise Unsupported(
                    f"{self.what}, which uses {display(column.name)} while its type changes",
                    instead="Write it before the ALTER TABLE, in terms of the old type; or bring it afterwards.",
                )

    def _refuse_loosened(self, found: RowStatement) -> None:
        """Constraints that the change drops are still there when the rows are changed."""
        if not self._is_altered or found.verb == "delete":
            return
        later = {column.attnum: column for column in self._after.columns}
        present = {constraint.oid for constraint in self._after.constraints}
        targets = [c for c in self._before.columns if c.name in found.columns and c.attnum in later]
        loosened = [f"NOT NULL of {display(c.name)}" for c in targets if c.not_null and not later[c.attnum].not_null]
        loosened += [
            f"the constraint {constraint.name}"
            for constraint in self._before.constraints
            if constraint.oid not in present and set(constraint.columns) & {column.name for column in targets}
        ]
        if loosened:
            raise Unsupported(f"{self.what} in one change with dropping {loosened[0]}", instead=_SPLIT)

    def _refuse_subqueries(self, expression: str) -> None:
        for written in sorted(tables_read(expression)):
            read = self._reader.table(written)
            if read is None or read.kind == "f":
                raise Unsupported(
                    f"{self.what}, whose subquery reads {display(written.name)}, which is no table before the change",
                    instead="Let the subquery read tables only, by the names they have before the change.",
                )
            if read.name == self._before.name:
                self._refuse_own_rows(expression)
            elif not self._reader.same_columns(read):
                raise Unsupported(
                    f"{self.what}, whose subquery reads {read.name}, which the same change alters", instead=_SPLIT
                )

    def _refuse_own_rows(self, expression: str) -> None:
        """Batch by batch a subquery over the table itself would see what earlier batches made of it."""
        if self._written.verb == "delete":
            raise Unsupported(
                f"{self.what}, whose condition reads the table itself: what is left would depend on the order of the "
                "batches",
                instead="Mark the rows first, in this change: ADD COLUMN doomed boolean NOT NULL DEFAULT false; UPDATE "
                "… SET doomed = true WHERE …; then DELETE … WHERE doomed in the next one, which drops the column too.",
            )
        read = columns_in_subqueries(expression)
        known = {
            column.name for table in tables_read(expression) if (t := self._reader.table(table)) for column in t.columns
        }
        if read & {name for name, _ in self._written.assignments} or "*" in read or read - known:
            raise Unsupported(
                f"{self.what}, whose subquery reads from the table itself what the statement changes: the result would "
                "depend on the order of the batches",
                instead="Compute the values into a new column first, and copy them in a second migration.",
            )


def require_plain(catalog: Catalog, table: Table, what: str) -> None:
    """Refuse tables whose rows cannot be visited one by one."""
    has_children = any(table.name in other.inherits for other in catalog.tables)
    if table.kind != "r" or table.partition_of or table.inherits or has_children:
        raise Unsupported(
            f"{what} on {table.name}, which is partitioned, inherited or foreign",
            instead="Plain tables only in this version: run the statement apart from the migration.",
        )
    if any(dependent.kind == "rule" for dependent in table.dependents):
        raise Unsupported(
            f"{what} on {table.name}, which has a rule: it would rewrite the batches' statements",
            instead="Drop the rule first, or make it a trigger.",
        )
    if not key_columns(table):
        raise SpecError(
            f"{table.name} has no primary key and no unique constraint over NOT NULL columns: {what} cannot be carried "
            "out in batches.",
            remedy="Give the table a primary key first (a unique index built concurrently, then ADD PRIMARY KEY USING "
            "INDEX).",
        )
