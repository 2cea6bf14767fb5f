"""Indexes: built concurrently, after the backfill; dropped concurrently, after contract.

A unique one that the old version could violate is a demand and built in contract; a unique one that goes is dropped
when the new version may come, which may write what it refused.
"""

from __future__ import annotations

import re

from psycopg import sql

from tasks.planning.catalog import Index
from tasks.planning.checks.index_terms import key_list
from tasks.planning.errors import Unsupported
from tasks.planning.names import display
from tasks.planning.plan import Analyze, DropIndex, Forecast, Irreversible, LockUse, Note, Step, Transaction
from tasks.planning.strategies.expand_contract import injective
from tasks.planning.strategies.expand_contract.building import build_action, build_step, index_comment
from tasks.planning.strategies.expand_contract.contribution import (
    LONG_STATEMENT_TIMEOUT_MS,
    PATIENT_LOCK_TIMEOUT_MS,
    Contribution,
    TableChange,
    short_step,
)
from tasks.planning.strategies.expand_contract.demands import upsert_note
from tasks.planning.strategies.expand_contract.kept import (
    dropped_indexes,
    is_implied,
    is_replica_identity,
    stays_unique,
)


def contribute(change: TableChange) -> Contribution:
    total = Contribution()
    for index in dropped_indexes(change):
        total += _dropped(change, index)
    for index in change.coming_indexes:
        total += _build(change, index)
    return total


def _build(change: TableChange, index: Index) -> Contribution:
    if index.unique:
        injective.require(change, index.name, index.columns, "up")
        injective.require_twin(change, index)
    is_demand = index.unique and change.is_over_kept(index.columns) and not is_implied(change, index)
    phase = "contract" if is_demand else "constrain"
    name = change.temporary_name("ix", index.name)
    title = f"Build {display(index.name)} on {change.name} without blocking writes"
    steps = [build_step(change, phase, index, name, title)]
    if comment := index_comment(change, index, name):
        about = f"Comment on {display(index.name)}"
        steps.append(short_step(change, f"{phase}/comment/{name}", about, comment, mode="SHARE UPDATE EXCLUSIVE"))
    if _has_expression(index):
        steps.append(_analyze(change, phase, index.name))
    total = Contribution(constrain=tuple(steps), notes=_raising_note(change, index))
    if is_demand:
        demand = f"no two rows of {change.name} alike in {_unique(index)}"
        total = Contribution(enforce=tuple(steps), demands=(demand,), notes=upsert_note(change, index))
    stays = name == index.name or change.moves(index.columns)
    return total if stays else total + _renamed(change, name, index.name)


def _renamed(change: TableChange, name: str, final: str) -> Contribution:
    """Give the index its name: where another index has it until its drop, after that one."""
    there = _rename(change, name, final)
    back = _rename(change, final, name)
    if not any(index.name == final for index in dropped_indexes(change)):
        return Contribution(contract_rename=(there,), contract_undo=(back,))
    step = short_step(
        change,
        f"contract/rename/{name}",
        f"Call the new index {display(final)}",
        (there,),
        undo=(Transaction(statements=(back,)),),
        mode="SHARE UPDATE EXCLUSIVE",
    )
    return Contribution(contract_after=(step,))


def _rename(change: TableChange, current: str, final: str) -> str:
    index = sql.Identifier(change.name.schema, current)
    return sql.SQL("ALTER INDEX {} RENAME TO {}").format(index, sql.Identifier(final)).as_string()


def _unique(index: Index) -> str:
    terms, rest = key_list(index.definition)
    return f"{', '.join(terms)}{rest if ' WHERE ' in rest else ''} ({display(index.name)})"


def _has_expression(index: Index) -> bool:
    return bool(_expressions(index))


def _expressions(index: Index) -> list[str]:
    terms, _ = key_list(index.definition)
    return [term for term in terms if "(" in term]


def _raising_note(change: TableChange, index: Index) -> tuple[Note, ...]:
    """An index computes its expression for every write, and what the expression raises is the writer's error."""
    doubtful = [term for term in _expressions(index) if not _PLAIN_CALL.fullmatch(term)]
    if not doubtful or not change.is_over_kept(index.columns):
        return ()
    return (
        Note(
            severity="WARNING",
            text=f"{change.name}: {display(index.name)} computes {', '.join(doubtful)} for every row that is written "
            "from the beginning of its build on. A statement of a running version fails if that raises for its values.",
        ),
    )


_PLAIN_CALL = re.compile(r'(?:lower|upper|btrim|ltrim|rtrim|length|md5)\((?:\w+|"[^"]+"|\((?:\w+|"[^"]+")\)::text)\)')
"""Calls that raise for no value, over a column as it stands."""


def _analyze(change: TableChange, phase: str, name: str) -> Step:
    """The planner knows nothing of an expression before the table is analysed with the index on it."""
    return Step(
        id=f"{phase}/analyze/{name}",
        title=f"Gather statistics on the expressions of {display(name)}",
        action=Analyze(table=change.name),
        locks=(LockUse(table=change.name, mode="SHARE UPDATE EXCLUSIVE"),),
        lock_timeout_ms=PATIENT_LOCK_TIMEOUT_MS,
        statement_timeout_ms=LONG_STATEMENT_TIMEOUT_MS,
    )


def _dropped(change: TableChange, index: Index) -> Contribution:
    if is_replica_identity(change, index.name):
        raise Unsupported(
            f"dropping {display(index.name)}, the replica identity of {change.name}",
            instead="Give the table another replica identity first (ALTER TABLE … REPLICA IDENTITY …).",
        )
    if not index.unique or not index.valid or stays_unique(change, index):
        return Contribution(contract_after=(_drop(change, "contract", index),))
    note = Note(
        severity="WARNING",
        text=f"{change.name}: from the moment {display(index.name)} is gone, INSERT … ON CONFLICT that relies on it "
        "fails (42P10). If a running version has such a statement, deploy one without it first.",
    )
    return Contribution(opening=(_drop(change, "open", index),), notes=(note,))


def _drop(change: TableChange, phase: str, index: Index) -> Step:
    restored = [build_action(change, index, index.name)]
    comment = index_comment(change, index, index.name)
    return Step(
        id=f"{phase}/drop-index/{index.name}",
        title=f"Drop {index.name} of {change.name} without blocking writes",
        action=DropIndex(table=change.name, index=index.name),
        locks=(LockUse(table=change.name, mode="SHARE UPDATE EXCLUSIVE"),),
        lock_timeout_ms=LONG_STATEMENT_TIMEOUT_MS,
        statement_timeout_ms=LONG_STATEMENT_TIMEOUT_MS,
        undo=(*restored, *([Transaction(statements=comment)] if comment else []))
        if index.valid
        else Irreversible(reason="The index was invalid, so no query had used it: create it anew if it is wanted."),
        forecast=Forecast(best=0.05, worst=1.0),
    )
