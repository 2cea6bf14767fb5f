"""The states of a migration, a phase and a step, with explicit transition tables. `docs/on-call.md` explains each.

The ledger refuses a transition that is not listed here; nothing compares states by order.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TypeVar


class MigrationState(StrEnum):
    PLANNED = "planned"
    RUNNING = "running"
    WAITING = "waiting"
    FAILED = "failed"
    ROLLING_BACK = "rolling_back"
    ROLLED_BACK = "rolled_back"
    FINISHED = "finished"
    CLEANED = "cleaned"


class PhaseState(StrEnum):
    PENDING = "pending"
    RUNNING = "running"
    FAILED = "failed"
    DONE = "done"
    UNDONE = "undone"


class StepState(StrEnum):
    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    UNDONE = "undone"


_M, _P, _S = MigrationState, PhaseState, StepState

# A state may always be entered again from itself: a resumed run finds "running" after a kill.
MIGRATION_TRANSITIONS: dict[MigrationState, frozenset[MigrationState]] = {
    _M.PLANNED: frozenset({_M.PLANNED, _M.RUNNING, _M.ROLLED_BACK}),
    _M.RUNNING: frozenset({_M.RUNNING, _M.WAITING, _M.FAILED, _M.ROLLING_BACK, _M.FINISHED}),
    _M.WAITING: frozenset({_M.WAITING, _M.RUNNING, _M.FAILED, _M.ROLLING_BACK}),
    _M.FAILED: frozenset({_M.FAILED, _M.RUNNING, _M.ROLLING_BACK}),
    _M.ROLLING_BACK: frozenset({_M.ROLLING_BACK, _M.ROLLED_BACK, _M.FAILED}),
    _M.ROLLED_BACK: frozenset({_M.ROLLED_BACK, _M.PLANNED, _M.CLEANED}),
    _M.FINISHED: frozenset({_M.FINISHED, _M.CLEANED, _M.PLANNED}),
    _M.CLEANED: frozenset({_M.CLEANED, _M.PLANNED}),
}
PHASE_TRANSITIONS: dict[PhaseState, frozenset[PhaseState]] = {
    _P.PENDING: frozenset({_P.PENDING, _P.RUNNING, _P.UNDONE}),
    _P.RUNNING: frozenset({_P.RUNNING, _P.FAILED, _P.DONE, _P.UNDONE}),
    _P.FAILED: frozenset({_P.FAILED, _P.RUNNING, _P.UNDONE}),
    _P.DONE: frozenset({_P.DONE, _P.RUNNING, _P.FAILED, _P.UNDONE}),
    _P.UNDONE: frozenset({_P.UNDONE, _P.PENDING, _P.RUNNING}),
}
STEP_TRANSITIONS: dict[StepState, frozenset[StepState]] = {
    _S.PENDING: frozenset({_S.PENDING, _S.RUNNING, _S.DONE, _S.UNDONE}),
    _S.RUNNING: frozenset({_S.RUNNING, _S.DONE, _S.UNDONE, _S.PENDING}),
    _S.DONE: frozenset({_S.DONE, _S.UNDONE}),
    _S.UNDONE: frozenset({_S.UNDONE, _S.PENDING, _S.RUNNING, _S.DONE}),
}

UNFINISHED: frozenset[MigrationState] = frozenset({_M.RUNNING, _M.WAITING, _M.FAILED, _M.ROLLING_BACK})
"""States in which a migration holds on to its tables: another one of the same tables is refused."""

State = TypeVar("State", MigrationState, PhaseState, StepState)


class IllegalTransition(RuntimeError):
    """A programming error: the ledger was asked for a transition that the table does not have."""


def check_transition(table: dict[State, frozenset[State]], current: State, wanted: State) -> None:
    """Raise `IllegalTransition` unless ``wanted`` may follow ``current``."""
    if wanted not in table[current]:
        raise IllegalTransition(f"{type(current).__name__}: {current} cannot become {wanted}")
