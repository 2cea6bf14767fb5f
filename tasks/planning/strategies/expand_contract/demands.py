"""New demands on columns that the running application writes: NOT NULL, CHECK, FOREIGN KEY, UNIQUE, PRIMARY KEY.

A constraint refuses a violating statement from the moment it is added, validated or not, and a unique index from the
moment its build begins. The old version need not know the demand, so all of it is made in contract, when the old
version is gone. What a key that is there already refuses is no new demand: such a one is built before, in constrain.

Locks: ADD … NOT VALID and USING INDEX take a short ACCESS EXCLUSIVE (a foreign key SHARE ROW EXCLUSIVE on both
tables); scans and builds take SHARE UPDATE EXCLUSIVE, each in a transaction of its own.
"""

from __future__ import annotations

import re
from typing import assert_never

from psycopg import sql

from tasks.planning.catalog import Constraint, Index
from tasks.planning.checks.index_terms import key_list
from tasks.planning.checks.suites import Coming
from tasks.planning.checks.uniqueness import UniqueKey, unique_key
from tasks.planning.errors import Unsupported
from tasks.planning.names import TableName, display, own_name, verbatim
from tasks.planning.plan import Action, LockMode, LockUse, Note, Step, Transaction
from tasks.planning.strategies.expand_contract.building import (
    attach,
    build_action,
    build_step,
    constraint_comment,
    index_comment,
)
from tasks.planning.strategies.expand_contract.contribution import (
    Contribution,
    TableChange,
    check_expression,
    long_transaction,
    short_step,
    validate_step,
)
from tasks.planning.strategies.expand_contract.kept import (
    added_constraints,
    added_indexes,
    adopted_index,
    altered_columns,
    altered_constraints,
    dropped_constraints,
    has_other_default,
    index_behind,
    index_behind_before,
    is_implied,
    newly_not_null,
    predecessor,
)


def contribute(change: TableChange) -> Contribution:
    total = _not_null(change)
    for item in altered_columns(change):
        if has_other_default(item) and item.after.default is None:
            total += _without_default(change, item.before.name, item.before.default or "")
    for constraint in added_constraints(change):
        total += _constraint(change, constraint)
    return total


def asked(change: TableChange) -> Coming:
    """Return what the target asks of the columns that stay, to be looked at in the rows that are there."""
    constraints = [c for c in added_constraints(change) if c.validated and not _is_kept_to(change, c)]
    checks = [c for c in constraints if c.kind == "check"]
    checks += [a.after for a in altered_constraints(change) if a.became_valid and a.after.kind == "check"]
    return Coming(
        table=change.before,
        projected={},
        unique=_asked_keys(change),
        not_null=newly_not_null(change),
        conditions=tuple((c.name, check_expression(c)) for c in checks),
        foreign_keys=tuple(c for c in constraints if c.kind == "foreign_key"),
    )


def _is_kept_to(change: TableChange, constraint: Constraint) -> bool:
    """Whether the rows keep to what takes a dropped constraint's place: the dropped one asked as much of them."""
    old = predecessor(change, constraint)
    return old is not None and old.validated and not is_stricter(old.definition, constraint.definition)


def _asked_keys(change: TableChange) -> tuple[UniqueKey, ...]:
    keys = [index_behind(change, c) for c in added_constraints(change) if c.kind in ("unique", "primary_key")]
    keys += [index for index in added_indexes(change) if index.unique]
    there = {index.oid for index in change.before.indexes}
    return tuple(unique_key(index) for index in keys if index.oid not in there and not is_implied(change, index))


# ------------------------------------------------------------------------------------------------ columns


def _not_null(change: TableChange) -> Contribution:
    """One validated check over all the columns, which SET NOT NULL then relies on instead of a scan of its own."""
    names = newly_not_null(change)
    if not names:
        return Contribution()
    own = own_name("setnn", change.migration, *change.name)
    check = sql.Identifier(own)
    condition = sql.SQL(" AND ").join(sql.SQL("{} IS NOT NULL").format(sql.Identifier(name)) for name in names)
    listed = f"{change.name} ({', '.join(display(name) for name in names)})"
    added = short_step(
        change,
        f"contract/not-null/{change.name}",
        f"Refuse NULL in {listed} from here on, rows that are there not yet looked at",
        (change.alter("ADD CONSTRAINT {c} CHECK ({d}) NOT VALID", c=check, d=condition),),
        undo=(Transaction(statements=(change.alter("DROP CONSTRAINT IF EXISTS {c}", c=check),)),),
    )
    columns = [sql.Identifier(name) for name in names]
    made = short_step(
        change,
        f"contract/set-not-null/{change.name}",
        f"Make {listed} NOT NULL: the validated check spares the scan",
        (
            *(change.alter("ALTER COLUMN {c} SET NOT NULL", c=column) for column in columns),
            change.alter("DROP CONSTRAINT {c}", c=check),
        ),
        undo=(
            Transaction(
                statements=tuple(change.alter("ALTER COLUMN {c} DROP NOT NULL", c=column) for column in columns)
            ),
        ),
    )
    validated = validate_step(change, f"contract/validate-not-null/{change.name}", own)
    validated = validated.model_copy(update={"title": f"Look whether any row has NULL in {listed}"})
    return Contribution(
        enforce=(added, validated, made),
        demands=tuple(f"{change.name}.{display(name)} NOT NULL" for name in names),
    )


