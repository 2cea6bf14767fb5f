"""The phases of expand-contract, put together from what the kinds of change contribute, table by table."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from psycopg import sql

from tasks.planning.catalog import Table
from tasks.planning.checks.parity import expanded
from tasks.planning.checks.suites import (
    BusinessRule,
    Coming,
    Promised,
    Scope,
    backfill_gate,
    contract_gate,
    equality_gate,
    final_gate,
    preflight_gate,
    projection,
)
from tasks.planning.checks.uniqueness import unique_key
from tasks.planning.names import PENDING_COLUMN, TableName
from tasks.planning.plan import (
    Analyze,
    Approval,
    Assignment,
    Backfill,
    BuildIndex,
    Gate,
    Irreversible,
    LockUse,
    MappedGroup,
    Phase,
    Step,
    Transaction,
)
from tasks.planning.strategies.expand_contract import columns, constraints, indexes, relax, retype, sync
from tasks.planning.strategies.expand_contract.contribution import (
    BACKFILL_ROWS_PER_SECOND,
    LONG_STATEMENT_TIMEOUT_MS,
    PATIENT_LOCK_TIMEOUT_MS,
    SHORT_LOCK_TIMEOUT_MS,
    Contribution,
    TableChange,
    check_expression,
    short_step,
)
from tasks.planning.strategies.expand_contract.mapping import Group, all_unfilled_bits

_PRINTED_ALIKE = r"(smallint|integer|bigint|numeric|text|character|uuid|boolean|date)\b"
"""Types whose text does not depend on a session's settings."""

ROOMS: tuple[Callable[[TableChange], Contribution], ...] = (
    columns.contribute,
    constraints.contribute,
    indexes.contribute,
    retype.contribute,
    relax.contribute,
)
"""One room a kind of change; a new kind is a new room here."""


@dataclass(frozen=True)
class Work:
    """One changed table with everything that its rooms contributed."""

    change: TableChange
    parts: Contribution

    @property
    def has_sync(self) -> bool:
        return bool(self.change.groups)

    @property
    def is_filled(self) -> bool:
        return all_unfilled_bits(self.change.groups) != 0


@dataclass(frozen=True)
class Surroundings:
    """What the gates and the approvals need beyond the changed tables."""

    migration: str
    others: tuple[Table, ...]
    """Tables that refer to the changed ones, or have rules of their own."""
    others_after: tuple[Table, ...]
    """The same once everything is done: their foreign keys may name other columns."""
    personal: frozenset[str]
    rules: tuple[BusinessRule, ...]
    user_suites: tuple[str, ...]
    approvals: frozenset[str]


def work_on(change: TableChange) -> Work:
    total = Contribution()
    for room in ROOMS:
        total += room(change)
    return Work(change, total)


def assemble(works: Sequence[Work], around: Surroundings) -> tuple[Phase, ...]:
    """Return the phases, without schema hashes; a phase that has nothing to do is left out."""
    groups = tuple(group.as_plan() for work in works for group in work.change.groups)
    has_switch = bool(groups) or any(work.parts.contract_drop or work.parts.contract_after for work in works)
    gates = _Gates(works, around, groups, has_switch=has_switch)
    phases = [_expand(works, gates)]
    if any(work.is_filled for work in works):
        phases.append(_backfill(works, gates))
    constrain = tuple(step for work in works for step in work.parts.constrain)
    if constrain or groups:
        phases.append(_constrain(constrain, gates))
    if has_switch:
        phases += [_switch(works, around), _contract(works, gates, around)]
    else:
        phases[-1] = _with_retypes(phases[-1], works)
    return tuple(phases)


def _with_retypes(phase: Phase, works: Sequence[Work]) -> Phase:
    """Return the last phase of a plan that has no switch, with the changes of type at its end.

    Most of them cannot be undone: whatever can fail and be taken back comes before.
    """
    return phase.model_copy(update={"steps": (*phase.steps, *_retypes(works))})


def _retypes(works: Sequence[Work]) -> tuple[Step, ...]:
    return tuple(step for work in works for step in work.parts.retype)


# ----------------------------------------------------------------------------------------------- phases


def _expand(works: Sequence[Work], gates: _Gates) -> Phase:
    steps = []
    for work in works:
        statements = [*work.parts.expand_columns]
        undo = list(reversed(work.parts.expand_undo))
        if work.has_sync:
            statements += _install_sync(work.change)
            undo = [*_remove_sync(work.change), *undo]
        statements += work.parts.expand_checks
        if statements:
            steps.append(
                short_step(
                    work.change,
                    f"expand/{work.change.name}",
                    f"Add the new shape of {work.change.name}"
                    + (" and the trigger that keeps both in step" if work.has_sync else ""),
                    tuple(statements),
                    undo=(Transaction(statements=tuple(undo)),),
                )
            )
    return Phase(
        name="expand",
        purpose="Add the new shape beside the old one, and keep both in step from here on.",
        application="Nothing to do: the running version keeps reading and writing its own shape.",
        steps=tuple(steps),
        gate_before=gates.preflight(),
    )


