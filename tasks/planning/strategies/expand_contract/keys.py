"""Keys over columns that keep their name in a new column: built before the switch, in force on both columns until it.

The primary key's index is built on the new column beside the old key, and the foreign keys stand twice: between the
old columns and between the new ones. Both are enforced, and whichever of them acts on a row (CASCADE, SET NULL), the
sync brings the other column along.

At the switch the old foreign key goes first (`let_go`), because the old primary key cannot go before it; the tables
swap (`swap`), those that refer before those that are referred to, so that no column is ever too narrow for what it
refers to; last the new foreign keys take their names (`take_over`). On the way back a table whose primary key moved
first exchanges the foreign keys to it again (`Inbound`).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from psycopg import sql

from tasks.planning.catalog import Constraint, Index, Table
from tasks.planning.errors import Unsupported
from tasks.planning.names import TableName, display, verbatim
from tasks.planning.plan import Action, BuildIndex, DropIndex, LockUse, Step, Transaction
from tasks.planning.strategies.expand_contract import moved
from tasks.planning.strategies.expand_contract.building import concurrently
from tasks.planning.strategies.expand_contract.contribution import (
    LONG_STATEMENT_TIMEOUT_MS,
    Contribution,
    TableChange,
    short_step,
    validate_step,
)


def contribute(change: TableChange) -> Contribution:
    if not change.moved:
        return Contribution()
    moved.require_keys(change)
    steps: list[Step] = []
    for name in sorted(change.moved_new):
        column = change.after.column(name)
        if column is not None and column.not_null and moved.is_strict_early(change, name):
            steps += _not_null(change, name)
    key = change.after.primary_key
    if key is not None and change.has_moved_key:
        steps.append(_build_key(change, key))
    later: list[Step] = []
    for constraint in foreign_keys(change):
        later += _twin(change, constraint)
    return Contribution(
        constrain=tuple(steps),
        constrain_after=tuple(later),
        validated=tuple(twin_name(change, c) for c in foreign_keys(change) if c.validated),
    )


# ------------------------------------------------------------------------------------------------ one table


def key_index(change: TableChange) -> str:
    """Return the name of the index on the new columns that becomes the primary key's at the switch."""
    return change.own_name("pk", "")


def _build_key(change: TableChange, key: Constraint) -> Step:
    name = key_index(change)
    return Step(
        id=f"constrain/index/{name}",
        title=f"Build the index of the primary key {key.name} on the new columns of {change.name} without blocking "
        "writes",
        action=build_key(change),
        locks=(LockUse(table=change.name, mode="SHARE UPDATE EXCLUSIVE"),),
        lock_timeout_ms=LONG_STATEMENT_TIMEOUT_MS,
        statement_timeout_ms=LONG_STATEMENT_TIMEOUT_MS,
        undo=(DropIndex(table=change.name, index=name),),
        forecast=change.every_row("build"),
    )


def build_key(change: TableChange) -> BuildIndex:
    """Return the build of the new primary key's index."""
    key = change.after.primary_key
    index = index_of(change.after, key.name if key is not None else "")
    return BuildIndex(
        table=change.name, index=key_index(change), statement=concurrently(index.definition, key_index(change))
    )


def index_of(table: Table, constraint: str) -> Index:
    """Return the index behind a constraint."""
    found = next((index for index in table.indexes if index.constraint == constraint), None)
    if found is None:
        raise Unsupported(
            f"the constraint {display(constraint)} of {table.name}",
            instead="Report it: its index is not in the catalog.",
        )
    return found


def _not_null(change: TableChange, column: str) -> Iterator[Step]:
    """NOT NULL of a new column that no write leaves empty: before the switch, as a primary key demands it."""
    name, check = sql.Identifier(column), change.own_name("nnkey", column)
    drop = change.alter("DROP CONSTRAINT {c}", c=sql.Identifier(check))
    where = f"{change.name}.{display(column)}"
    yield short_step(
        change,
        f"constrain/not-null/{check}",
        f"Add the check that {where} is never NULL, not yet validated",
        (change.alter("ADD CONSTRAINT {c} CHECK ({n} IS NOT NULL) NOT VALID", c=sql.Identifier(check), n=name),),
        undo=(Transaction(statements=(drop,)),),
    )
    yield validate_step(change, f"constrain/validate/{check}", check)
    yield short_step(
        change,
        f"constrain/set-not-null/{check}",
        f"Make {where} NOT NULL: the check proves it",
        (change.alter("ALTER COLUMN {n} SET NOT NULL", n=name), drop),
        undo=(
            Transaction(
                statements=(
                    change.alter("ALTER COLUMN {n} DROP NOT NULL", n=name),
                    change.alter(
                        "ADD CONSTRAINT {c} CHECK ({n} IS NOT NULL) NOT VALID", c=sql.Identifier(check), n=name
                    ),
                )
            ),
        ),
    )