def _without_default(change: TableChange, name: str, default: str) -> Contribution:
    column = sql.Identifier(name)
    where = f"{change.name}.{display(name)}"
    step = short_step(
        change,
        f"contract/drop-default/{where}",
        f"Drop the default of {where}",
        (change.alter("ALTER COLUMN {c} DROP DEFAULT", c=column),),
        undo=(
            Transaction(statements=(change.alter("ALTER COLUMN {c} SET DEFAULT {d}", c=column, d=verbatim(default)),)),
        ),
    )
    return Contribution(enforce=(step,), demands=(f"{where} has no DEFAULT any more",))


# ------------------------------------------------------------------------------------------------ constraints


def _constraint(change: TableChange, constraint: Constraint) -> Contribution:
    match constraint.kind:
        case "check":
            return check(change, constraint)
        case "foreign_key":
            return foreign_key(change, constraint)
        case "unique" | "primary_key":
            return key(change, constraint)
        case "exclusion":
            raise Unsupported(
                f"the exclusion constraint {display(constraint.name)} of {change.name}: PostgreSQL builds its index "
                "only under a lock that blocks writes",
                instead="A UNIQUE constraint where equality is what is meant; else add it by itself in a quiet hour.",
            )
        case "not_null":
            raise Unsupported(
                f"the constraint {display(constraint.name)} of {change.name}, a NOT NULL that is not valid",
                instead="Write ALTER COLUMN … SET NOT NULL: Lockstep adds and validates a check for it.",
            )
        case "trigger":
            raise Unsupported(
                f"the constraint trigger {display(constraint.name)} of {change.name}",
                instead="Create it by itself, outside this migration.",
            )
        case _:
            assert_never(constraint.kind)


def check(change: TableChange, constraint: Constraint) -> Contribution:
    """Return a CHECK that the old version may break."""
    name = _free_name(change, "newck", constraint)
    step = short_step(
        change,
        f"contract/check/{change.name}.{name}",
        f"Refuse rows of {change.name} that break {display(constraint.name)} from here on",
        (_added(change, constraint, name), *constraint_comment(change, constraint, name)),
        undo=(_dropped(change, name),),
    )
    steps: tuple[Step, ...] = (step,)
    if constraint.validated:
        steps += (validate_step(change, f"contract/validate/{change.name}.{name}", name),)
    return Contribution(enforce=steps, demands=(_demand(change, constraint),)) + _renamed(change, name, constraint.name)


def foreign_key(change: TableChange, constraint: Constraint) -> Contribution:
    """Return a foreign key that the old version may break."""
    old = predecessor(change, constraint)
    if old is not None:
        return _exchanged(change, old, constraint)
    name = _free_name(change, "newfk", constraint)
    steps = _referring(change, constraint, name)
    notes = (*_index_note(change, constraint), *_acting_note(change, constraint))
    total = Contribution(enforce_references=steps, demands=(_demand(change, constraint),), notes=notes)
    return total + _renamed(change, name, constraint.name)


