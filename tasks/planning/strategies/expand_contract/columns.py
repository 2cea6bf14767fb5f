"""Columns: those that come (with a default, or filled through a mapping) and those that go."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import sql

from tasks.planning.catalog import Column
from tasks.planning.errors import SpecError, Unsupported
from tasks.planning.names import PENDING_COLUMN, TableName, display, verbatim
from tasks.planning.strategies.expand_contract.contribution import Contribution, TableChange
from tasks.planning.strategies.expand_contract.mapping import all_unfilled_bits


def contribute(change: TableChange) -> Contribution:
    for column in change.dropped:
        _refuse_dropping(change, column)
    total = Contribution()
    for column in change.new:
        total += _coming(change, column)
    if change.groups:
        total += _marker(change)
    drops = [change.alter("DROP COLUMN {c}", c=sql.Identifier(column.name)) for column in change.dropped]
    return total + Contribution(contract_drop=tuple(drops))


def _coming(change: TableChange, column: Column) -> Contribution:
    name = sql.Identifier(column.name)
    parts = [sql.SQL("ADD COLUMN {} ").format(name), verbatim(column.type)]
    if column.collation:
        parts.append(verbatim(f" COLLATE {column.collation}"))
    finish: list[str] = []
    if column.generated or (column.identity and column.name not in change.moved_new):
        raise Unsupported(
            f"adding {change.name}.{display(column.name)} as a generated or identity column, which rewrites the table",
            instead="Add a plain column with a mapping 'up'; generated and identity columns come with the shadow-table "
            "strategy.",
        )
    if column.name in change.mapped:
        # Without its default while the shapes are kept in step: a default would look like a value that was given.
        finish += _default_of_mapped(change, column)
    else:
        if column.not_null and column.default is None:
            raise SpecError(
                f"{change.name}.{display(column.name)} is added NOT NULL, but nothing says what existing rows get.",
                remedy="Give it a DEFAULT, or add to the spec:  "
                f'mapping: {{{change.name.name}.{column.name}: {{up: "…"}}}}',
            )
        filled = {name for statement in change.data for name in statement.columns}
        if column.not_null and column.name in change.late - filled:
            raise SpecError(
                f"{change.name}.{display(column.name)} becomes NOT NULL, but its DEFAULT is set apart from ADD COLUMN "
                "and so is for later rows only: nothing says what existing rows get.",
                remedy="Write the DEFAULT into ADD COLUMN, or UPDATE the rows in the same change.",
            )
        if column.default is not None and column.name not in change.late:
            parts.append(verbatim(f" DEFAULT {column.default}"))
        if column.not_null and column.name not in change.late:
            parts.append(sql.SQL(" NOT NULL"))
    statements = [change.alter("{rest}", rest=sql.Composed(parts))]
    if column.name in change.late and column.default is not None:
        # By itself it is for later rows only: no rewrite, whatever it computes.
        statements.append(change.alter("ALTER COLUMN {c} SET DEFAULT {d}", c=name, d=verbatim(column.default)))
    if column.comment is not None:
        statements.append(
            sql.SQL("COMMENT ON COLUMN {} IS {}")
            .format(sql.Identifier(*change.name, column.name), sql.Literal(column.comment))
            .as_string()
        )
    if column.statistics_target is not None and column.statistics_target >= 0:
        target = sql.Literal(column.statistics_target)
        statements.append(change.alter("ALTER COLUMN {c} SET STATISTICS {n}", c=name, n=target))
    return Contribution(
        expand_columns=tuple(statements),
        expand_undo=(change.alter("DROP COLUMN {c}", c=name),),
        contract_rename=tuple(finish),
    )


def _default_of_mapped(change: TableChange, column: Column) -> list[str]:
    if column.default is None or column.name in change.moved_new:
        return []
    group = next(group for group in change.groups if column.name in group.new.names)
    old = group.old.columns[0] if group.is_rename else None
    if old is None or old.default != column.default or not column.not_null:
        raise Unsupported(
            f"the DEFAULT of {change.name}.{display(column.name)}: while both shapes are kept in step, an INSERT that "
            "leaves the column out cannot be told from one of the old application",
            instead="Leave the DEFAULT out of this change and set it in a migration of its own after contract, or keep "
            "the old column's default on a renamed NOT NULL column.",
        )
    value = verbatim(column.default)
    return [change.alter("ALTER COLUMN {c} SET DEFAULT {d}", c=sql.Identifier(column.name), d=value)]


def _marker(change: TableChange) -> Contribution:
    marker = sql.Identifier(PENDING_COLUMN)
    add = change.alter(
        "ADD COLUMN {c} integer NOT NULL DEFAULT {d}", c=marker, d=sql.Literal(all_unfilled_bits(change.groups))
    )
    drop = change.alter("DROP COLUMN {c}", c=marker)
    return Contribution(expand_columns=(add,), expand_undo=(drop,), contract_drop=(drop,))


def _refuse_dropping(change: TableChange, column: Column) -> None:
    where = f"{change.name}.{display(column.name)}"
    if column.name in change.moved_old:
        return
    if column.identity or column.generated:
        raise Unsupported(
            f"changing the {'identity' if column.identity else 'generated'} column {where}",
            instead="Only plain columns can be renamed, retyped or dropped yet.",
        )
    key = change.before.primary_key
    if key is not None and column.name in key.columns:
        raise Unsupported(
            f"changing {where}, a column of the primary key",
            instead="Keys come in a later version of Lockstep; leave the primary key's columns as they are.",
        )
    if column.not_null and column.default is None and not any(column.name in g.old.names for g in change.groups):
        raise SpecError(
            f"{where} is dropped, and is NOT NULL without a default: from the switch on the new application's INSERTs "
            "leave it out, and would fail.",
            remedy=f'Say what they get until it is gone:  mapping: {{{change.name.name}.{column.name}: {{down: "…"}}}}',
        )


def refuse_untellable(
    table: TableName, old: Sequence[Column], new: Sequence[Column], *, up_of_nothing_is_null: bool
) -> None:
    """Refuse a group whose INSERT cannot be told apart: of the old shape, or of the new one with NULLs.

    A NULL new column is read as "not given". That is right when the target makes one of the new columns NOT NULL, or
    when nothing given on the old side gives nothing on the new one.
    """
    if not old or not new or any(column.not_null for column in new):
        return
    with_default = [column.name for column in old if column.default is not None]
    if with_default or not up_of_nothing_is_null:
        because = f"{', '.join(with_default)} has a default" if with_default else "`up` of NULL is not NULL"
        names = f"{', '.join(column.name for column in old)} → {', '.join(column.name for column in new)}"
        raise Unsupported(
            f"the mapping {names} of {table}: {because} and the new side may be NULL, so an INSERT of the new "
            "application cannot be told from one of the old",
            instead="Make a new column NOT NULL, or drop the old default in a migration of its own first.",
        )
