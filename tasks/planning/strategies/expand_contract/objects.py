"""Statements that are run as they are written: in which phase each stands, alone in a short transaction.

What the running application does not notice comes in `expand`. What takes something away from it (a drop, a REVOKE, row
security) comes in `contract`, when it is gone. What replaces something, or fires for its statements, comes at the
switch where the migration has one. A statement about an object never runs before the one that makes the object.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

from psycopg import sql

from tasks.planning import parser
from tasks.planning.catalog import Catalog, SchemaObject, Table
from tasks.planning.change import (
    Change,
    DependentChanged,
    ObjectChanged,
    TableAdded,
    TableDropped,
    TableOptionChanged,
    TableRenamed,
    TriggerChanged,
)
from tasks.planning.errors import Unsupported
from tasks.planning.names import TableName, display
from tasks.planning.objects.effects import Effect, created_tables, subject
from tasks.planning.objects.inverse import drop_of, inverse_of, mentions, pieces
from tasks.planning.objects.meant import Meant
from tasks.planning.objects.mentions import mentioning
from tasks.planning.parse_tree import walk
from tasks.planning.plan import Action, Irreversible, LockUse, Note, Step, Transaction
from tasks.planning.strategies.expand_contract import dropped_table, rename_table
from tasks.planning.strategies.expand_contract.apart import Apart, lone_step


class Place(IntEnum):
    """Where a statement stands, in the order in which these run."""

    EXPAND_FIRST = 0
    EXPAND = 1
    SWITCH = 2
    CONTRACT_BEFORE = 3
    CONTRACT_AFTER = 4


_NEEDED_BY_COLUMNS = frozenset(
    {"create_schema", "create_extension", "create_type", "create_domain", "create_sequence", "alter_enum"}
)
_REPLACING = frozenset({"create_trigger", "alter_policy", "alter_function", "alter_view"})
_DROPPED_FIRST = frozenset({"view", "trigger", "policy"})
"""What is dropped before the columns that it reads; the rest is dropped after the columns that use it."""


@dataclass(frozen=True)
class _Placed:
    place: Place
    step: Step
    is_view_again: bool = False
    """The step drops a view and creates it again; views that stand on each other do so in one transaction."""


def standing_apart(migration: str, before: Catalog, after: Catalog, meant: Meant, *, has_switch: bool) -> Apart:
    """Return the steps of renamed tables and of all statements that run as written, with the tables that go.

    ``has_switch`` says whether the tables' own changes have one. Raises `Unsupported` for what cannot be done safely.
    """
    renames = Apart()
    for renamed in meant.renamed:
        renames += rename_table.rename(table_of(before, renamed.table), renamed.after, before, meant.changes)
        renames += Apart(notes=tuple(_mentioned(before, renamed.table, "its view goes", meant)))
    has_switch = has_switch or bool(meant.renamed) or takes_away(meant.effects)
    later = {renamed.after.name: Place.SWITCH for renamed in meant.renamed}
    found = placed(meant.effects, after, later, has_switch=has_switch)
    for name in found.counted:
        drop = next(s for s in found.contract_after if any(lock.table == name for lock in s.locks))
        retired = dropped_table.retire(migration, table_of(before, name), drop)
        # In the drop's own place: what the table uses may be dropped after it.
        steps = [s for one in found.contract_after for s in (retired.contract_after if one is drop else (one,))]
        notes = tuple(_mentioned(before, name, "the table is dropped", meant))
        found = replace(
            found, switch=(*found.switch, *retired.switch), contract_after=tuple(steps), notes=(*found.notes, *notes)
        )
    return renames + found


def table_of(catalog: Catalog, name: TableName) -> Table:
    """Return a table that the catalog is known to have."""
    found = catalog.table(name)
    if found is None:
        raise LookupError(f"no table {name}")
    return found


def _mentioned(catalog: Catalog, name: TableName, when: str, meant: Meant) -> Iterator[Note]:
    for function in mentioning(catalog, name.name):
        if not meant.is_replaced(function.kind, function.name):
            yield Note(
                severity="WARNING",
                text=f"The {function.kind} {function.name} has {display(name.name)} in its text. If that is the "
                f"table, replace it in this change: it would fail from contract on, when {when}.",
            )


def takes_away(effects: Sequence[Effect]) -> bool:
    """Whether one of the statements takes something from the running application, so that there is a contract."""
    created = created_tables(effects)
    pairs = _pairs(effects)
    return any(
        _place_of(effect, created) >= Place.CONTRACT_BEFORE and not _only_replaced(effect, pairs)
        for effect in effects
        if effect.changes
    )


def placed(effects: Sequence[Effect], after: Catalog, names: Mapping[str, Place], *, has_switch: bool) -> Apart:
    """Return the steps of all statements, at their places; ``names`` are not there before theirs.

    Raises `Unsupported` for what cannot be done safely.
    """
    created = created_tables(effects)
    pairs = _pairs(effects)
    later = dict(names)
    found: list[_Placed] = []
    notes: list[Note] = []
    gone: list[TableName] = []
    for effect in effects:
        if not effect.changes or _is_rename_of_existing(effect, created):
            continue
        if effect.statement.kind.startswith("drop_") and not _concerns(effect, created):
            for change in _users_first(_dropped(effect)):
                if subject(change) in pairs:
                    continue
                found.append(_Placed(_contract_place(change), _drop_step(effect, change)))
                if isinstance(change, TableDropped):
                    gone.append(change.table)
            continue
        place = max([_place_of(effect, created), *(later[word] for word in effect.words if word in later)])
        if place is Place.SWITCH and not has_switch:
            place = Place.EXPAND
        replaced = next((pairs[subject(c)] for c in effect.changes if subject(c) in pairs), None)
        if replaced is not None:
            _refuse_narrower(effect, replaced)
            place = Place.SWITCH if has_switch else Place.EXPAND
        if place > Place.EXPAND:
            later.update((name, place) for change in effect.changes for name in _names(change))
        notes += _notes(effect, place, has_switch=has_switch, is_pair=replaced is not None)
        step = (
            _step(effect, place, after, created) if replaced is None else _replacement(effect, place, replaced, after)
        )
        if replaced is not None and _makes_view(effect) and (first := _views(found)) is not None:
            found[first] = replace(found[first], step=_united(found[first].step, step))
        else:
            found.append(_Placed(place, step, is_view_again=replaced is not None and _makes_view(effect)))
    at = {place: tuple(item.step for item in found if item.place is place) for place in Place}
    return Apart(
        expand_first=at[Place.EXPAND_FIRST],
        expand=at[Place.EXPAND],
        switch=at[Place.SWITCH],
        contract_before=at[Place.CONTRACT_BEFORE],
        contract_after=at[Place.CONTRACT_AFTER],
        counted=tuple(gone),
        notes=tuple(notes),
    )


# ------------------------------------------------------------------------------------------------ places


def _place_of(effect: Effect, created: frozenset[TableName]) -> Place:
    kind = effect.statement.kind
    plain = Place.EXPAND_FIRST if effect.leads or kind in _NEEDED_BY_COLUMNS else Place.EXPAND
    if _concerns(effect, created):
        return plain
    if kind.startswith("drop_"):
        return Place.CONTRACT_AFTER
    if kind in ("comment", "grant"):
        return Place.EXPAND if kind == "comment" or effect.node.is_grant else Place.CONTRACT_AFTER
    if any(_restricts(change) for change in effect.changes):
        return Place.CONTRACT_AFTER
    if kind in _REPLACING or any(_replaces(change) for change in effect.changes):
        return Place.SWITCH
    if kind in ("create_view", "create_policy", "create_stats", "alter_table"):
        return Place.EXPAND
    return plain


def _restricts(change: Change) -> bool:
    match change:
        case TableOptionChanged(option="row_security", after="True"):
            return True
        case TableOptionChanged(option="force_row_security", after="true"):
            return True
        case DependentChanged() if change.before is None and change.after is not None:
            return change.after.kind == "policy" and " AS RESTRICTIVE" in change.after.definition
        case _:
            return False


def _replaces(change: Change) -> bool:
    match change:
        case ObjectChanged():
            return change.object_kind in ("view", "function", "procedure") and None not in (change.before, change.after)
        case TriggerChanged():
            return True
        case _:
            return False


def _contract_place(change: Change) -> Place:
    return Place.CONTRACT_BEFORE if subject(change)[0] in _DROPPED_FIRST else Place.CONTRACT_AFTER


def _concerns(effect: Effect, created: frozenset[TableName]) -> bool:
    """Whether everything that a statement did is part of a table that the change itself creates."""
    tables = [getattr(change, "table", None) for change in effect.changes]
    consequences = [isinstance(c, ObjectChanged) and c.consequence for c in effect.changes]
    return bool(created) and all(table in created or told for table, told in zip(tables, consequences, strict=True))


def _is_rename_of_existing(effect: Effect, created: frozenset[TableName]) -> bool:
    return any(isinstance(change, TableRenamed) and change.table not in created for change in effect.changes)


def _pairs(effects: Sequence[Effect]) -> dict[tuple[str, ...], Effect]:
    """Return the drops of what a later statement creates again under the same name, by subject."""
    dropped: dict[tuple[str, ...], Effect] = {}
    pairs: dict[tuple[str, ...], Effect] = {}
    for effect in effects:
        for change in effect.changes:
            key = subject(change)
            if key[0] in ("privileges", "comment", "grants"):
                continue
            if effect.statement.kind.startswith("drop_"):
                dropped[key] = effect
            elif key in dropped and getattr(change, "before", None) is None:
                pairs[key] = dropped[key]
    for key in pairs:
        if key[0] not in ("view", "trigger", "policy", "function", "procedure"):
            raise Unsupported(
                f"dropping and creating the {' '.join(key[:2])} again in one change",
                instead="Create it under another name: both are there until contract.",
            )
    return pairs


def _only_replaced(effect: Effect, pairs: dict[tuple[str, ...], Effect]) -> bool:
    return effect.statement.kind.startswith("drop_") and all(subject(change) in pairs for change in _dropped(effect))


def _refuse_narrower(effect: Effect, dropped: Effect) -> None:
    """A view of one name serves both versions only when it keeps every column of the old one."""
    views = {c.name: c.before for c in dropped.changes if isinstance(c, ObjectChanged) and c.object_kind == "view"}
    for change in effect.changes:
        if not isinstance(change, ObjectChanged) or change.object_kind != "view" or change.after is None:
            continue
        before = views.get(change.name)
        missing = _column_names(before) - _column_names(change.after)
        if missing:
            raise Unsupported(
                f"making the view {change.name} again without {', '.join(sorted(missing))} "
                f"({effect.statement.place()}): the running application reads it",
                instead="Keep the old columns beside the new ones, or create the new view under another name and drop "
                "the old one in the same change: both are there until contract.",
            )


def _column_names(view: SchemaObject | None) -> set[str]:
    return {column.rpartition("\t")[0] for column in view.columns} if view is not None else set()


def _names(change: Change) -> Iterator[str]:
    """Yield the bare names that a statement made: later ones that say one of them belong after it."""
    key = subject(change)
    if key[0] in ("privileges", "comment", "grants", "option", "column", "other"):
        return
    if isinstance(change, TriggerChanged):
        yield key[2]
        return
    written = key[1].split("(", 1)[0].split(" ON ", 1)[0]
    part = parser.tree_of(f"SELECT {written}").stmts[0].stmt.select_stmt.target_list[0].res_target.val.column_ref
    yield part.fields[-1].string.sval


# ------------------------------------------------------------------------------------------------ steps


def _step(effect: Effect, place: Place, after: Catalog, created: frozenset[TableName]) -> Step:
    main = next((c for c in effect.changes if not getattr(c, "consequence", False)), effect.changes[0])
    return lone_step(
        f"{_phase(place)}/statement-{effect.order + 1}",
        _title(main.describe()),
        (_text(effect, after),),
        undo=() if _is_part_of_created(effect, created) else inverse_of(effect),
        locks=effect.locks,
    )


def _replacement(effect: Effect, place: Place, dropped: Effect, after: Catalog) -> Step:
    """Return the step that drops and creates in one transaction; the running application keeps its privileges."""
    keys = {subject(change) for change in effect.changes}
    drops = [change for change in _dropped(dropped) if subject(change) in keys]
    backs = [_reversible(replace(dropped, changes=_about(dropped, change))) for change in drops]
    grants = [text for back in backs for text in back if text.startswith("GRANT ")]
    locks = {lock.table: lock for lock in (*dropped.locks, *effect.locks)}
    return lone_step(
        f"{_phase(place)}/statement-{effect.order + 1}",
        _title(f"{drops[0].describe().removesuffix('is dropped')}is replaced"),
        (*(_drop_text(change) for change in drops), _text(effect, after), *grants),
        undo=(*_reversible(effect), *(text for back in backs for text in back)),
        locks=tuple(lock for _, lock in sorted(locks.items())),
    )


def _reversible(effect: Effect) -> tuple[str, ...]:
    back = inverse_of(effect)
    if isinstance(back, Irreversible):
        raise Unsupported(f"replacing what cannot be brought back: {back.reason}", instead="Use another name.")
    return back


def _makes_view(effect: Effect) -> bool:
    return effect.statement.kind == "create_view"


def _views(found: Sequence[_Placed]) -> int | None:
    return next((number for number, item in enumerate(found) if item.is_view_again), None)


def _united(one: Step, other: Step) -> Step:
    """Unite two steps that make views again: all are dropped first, those that were made last before the others."""
    statements = [text for step in (other, one) for text in _statements(step.action)]
    undo = [text for step in (other, one) for action in _undone(step) for text in _statements(action)]
    rest = [text for step in (one, other) for text in _statements(step.action)]
    back = [text for step in (one, other) for action in _undone(step) for text in _statements(action)]
    return lone_step(
        one.id,
        f"{one.title}; {other.title[:1].lower()}{other.title[1:]}",
        (*filter(_is_drop, statements), *(text for text in rest if not _is_drop(text))),
        undo=(*filter(_is_drop, undo), *(text for text in back if not _is_drop(text))),
        locks=tuple(dict.fromkeys((*one.locks, *other.locks))),
    )


def _is_drop(text: str) -> bool:
    return text.startswith("DROP VIEW ")


def _statements(action: Action) -> tuple[str, ...]:
    return action.statements if isinstance(action, Transaction) else ()


def _undone(step: Step) -> tuple[Action, ...]:
    return () if isinstance(step.undo, Irreversible) else step.undo


def _is_part_of_created(effect: Effect, created: frozenset[TableName]) -> bool:
    """Whether what the statement did goes away with a table that another statement of the change creates."""
    return _concerns(effect, created) and not any(isinstance(c, TableAdded | TableRenamed) for c in effect.changes)


def _text(effect: Effect, after: Catalog) -> str:
    """Return the statement as written; a view of ``*`` as the server understands it once everything is done.

    While both shapes are there, ``*`` is more than what the user means.
    """
    has_star = any(type(node).__name__ == "A_Star" for node in walk(effect.node))
    if effect.statement.kind != "create_view" or not has_star:
        return effect.statement.transactional_sql
    change = next(c for c in effect.changes if isinstance(c, ObjectChanged) and c.object_kind == "view")
    final = next((o for o in after.objects if (o.kind, o.name) == ("view", change.name)), change.after)
    if final is None:
        return effect.statement.transactional_sql
    head = "CREATE OR REPLACE VIEW" if effect.node.replace else "CREATE VIEW"
    return f"{head}{pieces(final.definition)[0].removeprefix('CREATE VIEW')}"


def _dropped(effect: Effect) -> tuple[Change, ...]:
    """Return the objects that a DROP dropped, one by one, without what fell with them."""
    return tuple(
        change
        for change in effect.changes
        if not getattr(change, "consequence", False)
        and getattr(change, "after", None) is None
        and subject(change)[0] not in ("privileges", "comment", "grants", "option")
    )


def _users_first(changes: Sequence[Change]) -> tuple[Change, ...]:
    """Order what one DROP drops, so that each can be dropped by itself: a view before the views that it reads."""
    left, ordered = list(changes), list[Change]()
    while left:
        free = next((one for one in left if not any(_reads(other, one) for other in left if other is not one)), left[0])
        left.remove(free)
        ordered.append(free)
    return tuple(ordered)


def _reads(one: Change, other: Change) -> bool:
    if not isinstance(one, ObjectChanged) or not isinstance(other, ObjectChanged) or one.before is None:
        return False
    return mentions(one.before.definition, other.name.split("(", 1)[0])


def _about(effect: Effect, wanted: Change) -> tuple[Change, ...]:
    """Return a dropped object's change with the comments and privileges that fell with it."""
    oid = wanted.before.oid if isinstance(wanted, ObjectChanged) and wanted.before is not None else None
    fell = (
        change
        for change in effect.changes
        if isinstance(change, ObjectChanged) and change.object_kind in ("privileges", "comment")
        and change.before is not None and change.before.oid == oid
    )  # fmt: skip
    return (wanted, *fell)


