"""New types and USING expressions whose values would get lost or be other ones than the change in order leads to.

A USING, or the cast that stands for it, becomes the `up` of its column, computed from the rows as they were before the
change. Where the column has neither another name nor another type afterwards, no catalog tells of it, nor of the type
that a column added by the change had at first; and what stands later in the change and meets the result would meet the
old value: numeric that is not rounded yet, for one.
"""

from __future__ import annotations

from collections.abc import Sequence

from tasks.planning.catalog import Catalog, Column, Table
from tasks.planning.errors import Unsupported
from tasks.planning.names import TableName, display
from tasks.planning.parser import column_references
from tasks.planning.retyping import is_plain_cast
from tasks.planning.statements import NamesBefore, Statement, find_table


def refuse_lost_using(parsed: Sequence[Statement], before: Catalog, after: Catalog, path: Sequence[str]) -> None:
    """Refuse by name a new type or USING that nothing would carry out, or whose result later statements use."""
    names = NamesBefore()
    computed: dict[TableName, dict[str, frozenset[str]]] = {}  # by table: column → what its new value is computed from
    retyped: set[tuple[TableName, str]] = set()
    for number, statement in enumerate(parsed, start=1):
        _refuse_first_types(statement, number, names, retyped, before, path)
        coming: list[tuple[TableName, str, frozenset[str]]] = []
        for written, called in statement.retyped:
            table = find_table(before, names.table(written), path)
            found = table.column(names.column(written, called)) if table is not None else None
            if table is None or found is None:
                continue
            expression = statement.using.get((written, called))
            read = frozenset({found.name})
            if expression is not None:
                read = frozenset(names.column(written, name) for name in column_references(expression))
            known = computed.get(table.name, {})
            again = sorted(({found.name} | read) & set(known))
            if again:
                raise Unsupported(
                    f"the new type of {table.name}.{display(called)} (statement {number} of the change), which comes "
                    f"after another one has computed {display(again[0])}",
                    instead="Say both in one ALTER TABLE, over the old values, once for each column.",
                )
            if expression is not None and not is_plain_cast(expression, called, found.type):
                _refuse_unseen(table, found, called, expression, after)
            elif _keeps_type(table, found, after):
                continue
            coming.append((table.name, found.name, read))
        for name, column_name, read in coming:
            computed.setdefault(name, {})[column_name] = read
        _refuse_after(statement, number, names, computed, before, path)
        names.follow(statement)


def _refuse_first_types(
    statement: Statement, number: int, names: NamesBefore, retyped: set[tuple[TableName, str]], before: Catalog,
    path: Sequence[str],
) -> None:  # fmt: skip
    """Refuse a type that a column has only within the change: no catalog tells of it."""
    for written, called in statement.retyped:
        table = find_table(before, names.table(written), path)
        if table is None:
            continue
        column = (table.name, names.column(written, called))
        if table.column(column[1]) is None:
            raise Unsupported(
                f"a new type for {table.name}.{display(called)}, which the change itself adds (statement {number})",
                instead="Give it that type in ADD COLUMN, and its value in one UPDATE or in the mapping's up.",
            )
        if column in retyped:
            raise Unsupported(
                f"changing the type of {table.name}.{display(called)} twice in one change (statement {number}): what "
                "the type in between would do to the values, rounding them for example, would be left out",
                instead="Say it once, with a USING that does what both do.",
            )
        retyped.add(column)


def _refuse_unseen(table: Table, column: Column, called: str, expression: str, after: Catalog) -> None:
    kept = _kept(table, column, after)
    if kept is not None and (kept.name, kept.type, kept.collation) == (column.name, column.type, column.collation):
        raise Unsupported(
            f"computing {table.name}.{display(column.name)} anew by a USING that leaves its name and its type "
            f"{column.type} as they are",
            instead=f"Write it as what it is, a change of rows:  UPDATE … SET {display(called)} = {expression};",
        )


def _keeps_type(table: Table, column: Column, after: Catalog) -> bool:
    kept = _kept(table, column, after)
    return kept is not None and kept.type == column.type


def _kept(table: Table, column: Column, after: Catalog) -> Column | None:
    later = next((other for other in after.tables if other.oid == table.oid), None)
    return next((c for c in later.columns if c.attnum == column.attnum), None) if later is not None else None


def _refuse_after(
    statement: Statement, number: int, names: NamesBefore, computed: dict[TableName, dict[str, frozenset[str]]],
    before: Catalog, path: Sequence[str],
) -> None:  # fmt: skip
    data = statement.data
    table = find_table(before, names.table(data.table), path) if data is not None else None
    if data is None or table is None:
        return
    assigned = {names.column(data.table, name) for name, _ in data.assignments}
    read = {names.column(data.table, name) for text in data.expressions for name in column_references(text)}
    for column, inputs in computed.get(table.name, {}).items():
        if column in assigned | read or inputs & assigned:
            raise Unsupported(
                f"{data.verb.upper()} of {table.name} (statement {number} of the change) after a new type has computed "
                f"{display(column)}, which it uses or which would follow it",
                instead="Write it before the ALTER TABLE, in terms of the old column; or bring it afterwards.",
            )
