"""Which statements of a change are run as they are written, and what each of them did on the clone.

Changes of columns, constraints and indexes of tables that exist are carried out by rooms, which read their meaning from
the catalogs. Everything else that is allowed here is the user's own statement, run alone in a transaction of its own.
What it did is not read from its text: it is the difference of the catalogs before and after it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from tasks.planning import parser
from tasks.planning.catalog import Catalog
from tasks.planning.change import (
    Change,
    ColumnChanged,
    ConstraintChanged,
    DependentChanged,
    GrantsChanged,
    IndexChanged,
    ObjectChanged,
    TableAdded,
    TableDropped,
    TableOptionChanged,
    TableRenamed,
    TriggerChanged,
)
from tasks.planning.errors import Unsupported
from tasks.planning.names import TableName
from tasks.planning.parse_tree import Node, walk
from tasks.planning.plan import LockUse
from tasks.planning.statements import Statement, find_table

_AS_WRITTEN = frozenset(
    {
        "create_table", "create_view", "create_function", "create_trigger", "create_policy", "create_sequence",
        "create_type", "create_domain", "create_schema", "create_extension", "create_stats", "comment", "grant",
        "alter_enum", "alter_function", "alter_view", "alter_policy", "alter_sequence", "alter_stats", "drop_table",
        "drop_view", "drop_function", "drop_procedure", "drop_trigger", "drop_policy", "drop_sequence", "drop_type",
        "drop_domain", "drop_schema", "drop_statistic_ext", "rename_table",
    }
)  # fmt: skip

_ROOM_KINDS = frozenset(
    {
        "alter_table", "create_index", "drop_index", "alter_index", "rename_column", "rename_index",
        "rename_constraint", "reindex", "update", "delete",
    }
)  # fmt: skip
"""Statements that rooms carry out where they concern a table that exists."""

_ROOM_COMMANDS = frozenset(
    {
        "AT_AddColumn", "AT_DropColumn", "AT_AlterColumnType", "AT_ColumnDefault", "AT_DropNotNull", "AT_SetNotNull",
        "AT_SetExpression", "AT_DropExpression", "AT_AddConstraint", "AT_AlterConstraint", "AT_ValidateConstraint",
        "AT_DropConstraint", "AT_AddIdentity", "AT_SetIdentity", "AT_DropIdentity",
    }
)  # fmt: skip

_BRIEF_COMMANDS = frozenset(
    {
        "AT_SetStatistics", "AT_SetOptions", "AT_ResetOptions", "AT_SetStorage", "AT_SetCompression",
        "AT_SetRelOptions", "AT_ResetRelOptions", "AT_EnableTrig", "AT_EnableAlwaysTrig", "AT_EnableReplicaTrig",
        "AT_DisableTrig", "AT_ReplicaIdentity", "AT_EnableRowSecurity", "AT_DisableRowSecurity",
        "AT_ForceRowSecurity", "AT_NoForceRowSecurity", "AT_ClusterOn", "AT_DropCluster", "AT_ColumnDefault",
    }
)  # fmt: skip
"""Parts of ALTER TABLE and ALTER VIEW that change the catalog only: no scan, no rewrite."""

_RENAMES = "Create it under the new name beside the old one, and drop the old one in the same change: both are there "
_REFUSED = {
    "rename_view": f"{_RENAMES}until contract.",
    "rename_function": f"{_RENAMES}until contract.",
    "rename_procedure": f"{_RENAMES}until contract.",
    "rename_sequence": "The running application may name it. Rename it after its table, in the same change, or by "
    "itself once no application names it.",
    "rename_schema": "The running application names it: rename it by itself, with the application stopped.",
    "rename_type": "The running application may name it. Create the new type, and give the columns that type through "
    "new columns.",
    "alter_object_schema": "The running application names it with the schema or finds it by search_path: create it in "
    "the other schema beside the old one.",
    "alter_owner": "Run it by itself after the migration: Lockstep's role must keep its rights until the end.",
    "alter_domain": "A domain is checked in all tables that use it, under a lock. Put the constraint on the columns.",
    "alter_type": "An attribute of a type changes every table that uses it. Create another type and a new column.",
    "create_rule": "A rule rewrites the running application's statements. Use a trigger.",
    "drop_rule": "Drop it by itself, before or after the migration: it rewrites the running application's statements.",
    "drop_materialized_view": "Drop it by itself, once nobody reads it.",
    "drop_extension": "Drop it by itself, once nothing uses it.",
    "alter_default_privileges": "Run it by itself: it concerns objects that do not exist yet.",
}


@dataclass(frozen=True)
class Effect:
    """One statement that is run as it is written: the catalogs around it, and what its own locks were."""

    statement: Statement
    before: Catalog
    after: Catalog
    changes: tuple[Change, ...]
    locks: tuple[LockUse, ...] = ()
    """Locks on relations that were there before it, as measured on the clone."""
    order: int = 0
    """Its place among the statements of the change, from 0."""
    leads: bool = False
    """Whether it stands before every statement that a room carries out."""

    @property
    def node(self) -> Node:
        return parser.parse(self.statement.sql)[0].node

    @property
    def words(self) -> frozenset[str]:
        """Every name that occurs in the statement, however it is meant."""
        return frozenset(_strings(self.node))


def subject(change: Change) -> tuple[str, ...]:
    """Return what a change is about, equal for the same object in two comparisons of catalogs."""
    match change:
        case TableAdded() | TableDropped() | TableRenamed():
            return ("table", str(change.table))
        case TriggerChanged():
            item = change.before or change.after
            return ("trigger", str(change.table), item.name if item else "")
        case DependentChanged():
            dependent = change.before or change.after
            return (dependent.kind, dependent.name) if dependent else ()
        case GrantsChanged():
            return ("grants", str(change.table))
        case TableOptionChanged():
            return ("option", str(change.table), change.option)
        case ColumnChanged():
            return ("column", str(change.table), change.before.name)
        case ObjectChanged():
            return (change.object_kind, change.name)
        case ConstraintChanged() | IndexChanged():
            return ("part", str(change.table), change.before.name)
        case _:
            return ("other", change.describe())


def created_tables(effects: Sequence[Effect]) -> frozenset[TableName]:
    """Return every name that a table of this change's own has at some time."""
    found: set[TableName] = set()
    for effect in effects:
        for change in effect.changes:
            match change:
                case TableAdded():
                    found.add(change.table)
                case TableRenamed() if change.table in found:
                    found.add(change.after)
                case _:
                    pass
    return frozenset(found)