def _drop_step(effect: Effect, change: Change) -> Step:
    # What is gone is not in pg_class any more when the clone's locks are read.
    gone = (LockUse(table=change.table, mode="ACCESS EXCLUSIVE"),) if isinstance(change, TableDropped) else ()
    return lone_step(
        f"contract/statement-{effect.order + 1}/{'/'.join(subject(change))}",
        _title(change.describe()),
        (_drop_text(change),),
        undo=inverse_of(replace(effect, changes=_about(effect, change))),
        locks=gone or effect.locks,
    )


def _drop_text(change: Change) -> str:
    match change:
        case TableDropped():
            return f"DROP TABLE {change.table.identifier.as_string()}"
        case TriggerChanged() if change.before is not None:
            name = sql.Identifier(change.before.name)
            return sql.SQL("DROP TRIGGER {} ON {}").format(name, change.table.identifier).as_string()
        case DependentChanged() if change.before is not None and change.before.kind in ("policy", "statistics"):
            return f"DROP {change.before.kind.upper()} {change.before.name}"
        case ObjectChanged() if (text := drop_of(change.object_kind, change.name)) is not None:
            return text
        case _:
            raise Unsupported(change.describe(), instead="Drop it by itself, outside this migration.")


def _phase(place: Place) -> str:
    return "switch" if place is Place.SWITCH else "expand" if place < Place.SWITCH else "contract"


