"""What statements do, told by rules over their parse trees alone: for where there is no server to try them on.

Coarser than the trace, and on the side of danger: the type that a column had is not known, so that every other one
rewrites the table; a function in a DEFAULT that is not among the stable ones is taken for volatile. Partitions, what
depends on what, and the bodies of functions are not seen. Tables that the files make themselves hold nothing yet.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from tasks.planning import parser
from tasks.planning.catalog import Catalog, Column, Table
from tasks.planning.change import (
    Change,
    ColumnAdded,
    ColumnChanged,
    ColumnDropped,
    TableAdded,
    TableDropped,
    TableRenamed,
)
from tasks.planning.facts import StatementFacts
from tasks.planning.names import TableName
from tasks.planning.parse_tree import Node, choice, walk
from tasks.planning.plan import LOCK_ORDER, LockMode
from tasks.planning.statements import Statement
from tasks.planning.transactions import SourceFile, control, units

SCHEMA = "public"
"""Where a table is that is written without a schema."""
UNKNOWN = "unknown"
"""The type of a column that nothing tells."""

_WEAK: Mapping[str, LockMode] = {
    "AT_SetStatistics": "SHARE UPDATE EXCLUSIVE", "AT_SetOptions": "SHARE UPDATE EXCLUSIVE",
    "AT_ResetOptions": "SHARE UPDATE EXCLUSIVE", "AT_SetRelOptions": "SHARE UPDATE EXCLUSIVE",
    "AT_ResetRelOptions": "SHARE UPDATE EXCLUSIVE", "AT_ClusterOn": "SHARE UPDATE EXCLUSIVE",
    "AT_DropCluster": "SHARE UPDATE EXCLUSIVE", "AT_ValidateConstraint": "SHARE UPDATE EXCLUSIVE",
    "AT_AttachPartition": "SHARE UPDATE EXCLUSIVE", "AT_EnableTrig": "SHARE ROW EXCLUSIVE",
    "AT_EnableAlwaysTrig": "SHARE ROW EXCLUSIVE", "AT_EnableReplicaTrig": "SHARE ROW EXCLUSIVE",
    "AT_DisableTrig": "SHARE ROW EXCLUSIVE", "AT_EnableTrigAll": "SHARE ROW EXCLUSIVE",
    "AT_DisableTrigAll": "SHARE ROW EXCLUSIVE", "AT_EnableTrigUser": "SHARE ROW EXCLUSIVE",
    "AT_DisableTrigUser": "SHARE ROW EXCLUSIVE",
}  # fmt: skip
"""The commands that take less than ACCESS EXCLUSIVE (AlterTableGetLockLevel in PostgreSQL's tablecmds.c)."""

_REWRITING = frozenset(
    {
        "AT_AlterColumnType", "AT_SetLogged", "AT_SetUnLogged", "AT_SetTableSpace", "AT_SetAccessMethod",
        "AT_SetExpression",
    }
)  # fmt: skip
_OF_COLUMNS = frozenset({"AT_SetNotNull", "AT_DropNotNull", "AT_DropExpression"})
_STABLE = frozenset(
    {
        "now", "transaction_timestamp", "statement_timestamp", "current_setting", "current_database", "current_user",
        "session_user", "version", "pg_backend_pid", "txid_current", "pg_current_xact_id", "lower", "upper", "to_char",
        "to_timestamp", "make_date", "make_interval", "timezone", "coalesce", "date_trunc", "md5", "jsonb_build_object",
        "json_build_object", "jsonb_build_array", "array_fill", "int4range", "int8range", "numrange", "tsrange",
        "tstzrange",
    }
)  # fmt: skip
"""Functions of the server's own that are not volatile and that people put into a DEFAULT."""
_SERIAL = frozenset({"serial", "bigserial", "smallserial", "serial2", "serial4", "serial8"})


@dataclass
class _Seen:
    """What one statement does."""

    locks: dict[TableName, LockMode] = field(default_factory=dict)
    rewrites: list[TableName] = field(default_factory=list)
    builds: list[tuple[str, TableName]] = field(default_factory=list)
    scans: list[TableName] = field(default_factory=list)
    validations: list[tuple[str, TableName]] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)

    def lock(self, table: TableName, mode: LockMode) -> None:
        self.locks[table] = max(self.locks.get(table, mode), mode, key=LOCK_ORDER.index)


