"""What takes a statement back that was run as it was written: from what the catalog said before it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from psycopg import sql

from tasks.planning import parser
from tasks.planning.catalog import Catalog, Column, SchemaObject
from tasks.planning.change import (
    Change,
    ColumnChanged,
    DependentChanged,
    GrantsChanged,
    ObjectChanged,
    TableAdded,
    TableDropped,
    TableOptionChanged,
    TableRenamed,
    TriggerChanged,
)
from tasks.planning.errors import Unsupported
from tasks.planning.names import TableName, verbatim
from tasks.planning.objects.effects import Effect
from tasks.planning.objects.privileges import grants_of, privileges_of_new, revoke_of
from tasks.planning.plan import Irreversible

Inverse = tuple[str, ...] | Irreversible

_DROPPED_AS = {
    "view": "VIEW", "function": "FUNCTION", "procedure": "PROCEDURE", "sequence": "SEQUENCE", "enum": "TYPE",
    "composite type": "TYPE", "range": "TYPE", "domain": "DOMAIN", "schema": "SCHEMA", "extension": "EXTENSION",
    "statistics": "STATISTICS",
}  # fmt: skip

_ENABLED = {"O": "ENABLE", "D": "DISABLE", "R": "ENABLE REPLICA", "A": "ENABLE ALWAYS"}
_IDENTITIES = {"d": "DEFAULT", "n": "NOTHING", "f": "FULL"}
_STORAGES = {"p": "PLAIN", "e": "EXTERNAL", "x": "EXTENDED", "m": "MAIN"}


def inverse_of(effect: Effect) -> Inverse:
    """Return the statements that undo an effect, in order; empty where nothing has to be undone.

    Raises `Unsupported` for an effect that nothing is known to undo.
    """
    if effect.statement.kind == "comment":
        return _comment_back(effect)
    found: list[str] = []
    for change in reversed(effect.changes):
        statements = _inverse(change, effect)
        if isinstance(statements, Irreversible):
            return statements
        found += statements
    # An object first, then what is said of it; what PUBLIC must not have goes before what others are given.
    return tuple(sorted(found, key=lambda text: (text.startswith(("GRANT ", "COMMENT ")), text.startswith("REVOKE "))))


def drop_of(kind: str, name: str) -> str | None:
    """Return the statement that drops an object by the name that the catalog gives it."""
    word = _DROPPED_AS.get(kind)
    return f"DROP {word} {name}" if word else None


def recreated(kind: str, name: str, catalog: Catalog) -> tuple[str, ...]:
    """Return what makes an object as the catalog has it: definition, comments, privileges."""
    item = next(found for found in catalog.objects if (found.kind, found.name) == (kind, name))
    comments = [
        _comment(found)
        for found in catalog.objects
        if found.kind == "comment" and (found.oid == item.oid or found.name.endswith(f" on {name}"))
    ]
    owned = next((found for found in catalog.objects if found.kind == "privileges" and found.oid == item.oid), None)
    return (*pieces(item.definition), *comments, *privileges_of_new(owned))


def pieces(definition: str) -> tuple[str, ...]:
    """Split a definition of the catalog, which may be several statements, as a view's with its triggers is."""
    return tuple(item.text for item in parser.parse(definition))


def _inverse(change: Change, effect: Effect) -> Inverse:
    match change:
        case TableAdded():
            return (f"DROP TABLE {change.table.identifier.as_string()}",)
        case TableRenamed():
            name = sql.Identifier(change.table.name)
            return (sql.SQL("ALTER TABLE {} RENAME TO {}").format(change.after.identifier, name).as_string(),)
        case TableDropped():
            return Irreversible(
                reason=f"The table {change.table} is gone with its rows: a backup taken before contract has them."
            )
        case TriggerChanged():
            return tuple(_trigger(change))
        case DependentChanged():
            return tuple(_dependent(change))
        case GrantsChanged():
            return (*(revoke_of(grant) for grant in change.added), *change.removed)
        case TableOptionChanged():
            return (_option(change),)
        case ColumnChanged() if change.storage_changed and not change.renamed and not change.retyped:
            return tuple(_storage(change.table, change.before, change.after))
        case ObjectChanged():
            return _object(change, effect)
        case _ if getattr(change, "consequence", False):
            return ()
        case _:
            raise _unknown(change)


