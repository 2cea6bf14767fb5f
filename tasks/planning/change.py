"""The kinds of difference between two catalogs, as data. `meaning.changes` finds them.

``table`` is always the name before the change (the live one), also where the change renames the table.
``consequence`` says that PostgreSQL made the difference itself, because of another change in the same list: a
constraint printed with a renamed column, an index rebuilt for a new type, the sequence of a new identity column.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tasks.planning.catalog import Column, Constraint, Dependent, Index, SchemaObject, Table, Trigger
from tasks.planning.names import TableName, display
from tasks.planning.plan import Part


class TableAdded(Part):
    kind: Literal["table_added"] = "table_added"
    table: TableName
    after: Table

    def describe(self) -> str:
        return f"table {self.table} is created"


class TableDropped(Part):
    kind: Literal["table_dropped"] = "table_dropped"
    table: TableName
    before: Table

    def describe(self) -> str:
        return f"table {self.table} is dropped"


class TableRenamed(Part):
    kind: Literal["table_renamed"] = "table_renamed"
    table: TableName
    after: TableName

    def describe(self) -> str:
        return f"table {self.table} is renamed to {self.after}"


class ColumnAdded(Part):
    kind: Literal["column_added"] = "column_added"
    table: TableName
    after: Column

    def describe(self) -> str:
        return f"column {self.table}.{display(self.after.name)} {self.after.type} is added"


class ColumnDropped(Part):
    kind: Literal["column_dropped"] = "column_dropped"
    table: TableName
    before: Column

    def describe(self) -> str:
        return f"column {self.table}.{display(self.before.name)} is dropped"


class ColumnChanged(Part):
    """The same column (by attribute number) with other properties; several of the properties may hold at once."""

    kind: Literal["column_changed"] = "column_changed"
    table: TableName
    before: Column
    after: Column
    consequence: bool = False

    @property
    def renamed(self) -> bool:
        return self.before.name != self.after.name

    @property
    def retyped(self) -> bool:
        return self.before.type != self.after.type

    @property
    def default_changed(self) -> bool:
        return self.before.default != self.after.default

    @property
    def nullability_changed(self) -> bool:
        return self.before.not_null != self.after.not_null

    @property
    def collation_changed(self) -> bool:
        return self.before.collation != self.after.collation

    @property
    def generation_changed(self) -> bool:
        """Whether it became, ceased to be or changed as a generated or identity column."""
        return (self.before.generated, self.before.identity) != (self.after.generated, self.after.identity)

    @property
    def comment_changed(self) -> bool:
        return self.before.comment != self.after.comment

    @property
    def storage_changed(self) -> bool:
        """Whether storage, compression, statistics target or options differ."""
        before, after = self.before, self.after
        return (before.storage, before.statistics_target, before.options) != (
            after.storage,
            after.statistics_target,
            after.options,
        )

    def describe(self) -> str:
        facts = [
            *([f"renamed to {display(self.after.name)}"] if self.renamed else []),
            *([f"changed from {self.before.type} to {self.after.type}"] if self.retyped else []),
            *(
                ["given another default" if self.after.default else "left without default"]
                if self.default_changed
                else []
            ),
            *(["made NOT NULL" if self.after.not_null else "made nullable"] if self.nullability_changed else []),
            *(["given another collation"] if self.collation_changed else []),
            *(["changed in how it is generated"] if self.generation_changed else []),
            *(["given other storage or statistics options"] if self.storage_changed else []),
            *(["given another comment"] if self.comment_changed else []),
        ]
        return f"column {self.table}.{display(self.before.name)} is {', '.join(facts) or 'changed'}"


class ConstraintAdded(Part):
    kind: Literal["constraint_added"] = "constraint_added"
    table: TableName
    after: Constraint
    consequence: bool = False
    """The constraint comes with a column or type change, e.g. the re-made copy on a partition."""

    def describe(self) -> str:
        return f"constraint {display(self.after.name)} {self.after.definition} is added to {self.table}"


class ConstraintDropped(Part):
    """``consequence``: it fell with a column that it reads."""

    kind: Literal["constraint_dropped"] = "constraint_dropped"
    table: TableName
    before: Constraint
    consequence: bool = False

    def describe(self) -> str:
        return f"constraint {display(self.before.name)} of {self.table} is dropped"


class ConstraintChanged(Part):
    kind: Literal["constraint_changed"] = "constraint_changed"
    table: TableName
    before: Constraint
    after: Constraint
    consequence: bool = False

    @property
    def renamed(self) -> bool:
        return self.before.name != self.after.name

    @property
    def became_valid(self) -> bool:
        return self.after.validated and not self.before.validated

    def describe(self) -> str:
        if self.renamed:
            return f"constraint {display(self.before.name)} of {self.table} is renamed to {display(self.after.name)}"
        return f"constraint {display(self.before.name)} of {self.table} becomes {self.after.definition}"


class IndexAdded(Part):
    """``consequence``: it stands behind a constraint that is added."""

    kind: Literal["index_added"] = "index_added"
    table: TableName
    after: Index
    consequence: bool = False

    def describe(self) -> str:
        return f"index {display(self.after.name)} on {self.table} is created"


class IndexDropped(Part):
    """``consequence``: it fell with a column that it reads, or with its constraint."""

    kind: Literal["index_dropped"] = "index_dropped"
    table: TableName
    before: Index
    consequence: bool = False

    def describe(self) -> str:
        return f"index {display(self.before.name)} on {self.table} is dropped"


class IndexChanged(Part):
    kind: Literal["index_changed"] = "index_changed"
    table: TableName
    before: Index
    after: Index
    consequence: bool = False

    @property
    def renamed(self) -> bool:
        return self.before.name != self.after.name

    def describe(self) -> str:
        if self.renamed:
            return f"index {display(self.before.name)} on {self.table} is renamed to {display(self.after.name)}"
        return f"index {display(self.before.name)} on {self.table} becomes {self.after.definition}"


class TriggerChanged(Part):
    """A trigger added (``before`` None), dropped (``after`` None) or changed."""

    kind: Literal["trigger_changed"] = "trigger_changed"
    table: TableName
    before: Trigger | None
    after: Trigger | None
    consequence: bool = False

    def describe(self) -> str:
        name = display((self.after or self.before or _MISSING_TRIGGER).name)
        return f"trigger {name} on {self.table} is {_verb(self.before, self.after)}"


class DependentChanged(Part):
    """A rule, policy, extended statistics object or publication of the table added, dropped or changed."""

    kind: Literal["dependent_changed"] = "dependent_changed"
    table: TableName
    before: Dependent | None
    after: Dependent | None
    consequence: bool = False

    def describe(self) -> str:
        item = self.after or self.before
        return f"{item.kind if item else ''} {item.name if item else ''} is {_verb(self.before, self.after)}"


class GrantsChanged(Part):
    """``added`` and ``removed`` are GRANT statements."""

    kind: Literal["grants_changed"] = "grants_changed"
    table: TableName
    added: tuple[str, ...]
    removed: tuple[str, ...]

    def describe(self) -> str:
        return f"privileges on {self.table} change: {len(self.added)} granted, {len(self.removed)} revoked"


class TableOptionChanged(Part):
    """Any other property of the table: owner, persistence, a storage option, row security, comment, inheritance …"""

    kind: Literal["table_option_changed"] = "table_option_changed"
    table: TableName
    option: str
    before: str | None
    after: str | None

    def describe(self) -> str:
        return f"{self.option} of {self.table} changes from {self.before or 'nothing'} to {self.after or 'nothing'}"


class ObjectChanged(Part):
    """An object that is no table added (``before`` None), dropped (``after`` None) or changed."""

    kind: Literal["object_changed"] = "object_changed"
    before: SchemaObject | None
    after: SchemaObject | None
    consequence: bool = False

    @property
    def object_kind(self) -> str:
        item = self.after or self.before
        return item.kind if item else ""

    @property
    def name(self) -> str:
        """The name before the change; after it for an object that is added."""
        item = self.before or self.after
        return item.name if item else ""

    def describe(self) -> str:
        return f"{self.object_kind} {self.name} is {_verb(self.before, self.after)}"


class Other(Part):
    """A difference between the catalogs that nothing above explains; a plan must refuse it."""

    kind: Literal["other"] = "other"
    table: TableName
    what: str

    def describe(self) -> str:
        return f"{self.table}: {self.what}"


Change = Annotated[
    TableAdded
    | TableDropped
    | TableRenamed
    | ColumnAdded
    | ColumnDropped
    | ColumnChanged
    | ConstraintAdded
    | ConstraintDropped
    | ConstraintChanged
    | IndexAdded
    | IndexDropped
    | IndexChanged
    | TriggerChanged
    | DependentChanged
    | GrantsChanged
    | TableOptionChanged
    | ObjectChanged
    | Other,
    Field(discriminator="kind"),
]

_MISSING_TRIGGER = Trigger(name="?", definition="", enabled="", before_row=False, on_update=False)


def _verb(before: object, after: object) -> str:
    if before is None:
        return "created"
    return "dropped" if after is None else "changed"