def guess(files: Sequence[SourceFile], catalog: Catalog | None = None) -> tuple[StatementFacts, ...]:
    """Return what each statement of the files seems to do, one file after the other.

    ``catalog`` is the schema that they meet, where it is known; else it is what they name and do not make themselves.
    """
    return tuple(_Guesser(files, catalog or _named(files)).facts())


class _Guesser:
    def __init__(self, files: Sequence[SourceFile], catalog: Catalog) -> None:
        self._files = files
        self._catalog = catalog
        self._number = 0

    def facts(self) -> Iterator[StatementFacts]:
        for file in self._files:
            there = frozenset(table.name for table in self._catalog.tables)
            for unit in units(file):
                held: dict[TableName, LockMode] = {}
                for position in unit.positions:
                    found = self._statement(file, position, there, held, in_transaction=unit.in_transaction)
                    held = dict(found.held) if unit.in_transaction else {}
                    yield found

    def _statement(
        self,
        file: SourceFile,
        position: int,
        there: frozenset[TableName],
        held: Mapping[TableName, LockMode],
        *,
        in_transaction: bool,
    ) -> StatementFacts:
        statement = file.statements[position]
        self._number += 1
        before = self._catalog
        seen = _Seen() if control(statement) else _seen(statement, before)
        self._catalog = _after(before, seen.changes)
        own = {table: mode for table, mode in seen.locks.items() if table in there}
        all_held = dict(held)
        for table, mode in own.items():
            all_held[table] = max(all_held.get(table, mode), mode, key=LOCK_ORDER.index)
        return StatementFacts(
            index=self._number,
            file=file.name,
            statement=statement,
            in_transaction=in_transaction,
            own=own,
            held=all_held,
            rewrites=tuple(table for table in dict.fromkeys(seen.rewrites) if table in there),
            index_builds=tuple((name, table) for name, table in seen.builds if table in there),
            scans=tuple(table for table in dict.fromkeys(seen.scans) if table in there),
            validations=tuple((name, table) for name, table in seen.validations if table in there),
            changes=tuple(seen.changes),
            before=before,
            after=self._catalog,
            source="guessed",
        )


# ------------------------------------------------------------------------------------------------ the catalog


def _named(files: Sequence[SourceFile]) -> Catalog:
    """Return the tables and columns that the files name and do not make themselves, before the first of them."""
    columns: dict[TableName, dict[str, None]] = {}
    made: set[TableName] = set()
    added: set[tuple[TableName, str]] = set()
    for file in files:
        for statement in file.statements:
            node = _node(statement)
            if statement.kind in ("create_table", "create_table_as", "select_into"):
                made.update(_own_tables(statement, node))
            for table in _own_tables(statement, node):
                if table not in made:
                    columns.setdefault(table, {})
            for table, column, is_new in _columns(statement, node):
                if is_new:
                    added.add((table, column))
                elif table in columns and (table, column) not in added:
                    columns[table].setdefault(column)
            if statement.kind == "rename_table":
                made.add(TableName(_qualified(node.relation).schema, node.newname))
            if statement.kind == "rename_column":
                added.add((_qualified(node.relation), node.newname))
    tables = [_table(name, number, tuple(found)) for number, (name, found) in enumerate(columns.items(), start=1)]
    return Catalog(server_version=0, database="", tables=tuple(tables))


def _table(name: TableName, oid: int, columns: Sequence[str]) -> Table:
    listed = tuple(_column(column, number) for number, column in enumerate(columns, start=1))
    return Table(name=name, oid=oid, kind="r", persistence="p", owner="", columns=listed)


def _column(name: str, attnum: int, *, not_null: bool = False, default: str | None = None) -> Column:
    return Column(name=name, attnum=attnum, type=UNKNOWN, not_null=not_null, default=default)