def _trigger(change: TriggerChanged) -> Iterator[str]:
    table = change.table.identifier
    before, after = change.before, change.after
    if after is not None and (before is None or before.definition != after.definition):
        yield sql.SQL("DROP TRIGGER {} ON {}").format(sql.Identifier(after.name), table).as_string()
    if before is None:
        return
    if after is None or before.definition != after.definition:
        yield before.definition
    if (after.enabled if after is not None and after.definition == before.definition else "O") != before.enabled:
        yield (
            sql.SQL("ALTER TABLE {} {} TRIGGER {}")
            .format(table, verbatim(_ENABLED[before.enabled]), sql.Identifier(before.name))
            .as_string()
        )


def _dependent(change: DependentChanged) -> Iterator[str]:
    item = change.after or change.before
    if item is None or item.kind not in ("policy", "statistics"):
        raise _unknown(change)
    if change.after is not None:
        yield f"DROP {item.kind.upper()} {change.after.name}"
    if change.before is not None:
        yield change.before.definition


def _option(change: TableOptionChanged) -> str:
    table, before = change.table.identifier, change.before
    match change.option:
        case "row_security":
            text = f"{'ENABLE' if before == 'True' else 'DISABLE'} ROW LEVEL SECURITY"
        case "force_row_security":
            text = f"{'FORCE' if before else 'NO FORCE'} ROW LEVEL SECURITY"
        case "replica_identity" if before in _IDENTITIES:
            text = f"REPLICA IDENTITY {_IDENTITIES[before]}"
        case "replica_identity" if before is not None:
            text = f"REPLICA IDENTITY USING INDEX {before.removeprefix('i ')}"
        case "clustered_on":
            text = f"CLUSTER ON {before}" if before else "SET WITHOUT CLUSTER"
        case option if option not in ("owner", "kind", "persistence", "access_method", "tablespace", "of", "inherits"):
            text = f"SET ({option} = {sql.Literal(before).as_string()})" if before else f"RESET ({option})"
        case _:
            raise _unknown(change)
    return sql.SQL("ALTER TABLE {} {}").format(table, verbatim(text)).as_string()


def _storage(table: TableName, before: Column, after: Column) -> Iterator[str]:
    def alter(text: str) -> str:
        column = sql.Identifier(before.name)
        return sql.SQL("ALTER TABLE {} ALTER COLUMN {} {}").format(table.identifier, column, verbatim(text)).as_string()

    if before.statistics_target != after.statistics_target:
        target = before.statistics_target
        yield alter(f"SET STATISTICS {-1 if target is None else target}")
    if before.storage != after.storage:
        if before.storage not in _STORAGES:
            raise Unsupported(
                f"SET STORAGE of {table}.{before.name}, which has its type's own storage",
                instead="Run it by itself: Lockstep could not set it back.",
            )
        yield alter(f"SET STORAGE {_STORAGES[before.storage]}")
    old, new = (dict(item.split("=", 1) for item in column.options) for column in (before, after))
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) == new.get(name):
            continue
        if name == "compression":
            yield alter(f"SET COMPRESSION {old.get(name, 'default')}")
        else:
            yield alter(f"SET ({name} = {old[name]})" if name in old else f"RESET ({name})")


# ------------------------------------------------------------------------------------------------ other objects


def _object(change: ObjectChanged, effect: Effect) -> Inverse:
    before, after = change.before, change.after
    kind = change.object_kind
    if kind == "privileges":
        return _privileges(change)
    if kind == "comment":
        return (_comment(before),) if before is not None and after is None else ()
    # An owned sequence changes with its column, but for a statement of its own.
    if change.consequence and effect.statement.kind != "alter_sequence":
        return ()
    if before is None and after is not None and (drop := drop_of(kind, after.name)) is not None:
        return (drop,)
    if before is not None and before.definition and not before.definition.startswith('{"'):
        restore = _RESTORED.get(kind)
        if restore is not None:
            return restore(before, after, effect)
    raise _unknown(change)


def _restored_view(before: SchemaObject, after: SchemaObject | None, effect: Effect) -> Inverse:
    old = pieces(before.definition)
    if after is None:
        return old
    new = pieces(after.definition)
    if before.columns == after.columns and old[1:] == new[1:]:
        return (replaced_view(old[0]),)
    above = views_on(effect.before, before.name)
    drops = [f"DROP VIEW {name}" for name in (*reversed(above), after.name)]
    return (*drops, *(text for name in (before.name, *above) for text in recreated("view", name, effect.before)))


