"""The meaning of a change as a whole: every difference, and what the statements that run as written explain of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from tasks.planning import parser
from tasks.planning.catalog import Column
from tasks.planning.change import Change, ColumnChanged, ObjectChanged, TableAdded, TableDropped, TableRenamed
from tasks.planning.names import TableName
from tasks.planning.objects.effects import Effect, created_tables, subject

_NAMED_APART = frozenset(
    {"schema", "extension", "comment", "privileges", "grants", "option", "column", "part", "other"}
)
"""Subjects whose second part is no qualified name of an object."""


@dataclass(frozen=True)
class Meant:
    """``changes`` is the difference that the whole change makes, ``effects`` what single statements did of it."""

    changes: tuple[Change, ...]
    effects: tuple[Effect, ...] = ()

    @cached_property
    def explained(self) -> frozenset[tuple[str, ...]]:
        """Subjects that a statement run as written brings about, by the tables' names before the whole change."""
        former = {change.after: change.table for change in self.renamed}
        found = set()
        for effect in self.effects:
            for change in effect.changes:
                table = former.get(change.table) if not isinstance(change, ObjectChanged) else None
                found.add(subject(change if table is None else change.model_copy(update={"table": table})))
        return frozenset(found)

    @cached_property
    def renamed(self) -> tuple[TableRenamed, ...]:
        """Tables that were there before and get another name."""
        return tuple(change for change in self.changes if isinstance(change, TableRenamed))

    @cached_property
    def created(self) -> frozenset[TableName]:
        """Every name that a table of the change's own has at some time."""
        return created_tables(self.effects)

    def explains(self, change: Change) -> bool:
        """Whether a statement run as written makes the whole of a difference, so that no room has to."""
        if isinstance(change, TableAdded):
            return change.table in self.created
        if subject(change) not in self.explained:
            return False
        return not isinstance(change, ColumnChanged) or _only_described(change.before, change.after)

    def is_replaced(self, kind: str, name: str) -> bool:
        """Whether a statement run as written makes, replaces or drops the object."""
        return (kind, name) in self.explained

    @cached_property
    def touched(self) -> tuple[TableName, ...]:
        """The tables, by their names before, that statements run as written change."""
        found = {change.table: None for effect in self.effects for change in effect.changes if hasattr(change, "table")}
        added = {change.table for change in self.changes if isinstance(change, TableAdded)}
        return tuple(sorted(found.keys() - added))

    @cached_property
    def names(self) -> tuple[TableName, ...]:
        """The qualified names of everything that statements run as written make, change or drop."""
        return tuple(sorted(set(self._names())))

    def _names(self) -> Iterator[TableName]:
        for effect in self.effects:
            for change in effect.changes:
                match change:
                    case TableAdded() | TableDropped():
                        yield change.table
                    case TableRenamed():
                        yield from (change.table, change.after)
                    case ObjectChanged() if change.object_kind not in _NAMED_APART:
                        yield qualified(change.name)
                    case _ if hasattr(change, "table"):
                        yield change.table


def qualified(printed: str) -> TableName:
    """Return a name as the catalog prints it, without a function's arguments."""
    written = printed.split("(", 1)[0]
    target = parser.tree_of(f"SELECT {written}").stmts[0].stmt.select_stmt.target_list[0].res_target.val
    parts = [field.string.sval for field in target.column_ref.fields]
    return TableName(parts[0], parts[-1])


def _only_described(before: Column, after: Column) -> bool:
    """Whether only what nobody's statement depends on differs: comment, statistics, storage."""
    described = ("comment", "statistics_target", "storage", "options")
    return before.model_copy(update={field: getattr(after, field) for field in described}) == after
