"""Constraints and indexes that stay and become something else: renamed, validated, deferrable, with other options.

None of it can fail a statement, so it is done in constrain; but for names that an ON CONFLICT ON CONSTRAINT may spell
out, and names that become free only in contract.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from psycopg import sql

from tasks.planning.catalog import Constraint, Index
from tasks.planning.change import ConstraintChanged, IndexChanged
from tasks.planning.errors import Unsupported
from tasks.planning.names import display, own_name, verbatim
from tasks.planning.plan import LockMode, Note, Step, Transaction
from tasks.planning.strategies.expand_contract.building import constraint_comment, index_comment
from tasks.planning.strategies.expand_contract.contribution import (
    Contribution,
    TableChange,
    short_step,
    validate_step,
)
from tasks.planning.strategies.expand_contract.kept import KEYS, altered_constraints, altered_indexes


def contribute(change: TableChange) -> Contribution:
    total = Contribution()
    late: list[_Rename] = []
    for constraint in altered_constraints(change):
        total += _constraint(change, constraint)
        if constraint.renamed:
            rename = _Rename(change, constraint.before.name, constraint.after.name, is_constraint=True)
            if constraint.before.kind in KEYS:
                total += Contribution(notes=(_by_name(change, constraint),))
            if constraint.before.kind in KEYS or constraint.after.name in change.taken_names:
                late.append(rename)
            else:
                total += Contribution(constrain=(_step(change, "constrain", [rename]),))
    for index in altered_indexes(change):
        total += _index(change, index)
        if index.renamed and index.after.constraint is None:
            rename = _Rename(change, index.before.name, index.after.name, is_constraint=False)
            if index.after.name in change.taken_names:
                late.append(rename)
            else:
                total += Contribution(constrain=(_step(change, "constrain", [rename]),))
    if late:
        total += Contribution(contract_after=(_step(change, "contract", late),))
    return total


# ------------------------------------------------------------------------------------------------ names


@dataclass(frozen=True)
class _Rename:
    change: TableChange
    before: str
    after: str
    is_constraint: bool

    def statement(self, current: str, final: str) -> str:
        names = {"a": sql.Identifier(current), "b": sql.Identifier(final)}
        if self.is_constraint:
            return self.change.alter("RENAME CONSTRAINT {a} TO {b}", **names)
        index = sql.Identifier(self.change.name.schema, current)
        return sql.SQL("ALTER INDEX {} RENAME TO {}").format(index, names["b"]).as_string()

    @property
    def between(self) -> str:
        return own_name("name", self.change.migration, *self.change.name, self.before)


def _step(change: TableChange, phase: str, renames: list[_Rename]) -> Step:
    """Return the renames in one transaction, through names of Lockstep's own where they pass names to each other."""
    before, after = {r.before for r in renames}, {r.after for r in renames}
    listed = ", ".join(f"{display(r.before)} to {display(r.after)}" for r in renames)
    mode: LockMode = "ACCESS EXCLUSIVE" if any(r.is_constraint for r in renames) else "SHARE UPDATE EXCLUSIVE"
    if before & after:
        act = [r.statement(r.before, r.between) for r in renames] + [r.statement(r.between, r.after) for r in renames]
        back = [r.statement(r.after, r.between) for r in renames] + [r.statement(r.between, r.before) for r in renames]
    else:
        act = [r.statement(r.before, r.after) for r in renames]
        back = [r.statement(r.after, r.before) for r in renames]
    return short_step(
        change,
        f"{phase}/rename/{change.name}.{renames[0].before}",
        f"Rename {listed} of {change.name}",
        tuple(act),
        undo=(Transaction(statements=tuple(back)),),
        mode=mode,
    )


def _by_name(change: TableChange, item: ConstraintChanged) -> Note:
    return Note(
        severity="WARNING",
        text=f"{change.name}: {display(item.before.name)} is called {display(item.after.name)} only from the end of "
        "contract on: until then a statement with ON CONFLICT ON CONSTRAINT has to use the old name. ON CONFLICT with "
        "the columns is right all the time.",
    )


# ------------------------------------------------------------------------------------------------ properties


def _constraint(change: TableChange, item: ConstraintChanged) -> Contribution:
    before, after = item.before, item.after
    total = Contribution()
    if before.comment != after.comment:
        total += _commented(change, before, after)
    if item.became_valid:
        total += Contribution(constrain=(_validated(change, before),))
    if _bare(before.definition) != _bare(after.definition) or before.kind != after.kind:
        raise Unsupported(
            item.describe(),
            instead="Drop the constraint and add it again in the new form, in this change: Lockstep builds the new one "
            "before.",
        )
    if _deferring(before.definition) != _deferring(after.definition):
        total += _deferrable(change, before, after)
    return total


def _bare(definition: str) -> str:
    return re.sub(r"( NOT VALID| (NOT )?DEFERRABLE| INITIALLY (DEFERRED|IMMEDIATE))+$", "", definition)