def _columns(statement: Statement, node: Node) -> Iterator[tuple[TableName, str, bool]]:
    """Yield the columns that a statement names, and whether it makes them."""
    if statement.kind == "alter_table":
        table = _qualified(node.relation)
        for command in (item.alter_table_cmd for item in node.cmds):
            word = choice(command, "subtype")
            if word == "AT_AddColumn":
                yield table, getattr(command, "def").column_def.colname, True
            elif (command.name and "Column" in word) or word in _OF_COLUMNS:
                yield table, command.name, False
    if statement.kind == "rename_column":
        yield _qualified(node.relation), node.subname, False


def _own_tables(statement: Statement, node: Node) -> Iterator[TableName]:
    for table in statement.tables:
        yield TableName(table.schema or SCHEMA, table.name)
    for name in ("into", "rel"):
        inner: Node = getattr(node, name, None)
        if type(inner).__name__ == "IntoClause" and inner.rel.relname:
            yield _qualified(inner.rel)
    if statement.kind == "truncate":
        for item in node.relations:
            yield _qualified(item.range_var)


def _after(catalog: Catalog, changes: Sequence[Change]) -> Catalog:
    tables = {table.name: table for table in catalog.tables}
    for change in changes:
        match change:
            case TableAdded():
                tables[change.table] = change.after
            case TableDropped():
                tables.pop(change.table, None)
            case TableRenamed():
                if (moved := tables.pop(change.table, None)) is not None:
                    tables[change.after] = moved.model_copy(update={"name": change.after})
            case ColumnAdded() if change.table in tables:
                table = tables[change.table]
                tables[change.table] = table.model_copy(update={"columns": (*table.columns, change.after)})
            case ColumnDropped() | ColumnChanged() if change.table in tables:
                table = tables[change.table]
                after = () if isinstance(change, ColumnDropped) else (change.after,)
                kept = tuple(
                    new for column in table.columns
                    for new in (after if column.attnum == change.before.attnum else (column,))
                )  # fmt: skip
                tables[change.table] = table.model_copy(update={"columns": kept})
            case _:
                pass
    return catalog.model_copy(update={"tables": tuple(tables.values())})


# ------------------------------------------------------------------------------------------------ statements


def _node(statement: Statement) -> Node:
    return parser.parse(statement.sql)[0].node


def _qualified(relation: Node) -> TableName:
    return TableName(relation.schemaname or SCHEMA, relation.relname)


def _seen(statement: Statement, catalog: Catalog) -> _Seen:
    seen, node = _Seen(), _node(statement)
    tables = tuple(dict.fromkeys(_own_tables(statement, node)))
    match statement.kind:
        case "alter_table" | "alter_foreign_table" | "alter_materialized_view":
            _Altering(seen, catalog, _qualified(node.relation)).all(node)
        case "rename_column" | "rename_table" | "rename_constraint" | "rename_trigger" | "rename_policy":
            _rename(statement, node, seen, catalog)
        case "alter_object_schema" if node.relation.relname:
            table = _qualified(node.relation)
            seen.lock(table, "ACCESS EXCLUSIVE")
            seen.changes.append(TableRenamed(table=table, after=TableName(node.newschema, table.name)))
        case "create_index":
            table = _qualified(node.relation)
            seen.lock(table, "SHARE UPDATE EXCLUSIVE" if statement.concurrent else "SHARE")
            seen.builds.append((node.idxname or f"of {table.name}", table))
        case "reindex":
            for table in tables:
                mode: LockMode = "SHARE UPDATE EXCLUSIVE" if "CONCURRENTLY" in statement.sql.upper() else "SHARE"
                seen.lock(table, mode)
                seen.builds.append((f"of {table.name}", table))
        case "create_table" | "create_foreign_table":
            _create(node, seen)
        case "drop_table" | "drop_foreign_table":
            for table in tables:
                seen.lock(table, "ACCESS EXCLUSIVE")
                if (known := catalog.table(table)) is not None:
                    seen.changes.append(TableDropped(table=table, before=known))
        case _:
            _of_kind(statement, node, tables, seen)
    return seen