def _exchanged(change: TableChange, old: Constraint, constraint: Constraint) -> Contribution:
    """The same reference with other actions: one goes and the other comes in one moment.

    Never do both act. PostgreSQL fires them in the order of their triggers' names, which end in OIDs compared as text:
    whether CASCADE or SET NULL comes first is chance, and so whether the running version's DELETE fails, keeps rows or
    takes them along. The rows kept to the old one, so that the new one can be validated later.

    A DELETE that the old one refuses and the new one cascades has to work for the new version from the switch on; one
    that is to be refused, or to act in another way, may be only when the old version is gone.
    """
    parent = old.references or change.name
    drop = _dropped(change, constraint.name).statements
    back = restored(change, old)
    undo: tuple[Action, ...] = (Transaction(statements=(*drop, *back[0].statements)), *back[1:])
    swap = short_step(
        change,
        f"exchange/foreign-key/{change.name}.{constraint.name}",
        f"Let the new {display(constraint.name)} of {change.name} take the place of the old one",
        (
            *_dropped(change, old.name).statements,
            _added(change, constraint, constraint.name),
            *constraint_comment(change, constraint, constraint.name),
        ),
        undo=undo,
    )
    steps: tuple[Step, ...] = (_locking(swap, change.name, parent, "ACCESS EXCLUSIVE"),)
    if constraint.validated:
        steps += (_validating(change, "exchange", constraint.name, parent),)
    if _lets_in(old.definition, constraint.definition):
        return Contribution(opening_references=steps)
    return Contribution(enforce_references=steps, demands=(_demand(change, constraint),))


def _lets_in(old: str, new: str) -> bool:
    """Whether the new definition does something where the old one refused, and otherwise the same."""
    had, has = set(_ACTING.findall(old)), set(_ACTING.findall(new))
    return had < has and len({event for event, _ in has}) == len(has) and not is_stricter(old, new)


def is_stricter(old: str, new: str) -> bool:
    return "MATCH FULL" in new and "MATCH FULL" not in old


def _referring(change: TableChange, constraint: Constraint, name: str) -> tuple[Step, ...]:
    """Return the steps that add a foreign key and validate it; each holds its locks on both tables briefly."""
    parent = constraint.references or change.name
    added = short_step(
        change,
        f"contract/foreign-key/{change.name}.{name}",
        f"Add the foreign key {display(constraint.name)} of {change.name}, rows that are there not yet looked at",
        (_added(change, constraint, name), *constraint_comment(change, constraint, name)),
        undo=(_dropped(change, name),),
    )
    steps: tuple[Step, ...] = (_locking(added, change.name, parent, "SHARE ROW EXCLUSIVE"),)
    if constraint.validated:
        steps += (_validating(change, "contract", name, parent),)
    return steps


def _validating(change: TableChange, phase: str, name: str, parent: TableName) -> Step:
    step = validate_step(change, f"{phase}/validate/{change.name}.{name}", name)
    return step.model_copy(update={"locks": (*step.locks, LockUse(table=parent, mode="ROW SHARE"))})


def key(change: TableChange, constraint: Constraint) -> Contribution:
    """A unique index built concurrently, then made the constraint; one that is there already is taken over."""
    index = index_behind(change, constraint)
    adopted, old = adopted_index(change, constraint), predecessor(change, constraint)
    fills = set(newly_not_null(change)) & set(constraint.columns)
    taken = adopted is None and constraint.name in change.taken_names
    known = adopted is not None or is_implied(change, index)
    phase = "constrain" if known and not fills and old is None and not taken else "contract"
    name = adopted.name if adopted else change.temporary_name("newkey", constraint.name)
    title = f"Build the unique index of {display(constraint.name)} on {change.name} without blocking writes"
    attached = short_step(
        change,
        f"{phase}/attach/{change.name}.{constraint.name}",
        f"Make the index the constraint {display(constraint.name)} of {change.name}",
        (
            *([change.alter("DROP CONSTRAINT {c}", c=sql.Identifier(old.name))] if old else []),
            attach(change, constraint, name, constraint.name),
            *constraint_comment(change, constraint, constraint.name),
            *(index_comment(change, index, constraint.name) if adopted is None else ()),
        ),
        undo=_detached(change, constraint, old),
    )
    steps = (attached,) if adopted else (build_step(change, phase, index, name, title), attached)
    if phase == "constrain":
        return Contribution(constrain=steps)
    return Contribution(enforce=steps, demands=(_demand(change, constraint),), notes=upsert_note(change, index))


def _detached(change: TableChange, constraint: Constraint, old: Constraint | None) -> tuple[Action, ...]:
    """Take a key back; what stood in its place before is built first, so that no moment is without."""
    drop = change.alter("DROP CONSTRAINT {c}", c=sql.Identifier(constraint.name))
    if old is not None:
        return key_restored(change, old, drop)
    adopted = adopted_index(change, constraint)
    if adopted is None:
        return (Transaction(statements=(drop,)),)
    spare = own_name("oldix", change.migration, *change.name, adopted.name)
    rename = sql.SQL("ALTER INDEX {} RENAME TO {}").format(
        sql.Identifier(change.name.schema, spare), sql.Identifier(adopted.name)
    )
    back = (drop, rename.as_string(), *index_comment(change, adopted, adopted.name))
    return build_action(change, adopted, spare), Transaction(statements=back)