def _backfill(works: Sequence[Work], gates: _Gates) -> Phase:
    steps: list[Step] = []
    for work in works:
        if work.is_filled:
            steps += [_analyze(work.change, "before"), _fill(work.change), _analyze(work.change, "after")]
    return Phase(
        name="backfill",
        purpose="Fill the new shape of the rows that were there before, in small batches.",
        application="Nothing to do: no statement waits for a batch, and no batch waits for a statement.",
        steps=tuple(steps),
        gate_after=gates.backfill(),
        heavy=True,
    )


def _constrain(steps: tuple[Step, ...], gates: _Gates) -> Phase:
    return Phase(
        name="constrain",
        purpose="Build the indexes and validate the constraints of the new shape, without blocking writes.",
        application="Nothing to do.",
        steps=steps,
        gate_after=gates.equality(),
        heavy=True,
    )


def _switch(works: Sequence[Work], around: Surroundings) -> Phase:
    steps = [*_retypes(works), *(step for work in works for step in work.parts.switch)]
    steps += [_count_old_writers(work.change) for work in works if work.has_sync]
    question = "Both shapes say the same in every row. May the new application version be deployed from now on?"
    return Phase(
        name="switch",
        purpose="Open the new shape to the application; from here on sessions that write the old one are counted.",
        application="From the end of this phase deploy the version that reads and writes the new shape; the old "
        "version may run beside it.",
        steps=tuple(steps),
        approval=Approval(question=question) if "switch" in around.approvals else None,
    )


def _contract(works: Sequence[Work], gates: _Gates, around: Surroundings) -> Phase:
    steps = [step for work in works for step in work.parts.contract_before]
    for work in works:
        statements = [*work.parts.contract_tighten]
        if work.has_sync:
            statements = [*_remove_sync(work.change), *statements]
        statements += [*work.parts.contract_drop, *work.parts.contract_rename]
        if statements:
            steps.append(
                short_step(
                    work.change,
                    f"contract/{work.change.name}",
                    f"Remove the old shape of {work.change.name}",
                    tuple(statements),
                    undo=Irreversible(
                        reason="The old columns are gone; the reverse migration in the plan computes them again."
                    ),
                )
            )
    steps += [step for work in works for step in work.parts.contract_after]
    return Phase(
        name="contract",
        purpose="Make the new shape's constraints strict and remove the old shape.",
        application="Before this phase no instance of the old version may run any more.",
        steps=tuple(steps),
        gate_before=gates.contract(),
        gate_after=gates.final(),
        approval=Approval(question="Is the old application version gone everywhere? The old columns are removed now.")
        if "contract" in around.approvals
        else None,
    )


# ------------------------------------------------------------------------------------------------ steps


def _install_sync(change: TableChange) -> list[str]:
    others = [trigger.name for trigger in change.before.triggers]
    return [_sync_function(change, after_switch=False), *sync.create_trigger(change.migration, change.name, others)]


def _remove_sync(change: TableChange) -> list[str]:
    others = [trigger.name for trigger in change.before.triggers]
    return [sync.drop_trigger(change.name, others), sync.drop_function(change.migration, change.name)]


def _sync_function(change: TableChange, *, after_switch: bool) -> str:
    key = change.key
    types = {column.name: column.type for column in change.before.columns}
    # The key is recorded as text, and has to be found again under it whatever the writing session's settings.
    plain_key = all(re.match(_PRINTED_ALIKE, types[name]) for name in key)
    pinned = () if plain_key and all(group.immutable for group in change.groups) else change.settings
    return sync.create_function(
        change.migration, change.name, key, change.groups,
        personal_key=change.personal_key, settings=pinned, after_switch=after_switch,
    )  # fmt: skip


def _count_old_writers(change: TableChange) -> Step:
    step = short_step(
        change,
        f"switch/count/{change.name}",
        f"Count the sessions that still write the old shape of {change.name}",
        (_sync_function(change, after_switch=True),),
        undo=(Transaction(statements=(_sync_function(change, after_switch=False),)),),
    )
    return step.model_copy(update={"locks": ()})


def _analyze(change: TableChange, when: str) -> Step:
    return Step(
        id=f"backfill/analyze-{when}/{change.name}",
        title=f"Refresh the statistics of {change.name} {when} the backfill",
        action=Analyze(table=change.name),
        locks=(LockUse(table=change.name, mode="SHARE UPDATE EXCLUSIVE"),),
        lock_timeout_ms=PATIENT_LOCK_TIMEOUT_MS,
        statement_timeout_ms=LONG_STATEMENT_TIMEOUT_MS,
    )