def _deferring(definition: str) -> str:
    """Return what ALTER CONSTRAINT needs to be told: the deferring clauses in full."""
    if " DEFERRABLE" not in definition or " NOT DEFERRABLE" in definition:
        return "NOT DEFERRABLE"
    return f"DEFERRABLE INITIALLY {'DEFERRED' if ' INITIALLY DEFERRED' in definition else 'IMMEDIATE'}"


def _validated(change: TableChange, constraint: Constraint) -> Step:
    """VALIDATE asks no more of new rows than they keep to already; undone by making the constraint anew."""
    name = sql.Identifier(constraint.name)
    again = (
        change.alter("DROP CONSTRAINT {c}", c=name),
        change.alter("ADD CONSTRAINT {c} {d}", c=name, d=verbatim(constraint.definition)),
        *constraint_comment(change, constraint, constraint.name),
    )
    step = validate_step(change, f"constrain/validate/{change.name}.{constraint.name}", constraint.name)
    return step.model_copy(update={"undo": (Transaction(statements=again),)})


def _deferrable(change: TableChange, before: Constraint, after: Constraint) -> Contribution:
    if before.kind != "foreign_key":
        raise Unsupported(
            f"making {display(before.name)} of {change.name} {_deferring(after.definition)}",
            instead="Drop the constraint and add it again in the new form, in this change: Lockstep builds the new one "
            "before.",
        )
    name = sql.Identifier(before.name)
    alter = "ALTER CONSTRAINT {c} {d}"
    step = short_step(
        change,
        f"open/deferrable/{change.name}.{before.name}",
        f"Make {display(before.name)} of {change.name} {_deferring(after.definition)}",
        (change.alter(alter, c=name, d=verbatim(_deferring(after.definition))),),
        undo=(Transaction(statements=(change.alter(alter, c=name, d=verbatim(_deferring(before.definition))),)),),
    )
    return Contribution(opening=(step,))


def _commented(change: TableChange, before: Constraint, after: Constraint) -> Contribution:
    def written(constraint: Constraint) -> tuple[str, ...]:
        spoken = constraint.model_copy(update={"comment": constraint.comment or ""})
        return constraint_comment(change, spoken, before.name)

    step = short_step(
        change,
        f"constrain/comment/{change.name}.{before.name}",
        f"Comment on {display(before.name)} of {change.name}",
        written(after),
        undo=(Transaction(statements=written(before)),),
        mode="SHARE UPDATE EXCLUSIVE",
    )
    return Contribution(constrain=(step,))


def _index_commented(change: TableChange, item: IndexChanged) -> Contribution:
    before, after = item.before, item.after
    if before.comment == after.comment:
        return Contribution()
    spoken = [index.model_copy(update={"comment": index.comment or ""}) for index in (before, after)]
    step = short_step(
        change,
        f"constrain/comment/{before.name}",
        f"Comment on {display(before.name)}",
        index_comment(change, spoken[1], before.name),
        undo=(Transaction(statements=index_comment(change, spoken[0], before.name)),),
        mode="SHARE UPDATE EXCLUSIVE",
    )
    return Contribution(constrain=(step,))


def _index(change: TableChange, item: IndexChanged) -> Contribution:
    before, after = item.before, item.after
    total = _index_commented(change, item)
    if after.constraint is not None:
        # Everything else of a constraint's index follows the constraint.
        return total
    old, new = _options(before), _options(after)
    if _without_options(before) != _without_options(after):
        raise Unsupported(
            item.describe(),
            instead="Drop the index and create it again in the new form, in this change: Lockstep builds the new one "
            "before.",
        )
    if old != new:
        step = short_step(
            change,
            f"constrain/options/{before.name}",
            f"Set the storage options of {display(before.name)}",
            _set_options(change, before.name, old, new),
            undo=(Transaction(statements=_set_options(change, before.name, new, old)),),
            mode="SHARE UPDATE EXCLUSIVE",
        )
        total += Contribution(constrain=(step,))
    return total


_WITH = re.compile(r" WITH \(([^)]*)\)")


def _options(index: Index) -> dict[str, str]:
    found = _WITH.search(index.definition)
    pairs = (item.strip().partition("=") for item in found.group(1).split(",")) if found else ()
    return {name: value for name, _, value in pairs}


def _without_options(index: Index) -> str:
    text = _WITH.sub("", index.definition, count=1)
    return re.sub(r'INDEX (?:"(?:[^"]|"")*"|\S+) ON ', "INDEX ON ", text, count=1)


def _set_options(change: TableChange, name: str, old: dict[str, str], new: dict[str, str]) -> tuple[str, ...]:
    index = sql.Identifier(change.name.schema, name)
    changed = [f"{option}={value}" for option, value in new.items() if old.get(option) != value]
    gone = [option for option in old if option not in new]
    found = []
    if changed:
        found.append(sql.SQL("ALTER INDEX {} SET ({})").format(index, verbatim(", ".join(changed))).as_string())
    if gone:
        found.append(sql.SQL("ALTER INDEX {} RESET ({})").format(index, verbatim(", ".join(gone))).as_string())
    return tuple(found)
