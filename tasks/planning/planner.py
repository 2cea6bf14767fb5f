"""From the meaning of a change to a plan: what is mapped, what is refused, which strategy, which phases.

Pure: the catalogs and the canonical expressions come from `tasks.database.oracle`, which also proves the plan on a
clone and fills in the schema hashes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from psycopg import sql

from tasks.planning import alternatives, retyping, risks
from tasks.planning.catalog import Catalog, Column, Constraint, Table
from tasks.planning.change import (
    Change,
    ColumnAdded,
    ColumnChanged,
    ColumnDropped,
    ConstraintAdded,
    ConstraintChanged,
    ConstraintDropped,
    IndexAdded,
    IndexChanged,
    IndexDropped,
    TableRenamed,
)
from tasks.planning.checks.rows import key_columns
from tasks.planning.current import current_state
from tasks.planning.data_changes import NO_DATA, DataChanges
from tasks.planning.errors import SpecError, Unsupported
from tasks.planning.expressions import inline, substitute
from tasks.planning.fit import window_notes
from tasks.planning.intent import Intent
from tasks.planning.names import TableName, display
from tasks.planning.objects.meant import Meant
from tasks.planning.parser import column_references
from tasks.planning.plan import Assignment, Inserts, Note, Plan
from tasks.planning.refused_tables import (
    refuse_domains_without_null,
    refuse_families,
    refuse_marker,
    refuse_rules,
    refuse_too_many_columns,
)
from tasks.planning.retyping import DirectRetype
from tasks.planning.strategies.expand_contract import rename_table
from tasks.planning.strategies.expand_contract.apart import Apart
from tasks.planning.strategies.expand_contract.contribution import TableChange, check_expression
from tasks.planning.strategies.expand_contract.dependents import carry
from tasks.planning.strategies.expand_contract.kept import added_constraints
from tasks.planning.strategies.expand_contract.mapping import Canonical, Draft, Group, Side, drafts
from tasks.planning.strategies.expand_contract.moved import carries_checks, require_alone
from tasks.planning.strategies.expand_contract.notes import warnings
from tasks.planning.strategies.expand_contract.objects import standing_apart
from tasks.planning.strategies.expand_contract.phases import assemble, opens_switch, work_on
from tasks.planning.strategies.expand_contract.reverse import reverse_spec
from tasks.planning.strategies.expand_contract.stages import Moved, Naming, Shapes, Stages
from tasks.planning.strategies.expand_contract.work import Surroundings, Work

Way = tuple[TableName, str, str]
"""(table, ``up`` or ``down``, column that receives the value)."""


def changed_tables(meant: Meant) -> tuple[TableName, ...]:
    """Return the tables whose rooms carry something out, sorted; refuse by name what nothing carries out."""
    for renamed in meant.renamed:
        rename_table.refuse_mixed(renamed, meant.changes)
    found = [change for change in meant.changes if not _is_apart(change, meant)]
    for change in found:
        match change:
            case ColumnAdded() | ColumnDropped():
                continue
            case IndexAdded() | IndexDropped() | IndexChanged():
                continue
            case ConstraintAdded() | ConstraintDropped() | ConstraintChanged():
                continue
            case ColumnChanged() if change.renamed or change.retyped or change.collation_changed or change.consequence:
                continue
            case ColumnChanged() if not (
                change.generation_changed or change.comment_changed or change.storage_changed
            ):  # another default or nullability, then
                continue
            case _ if getattr(change, "consequence", False):
                continue
            case _:
                raise Unsupported(
                    change.describe(),
                    instead="Run it by itself, outside this migration, if it is safe for the running application; "
                    "more kinds of change come with the next version.",
                )
    return tuple(sorted({change.table for change in found if isinstance(change, _TABLE_CHANGES)}))


def touched_tables(intent: Intent, meant: Meant, data: DataChanges = NO_DATA) -> tuple[TableName, ...]:
    """Return the tables whose rooms carry something out, those of rebuilt indexes and changed rows included, sorted."""
    return tuple(sorted({*changed_tables(meant), *intent.reindexed, *data.tables}))


def _is_apart(change: Change, meant: Meant) -> bool:
    """Whether a difference is made by a statement that runs as written, or by the rename of a table."""
    return (
        isinstance(change, TableRenamed)
        or meant.explains(change)
        or any(rename_table.belongs_to(renamed, change) for renamed in meant.renamed)
    )


_TABLE_CHANGES = (
    ColumnAdded, ColumnDropped, ColumnChanged, IndexAdded, IndexDropped, IndexChanged,
    ConstraintAdded, ConstraintDropped, ConstraintChanged,
)  # fmt: skip


def all_drafts(
    intent: Intent, before: Catalog, after: Catalog, tables: Sequence[TableName], direct: Sequence[DirectRetype] = ()
) -> tuple[Draft, ...]:
    """Return the mapping groups of all changed tables, in the user's words."""
    _refuse_stray_mappings(intent, before, tables)
    found: list[Draft] = []
    refuse_families(before, tables)
    for name in tables:
        old, new = _pair(before, after, name)
        names = [retype.column.name for retype in direct if retype.column.table == name]
        found += drafts(old, new, intent.wanted.get(name, {}), intent.using.get(name, {}), names)
    for draft in found:
        table = before.table(draft.table)
        if table is None or table.primary_key is None:
            raise SpecError(
                f"{draft.table} has no primary key: its rows cannot be filled in batches, and a row that fails could "
                "not be named.",
                remedy="Give the table a primary key first (a unique index built concurrently, then ADD PRIMARY KEY "
                "USING INDEX).",
            )
        if table.kind != "r":
            raise Unsupported(f"mapping columns of {draft.table}, which is foreign", instead="Plain tables only.")
        refuse_rules(table)
        refuse_domains_without_null(draft, before, after)
    return tuple(found)


