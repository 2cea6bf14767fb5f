"""What the phases and the gates are made of: the changed tables with their contributions, and what surrounds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tasks.planning.catalog import Catalog, Table
from tasks.planning.checks.suites import BusinessRule
from tasks.planning.plan import MappedGroup
from tasks.planning.strategies.expand_contract.contribution import Contribution, TableChange
from tasks.planning.strategies.expand_contract.mapping import all_unfilled_bits


@dataclass(frozen=True)
class Work:
    """One changed table with everything that its rooms contributed."""

    change: TableChange
    """In the stage before the switch."""
    parts: Contribution
    switched: TableChange
    """From the switch on: the same, unless a column keeps its name."""
    parts_switched: Contribution
    sequences: tuple[Mapping[str, str], Mapping[str, str]]
    """The definitions of all sequences by name, before the change and after it."""

    @property
    def groups(self) -> tuple[MappedGroup, ...]:
        pairs = zip(self.change.groups, self.switched.groups, strict=True)
        if not self.change.moved:
            return tuple(group.as_plan() for group in self.change.groups)
        return tuple(one.as_plan().model_copy(update={"switched": other.as_plan()}) for one, other in pairs)

    @property
    def has_sync(self) -> bool:
        return bool(self.change.groups)

    @property
    def has_two_shapes(self) -> bool:
        return self.has_sync or bool(self.change.dropped)

    @property
    def ends(self) -> bool:
        """Whether something is to be done when the old version is gone."""
        parts = self.parts
        steps = (*parts.contract_before, *parts.enforce, *parts.enforce_references, *parts.contract_after)
        return bool(steps or parts.contract_tighten or parts.contract_drop or parts.contract_rename)

    @property
    def is_filled(self) -> bool:
        return all_unfilled_bits(self.change.groups) != 0


@dataclass(frozen=True)
class Surroundings:
    """What the gates and the approvals need beyond the changed tables."""

    migration: str
    before: Catalog
    others: tuple[Table, ...]
    """Tables that refer to the changed ones, or have rules of their own."""
    others_after: tuple[Table, ...]
    """The same once everything is done: their foreign keys may name other columns."""
    personal: frozenset[str]
    rules: tuple[BusinessRule, ...]
    user_suites: tuple[str, ...]
    approvals: frozenset[str]
