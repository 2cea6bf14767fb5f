"""Steps that belong to no changed table's transaction: statements run as they are, renamed tables, dropped ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from tasks.planning.names import TableName
from tasks.planning.plan import Action, Forecast, Irreversible, LockUse, Note, Step, Transaction
from tasks.planning.strategies.expand_contract.contribution import SHORT_LOCK_TIMEOUT_MS, SHORT_STATEMENT_TIMEOUT_MS


@dataclass(frozen=True)
class Apart:
    """Steps by the place that they have in the phases, each in the order in which they run."""

    expand_first: tuple[Step, ...] = ()
    """Before the tables' own: what these may use."""
    expand: tuple[Step, ...] = ()
    switch: tuple[Step, ...] = ()
    contract_before: tuple[Step, ...] = ()
    """Before the old shape of the tables goes: what reads it."""
    contract_after: tuple[Step, ...] = ()
    counted: tuple[TableName, ...] = ()
    """Tables that go, whose writers are counted from the switch on."""
    renamed: tuple[TableName, ...] = ()
    """Old names of tables, under which a view stands from the switch until contract."""
    notes: tuple[Note, ...] = ()

    def __add__(self, other: Apart) -> Apart:
        return Apart(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})

    @property
    def has_contract(self) -> bool:
        return bool(self.contract_before or self.contract_after)


NOTHING_APART = Apart()


def lone_step(
    id_: str, title: str, statements: tuple[str, ...], *, undo: tuple[str, ...] | Irreversible,
    locks: Sequence[LockUse] = (),
) -> Step:  # fmt: skip
    """Return a step of catalog changes in a short transaction of its own; what undoes it is one, too."""
    back: tuple[Action, ...] | Irreversible = ()
    if isinstance(undo, Irreversible):
        back = undo
    elif undo:
        back = (Transaction(statements=undo),)
    return Step(
        id=id_,
        title=title,
        action=Transaction(statements=statements),
        locks=tuple(locks),
        lock_timeout_ms=SHORT_LOCK_TIMEOUT_MS,
        statement_timeout_ms=SHORT_STATEMENT_TIMEOUT_MS,
        undo=back,
        forecast=Forecast(best=0.01, worst=0.05),
    )