def make_plan(
    intent: Intent, stages: Stages, meant: Meant,
    found: Sequence[Draft], canonical: Mapping[Way, Canonical], notes: Sequence[Note] = (),
    direct: Sequence[DirectRetype] = (), data: DataChanges = NO_DATA,
) -> Plan:  # fmt: skip
    """Return the plan, without schema hashes; those come from proving it on a clone.

    ``changes`` is what the catalogs differ in. They and ``found`` and ``canonical`` are in the user's words, where a
    column that keeps its name has one name on both sides; ``stages`` may know more of the live database than a clone.

    Raises:
        Unsupported: something that this version does not carry out, by name.
        SpecError: the spec contradicts the database.
    """
    before, after = stages.expanded.before, stages.switched.after
    tables = touched_tables(intent, meant, data)
    _refuse_divided(before, meant.changes, intent)
    works = []
    apart = Apart()
    for name in tables:
        own = [draft for draft in found if draft.table == name]
        expanded, switched = (
            _table_change(intent, shapes, stages.moved.get(name, ()), name, meant.changes, own, canonical, direct, data)
            for shapes in (stages.expanded, stages.switched)
        )
        sequences = (_sequences(before), _sequences(after))
        if expanded.moved:
            require_alone(expanded)
            works.append(work_on(expanded, switched, sequences))
            continue
        carried = carry(expanded, before, after, meant)
        works.append(work_on(expanded, switched, sequences, carried.parts))
        apart += carried.apart
    _refuse_moving_references(works)
    apart = _distinct(apart) + standing_apart(intent.name, before, after, meant, has_switch=opens_switch(works))
    phases = assemble(works, _surroundings(intent, before, after, tables), apart)
    touched = {*tables, *meant.touched, *(item.after for item in meant.renamed)}
    groups = tuple(group for work in works for group in work.groups)
    additive = not any(phase.name == "contract" for phase in phases)
    return Plan(
        name=intent.name,
        database=intent.database,
        strategy="direct" if additive else "expand-contract",
        why=_why(works, apart, additive),
        change=intent.change,
        change_hash=intent.change_hash,
        server_version=before.server_version,
        phases=phases,
        groups=groups,
        tables=tuple(sorted(touched)),
        personal=tuple(sorted(intent.personal)),
        scope=tuple(sorted({*touched, *meant.names})),
        settings=intent.settings,
        soak_seconds=intent.soak_seconds,
        window=intent.window,
        throttle=intent.throttle,
        queries=intent.queries,
        notes=(
            *notes,
            *retyping.notes(retyping.retyped_columns(before, after), [retype.column for retype in direct]),
            *warnings(works),
            *alternatives.notes(groups, before),
            *(note for work in works for note in work.parts.notes),
            *window_notes(intent.window, phases),
            *apart.notes,
            *risks.proposed([table for name in tables if (table := before.table(name))], intent.personal),
        ),
        current=current_state(before, sorted(touched)),
        risks=risks.assess(meant.changes, data.statements, before, intent.personal),
        reverse=""
        if not works or (not direct and (additive or _only_changes_rows(works)))
        else reverse_spec(
            intent.name,
            intent.database,
            [work.change for work in works],
            [change.describe() for change in meant.changes if meant.explains(change)],
        ),
    )