# -------------------------------------------------------------------------------------------- foreign keys


def foreign_keys(change: TableChange) -> tuple[Constraint, ...]:
    """Return the foreign keys of the new shape over moved columns."""
    return tuple(c for c in change.after.constraints if c.kind == "foreign_key" and moved.is_own(change, c))


def twin_name(change: TableChange, constraint: Constraint) -> str:
    """Return what the foreign key between the new columns is called until the switch."""
    return change.own_name("fk", constraint.name)


def final_names(change: TableChange) -> Mapping[str, str]:
    """Return the names that the foreign keys between new columns take at the switch, by their former ones."""
    return {twin_name(change, constraint): constraint.name for constraint in foreign_keys(change)}


def _twin(change: TableChange, constraint: Constraint) -> Iterator[Step]:
    if not change.is_carried(constraint):
        raise Unsupported(
            f"adding the foreign key {constraint.name} of {change.name} over a column that changes its type",
            instead="Add it in a migration of its own, before or after this one.",
        )
    if "SET DEFAULT" in constraint.definition:
        raise Unsupported(
            f"the foreign key {constraint.name} of {change.name} (SET DEFAULT) over a column that changes its type: "
            "until the switch the new column has no default that it could set",
            instead="Use SET NULL or NO ACTION for the time of the migration.",
        )
    name = twin_name(change, constraint)
    step = short_step(
        change,
        f"constrain/foreign-key/{name}",
        f"Add the foreign key {constraint.name} of {change.name} between the new columns, not yet validated",
        (_added(change, name, constraint),),
        undo=(Transaction(statements=(change.alter("DROP CONSTRAINT {c}", c=sql.Identifier(name)),)),),
    )
    yield step.model_copy(update={"locks": _both(change, constraint, "SHARE ROW EXCLUSIVE")})
    if constraint.validated:
        yield validate_step(change, f"constrain/validate/{change.name}.{name}", name)


def _added(change: TableChange, name: str, constraint: Constraint) -> str:
    definition = verbatim(re.sub(r" NOT VALID$", "", constraint.definition))
    return change.alter("ADD CONSTRAINT {c} {d} NOT VALID", c=sql.Identifier(name), d=definition)


def _commented(change: TableChange, name: str, constraint: Constraint) -> tuple[str, ...]:
    if constraint.comment is None:
        return ()
    comment = sql.SQL("COMMENT ON CONSTRAINT {} ON {} IS {}").format(
        sql.Identifier(name), change.name.identifier, sql.Literal(constraint.comment)
    )
    return (comment.as_string(),)


def _both(change: TableChange, constraint: Constraint, mode: str) -> tuple[LockUse, ...]:
    parent = constraint.references or change.name
    names = (change.name,) if parent == change.name else (change.name, parent)
    return tuple(LockUse.model_validate({"table": name, "mode": mode}) for name in names)


def let_go(expanded: TableChange, parents: Collection[TableName]) -> Iterator[Step]:
    """Drop the foreign keys between the old columns; those between the new ones are in force.

    ``parents`` are the tables whose swap back takes the new ones along.
    """
    for new in foreign_keys(expanded):
        old = _old_of(expanded, new)
        name, twin = sql.Identifier(old.name), twin_name(expanded, new)
        undo: list[Action] = []
        again_too = ((twin, new),) if new.references in parents else ()
        for subject, constraint in ((old.name, old), *again_too):
            again = expanded.alter("DROP CONSTRAINT IF EXISTS {c}", c=sql.Identifier(subject))
            comment = _commented(expanded, subject, constraint)
            undo.append(Transaction(statements=(again, _added(expanded, subject, constraint), *comment)))
            if constraint.validated:
                validate = expanded.alter("VALIDATE CONSTRAINT {c}", c=sql.Identifier(subject))
                undo.append(Transaction(statements=(validate,), statement_timeout_ms=LONG_STATEMENT_TIMEOUT_MS))
        step = short_step(
            expanded,
            f"switch/let-go/{expanded.name}.{old.name}",
            f"Drop the foreign key {old.name} of {expanded.name} between the old columns; its twin stays in force",
            (expanded.alter("DROP CONSTRAINT {c}", c=name),),
            undo=tuple(undo),
        )
        yield step.model_copy(update={"locks": _both(expanded, old, "ACCESS EXCLUSIVE")})


