"""REINDEX: every index by itself and concurrently, in constrain. No catalog shows it, so the ledger says it is done."""

from __future__ import annotations

from tasks.planning.errors import Unsupported
from tasks.planning.names import display
from tasks.planning.plan import LockUse, Reindex, Step
from tasks.planning.strategies.expand_contract.contribution import (
    LONG_STATEMENT_TIMEOUT_MS,
    Contribution,
    TableChange,
)
from tasks.planning.strategies.expand_contract.kept import (
    KEYS,
    dropped_constraints,
    dropped_indexes,
    index_behind_before,
)


def contribute(change: TableChange) -> Contribution:
    dropped = {index.name for index in dropped_indexes(change)}
    dropped |= {index_behind_before(change, c).name for c in dropped_constraints(change) if c.kind in KEYS}
    return Contribution(constrain=tuple(_step(change, name) for name in change.reindexed if name not in dropped))


def _step(change: TableChange, name: str) -> Step:
    constraint = next((c for c in change.before.constraints if c.index == name and c.kind == "exclusion"), None)
    if constraint is not None:
        raise Unsupported(
            f"REINDEX of {display(name)}, the index of an exclusion constraint: PostgreSQL has no concurrent way",
            instead="Rebuild the other indexes by name (REINDEX INDEX …), and this one in a quiet hour.",
        )
    if any(index.name == name and not index.valid for index in change.before.indexes):
        raise Unsupported(
            f"REINDEX of {display(name)} of {change.name}, which is invalid: there would be no way back",
            instead="Write DROP INDEX and CREATE INDEX of it in this change: the new one is built first.",
        )
    return Step(
        id=f"constrain/reindex/{name}",
        title=f"Rebuild {display(name)} of {change.name} without blocking writes",
        action=Reindex(table=change.name, index=name),
        locks=(LockUse(table=change.name, mode="SHARE UPDATE EXCLUSIVE"),),
        lock_timeout_ms=LONG_STATEMENT_TIMEOUT_MS,
        statement_timeout_ms=LONG_STATEMENT_TIMEOUT_MS,
        forecast=change.every_row("build"),
    )