def _only_changes_rows(works: Sequence[Work]) -> bool:
    """Whether a reverse migration would have nothing to say: what rows held before is kept, or gone."""
    return all(work.change.own_statements and not work.change.found for work in works)


def _table_change(
    intent: Intent, shapes: Shapes, moved: tuple[Moved, ...], name: TableName, changes: Sequence[Change],
    found: Sequence[Draft], canonical: Mapping[Way, Canonical], direct: Sequence[DirectRetype], data: DataChanges,
) -> TableChange:  # fmt: skip
    before = shapes.before
    old, new = _pair(before, shapes.after, name)
    coming = {c.name for c in new.columns} - {c.name for c in old.columns}
    naming = Naming.of(moved, shapes.stage)
    inserts: Inserts = "old" if shapes.stage == "expanded" else "new"
    groups = tuple(
        replace(
            _group(old, new, number, draft, canonical, coming, naming), inserts=inserts if draft.keeps_name else "told"
        )
        for number, draft in enumerate(found)
    )
    _refuse_checks_across_groups(old, new, groups)
    refuse_marker(old, groups)
    known = {naming.old.get(column.name, column.name): column.name for column in moved}
    key = [known.get(column, column) for column in key_columns(old)]
    taken = {index.name for table in before.tables if table.name.schema == name.schema for index in table.indexes}
    taken |= {table.name.name for table in before.tables if table.name.schema == name.schema}
    taken |= {constraint.name for constraint in old.constraints}
    change = TableChange(
        migration=intent.name,
        before=old,
        after=new,
        groups=groups,
        settings=intent.settings,
        personal_key=any(f"{name.schema}.{name.name}.{column}" in intent.personal for column in key),
        taken_names=frozenset(taken),
        direct=tuple(retype for retype in direct if retype.column.table == name),
        found=tuple(
            change
            for change in changes
            if isinstance(change, _TABLE_CHANGES) and change.table == name and not getattr(change, "consequence", False)
        ),
        reindexed=intent.reindexed.get(name, ()),
        data=data.of(name),
        late=data.late_columns(name),
        moved=moved,
        stage=shapes.stage,
    )
    refuse_too_many_columns(change)
    return change