_LOCKS: Mapping[str, LockMode] = {
    "drop_trigger": "ACCESS EXCLUSIVE", "drop_policy": "ACCESS EXCLUSIVE", "drop_rule": "ACCESS EXCLUSIVE",
    "create_rule": "ACCESS EXCLUSIVE", "create_policy": "ACCESS EXCLUSIVE", "alter_policy": "ACCESS EXCLUSIVE",
    "truncate": "ACCESS EXCLUSIVE", "create_trigger": "SHARE ROW EXCLUSIVE", "comment": "SHARE UPDATE EXCLUSIVE",
    "analyze": "SHARE UPDATE EXCLUSIVE", "insert": "ROW EXCLUSIVE", "update": "ROW EXCLUSIVE",
    "delete": "ROW EXCLUSIVE", "merge": "ROW EXCLUSIVE", "create_stats": "SHARE UPDATE EXCLUSIVE",
}  # fmt: skip


def _of_kind(statement: Statement, node: Node, tables: Sequence[TableName], seen: _Seen) -> None:
    if statement.kind == "cluster":
        seen.rewrites += tables
    full = statement.kind == "vacuum" and any(option.def_elem.defname == "full" for option in node.options)
    if full:
        tables = tuple(_qualified(item.vacuum_relation.relation) for item in node.rels)
        seen.rewrites += tables
    if statement.kind == "refresh_materialized_view":
        seen.scans += tables
    mode = _LOCKS.get(statement.kind)
    if full or statement.kind in ("cluster", "refresh_materialized_view"):
        mode = "EXCLUSIVE" if statement.concurrent else "ACCESS EXCLUSIVE"
    if statement.kind == "lock":
        tables = tuple(_qualified(item.range_var) for item in node.relations)
        mode = LOCK_ORDER[node.mode - 1]
    for table in tables if mode is not None else ():
        seen.lock(table, mode or "ACCESS SHARE")


def _rename(statement: Statement, node: Node, seen: _Seen, catalog: Catalog) -> None:
    table = _qualified(node.relation)
    seen.lock(table, "ACCESS EXCLUSIVE")
    known = catalog.table(table)
    if statement.kind == "rename_table" and known is not None:
        seen.changes.append(TableRenamed(table=table, after=TableName(table.schema, node.newname)))
    old = known.column(node.subname) if known is not None and statement.kind == "rename_column" else None
    if old is not None:
        new = old.model_copy(update={"name": node.newname})
        seen.changes.append(ColumnChanged(table=table, before=old, after=new))


def _create(node: Node, seen: _Seen) -> None:
    table = _qualified(node.relation)
    for part in walk(node):
        if type(part).__name__ == "Constraint" and choice(part, "contype") == "CONSTR_FOREIGN":
            seen.lock(_qualified(part.pktable), "SHARE ROW EXCLUSIVE")
    if node.partbound.ListFields():
        for parent in node.inh_relations:
            seen.lock(_qualified(parent.range_var), "ACCESS EXCLUSIVE")
    columns = [item.column_def.colname for item in node.table_elts if item.WhichOneof("node") == "column_def"]
    # A number of its own: what the files make themselves was not there when they began.
    made = _table(table, -1 - abs(hash(table)) % 10**9, columns)
    seen.changes.append(TableAdded(table=table, after=made))