def key_restored(change: TableChange, old: Constraint, *before: str) -> tuple[Action, ...]:
    """Return the actions that bring a dropped key back; ``before`` joins the transaction that makes it a constraint."""
    index = index_behind_before(change, old)
    spare = own_name("oldkey", change.migration, *change.name, old.name)
    statements = (
        *before,
        attach(change, old, spare, old.name),
        *constraint_comment(change, old, old.name),
        *index_comment(change, index, old.name),
    )
    return build_action(change, index, spare), Transaction(statements=statements)


# ------------------------------------------------------------------------------------------------ pieces


def _free_name(change: TableChange, kind: str, constraint: Constraint) -> str:
    """Return the constraint's name, or one of Lockstep's own where the name is free only once the old shape is gone."""
    gone = {c.name for c in dropped_constraints(change)}
    if constraint.name in {c.name for c in change.before.constraints} - gone:
        return own_name(kind, change.migration, *change.name, constraint.name)
    return constraint.name


def _renamed(change: TableChange, name: str, final: str) -> Contribution:
    if name == final:
        return Contribution()
    way = "RENAME CONSTRAINT {a} TO {b}"
    return Contribution(
        contract_rename=(change.alter(way, a=sql.Identifier(name), b=sql.Identifier(final)),),
        contract_undo=(change.alter(way, a=sql.Identifier(final), b=sql.Identifier(name)),),
    )


def _added(change: TableChange, constraint: Constraint, name: str) -> str:
    weak = re.search(r" NOT (VALID|ENFORCED)$", constraint.definition)
    definition = constraint.definition if weak else f"{constraint.definition} NOT VALID"
    return change.alter("ADD CONSTRAINT {c} {d}", c=sql.Identifier(name), d=verbatim(definition))


def restored(change: TableChange, constraint: Constraint) -> tuple[Transaction, ...]:
    """Return the actions that bring a dropped CHECK or foreign key back as it was."""
    add = (_added(change, constraint, constraint.name), *constraint_comment(change, constraint, constraint.name))
    if not constraint.validated:
        return (Transaction(statements=add),)
    validate = change.alter("VALIDATE CONSTRAINT {c}", c=sql.Identifier(constraint.name))
    return Transaction(statements=add), long_transaction(validate)


def _dropped(change: TableChange, name: str) -> Transaction:
    return Transaction(statements=(change.alter("DROP CONSTRAINT {c}", c=sql.Identifier(name)),))


def _locking(step: Step, table: TableName, other: TableName, mode: LockMode) -> Step:
    tables = dict.fromkeys((table, other))
    return step.model_copy(update={"locks": tuple(LockUse(table=name, mode=mode) for name in tables)})


def _demand(change: TableChange, constraint: Constraint) -> str:
    return f"{display(constraint.name)} {constraint.definition} on {change.name}"


def upsert_note(change: TableChange, index: Index) -> tuple[Note, ...]:
    """ON CONFLICT needs the unique index to be there; the new version may come before it is."""
    if is_implied(change, index):
        return ()
    terms, _ = key_list(index.definition)
    return (
        Note(
            severity="WARNING",
            text=f"{change.name}: {display(index.name)} comes in contract, so until then INSERT … ON CONFLICT "
            f"({', '.join(terms)}) fails (42P10): the new version must not send it before contract is done.",
        ),
    )


def _acting_note(change: TableChange, constraint: Constraint) -> tuple[Note, ...]:
    if not _ACTING.search(constraint.definition):
        return ()
    return (
        Note(
            severity="WARNING",
            text=f"{change.name}: {display(constraint.name)} comes in contract, and its actions with it: until then "
            f"the application itself has to see to the rows that refer to a {constraint.references} that goes.",
        ),
    )


_ACTING = re.compile(r"ON (DELETE|UPDATE) (CASCADE|SET (?:NULL|DEFAULT)(?: \([^)]*\))?)")
"""What a foreign key does by itself, and on what."""


def _index_note(change: TableChange, constraint: Constraint) -> tuple[Note, ...]:
    """PostgreSQL makes no index for a foreign key: without one every DELETE of a parent scans the whole table."""
    width = len(constraint.columns)
    if any(set(index.columns[:width]) == set(constraint.columns) for index in change.after.indexes):
        return ()
    listed = ", ".join(display(column) for column in constraint.columns)
    return (
        Note(
            severity="WARNING",
            text=f"No index of {change.name} begins with {listed}: each DELETE on {constraint.references}, and each "
            f"UPDATE of its key, will scan the whole table for {display(constraint.name)}.",
        ),
    )
