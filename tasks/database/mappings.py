"""Type-checking and trying out a migration's `up` and `down`: by the server on clones, and on the live rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import psycopg
from psycopg.rows import TupleRow

from tasks.database import canonical as server
from tasks.database.clone import SchemaClone
from tasks.database.connection import connect
from tasks.database.probe import probe_up, sample_up
from tasks.database.probe_down import NewColumn, OldColumn, probe_down
from tasks.database.trace import run_statement
from tasks.planning.catalog import Catalog, Column, Table
from tasks.planning.errors import SpecError
from tasks.planning.intent import Intent
from tasks.planning.names import TableName
from tasks.planning.parser import column_references
from tasks.planning.plan import Note
from tasks.planning.planner import Way
from tasks.planning.statements import Statement
from tasks.planning.strategies.expand_contract import columns
from tasks.planning.strategies.expand_contract.contribution import check_expression
from tasks.planning.strategies.expand_contract.mapping import Canonical, Draft

Connection = psycopg.Connection[TupleRow]


class Mappings:
    """The mapping expressions of one migration, with a clone of the old shape and one of the new."""

    def __init__(
        self, clone: SchemaClone, parsed: Sequence[Statement], intent: Intent, before: Catalog, after: Catalog
    ) -> None:
        self._clone = clone
        self._parsed = parsed
        self._intent = intent
        self._before = before
        self._after = after
        self._server: dict[Way, server.Canonical] = {}

    def canonical(self, found: Sequence[Draft]) -> dict[Way, Canonical]:
        """Return every expression as the server understands it. Raises `SpecError` naming mapping and reason."""
        if not found:
            return {}
        with connect(self._clone.fresh(), role="oracle", settings=self._intent.settings) as old:
            for draft in found:
                target = _table(self._after, draft.table)
                for column, expression in draft.up.items():
                    self._understand(old, (draft.table, "up", column), expression, _type(target, column))
                if not draft.keeps_name:
                    self._refuse_untellable(old, draft)
        with connect(self._clone.fresh(), role="oracle", settings=self._intent.settings) as new:
            for number, statement in enumerate(self._parsed, start=1):
                run_statement(new, statement, number)
            for draft in found:
                source = _table(self._before, draft.table)
                for column, expression in draft.down.items():
                    self._understand(new, (draft.table, "down", column), expression, _type(source, column))
        return {
            way: Canonical(item.text, item.input_columns, item.may_raise, item.is_immutable)
            for way, item in self._server.items()
        }

    def probe(self, live: Connection, found: Sequence[Draft], canonical: Mapping[Way, Canonical]) -> tuple[Note, ...]:
        """Try `up` on the live rows (read-only) and `down` on edge values.

        Raises `SpecError` for rows that `up` fails on and for values of the new shape that `down` turns into something
        that the old shape refuses, with an example; values that the old type cannot hold at all become notes.
        """
        notes: list[Note] = []
        for draft in found:
            table = _table(self._before, draft.table)
            if draft.up:
                expressions = {
                    f"mapping.{draft.table.name}.{column}.up": self._server[draft.table, "up", column]
                    for column in draft.up
                }
                probed = probe_up(live, table, expressions, personal_key=self._has_personal_key(table))
                kind = "a sample of" if probed.sampled else "all"
                text = f"{draft.table}: `up` of {', '.join(draft.new)} was computed for {kind} {probed.rows:,} rows."
                notes.append(Note(severity="INFO", text=text))
            if draft.down:
                notes += self._probe_down(live, draft, canonical)
        return tuple(notes)

    def _understand(self, connection: Connection, way: Way, expression: str, type_: str) -> None:
        table, direction, column = way
        key = f"mapping.{table.name}.{column}.{direction}"
        self._server[way] = server.canonicalise(connection, table, expression, type_, key=key)

    def _refuse_untellable(self, old: Connection, draft: Draft) -> None:
        """Ask the server what `up` makes of a row of which nothing is given."""
        before, after = _table(self._before, draft.table), _table(self._after, draft.table)
        given = [column for column in before.columns if column.name in draft.old and not column.generated]
        others = [column for column in before.columns if column.name not in draft.old]
        nothing = ", ".join(
            f"NULL::{column.type} AS {psycopg.sql.Identifier(column.name).as_string()}" for column in (*given, *others)
        )
        tests = " AND ".join(f"({self._server[draft.table, 'up', name].text}) IS NULL" for name in draft.new)
        is_null = True
        if tests:
            try:
                row = old.execute((f"SELECT {tests} FROM (SELECT {nothing}) AS lockstep_row").encode()).fetchone()
            except psycopg.Error:
                row = None
            is_null = bool(row and row[0])
        columns.refuse_untellable(
            draft.table,
            [_column(before, name) for name in draft.old],
            [_column(after, name) for name in draft.new],
            up_of_nothing_is_null=is_null,
        )

    def _probe_down(self, live: Connection, draft: Draft, canonical: Mapping[Way, Canonical]) -> list[Note]:
        before, after = _table(self._before, draft.table), _table(self._after, draft.table)
        old_checks = _checks(before, draft.old)
        new_checks = _checks(after, draft.new)
        read = {name for column in draft.down for name in canonical[draft.table, "down", column].inputs}
        kept = {c.name for c in after.columns} & {n for check in old_checks for n in column_references(check)}
        wanted = sorted((read | set(draft.new) | kept) - (set(draft.down) - set(draft.new)))
        new = {name: NewColumn(c.type, c.not_null) for name in wanted if (c := after.column(name)) is not None}
        old = {
            name: OldColumn(
                f"mapping.{draft.table.name}.{name}.down",
                self._server[draft.table, "down", name],
                _column(before, name).not_null,
            )
            for name in draft.down
        }
        shape = {
            name: self._server[draft.table, "up", name].text
            if name in draft.new
            else psycopg.sql.Identifier(name).as_string()
            for name in new
        }
        available = {column.name for column in before.columns} | set(draft.new)
        real = sample_up(live, draft.table, shape) if new and set(new) <= available else ()
        with connect(self._clone.fresh(), role="oracle", settings=self._intent.settings) as connection:
            result = probe_down(connection, new, old, new_checks=new_checks, old_checks=old_checks, real=real)
        breaking = [example for example in result.examples if not example.too_large]
        if breaking:
            raise SpecError(
                f"mapping of {draft.table}: `down` leads to a value that the old shape refuses: {breaking[0]}.",
                remedy="Make `down` cover it (greatest, coalesce, CASE), or give the new columns a CHECK that excludes "
                "such values: else the new application's write could not be kept in step.",
            )
        return [
            Note(
                severity="WARNING",
                text=f"{draft.table}: the old columns cannot hold every value of the new ones ({example}). Such "
                "a write stands and is recorded; going back would lose that value.",
                of_way_back=True,
            )
            for example in result.examples
        ]

    def _has_personal_key(self, table: Table) -> bool:
        key = table.primary_key.columns if table.primary_key else ()
        prefix = f"{table.name.schema}.{table.name.name}."
        return any(prefix + column in self._intent.personal for column in key)


def _checks(table: Table, names: Sequence[str]) -> list[str]:
    return [check_expression(c) for c in table.constraints if c.kind == "check" and set(c.columns) & set(names)]


def _table(catalog: Catalog, name: TableName) -> Table:
    table = catalog.table(name)
    if table is None:
        raise SpecError(f"There is no table {name}.")
    return table


def _column(table: Table, name: str) -> Column:
    column = table.column(name)
    if column is None:
        known = ", ".join(item.name for item in table.columns)
        raise SpecError(f"mapping: {table.name} has no column {name}.", remedy=f"It has: {known}.")
    return column


def _type(table: Table, column: str) -> str:
    return _column(table, column).type