def _fill(change: TableChange) -> Step:
    filled = [group for group in change.groups if group.new.columns]
    mask = all_unfilled_bits(filled)
    marker = sql.Identifier(PENDING_COLUMN).as_string()
    assignments = [a for group in filled for a in _filling(group, alone=len(filled) == 1)]
    assignments.append(Assignment(column=PENDING_COLUMN, expression=f"{marker} & ~{mask}"))
    key = change.key
    types = {column.name: column.type for column in change.before.columns}
    return Step(
        id=f"backfill/fill/{change.name}",
        title=f"Fill the new columns of {change.name}",
        action=Backfill(
            table=change.name,
            key=key,
            key_types=tuple(types[name] for name in key),
            unfilled=f"({marker} & {mask}) <> 0",
            assignments=tuple(assignments),
            personal_key=change.personal_key,
        ),
        locks=(LockUse(table=change.name, mode="ROW EXCLUSIVE"),),
        lock_timeout_ms=SHORT_LOCK_TIMEOUT_MS,
        statement_timeout_ms=60_000,
        forecast=change.rows_at(BACKFILL_ROWS_PER_SECOND),
    )


def _filling(group: Group, *, alone: bool) -> Iterable[Assignment]:
    for assignment in group.up:
        if alone:
            yield assignment
            continue
        column = sql.Identifier(assignment.column).as_string()
        marker = sql.Identifier(PENDING_COLUMN).as_string()
        unfilled = f"({marker} & {group.unfilled_bit}) <> 0"
        yield Assignment(
            column=assignment.column,
            expression=f"CASE WHEN {unfilled} THEN {assignment.expression} ELSE {column} END",
        )


# ------------------------------------------------------------------------------------------------ gates


class _Gates:
    """The gates of one migration, over the tables as they are before, during and after."""

    def __init__(
        self, works: Sequence[Work], around: Surroundings, groups: tuple[MappedGroup, ...], *, has_switch: bool
    ) -> None:
        self._has_switch = has_switch
        self._works = works
        self._around = around
        self._groups = groups

    def preflight(self) -> Gate:
        return preflight_gate(self._scope(lambda work: work.change.before), [_coming(work) for work in self._works])

    def backfill(self) -> Gate:
        return backfill_gate(self._around.migration, self._scope(self._during), self._groups)

    def equality(self) -> Gate:
        return equality_gate(self._around.migration, self._scope(self._during), self._groups, self._promised())

    def contract(self) -> Gate:
        return contract_gate(self._around.migration, self._scope(self._during), self._groups, self._promised())

    def final(self) -> Gate:
        tables = {work.change.name: work.change.after for work in self._works}
        return final_gate(
            replace(self._scope(lambda work: work.change.after), others=self._around.others_after),
            Promised(
                indexes={name: [index.name for index in table.indexes] for name, table in tables.items()},
                constraints={
                    name: [c.name for c in table.constraints if c.validated and c.kind in ("check", "foreign_key")]
                    for name, table in tables.items()
                },
            ),
        )

    def _during(self, work: Work) -> Table:
        """Return the table as the gates between expand and contract find it."""
        change = work.change
        table = change.before
        if not self._has_switch:
            later = {column.name: column for column in change.after.columns if column.name in change.direct_names}
            columns = tuple(later.get(column.name, column) for column in table.columns)
            table = table.model_copy(update={"columns": columns})
        if work.has_sync:
            return expanded(table, change.new)
        return table.model_copy(update={"columns": (*table.columns, *change.new)})

    def _scope(self, table_of: Callable[[Work], Table]) -> Scope:
        around = self._around
        return Scope(
            changed=tuple(table_of(work) for work in self._works),
            others=around.others,
            personal=around.personal,
            rules=around.rules,
            user_suites=around.user_suites,
        )

    def _promised(self) -> Promised:
        """Return what `constrain` built and validated."""
        built: dict[TableName, list[str]] = {}
        validated: dict[TableName, list[str]] = {}
        for work in self._works:
            if work.parts.validated:
                validated[work.change.name] = list(work.parts.validated)
            for step in work.parts.constrain:
                if isinstance(step.action, BuildIndex):
                    built.setdefault(work.change.name, []).append(step.action.index)
        return Promised(indexes=built, constraints=validated)


def _coming(work: Work) -> Coming:
    change = work.change
    projected: dict[str, str] = {}
    for group in change.groups:
        projected |= projection(group.up, change.after)
    coming = change.coming_constraints
    unique = [unique_key(c) for c in coming if c.kind == "unique"]
    unique += [unique_key(index) for index in change.coming_indexes if index.unique]
    return Coming(
        table=change.before,
        projected=projected,
        unique=tuple(unique),
        not_null=tuple(
            name for name in sorted(change.mapped) if (c := change.after.column(name)) is not None and c.not_null
        ),
        conditions=tuple(
            (c.name, check_expression(c)) for c in coming if c.kind == "check" and set(c.columns) & change.mapped
        ),
        foreign_keys=tuple(c for c in coming if c.kind == "foreign_key" and set(c.columns) & change.mapped),
    )
