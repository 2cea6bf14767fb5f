"""What the phases and the gates are made of: the changed tables with their contributions, and what surrounds them."""

from __future__ import annotations

from dataclasses import dataclass

from tasks.planning.catalog import Catalog, Table
from tasks.planning.checks.suites import BusinessRule
from tasks.planning.strategies.expand_contract.contribution import Contribution, TableChange
from tasks.planning.strategies.expand_contract.mapping import all_unfilled_bits


@dataclass(frozen=True)
class Work:
    """One changed table with everything that its rooms contributed."""

    change: TableChange
    parts: Contribution

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