class _Altering:
    """The commands of one ALTER TABLE."""

    def __init__(self, seen: _Seen, catalog: Catalog, table: TableName) -> None:
        self._seen = seen
        self._table = table
        self._known = catalog.table(table)

    @cached_property
    def _number(self) -> int:
        return 1 + max((column.attnum for column in self._known.columns), default=0) if self._known else 1

    def all(self, node: Node) -> None:
        for item in node.cmds:
            command = item.alter_table_cmd
            word = choice(command, "subtype")
            self._seen.lock(self._table, _WEAK.get(word, "ACCESS EXCLUSIVE"))
            self._one(word, command)

    def _one(self, word: str, command: Node) -> None:
        match word:
            case "AT_AddColumn":
                self._add_column(getattr(command, "def").column_def)
            case "AT_AddConstraint":
                self._constraint(getattr(command, "def").constraint)
            case "AT_SetNotNull":
                self._seen.scans.append(self._table)
            case "AT_ValidateConstraint":
                self._seen.scans.append(self._table)
                self._seen.validations.append((command.name, self._table))
            case "AT_AttachPartition":
                child = _qualified(getattr(command, "def").partition_cmd.name)
                self._seen.lock(child, "ACCESS EXCLUSIVE")
                self._seen.scans.append(child)
            case "AT_DetachPartition":
                part = getattr(command, "def").partition_cmd
                concurrent = part.concurrent
                self._seen.locks[self._table] = "SHARE UPDATE EXCLUSIVE" if concurrent else "ACCESS EXCLUSIVE"
                self._seen.lock(_qualified(part.name), "SHARE UPDATE EXCLUSIVE" if concurrent else "ACCESS EXCLUSIVE")
            case "AT_DropColumn" if (old := self._column(command.name)) is not None:
                self._seen.changes.append(ColumnDropped(table=self._table, before=old))
            case "AT_ColumnDefault" if (old := self._column(command.name)) is not None:
                # Whoever drops a default knows of one.
                has = getattr(command, "def").WhichOneof("node") is not None
                before = old if has else old.model_copy(update={"default": UNKNOWN})
                after = old.model_copy(update={"default": UNKNOWN if has else None})
                self._seen.changes.append(ColumnChanged(table=self._table, before=before, after=after))
            case "AT_DropExpression" if (old := self._column(command.name)) is not None:
                before = old.model_copy(update={"generated": "s"})
                after = old.model_copy(update={"generated": ""})
                self._seen.changes.append(ColumnChanged(table=self._table, before=before, after=after))
            case _ if word in _REWRITING:
                self._seen.rewrites.append(self._table)
            case _:
                pass

    def _column(self, name: str) -> Column | None:
        return self._known.column(name) if self._known is not None else None

    def _add_column(self, column: Node) -> None:
        kinds = {choice(item.constraint, "contype"): item.constraint for item in column.constraints}
        default = kinds.get("CONSTR_DEFAULT")
        fills = default is not None and is_volatile(default.raw_expr)
        is_serial = column.type_name.names[-1].string.sval in _SERIAL if column.type_name.names else False
        if fills or is_serial or kinds.keys() & {"CONSTR_GENERATED", "CONSTR_IDENTITY"}:
            self._seen.rewrites.append(self._table)
        elif "CONSTR_CHECK" in kinds or ("CONSTR_NOTNULL" in kinds and default is None):
            self._seen.scans.append(self._table)
        for kind, constraint in kinds.items():
            if kind in ("CONSTR_UNIQUE", "CONSTR_PRIMARY", "CONSTR_FOREIGN"):
                self._constraint(constraint, has_values=default is not None)
        new = _column(
            column.colname,
            self._number + len(self._seen.changes),
            not_null="CONSTR_NOTNULL" in kinds or "CONSTR_PRIMARY" in kinds,
            default=UNKNOWN if default is not None or is_serial else None,
        )
        self._seen.changes.append(ColumnAdded(table=self._table, after=new))

    def _constraint(self, constraint: Node, *, has_values: bool = True) -> None:
        name = constraint.conname or "a new constraint"
        match choice(constraint, "contype"):
            case "CONSTR_CHECK" | "CONSTR_NOTNULL" if not constraint.skip_validation:
                self._seen.scans.append(self._table)
                self._seen.validations.append((name, self._table))
            case "CONSTR_FOREIGN":
                other = _qualified(constraint.pktable)
                self._seen.lock(other, "SHARE ROW EXCLUSIVE")
                if not constraint.skip_validation and has_values:
                    self._seen.scans.append(self._table)
                    self._seen.validations.append((name, self._table))
            case "CONSTR_UNIQUE" | "CONSTR_PRIMARY" | "CONSTR_EXCLUSION" if not constraint.indexname:
                self._seen.builds.append((name, self._table))
            case "CONSTR_PRIMARY":  # of an index that is there: its columns may still have to be looked at for NULL
                self._seen.scans.append(self._table)
            case _:
                pass


def is_volatile(expression: Node) -> bool:
    """Whether an expression calls something that may give each row another value."""
    return any(
        type(part).__name__ == "FuncCall" and part.funcname[-1].string.sval not in _STABLE for part in walk(expression)
    )