def _group(
    old: Table, new: Table, number: int, draft: Draft, canonical: Mapping[Way, Canonical], coming: set[str],
    naming: Naming,
) -> Group:  # fmt: skip
    new_names = {column: naming.new.get(column, column) for column in draft.new}
    old_names = {column: naming.old.get(column, column) for column in draft.old}
    ups = {new_names[name]: _called(canonical[draft.table, "up", name], naming.old) for name in draft.new}
    downs = {
        old_names[name]: _called(canonical[draft.table, "down", name], naming.new)
        for name in draft.old
        if name in draft.down
    }
    # Generated columns are NULL inside a BEFORE trigger; a change of one is a change of what it is computed from.
    generated = {c.name: f"({c.default})" for c in old.columns if c.generated and c.default}
    up = {name: inline(item.text, generated) for name, item in ups.items()}
    inputs = {name for text in up.values() for name in column_references(text)} - set(old_names.values())
    group = Group(
        table=draft.table,
        number=number,
        old=Side(tuple(_column(old, name) for name in old_names.values())),
        new=Side(tuple(_column(new, name) for name in new_names.values())),
        up=tuple(Assignment(column=name, expression=text) for name, text in up.items()),
        down=tuple(Assignment(column=name, expression=inline(item.text, generated)) for name, item in downs.items()),
        readable=(*(c.name for c in old.columns if not c.generated), *sorted(coming)),
        kept_inputs=tuple(_column(old, name) for name in sorted(inputs)),
        raising=frozenset(
            way for way, items in (("up", ups), ("down", downs)) if any(i.may_raise for i in items.values())
        ),
        immutable=all(item.immutable for item in (*ups.values(), *downs.values())),
    )
    present = {constraint.oid for constraint in old.constraints}
    renamed = group.is_rename
    # A CHECK that asks the same of both columns is the old column's own: what breaks it never gets into the table.
    same = renamed or (draft.keeps_name and carries_checks(group))
    new_checks = [c for c in _checks(new, group.new.names) if not (same and c.oid in present)]
    old_checks = [] if renamed else _checks(old, group.old.names)
    return replace(
        group,
        old=Side(group.old.columns, tuple(inline(check_expression(c), generated) for c in old_checks)),
        new=Side(group.new.columns, tuple(inline(check_expression(c), generated) for c in new_checks)),
    )


def _called(expression: Canonical, names: Mapping[str, str]) -> Canonical:
    """Return the expression with columns as they are called in one stage."""
    if not names:
        return expression
    texts = {name: sql.Identifier(to).as_string() for name, to in names.items()}
    return replace(expression, text=substitute(expression.text, texts))


def _sequences(catalog: Catalog) -> Mapping[str, str]:
    return {item.name: item.definition for item in catalog.objects if item.kind == "sequence"}


def _checks(table: Table, columns: Sequence[str]) -> list[Constraint]:
    return [c for c in table.constraints if c.kind == "check" and set(c.columns) & set(columns)]


def _refuse_checks_across_groups(old: Table, new: Table, groups: Sequence[Group]) -> None:
    """A CHECK over two groups would be judged while only one of them is computed; carried renames stay right."""
    present = {constraint.oid for constraint in old.constraints}
    for table, side in ((new, "new"), (old, "old")):
        for constraint in table.constraints:
            touched = [g for g in groups if set(getattr(g, side).names) & set(constraint.columns)]
            carried = all(g.is_rename for g in touched) and (side == "old" or constraint.oid in present)
            if constraint.kind == "check" and len(touched) > 1 and not carried:
                raise Unsupported(
                    f"the CHECK constraint {constraint.name} of {table.name} over columns of several mappings",
                    instead="Split the constraint, or bring it in a migration of its own after contract.",
                )


def _refuse_divided(before: Catalog, changes: Sequence[Change], intent: Intent) -> None:
    """Constraints and indexes of partitions and children are made on all of them at once: no concurrent way."""
    parents = {name for table in before.tables for name in (*table.inherits, table.partition_of) if name}
    kinds = (IndexAdded, IndexDropped, IndexChanged, ConstraintAdded, ConstraintDropped, ConstraintChanged)
    found = {change.table: change.describe() for change in changes if isinstance(change, kinds)}
    found |= {
        change.table: change.describe()
        for change in changes
        if isinstance(change, ColumnChanged) and change.nullability_changed and not change.renamed
    }
    found |= {name: f"REINDEX of {name}" for name in intent.reindexed}
    for name, what in found.items():
        table = before.table(name)
        if table is not None and (table.kind != "r" or table.partition_of or table.inherits or name in parents):
            raise Unsupported(
                f"{what}: {name} is partitioned, a partition, inherited or foreign",
                instead="Plain tables only in this version. For an index: create it ON ONLY the parent, build one on "
                "each partition concurrently, and attach them.",
            )