class Sorter:
    """Tells, statement by statement, which are run as they are written; knows the tables that the change creates."""

    def __init__(self, search_path: Sequence[str]) -> None:
        self._path = tuple(search_path)
        self._created: set[TableName] = set()
        self._renamed: set[TableName] = set()

    def is_as_written(self, statement: Statement, now: Catalog) -> bool:
        """Whether the statement runs as it is; False for what a room carries out.

        Raises `Unsupported` for what neither does, by name.
        """
        owner = self._owner(statement, now) if statement.kind == "rename_sequence" else None
        if owner in self._created or owner in self._renamed:
            return owner in self._created
        if statement.kind in _REFUSED:
            raise _refused(statement, _REFUSED[statement.kind])
        _refuse_cascade(statement)
        _refuse_parts(statement)
        named = [table.name for name in statement.tables if (table := find_table(now, name, self._path))]
        if statement.kind in _ROOM_KINDS and named and all(name in self._created for name in named):
            return True
        if statement.kind in ("drop_index", "rename_index"):
            return self._concerns_created_index(statement, now)
        if statement.kind == "comment" and _is_of_part(statement):
            return self._concerns_created_index(statement, now) or self._concerns_created_table(statement)
        if statement.kind in ("alter_table", "alter_view"):
            return _all_brief(statement)
        if statement.kind not in _ROOM_KINDS | _AS_WRITTEN:
            raise _refused(statement, "Run it by itself, outside this migration, if it is safe for the application.")
        return statement.kind in _AS_WRITTEN

    def learn(self, changes: Iterable[Change]) -> None:
        for change in changes:
            match change:
                case TableAdded():
                    self._created.add(change.table)
                case TableRenamed() if change.table in self._created:
                    self._created.add(change.after)
                case TableRenamed():
                    self._renamed.add(change.after)
                case _:
                    pass

    def _owner(self, statement: Statement, now: Catalog) -> TableName | None:
        """Return the table whose column owns the sequence that the statement names."""
        written = statement.tables[0]
        names = {
            str(TableName(schema, written.name)) for schema in ((written.schema,) if written.schema else self._path)
        }
        for table in now.tables:
            if any(item.kind == "sequence" and item.name in names for item in table.dependents):
                return table.name
        return None

    def _concerns_created_table(self, statement: Statement) -> bool:
        words = frozenset(_strings(parser.parse(statement.sql)[0].node))
        return any(table.name in words for table in self._created)

    def _concerns_created_index(self, statement: Statement, now: Catalog) -> bool:
        words = frozenset(_strings(parser.parse(statement.sql)[0].node))
        return any(
            index.name in words for table in now.tables if table.name in self._created for index in table.indexes
        )