def views_on(catalog: Catalog, name: str) -> tuple[str, ...]:
    """Return the views that read a view, directly or through others, each after those that it reads."""
    found: list[str] = []
    frontier = [name]
    while frontier:
        read = frontier.pop(0)
        for item in catalog.objects:
            if item.kind == "view" and item.name not in (read, name) and mentions(item.definition, read):
                # Once more at the end, if it is there: it also reads what was found later.
                found = [*(other for other in found if other != item.name), item.name]
                frontier.append(item.name)
    return tuple(found)


def mentions(definition: str, name: str) -> bool:
    """Whether a definition, in which the server prints every name in full, has the name of an object."""
    return re.search(rf'(?<![\w$".]){re.escape(name)}(?![\w$"])', definition) is not None


def replaced_view(definition: str) -> str:
    """Return CREATE VIEW as the server prints it as CREATE OR REPLACE VIEW."""
    return f"CREATE OR REPLACE VIEW{definition.removeprefix('CREATE VIEW')}"


def _restored(before: SchemaObject, after: SchemaObject | None, effect: Effect) -> Inverse:  # noqa: ARG001
    return (before.definition,)


def _restored_sequence(before: SchemaObject, after: SchemaObject | None, effect: Effect) -> Inverse:  # noqa: ARG001
    if after is None:
        return Irreversible(reason=f"The sequence {before.name} is gone, and with it the number it had come to.")
    owned = "" if " OWNED BY " in before.definition else " OWNED BY NONE"
    rest = before.definition.removeprefix("CREATE ").removeprefix("UNLOGGED ")
    return (f"ALTER {rest}{owned}",)


def _restored_type(before: SchemaObject, after: SchemaObject | None, effect: Effect) -> Inverse:  # noqa: ARG001
    # A value that was added to an enum stays: nothing removes it, and it is in no row of the old application's.
    return (before.definition,) if after is None else ()


_RESTORED: dict[str, Callable[[SchemaObject, SchemaObject | None, Effect], Inverse]] = {
    "view": _restored_view,
    "function": _restored,
    "procedure": _restored,
    "sequence": _restored_sequence,
    "enum": _restored_type,
    "composite type": _restored_type,
    "range": _restored_type,
    "domain": _restored_type,
    "schema": _restored_type,
}


def _privileges(change: ObjectChanged) -> tuple[str, ...]:
    if change.after is None:
        return privileges_of_new(change.before)
    if change.before is None:
        return ()
    old, new = grants_of(change.before), grants_of(change.after)
    return (
        *(revoke_of(grant) for grant in new if grant not in old),
        *(grant for grant in old if grant not in new),
    )


def _comment(item: SchemaObject) -> str:
    """Return COMMENT ON for a catalog entry of kind ``comment``, whose name is as pg_identify_object gives it."""
    name = item.name
    for kind in ("view column", "materialized view column", "composite type column"):
        if name.startswith(f"{kind} "):
            name = f"column {name.removeprefix(f'{kind} ')}"
    return f"COMMENT ON {name} IS {sql.Literal(item.definition).as_string()}"


def _comment_back(effect: Effect) -> tuple[str, ...]:
    """Return the user's own COMMENT with the text that was there before."""
    words = parser.tokens(effect.statement.sql)
    last = max(token.start for token in words if token.word == "IS")
    head = effect.statement.sql.encode()[:last].decode()
    return (f"{head}IS {sql.Literal(_old_comment(effect)).as_string()}",)


def _old_comment(effect: Effect) -> str | None:
    for change in effect.changes:
        match change:
            case ObjectChanged() if change.object_kind == "comment":
                return change.before.definition if change.before is not None else None
            case TableOptionChanged(option="comment"):
                return change.before
            case _:
                before = getattr(change, "before", None)
                if before is not None and hasattr(before, "comment"):
                    comment: str | None = before.comment
                    return comment
    return None


def _unknown(change: Change) -> Unsupported:
    return Unsupported(
        change.describe(),
        instead="Run it by itself, outside this migration, if it is safe for the running application: Lockstep does "
        "not know how to take it back.",
    )