def _refuse_moving_references(works: Sequence[Work]) -> None:
    new = {work.change.name: work.change.new_names for work in works}
    for work in works:
        for key in added_constraints(work.change):
            if key.references and set(key.referenced_columns) & new.get(key.references, frozenset()):
                raise Unsupported(
                    f"the foreign key {display(key.name)} of {work.change.name} to columns of {key.references} that "
                    "the same change brings, renames or gives another type",
                    instead="Add the foreign key in a migration of its own afterwards.",
                )


def _surroundings(intent: Intent, before: Catalog, after: Catalog, tables: Sequence[TableName]) -> Surroundings:
    changed = set(tables)
    needed = {rule.table for rule in intent.rules}
    others = tuple(
        table
        for table in before.tables
        if table.name not in changed
        and (table.name in needed or any(c.references in changed for c in table.constraints if c.kind == "foreign_key"))
    )
    return Surroundings(
        migration=intent.name,
        before=before,
        others=others,
        others_after=tuple(found for table in others if (found := after.table(table.name)) is not None),
        personal=intent.personal,
        rules=intent.rules,
        user_suites=intent.user_suites,
        approvals=intent.approvals,
    )


def _distinct(apart: Apart) -> Apart:
    """A view over two changed tables follows once."""
    return replace(apart, switch=tuple({step.id: step for step in apart.switch}.values()))


def _why(works: Sequence[Work], apart: Apart, additive: bool) -> str:
    names = ", ".join(str(work.change.name) for work in works)
    retyped = [str(retype.column) for work in works for retype in work.change.direct]
    if additive and not works:
        return "The running application does not use what the change adds, so it can be added as it is."
    if additive and retyped:
        return (
            f"Everything on {names} can be done beside the running application, or changed in the server's catalog "
            f"alone ({', '.join(retyped)}), without a rewrite."
        )
    if additive:
        return f"Everything on {names} can be done beside the running application, without a rewrite."
    moved = [
        f"{work.change.name}: {', '.join(group.old.names) or 'derived'} → {_new_names(work, group) or 'nothing'}"
        for work in works
        for group in work.change.groups
    ]
    dropped = [
        f"{work.change.name}.{column.name}"
        for work in works
        for column in work.change.dropped
        if not any(column.name in group.old.names for group in work.change.groups)
    ]
    parts = [f"columns that both application versions must see ({'; '.join(moved)})"] if moved else []
    parts += [f"columns that the old version still uses and that go ({', '.join(dropped)})"] if dropped else []
    changed = [str(work.change.name) for work in works if work.change.own_statements]
    parts += [f"rows to change, whose old values are kept until contract ({', '.join(changed)})"] if changed else []
    demands = [demand for work in works for demand in work.parts.demands]
    parts += [f"demands that the old version need not keep to ({'; '.join(demands)})"] if demands else []
    parts += [f"tables under a new name ({', '.join(map(str, apart.renamed))})"] if apart.renamed else []
    if apart.has_contract and not apart.renamed:
        parts.append("things to take away that the old version may still use")
    return "The change has " + " and ".join(parts or ["names or indexes that the old version may rely on"]) + "."


def _new_names(work: Work, group: Group) -> str:
    """Return the new columns by the names that they have in the end, of those that keep theirs with the new type."""
    final = {column.coming: column.name for column in work.change.moved}
    return ", ".join(f"{final[c.name]} as {c.type}" if c.name in final else c.name for c in group.new.columns)


def _refuse_stray_mappings(intent: Intent, before: Catalog, tables: Sequence[TableName]) -> None:
    for table in intent.wanted:
        if table not in tables:
            known = "the change does not touch it" if before.table(table) else "there is no such table"
            raise SpecError(f"mapping names the table {table}, but {known}.")


def _pair(before: Catalog, after: Catalog, name: TableName) -> tuple[Table, Table]:
    old, new = before.table(name), after.table(name)
    if old is None or new is None:
        raise Unsupported(f"creating, dropping or renaming the table {name}", instead="It comes with the next version.")
    return old, new


def _column(table: Table, name: str) -> Column:
    column = table.column(name)
    if column is None:
        raise SpecError(
            f"mapping: {table.name} has no column {name}.",
            remedy=f"It has: {', '.join(column.name for column in table.columns)}.",
        )
    return column
