"""The gates of one migration: which tables, as they are by then, each of them looks at, and what for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from tasks.planning.catalog import Column, Constraint, Table
from tasks.planning.checks.parity import expanded
from tasks.planning.checks.suites import (
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
from tasks.planning.names import DUE_COLUMN, TableName
from tasks.planning.plan import BuildIndex, Gate, MappedGroup
from tasks.planning.strategies.expand_contract import constraints, data, demands, sync
from tasks.planning.strategies.expand_contract.apart import Apart
from tasks.planning.strategies.expand_contract.contribution import check_expression
from tasks.planning.strategies.expand_contract.kept import dropped_constraints, dropped_indexes
from tasks.planning.strategies.expand_contract.swap import names_from_switch
from tasks.planning.strategies.expand_contract.work import Surroundings, Work


class Gates:
    """The gates of one migration, over the tables as they are before, during and after."""

    def __init__(
        self, works: Sequence[Work], around: Surroundings, groups: tuple[MappedGroup, ...], apart: Apart, *,
        has_switch: bool,
    ) -> None:  # fmt: skip
        self._has_switch = has_switch
        self._counted = apart.counted
        self._works = works
        self._around = around
        self._groups = groups

    def preflight(self) -> Gate:
        # What the change demands may become true only by its own UPDATE or DELETE: contract asks then.
        asked = [self._asked(work) for work in self._works if not work.change.own_statements]
        return preflight_gate(
            self._scope(_sound_before),
            [*(_coming(work) for work in self._works), *asked],
            Promised(excused={w.change.name: (*_condemned(w), *w.change.reindexed) for w in self._works}),
        )

    def backfill(self) -> Gate:
        personal = self._around.personal
        changed = [check for work in self._works for check in data.checks(work.change, self._during(work), personal)]
        return backfill_gate(self._around.migration, self._scope(self._during), self._groups, changed)

    def equality(self) -> Gate:
        return equality_gate(self._around.migration, self._scope(self._during), self._groups, self._promised())

    def contract(self) -> Gate:
        scope, groups = self._scope(self._from_switch), [group.from_switch for group in self._groups]
        asked = [self._asked_from_switch(work) for work in self._works]
        promised = self._promised_from_switch()
        return contract_gate(self._around.migration, scope, groups, promised, asked, counted=self._counted)

    def final(self) -> Gate:
        tables = {work.change.name: work.switched.after for work in self._works}
        return final_gate(
            replace(self._scope(lambda work: work.switched.after), others=self._around.others_after),
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
        table = _sound_before(work)
        if not self._has_switch:
            later = {column.name: column for column in change.after.columns if column.name in change.direct_names}
            columns = tuple(later.get(column.name, column) for column in table.columns)
            table = table.model_copy(update={"columns": columns})
        marked = (Column(name=DUE_COLUMN, attnum=0, type="integer", not_null=True),) if change.own_statements else ()
        if work.has_sync:
            return expanded(table, (*change.new, *marked))
        return table.model_copy(update={"columns": (*table.columns, *change.new, *marked)})

    def _from_switch(self, work: Work) -> Table:
        """Return the table as the gates find it from the switch on."""
        change = work.switched
        if not change.moved:
            return self._during(work)
        table = expanded(change.before, change.new)
        if not change.has_moved_key or change.after.primary_key is None:
            return table
        others = (c for c in table.constraints if c.kind != "primary_key")
        return table.model_copy(update={"constraints": (change.after.primary_key, *others)})

    def _asked(self, work: Work) -> Coming:
        """Return the demands on columns that stay, but for references to what is not there yet."""
        asked = demands.asked(work.change)
        return replace(asked, foreign_keys=tuple(key for key in asked.foreign_keys if self._has_parent(key)))

    def _asked_from_switch(self, work: Work) -> Coming:
        """Return the same with the demands on columns that are there by now."""
        asked = self._asked(work)
        there = tuple(c for c in constraints.demanded_references(work.switched) if c.validated)
        return replace(asked, table=self._from_switch(work), foreign_keys=(*asked.foreign_keys, *there))

    def _has_parent(self, foreign_key: Constraint) -> bool:
        parent = self._around.before.table(foreign_key.references) if foreign_key.references else None
        return parent is not None and all(parent.column(name) is not None for name in foreign_key.referenced_columns)

    def _scope(self, table_of: Callable[[Work], Table]) -> Scope:
        around = self._around
        return Scope(
            changed=tuple(table_of(work) for work in self._works),
            others=around.others,
            personal=around.personal,
            rules=around.rules,
            user_suites=around.user_suites,
            sync_triggers={
                work.change.name: sync.trigger_of(work.change.before) for work in self._works if work.has_sync
            },
        )

    def _promised_from_switch(self) -> Promised:
        """Return the same under the names that they have from the switch on."""
        promised = self._promised()
        later = {work.change.name: names_from_switch(work.change) for work in self._works}
        return replace(
            promised,
            indexes={t: [later[t].get(name, name) for name in names] for t, names in promised.indexes.items()},
            constraints={t: [later[t].get(name, name) for name in names] for t, names in promised.constraints.items()},
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
        excused = {work.change.name: _condemned(work) for work in self._works}
        return Promised(indexes=built, constraints=validated, excused=excused)


def _sound_before(work: Work) -> Table:
    """Return the table with the constraints and unique indexes that have to hold: those that go may be broken."""
    change = work.change
    gone = {constraint.oid for constraint in dropped_constraints(change)}
    dropped = {index.oid for index in dropped_indexes(change)}
    return change.before.model_copy(
        update={
            "constraints": tuple(c for c in change.before.constraints if c.oid not in gone),
            "indexes": tuple(index for index in change.before.indexes if index.oid not in dropped),
        }
    )


def _condemned(work: Work) -> tuple[str, ...]:
    """Return the indexes that the change drops, so that they need not be valid."""
    return tuple(index.name for index in dropped_indexes(work.change))


def _coming(work: Work) -> Coming:
    change = work.change
    projected: dict[str, str] = {}
    for group in change.groups:
        projected |= projection(group.up, change.after)
    if change.own_statements:
        # As above: what is built then will look.
        return Coming(table=change.before, projected=projected)
    coming = change.coming_constraints
    # What a column without mapping gets is known only once it is there: the build of such an index looks at it then.
    keys = [c for c in coming if c.kind == "unique"] + [index for index in change.coming_indexes if index.unique]
    known = change.new_names - change.mapped
    unique = [unique_key(k) for k in keys if not change.is_over_kept(k.columns) and not set(k.columns) & known]
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
        # One over a column that keeps its name is there already, between the old columns.
        foreign_keys=tuple(
            c
            for c in coming
            if c.kind == "foreign_key" and set(c.columns) & change.mapped and not change.moves(c.columns)
        ),
    )
