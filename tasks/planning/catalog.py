"""The catalog snapshot: everything that planning needs to know of a database, immutable.

Taken by `tasks.database.catalog`; planning never sees a connection. OIDs and attribute numbers are kept because
the meaning of a change is read from them (a rename keeps both); the schema hash leaves them out.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from tasks.planning.names import TableName


class Snapshot(BaseModel):
    """Base of the catalog's value types: frozen, and strict about its fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Column(Snapshot):
    """A column: ``type`` as ``format_type`` prints it (with modifier), ``default`` as ``pg_get_expr`` prints it."""

    name: str
    attnum: int
    type: str
    not_null: bool
    default: str | None = None
    generated: Literal["", "s", "v"] = ""
    identity: Literal["", "a", "d"] = ""
    collation: str | None = None
    """Only when it differs from the type's own."""
    deterministic: bool = True
    """Whether only equal texts are equal under the collation in force: one that ignores case is not."""
    has_equality: bool = True
    """Whether the type has a default B-tree or hash equality (json, xml, point and others have none)."""
    storage: str = ""
    statistics_target: int | None = None
    options: tuple[str, ...] = ()
    """``attoptions``, compression and foreign-table options, as ``name=value``."""
    comment: str | None = None


ConstraintKind = Literal["check", "foreign_key", "primary_key", "unique", "exclusion", "not_null", "trigger"]


class Constraint(Snapshot):
    """A table constraint; ``definition`` as ``pg_get_constraintdef`` prints it."""

    name: str
    oid: int
    kind: ConstraintKind
    definition: str
    columns: tuple[str, ...]
    validated: bool = True
    deferrable: bool = False
    inherited: bool = False
    references: TableName | None = None
    referenced_columns: tuple[str, ...] = ()
    index: str | None = None
    comment: str | None = None


class Index(Snapshot):
    """An index; ``columns`` are all table columns it reads: keys, INCLUDE, expressions and predicate."""

    name: str
    oid: int
    definition: str
    columns: tuple[str, ...]
    unique: bool = False
    valid: bool = True
    constraint: str | None = None
    """The constraint this index stands behind, if any."""
    bytes: int = 0
    comment: str | None = None


class Trigger(Snapshot):
    """A user trigger (internal ones are left out); ``definition`` as ``pg_get_triggerdef`` prints it."""

    name: str
    definition: str
    enabled: str
    """``pg_trigger.tgenabled``: O (origin), D (disabled), R (replica), A (always)."""
    before_row: bool
    on_update: bool


DependentKind = Literal[
    "view",
    "materialized view",
    "rule",
    "policy",
    "function",
    "generated column",
    "publication",
    "statistics",
    "sequence",
]


class Dependent(Snapshot):
    """Something outside the table's own constraints and indexes that depends on one of its columns."""

    kind: DependentKind
    name: str
    columns: tuple[str, ...]
    definition: str = ""


class Table(Snapshot):
    """A table with all that hangs on it. ``rows`` and ``bytes`` are estimates from pg_class."""

    name: TableName
    oid: int
    kind: Literal["r", "p", "f"]
    persistence: Literal["p", "u", "t"]
    owner: str
    columns: tuple[Column, ...]
    constraints: tuple[Constraint, ...] = ()
    indexes: tuple[Index, ...] = ()
    triggers: tuple[Trigger, ...] = ()
    dependents: tuple[Dependent, ...] = ()
    grants: tuple[str, ...] = ()
    row_security: bool = False
    replica_identity: str = "d"
    """``d`` (default), ``n`` (nothing), ``f`` (full), or ``i`` and the name of the index."""
    options: tuple[str, ...] = ()
    """``name=value``, sorted: reloptions (``toast.`` for the TOAST table's), access method, tablespace …"""
    partition_of: TableName | None = None
    inherits: tuple[TableName, ...] = ()
    comment: str | None = None
    rows: int = 0
    bytes: int = 0
    toast_bytes: int = 0
    """Of ``bytes``, those of the TOAST table."""
    attributes: int = 0
    """How many columns the table has ever had: the dropped ones count against the server's limit."""

    def column(self, name: str) -> Column | None:
        return next((column for column in self.columns if column.name == name), None)

    @property
    def primary_key(self) -> Constraint | None:
        return next((constraint for constraint in self.constraints if constraint.kind == "primary_key"), None)


class SchemaObject(Snapshot):
    """Any other object whose change a plan must notice: type, domain, view, function, sequence, schema, extension …"""

    kind: str
    name: str
    oid: int
    definition: str
    columns: tuple[str, ...] = ()
    """Of a view, its output columns in order, each as its name, a tab and its type."""


class Catalog(Snapshot):
    """One moment of one database, without the schemas of the system and of Lockstep itself."""

    server_version: int
    """``server_version_num``, e.g. 160004."""
    database: str
    tables: tuple[Table, ...] = ()
    objects: tuple[SchemaObject, ...] = ()

    def table(self, name: TableName) -> Table | None:
        return next((table for table in self.tables if table.name == name), None)

    @property
    def major(self) -> int:
        return self.server_version // 10000