def take_over(switched: TableChange) -> Iterator[Step]:
    """Give the foreign keys between the new columns their names."""
    for new in foreign_keys(switched):
        twin, final = sql.Identifier(twin_name(switched, new)), sql.Identifier(new.name)
        yield short_step(
            switched,
            f"switch/take-over/{switched.name}.{new.name}",
            f"Give the foreign key {new.name} of {switched.name} its name",
            (
                switched.alter("RENAME CONSTRAINT {a} TO {b}", a=twin, b=final),
                *_commented(switched, new.name, new),
            ),
            undo=(Transaction(statements=(switched.alter("RENAME CONSTRAINT {a} TO {b}", a=final, b=twin),)),),
        )


@dataclass(frozen=True)
class Inbound:
    """A foreign key to a table whose primary key moves: ``child`` in the stage in which it is when that one swaps back.

    A primary key cannot go while a foreign key needs it. So on the way back, before the swap, the foreign key between
    the old columns comes, and that between the new ones goes.
    """

    child: TableChange
    constraint: Constraint
    """Between the old columns, as ``child`` calls them."""

    def exchanged(self, parent: TableChange) -> Transaction:
        """Return the exchange; ``parent`` is as from the switch on. It may be carried out again."""
        old, child = self.constraint, self.child
        theirs = _old_of(parent, old) if parent.name == child.name else None
        columns = theirs.referenced_columns if theirs is not None else self._called(parent)
        definition = _referring_to(old, columns)
        name, twin = sql.Identifier(old.name), sql.Identifier(twin_name(child, old))
        return Transaction(
            statements=(
                child.alter("DROP CONSTRAINT IF EXISTS {c}", c=name),
                child.alter("ADD CONSTRAINT {c} {d} NOT VALID", c=name, d=verbatim(definition)),
                *_commented(child, old.name, old),
                child.alter("DROP CONSTRAINT IF EXISTS {c}", c=twin),
            )
        )

    def _called(self, parent: TableChange) -> tuple[str, ...]:
        hidden = {column.name: column.hidden for column in parent.moved}
        return tuple(hidden.get(name, name) for name in self.constraint.referenced_columns)


def inbound(parent: TableChange, children: Iterable[TableChange]) -> tuple[Inbound, ...]:
    """Return the foreign keys that need the parent's primary key; ``children`` each in its stage at that time."""
    key = parent.before.primary_key
    if key is None or not parent.has_moved_key:
        return ()
    final = {column.hidden: column.name for column in parent.moved}
    wanted = {final.get(name, name) for name in key.columns}
    found = []
    for child in children:
        for new in foreign_keys(child):
            old = _old_of(child, new)
            if old.references == parent.name and {final.get(name, name) for name in old.referenced_columns} == wanted:
                found.append(Inbound(child, old))
    return tuple(found)


_LIST = r'(?:"(?:[^"]|"")*"|[^()"])*'
_REFERENCES = re.compile(rf"(FOREIGN KEY \({_LIST}\) REFERENCES {_LIST}\(){_LIST}(\).*)", re.DOTALL)


def _referring_to(constraint: Constraint, columns: Sequence[str]) -> str:
    """Return the definition of a foreign key, referring to columns of other names."""
    match = _REFERENCES.fullmatch(re.sub(r" NOT VALID$", "", constraint.definition))
    if match is None:
        raise Unsupported(f"the foreign key {constraint.name}", instead="Report it: Lockstep could not read it.")
    return match[1] + ", ".join(sql.Identifier(name).as_string() for name in columns) + match[2]


def _old_of(change: TableChange, new: Constraint) -> Constraint:
    return next(constraint for constraint in change.before.constraints if constraint.oid == new.oid)


def old_indexes(switched: TableChange) -> Mapping[str, BuildIndex]:
    """Return the builds of the old unique indexes on the hidden columns, for the way back, by the key's own name."""
    found: dict[str, BuildIndex] = {}
    for index in switched.before.indexes:
        if index.unique and set(index.columns) & switched.moved_old:
            name = switched.own_name("olduq", index.name)
            build = BuildIndex(table=switched.name, index=name, statement=concurrently(index.definition, name))
            found[index.constraint or index.name] = build
    return found
