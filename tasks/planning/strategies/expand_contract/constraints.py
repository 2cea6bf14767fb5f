"""Constraints over new columns: NOT NULL, CHECK, UNIQUE and FOREIGN KEY.

Until contract the ones over mapped columns are tolerant of rows whose sync failed (``lockstep_pending``), because the
application's statement must stand; they are made strict by NOT VALID → VALIDATE before the old shape goes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

from psycopg import sql

from tasks.planning.catalog import Constraint
from tasks.planning.errors import Unsupported
from tasks.planning.names import PENDING_COLUMN, display, own_name, verbatim
from tasks.planning.plan import LockUse, Step, Transaction
from tasks.planning.strategies.expand_contract import demands, injective, moved
from tasks.planning.strategies.expand_contract.building import attach, build_step
from tasks.planning.strategies.expand_contract.contribution import (
    LONG_STATEMENT_TIMEOUT_MS,
    Contribution,
    TableChange,
    check_expression,
    short_step,
    validate_step,
)
from tasks.planning.strategies.expand_contract.kept import index_behind
from tasks.planning.strategies.expand_contract.mapping import Group


def contribute(change: TableChange) -> Contribution:
    total = Contribution()
    for name in sorted(change.mapped):
        column = change.after.column(name)
        if column is not None and column.not_null and not moved.is_strict_early(change, name):
            total += _not_null(change, name)
    for name in change.late_not_null:
        total += _late_not_null(change, name)
    for constraint in change.coming_constraints:
        if constraint.kind in ("primary_key", "foreign_key") and moved.is_own(change, constraint):
            continue
        total += _coming(change, constraint)
    return total


def _coming(change: TableChange, constraint: Constraint) -> Contribution:
    match constraint.kind:
        case "check":
            return _check(change, constraint)
        case "unique":
            return _unique(change, constraint)
        case "foreign_key":
            return _foreign_key(change, constraint)
        case "primary_key" | "exclusion" | "trigger":
            raise Unsupported(
                f"the {constraint.kind.replace('_', ' ')} {constraint.name} over changed columns of {change.name}",
                instead="It comes in a later version of Lockstep.",
            )
        case "not_null":
            return Contribution()
        case _:
            assert_never(constraint.kind)


def _tolerant(change: TableChange, columns: tuple[str, ...], expression: str) -> sql.Composed:
    bits = sql.Literal(change.unfilled_bits(columns))
    return sql.SQL("CHECK ((({marker} & {bits}) <> 0) OR ({expression}))").format(
        marker=sql.Identifier(PENDING_COLUMN),
        bits=bits,
        expression=verbatim(expression),
    )


def _not_null(change: TableChange, column: str) -> Contribution:
    """Tolerant from expand, strict before contract; SET NOT NULL then uses the validated check (PostgreSQL 12+)."""
    name = sql.Identifier(column)
    expression = sql.SQL("{} IS NOT NULL").format(name).as_string()
    tolerant = change.own_name("nn", column)
    strict = change.own_name("nnstrict", column)
    where = f"{change.name}.{display(column)}"
    tighten = (
        change.alter("DROP CONSTRAINT {c}", c=sql.Identifier(tolerant)),
        change.alter("ALTER COLUMN {c} SET NOT NULL", c=name),
        change.alter("DROP CONSTRAINT {c}", c=sql.Identifier(strict)),
    )
    return _guarded(change, (column,), expression, tolerant, strict, where, tighten, ())


def _late_not_null(change: TableChange, column: str) -> Contribution:
    """Once every row has its value: until then the old application may write a row that has none yet."""
    name = sql.Identifier(column)
    guard = own_name("nn", change.migration, *change.name, column)
    where = f"{change.name}.{display(column)}"
    set_not_null = change.alter("ALTER COLUMN {c} SET NOT NULL", c=name)
    expression = sql.SQL("({} IS NOT NULL)").format(name).as_string()
    drop_guard = change.alter("DROP CONSTRAINT {c}", c=sql.Identifier(guard))
    return Contribution(
        constrain=(
            *_checked(change, guard, f"CHECK {expression}", f"Refuse NULL in {where}"),
            short_step(
                change,
                f"constrain/not-null/{where}",
                f"Make {where} NOT NULL by the validated check",
                (set_not_null, drop_guard),
                undo=(
                    Transaction(
                        statements=(
                            change.alter("ALTER COLUMN {c} DROP NOT NULL", c=name),
                            change.alter(
                                "ADD CONSTRAINT {c} CHECK {e}", c=sql.Identifier(guard), e=verbatim(expression)
                            )
                            + " NOT VALID",
                        )
                    ),
                ),
            ),
        )
    )


def _checked(change: TableChange, name: str, definition: str, title: str) -> tuple[Step, Step]:
    """Add a CHECK that is not yet validated, and validate it, once the rows have their values."""
    add = change.alter("ADD CONSTRAINT {c} {d} NOT VALID", c=sql.Identifier(name), d=verbatim(definition))
    drop = change.alter("DROP CONSTRAINT {c}", c=sql.Identifier(name))
    added = short_step(
        change,
        f"constrain/check/{change.name}.{name}",
        f"{title}, not yet validated",
        (add,),
        undo=(Transaction(statements=(drop,)),),
    )
    return added, validate_step(change, f"constrain/validate/{change.name}.{name}", name)


def _check(change: TableChange, constraint: Constraint) -> Contribution:
    expression = check_expression(constraint)
    if not change.unfilled_bits(constraint.columns) and set(constraint.columns) - change.new_names:
        return demands.check(change, constraint)
    if set(constraint.columns) & change.computed and not change.unfilled_bits(constraint.columns):
        definition = constraint.definition.removesuffix(" NOT VALID")
        title = f"Add the constraint {constraint.name} to {change.name}"
        return Contribution(
            constrain=_checked(change, constraint.name, definition, title), validated=(constraint.name,)
        )
    if not change.unfilled_bits(constraint.columns):
        # Over plain new columns only: the old application never writes them, so the strict form can stand at once.
        add = change.alter(
            "ADD CONSTRAINT {c} {d} NOT VALID",
            c=sql.Identifier(constraint.name),
            d=verbatim(constraint.definition),
        )
        drop = change.alter("DROP CONSTRAINT {c}", c=sql.Identifier(constraint.name))
        validate = validate_step(change, f"constrain/validate/{change.name}.{constraint.name}", constraint.name)
        return Contribution(
            expand_checks=(add,), expand_undo=(drop,), constrain=(validate,), validated=(constraint.name,)
        )
    tolerant = own_name("ck", change.migration, *change.name, constraint.name)
    strict = own_name("ckstrict", change.migration, *change.name, constraint.name)
    tighten = (change.alter("DROP CONSTRAINT {c}", c=sql.Identifier(tolerant)),)
    rename = (_rename(change, strict, constraint.name),)
    where = f"{change.name}.{display(constraint.name)}"
    return _guarded(change, constraint.columns, expression, tolerant, strict, where, tighten, rename)


def _guarded(
    change: TableChange, columns: tuple[str, ...], expression: str, tolerant: str, strict: str, where: str,
    tighten: tuple[str, ...], rename: tuple[str, ...],
) -> Contribution:  # fmt: skip
    """A condition that is tolerant of rows whose sync failed until contract, and strict from just before it."""
    add = change.alter(
        "ADD CONSTRAINT {c} {d} NOT VALID", c=sql.Identifier(tolerant), d=_tolerant(change, columns, expression)
    )
    add_strict = change.alter(
        "ADD CONSTRAINT {c} CHECK ({d}) NOT VALID",
        c=sql.Identifier(strict),
        d=verbatim(expression),
    )
    return Contribution(
        expand_checks=(add,),
        expand_undo=(change.alter("DROP CONSTRAINT {c}", c=sql.Identifier(tolerant)),),
        constrain=(validate_step(change, f"constrain/validate/{tolerant}", tolerant),),
        validated=(tolerant,),
        contract_before=(
            short_step(
                change,
                f"contract/strict/{strict}",
                f"Add the strict form of {where}, not yet validated",
                (add_strict,),
                undo=(Transaction(statements=(change.alter("DROP CONSTRAINT {c}", c=sql.Identifier(strict)),)),),
            ),
            validate_step(change, f"contract/validate/{strict}", strict),
        ),
        contract_tighten=tighten,
        contract_rename=rename,
    )


def _rename(change: TableChange, current: str, final: str) -> str:
    return change.alter("RENAME CONSTRAINT {a} TO {b}", a=sql.Identifier(current), b=sql.Identifier(final))


def _unique(change: TableChange, constraint: Constraint) -> Contribution:
    injective.require(change, constraint.name, constraint.columns, "up")
    if "NULLS NOT DISTINCT" in constraint.definition and change.unfilled_bits(constraint.columns):
        raise Unsupported(
            f"the constraint {constraint.name} (NULLS NOT DISTINCT) over mapped columns of {change.name}",
            instead="Rows that are not filled yet would collide; use a plain UNIQUE constraint.",
        )
    if _makes_alike(change, constraint.columns):
        return demands.key(change, constraint)
    index = index_behind(change, constraint)
    injective.require_twin(change, index)
    name = change.temporary_name("uq", constraint.name)
    title = f"Build the unique index of {constraint.name} on {change.name} without blocking writes"
    build = build_step(change, "constrain", index, name, title)
    attached = short_step(
        change,
        f"constrain/attach/{name}",
        f"Make the index the constraint {constraint.name} of {change.name}",
        (attach(change, constraint, name, name),),
        undo=(Transaction(statements=(change.alter("DROP CONSTRAINT {c}", c=sql.Identifier(name)),)),),
    )
    stays = name == constraint.name or change.moves(constraint.columns)
    rename = () if stays else (_rename(change, name, constraint.name),)
    return Contribution(constrain=(build, attached), contract_rename=rename)


def _makes_alike(change: TableChange, columns: tuple[str, ...]) -> bool:
    """Whether rows of the old version can be alike: they have the defaults of the new columns, none of them NULL."""
    return not set(columns) & (change.mapped | change.volatile) and binds_old_writers(change, columns)


def binds_old_writers(change: TableChange, columns: tuple[str, ...]) -> bool:
    """Whether rows of the old version have a value in every one of the new columns among these."""
    new = [column for column in change.new if column.name in columns]
    return all(column.default is not None or column.name in change.mapped for column in new)


def demanded_references(change: TableChange) -> tuple[Constraint, ...]:
    """Return the foreign keys over new columns that the old version may break, so that they come in contract."""
    return tuple(
        c
        for c in change.coming_constraints
        if c.kind == "foreign_key" and not change.is_carried(c) and binds_old_writers(change, c.columns)
    )


def _refuse_other_actions(change: TableChange, constraint: Constraint, touched: Sequence[Group]) -> None:
    """Two foreign keys that say different things of one value must not act both: their order is chance."""
    renamed = {new: old for group in touched for new, old in zip(group.new.names, group.old.names, strict=True)}
    old_columns = {renamed.get(name, name) for name in constraint.columns}
    beside = [c for c in change.before.constraints if c.kind == "foreign_key" and set(c.columns) & old_columns]
    if touched and beside:
        raise Unsupported(
            f"the foreign key {display(constraint.name)} of {change.name}, made anew over a renamed column that "
            f"{display(beside[0].name)} is over now",
            instead="Rename the column in one migration, and give it the other foreign key in another one.",
        )


def _foreign_key(change: TableChange, constraint: Constraint) -> Contribution:
    touched = [group for group in change.groups if set(group.new.names) & set(constraint.columns)]
    if not all(group.is_rename for group in touched):
        raise Unsupported(
            f"the foreign key {constraint.name} over columns of {change.name} that are computed by a mapping",
            instead="A foreign key can follow a renamed column; computed ones come in a later version.",
        )
    if touched and "SET DEFAULT" in constraint.definition:
        raise Unsupported(
            f"the foreign key {display(constraint.name)} of {change.name} (SET DEFAULT) over a renamed column: until "
            "contract the new column has no default that it could set",
            instead="Use SET NULL or NO ACTION for the time of the migration.",
        )
    if not change.is_carried(constraint) and binds_old_writers(change, constraint.columns):
        _refuse_other_actions(change, constraint, touched)
        return demands.foreign_key(change, constraint)
    name = change.temporary_name("fk", constraint.name)
    definition = constraint.definition.removesuffix(" NOT VALID")
    add = change.alter(
        "ADD CONSTRAINT {c} {d} NOT VALID",
        c=sql.Identifier(name),
        d=verbatim(definition),
    )
    parent = constraint.references or change.name
    locks = (
        LockUse(table=change.name, mode="SHARE ROW EXCLUSIVE"),
        LockUse(table=parent, mode="SHARE ROW EXCLUSIVE"),
    )
    added = short_step(
        change,
        f"constrain/foreign-key/{name}",
        f"Add the foreign key {constraint.name} of {change.name}, not yet validated",
        (add,),
        undo=(Transaction(statements=(change.alter("DROP CONSTRAINT {c}", c=sql.Identifier(name)),)),),
    ).model_copy(update={"locks": locks})
    steps: tuple[Step, ...] = (added,)
    if constraint.validated:
        steps += (validate_step(change, f"constrain/validate/{change.name}.{name}", name),)
    rename = () if name == constraint.name else (_rename(change, name, constraint.name),)
    return Contribution(
        constrain=steps,
        validated=(name,) if constraint.validated else (),
        contract_before=_retire_foreign_keys(change, constraint),
        contract_rename=rename,
    )


def _retire_foreign_keys(change: TableChange, constraint: Constraint) -> tuple[Step, ...]:
    """Drop the old columns' foreign key by itself: it locks the parent too, and must not add to the contract's lock."""
    old = next((other for other in change.before.constraints if other.oid == constraint.oid), None)
    if old is None:
        return ()
    restore = change.alter(
        "ADD CONSTRAINT {c} {d} NOT VALID",
        c=sql.Identifier(old.name),
        d=verbatim(old.definition.removesuffix(" NOT VALID")),
    )
    undo: tuple[Transaction, ...] = (Transaction(statements=(restore,)),)
    if old.validated:
        validate = change.alter("VALIDATE CONSTRAINT {c}", c=sql.Identifier(old.name))
        undo += (Transaction(statements=(validate,), statement_timeout_ms=LONG_STATEMENT_TIMEOUT_MS),)
    step = short_step(
        change,
        f"contract/drop-foreign-key/{change.name}.{old.name}",
        f"Drop the old columns' foreign key {old.name} of {change.name}",
        (change.alter("DROP CONSTRAINT {c}", c=sql.Identifier(old.name)),),
        undo=undo,
    )
    locks = (*step.locks, LockUse(table=old.references or change.name, mode="ACCESS EXCLUSIVE"))
    return (step.model_copy(update={"locks": locks}),)