def _is_of_part(statement: Statement) -> bool:
    """Whether it is the COMMENT of an index or constraint: the room that brings or renames that one writes it too."""
    node = parser.parse(statement.sql)[0].node
    enum = node.DESCRIPTOR.fields_by_name["objtype"].enum_type
    return enum.values_by_number[node.objtype].name in ("OBJECT_TABCONSTRAINT", "OBJECT_INDEX")


def commands(node: Node) -> tuple[str, ...]:
    """Return the kinds of the parts of an ALTER TABLE, e.g. ``AT_AddColumn``."""
    found = []
    for command in node.cmds:
        part = command.alter_table_cmd
        enum = part.DESCRIPTOR.fields_by_name["subtype"].enum_type
        found.append(str(enum.values_by_number[part.subtype].name))
    return tuple(found)


def roles_of(statements: Iterable[Statement]) -> frozenset[str]:
    """Return the roles that the statements name."""
    return frozenset(role for statement in statements for role in role_names(parser.parse(statement.sql)[0].node))


def role_names(node: Node) -> Iterator[str]:
    """Yield the roles that a statement names; CURRENT_USER, PUBLIC and the like have no name."""
    for message in walk(node):
        if type(message).__name__ == "RoleSpec" and message.rolename:
            yield message.rolename


def _all_brief(statement: Statement) -> bool:
    kinds = commands(parser.parse(statement.sql)[0].node)
    unknown = [kind for kind in kinds if kind not in _ROOM_COMMANDS | _BRIEF_COMMANDS]
    if unknown:
        words = " ".join(_split_words(kind.removeprefix("AT_")) for kind in unknown)
        raise _refused(statement, _OTHER_COMMANDS.get(unknown[0], "Run it by itself, outside this migration."), words)
    brief = [kind for kind in kinds if kind not in _ROOM_COMMANDS]
    if brief and len(brief) < len(kinds):
        raise _refused(statement, "Write its parts as ALTER TABLE statements of their own.", "several kinds of change")
    return bool(brief)


_OTHER_COMMANDS = {
    "AT_ChangeOwner": _REFUSED["alter_owner"],
    "AT_SetTableSpace": "It copies the table under a lock: use pg_repack, or a new table.",
    "AT_SetLogged": "It rewrites the table under a lock.",
    "AT_SetUnLogged": "It rewrites the table under a lock.",
    "AT_SetAccessMethod": "It rewrites the table under a lock.",
    "AT_AttachPartition": "Attach it by itself, with a validated CHECK that makes the scan needless.",
    "AT_DetachPartition": "Detach it by itself, CONCURRENTLY.",
}


def _refuse_cascade(statement: Statement) -> None:
    node = parser.parse(statement.sql)[0].node
    if statement.kind.startswith("drop_") and node.DESCRIPTOR.fields_by_name.get("behavior") is not None:
        enum = node.DESCRIPTOR.fields_by_name["behavior"].enum_type
        if enum.values_by_number[node.behavior].name == "DROP_CASCADE":
            raise _refused(
                statement, "Write out the drops that CASCADE would do: each is a statement that can be planned.", ""
            )


def _refuse_parts(statement: Statement) -> None:
    node = parser.parse(statement.sql)[0].node
    if statement.kind == "alter_enum" and node.old_val:
        raise _refused(
            statement,
            "The running application reads and writes the old label. Add the new one (ADD VALUE), let the new version "
            "write it, and UPDATE the rows; PostgreSQL cannot drop the old one.",
        )
    if statement.kind == "alter_sequence" and any(item.def_elem.defname == "restart" for item in node.options):
        raise _refused(statement, "Set the sequence's value by itself: it is data, not schema.", "RESTART")
    if statement.kind == "create_table" and (node.inh_relations or node.HasField("partbound")):
        raise _refused(
            statement,
            "Create it as a table of its own, and attach it by itself: as a partition or child it locks its parent.",
            "PARTITION OF or INHERITS",
        )
    if statement.kind == "create_trigger" and node.isconstraint:
        raise _refused(statement, "Use a plain AFTER trigger; create a constraint trigger by itself.", "CONSTRAINT")


def _refused(statement: Statement, instead: str, part: str | None = None) -> Unsupported:
    words = statement.kind.replace("_", " ").upper()
    text = " ".join(statement.sql.split())
    shown = text if len(text) <= 100 else f"{text[:99]}…"
    return Unsupported(f"{words}{f' ({part})' if part else ''} ({statement.place()}: {shown})", instead=instead)


def _split_words(word: str) -> str:
    return "".join(f" {letter}" if letter.isupper() else letter for letter in word).strip().upper()


def _strings(node: Node) -> Iterator[str]:
    for message in walk(node):
        for _, value in message.ListFields():
            if isinstance(value, str):
                yield value