def _title(text: str) -> str:
    return text[:1].upper() + text[1:]


# ------------------------------------------------------------------------------------------------ notes


def _notes(effect: Effect, place: Place, *, has_switch: bool, is_pair: bool) -> Iterator[Note]:
    when = "the switch" if has_switch and place is Place.SWITCH else _phase(place)
    for change in effect.changes:
        match change:
            case TriggerChanged() if place <= Place.SWITCH and change.after is not None:
                yield Note(
                    severity="WARNING",
                    text=f"The trigger {display(change.after.name)} of {change.table} fires for the statements of the "
                    f"running application too, from {when} on.",
                )
            case ObjectChanged() if place <= Place.SWITCH and (is_pair or _replaces(change)):
                if change.object_kind in ("view", "function", "procedure"):
                    yield Note(
                        severity="WARNING",
                        text=f"The {change.object_kind} {change.name} has one definition for both application "
                        f"versions: the new one from {when} on.",
                    )
            case ObjectChanged() if change.object_kind == "enum" and change.before is not None:
                yield Note(
                    severity="INFO",
                    text=f"Values that are added to {change.name} stay when the migration is rolled back: PostgreSQL "
                    "cannot remove them, and no row has them then unless an application wrote them.",
                )
            case TableAdded():
                yield Note(
                    severity="INFO", text=f"Going back drops {change.table} with the rows that it has by then.",
                    of_way_back=True,
                )  # fmt: skip
            case _:
                pass
