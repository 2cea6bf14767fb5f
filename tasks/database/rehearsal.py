"""The rehearsal of a plan: made-up rows written on a clone, by both shapes, through the sync that the plan installs.

What the data rules of expand-contract promise is tried out before anything touches the real database: with the sync in
place the old application's INSERT and UPDATE go through exactly as without it, and, once the new application may be
deployed, its statements fail for nothing but its own shape's constraints; and afterwards both shapes of the row agree,
or the row is marked. Everything is rolled back; the values are made up, so they may be shown.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow

from tasks.database.catalog import snapshot
from tasks.database.connection import limits
from tasks.planning import candidates
from tasks.planning.catalog import Catalog, Column, Table
from tasks.planning.errors import Unsupported
from tasks.planning.names import DIRECTION_SETTING, LOCKSTEP_SCHEMA, PENDING_COLUMN, TableName, display, verbatim
from tasks.planning.plan import Assignment, MappedGroup, Plan
from tasks.planning.strategies.expand_contract.contribution import check_expression

MOST_ROWS = 24
"""Rows tried of each mapping group and shape; every candidate value of a column comes before the combinations."""

LOCK_TIMEOUT_MS = 1_000
STATEMENT_TIMEOUT_MS = 60_000

Row = Mapping[str, str | None]
Connection = psycopg.Connection[TupleRow]


def rehearse(plan: Plan, connection: Connection, target: Catalog, *, after: str) -> dict[TableName, int]:
    """Write rows of the shapes that may be written after this phase; return how many rows were tried of each table.

    ``connection`` is to a clone on which the plan was carried out up to and including the phase ``after``, with a
    ledger; ``target`` is the catalog that the user's change leads to. Raises `Unsupported` with the row when a
    statement fails for the sync, or leaves the two shapes apart without a mark.
    """
    catalog = snapshot(connection)
    tried: dict[TableName, int] = {}
    for name in plan.tables:
        table, goal = catalog.table(name), target.table(name)
        groups = tuple(group for group in plan.groups if group.table == name and group.bits)
        if table is None or goal is None or table.column(PENDING_COLUMN) is None or not groups:
            continue
        with connection.transaction(force_rollback=True):
            limits(connection, lock_timeout_ms=LOCK_TIMEOUT_MS, statement_timeout_ms=STATEMENT_TIMEOUT_MS)
            _bare(connection, table, {column for group in groups for column in (*group.old, *group.new)})
            rehearsal = _Rehearsal(connection, table, groups)
            tried[name] = rehearsal.old_shape()
            if after != "expand":
                tried[name] += rehearsal.new_shape(goal)
    return tried


def _bare(connection: Connection, table: Table, mapped: set[str]) -> None:
    """Leave of the table, within this transaction, what concerns the mapped columns alone: all else may stay empty."""
    concerned = {*mapped, PENDING_COLUMN}
    for constraint in table.constraints:
        if constraint.kind == "foreign_key" or (
            constraint.kind != "not_null" and not set(constraint.columns) <= concerned
        ):
            _alter(connection, table, sql.SQL("DROP CONSTRAINT {} CASCADE").format(sql.Identifier(constraint.name)))
    for column in table.columns:
        if column.not_null and not column.identity and column.name not in concerned:
            _alter(connection, table, sql.SQL("ALTER {} DROP NOT NULL").format(sql.Identifier(column.name)))
    for trigger in table.triggers:
        if f"EXECUTE FUNCTION {LOCKSTEP_SCHEMA}." not in trigger.definition:
            _alter(connection, table, sql.SQL("DISABLE TRIGGER {}").format(sql.Identifier(trigger.name)))


def _alter(connection: Connection, table: Table, change: sql.Composed) -> None:
    connection.execute(sql.SQL("ALTER TABLE {} ").format(table.name.identifier) + change)


@dataclass(frozen=True)
class _Written:
    """What the table says of the row that was just written."""

    as_given: bool
    agreeing: bool


@dataclass(frozen=True)
class _Rehearsal:
    """One table of the clone, bare but for its mapped columns."""

    connection: Connection
    table: Table
    groups: tuple[MappedGroup, ...]

    def old_shape(self) -> int:
        """INSERT rows of the old shape, and UPDATE one into each, where the table takes them without the sync."""
        rows = [row for row in self._rows(self.table, [group.old for group in self.groups]) if self._admitted(row)]
        for row in rows:
            self._check(row, self._try(rows[0], row, self.groups), "old")
        return len(rows)

    def new_shape(self, goal: Table) -> int:
        """The same of the new shape, with rows that its own constraints take."""
        rows = self._rows(goal, [group.new for group in self.groups])
        # A derived group has no way back: what the new application writes there stands.
        both_ways = [group for group in self.groups if group.down]
        for row in rows:
            self._check(row, self._try(rows[0], row, both_ways), "new")
        return len(rows)

    def _rows(self, shape: Table, sides: Sequence[tuple[str, ...]]) -> list[Row]:
        """Return rows of one shape that vary one group's columns at a time; none if no value of a group is sound."""
        single = []
        for side in sides:
            columns = [column for name in side if not (column := _column(shape, name)).generated]
            options = {column.name: self._candidates(shape, column) for column in columns}
            sound = (row for row in candidates.rows(options) if self._is_sound(shape, row))
            single.append(list(itertools.islice(sound, MOST_ROWS)))
        if not all(single):
            return []
        first = {name: value for rows in single for name, value in rows[0].items()}
        whole = [first, *({**first, **row} for rows in single for row in rows[1:])]
        # Once more: a CHECK may be about columns of several groups.
        return [row for row in whole if self._is_sound(shape, row)]

    def _candidates(self, shape: Table, column: Column) -> tuple[str | None, ...]:
        """Return values of a column: what its constraints and the mapping name, an enum's labels, the type's edges."""
        named = [constraint.definition for constraint in shape.constraints if column.name in constraint.columns]
        named += [item.expression for group in self.groups for item in (*group.up, *group.down)]
        labels = self.connection.execute(
            "SELECT enumlabel::text FROM pg_enum WHERE enumtypid = to_regtype(%s) ORDER BY enumsortorder",
            (column.type,),
        )
        known = (*candidates.literals(column.type, named), *(label for (label,) in labels))
        everything = tuple(dict.fromkeys((*known, *candidates.values(column.type))))
        return everything if column.not_null else (*everything, None)

    def _is_sound(self, shape: Table, row: Row) -> bool:
        """Whether the shape's own CHECKs take the row: what they refuse is the application's own mistake."""
        checks = [
            check_expression(constraint)
            for constraint in shape.constraints
            if constraint.kind == "check" and set(constraint.columns) <= set(row)
        ]
        if not checks:
            return True
        given = sql.SQL(", ").join(
            sql.SQL("{} AS {}").format(self._value(name, value), sql.Identifier(name)) for name, value in row.items()
        )
        holds = sql.SQL(" AND ").join(sql.SQL("({}) IS NOT FALSE").format(verbatim(check)) for check in checks)
        try:
            with self.connection.transaction():
                found = self.connection.execute(
                    sql.SQL("SELECT {} FROM (SELECT {}) AS made_up").format(holds, given)
                ).fetchone()
        except psycopg.Error:
            return False
        return bool(found and found[0])

    def _admitted(self, row: Row) -> bool:
        """Whether the table takes the row when the sync does not act: the old application's own statement is sound."""
        try:
            with self.connection.transaction(force_rollback=True):
                self.connection.execute("SELECT set_config(%s, 'none', true)", (DIRECTION_SETTING,))
                self.connection.execute(self._insert(row))
        except psycopg.Error:
            return False
        return True

    def _try(self, base: Row, row: Row, compared: Sequence[MappedGroup]) -> _Written | psycopg.Error:
        """INSERT the row, and UPDATE ``base`` into it; return how the row stands, the worse of the two."""
        found = _Written(as_given=True, agreeing=True)
        for statements in ((self._insert(row),), (self._insert(base), self._update(row))):
            try:
                with self.connection.transaction(force_rollback=True):
                    for statement in statements:
                        self.connection.execute(statement)
                    found = self._look(row, compared)
            except psycopg.Error as error:
                return error
            if not (found.as_given and found.agreeing):
                break
        return found

    def _insert(self, row: Row) -> sql.Composed:
        if not row:
            return sql.SQL("INSERT INTO {} DEFAULT VALUES").format(self.table.name.identifier)
        return sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
            self.table.name.identifier,
            sql.SQL(", ").join(map(sql.Identifier, row)),
            sql.SQL(", ").join(self._value(name, value) for name, value in row.items()),
        )

    def _update(self, row: Row) -> sql.Composed:
        if not row:  # a shape without columns of its own: any write of the row is one of it
            row_as_it_is = sql.SQL("UPDATE {} SET {c} = {c}")
            return row_as_it_is.format(self.table.name.identifier, c=sql.Identifier(PENDING_COLUMN))
        return sql.SQL("UPDATE {} SET {}").format(
            self.table.name.identifier,
            sql.SQL(", ").join(
                sql.SQL("{} = {}").format(sql.Identifier(name), self._value(name, value)) for name, value in row.items()
            ),
        )

    def _look(self, row: Row, compared: Sequence[MappedGroup]) -> _Written:
        given = [
            sql.SQL("{} IS NOT DISTINCT FROM {}").format(_text(sql.Identifier(name)), _text(self._value(name, value)))
            for name, value in row.items()
        ]
        agreeing = [
            # In this order, as at the gates: `up` of what `down` rounded may raise, and of a marked row either.
            sql.SQL("CASE WHEN {} & {} <> 0 THEN true WHEN {} THEN true ELSE {} END").format(
                sql.Identifier(PENDING_COLUMN), sql.Literal(group.bits), self._same(group.down), self._same(group.up)
            )
            for group in compared
            if group.new
        ]
        statement = sql.SQL("SELECT {}, {} FROM {}").format(
            sql.SQL(" AND ").join([sql.SQL("true"), *given]),
            sql.SQL(" AND ").join([sql.SQL("true"), *agreeing]),
            self.table.name.identifier,
        )
        ((as_given, agrees),) = self.connection.execute(statement).fetchall()
        return _Written(bool(as_given), bool(agrees))

    def _same(self, assignments: Sequence[Assignment]) -> sql.Composable:
        """Return the condition that one side is what the expressions make of the other; of none it is false."""
        if not assignments:
            return sql.SQL("false")
        return sql.SQL(" AND ").join(
            sql.SQL("{} IS NOT DISTINCT FROM {}").format(
                _text(sql.Identifier(item.column)),
                _text(self._typed(verbatim(f"({item.expression})"), item.column)),
            )
            for item in assignments
        )

    def _value(self, name: str, value: str | None) -> sql.Composed:
        return self._typed(sql.Literal(value), name)

    def _typed(self, value: sql.Composable, name: str) -> sql.Composed:
        return sql.SQL("({})::{}").format(value, verbatim(_column(self.table, name).type))

    def _check(self, row: Row, written: _Written | psycopg.Error, shape: str) -> None:
        what = ", ".join(f"{display(name)} = {_shown(value)}" for name, value in row.items()) or "nothing given"
        where = f"a write of the {shape} application version to {self.table.name} ({what})"
        if isinstance(written, psycopg.Error):
            raise Unsupported(
                f"the change, because on a clone {where} fails while both versions run: "
                f"{written.diag.message_primary or type(written).__name__} (SQLSTATE {written.sqlstate})",
                instead="Make the mapping's expressions cover this value, or exclude it by a CHECK on its own column.",
            )
        if not written.as_given:
            raise Unsupported(
                f"the change, because on a clone {where} does not leave the values that it gave",
                instead="Please report this with the spec.",
            )
        if not written.agreeing:
            raise Unsupported(
                f"the change, because on a clone {where} leaves the two shapes apart without a mark",
                instead="Please report this with the spec.",
            )


def _column(table: Table, name: str) -> Column:
    column = table.column(name)
    if column is None:
        raise AssertionError(f"{table.name} has no column {name} in this phase")
    return column


def _text(value: sql.Composable) -> sql.Composed:
    """Compare as text: json, point and others have no equality."""
    return sql.SQL("({})::text").format(value)


def _shown(value: str | None) -> str:
    return "NULL" if value is None else repr(value[:40])
