"""What a row of a table must satisfy to be a fair one for a rehearsal: the demands of both shapes, as SQL. Pure.

The old shape's are its own constraints. The new shape's are asked of what `up` makes of the old columns, which must
not fail.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from psycopg import sql

from tasks.planning.catalog import Column, Constraint, Index, Table
from tasks.planning.names import verbatim
from tasks.planning.plan import DeleteRows, Plan, UpdateRows
from tasks.planning.strategies.expand_contract.contribution import check_expression


@dataclass(frozen=True)
class Condition:
    """Something that every row must satisfy; ``columns`` are those of the old shape that it reads."""

    columns: frozenset[str]
    holds: sql.Composable


@dataclass(frozen=True)
class _Made:
    """A new column by its last name: the old ones that it is made of, and how."""

    old: tuple[str, ...]
    expression: str


@dataclass(frozen=True)
class Demands:
    """The demands on rows of ``table``; ``goal`` is the table that the change leads to, None where it drops it."""

    plan: Plan
    table: Table
    goal: Table | None

    @property
    def written(self) -> tuple[Column, ...]:
        """The columns that a row brings."""
        return tuple(column for column in self.table.columns if not column.generated)

    @property
    def constraints(self) -> tuple[Constraint, ...]:
        """Those of the old shape, then those of the new one."""
        return (*self.table.constraints, *(self.goal.constraints if self.goal is not None else ()))

    @property
    def foreign_keys(self) -> tuple[Constraint, ...]:
        """The foreign keys over columns that the table has now, those that the change adds included."""
        names = {column.name for column in self.table.columns}
        found: dict[tuple[str, ...], Constraint] = {}
        for constraint in self.constraints:
            if constraint.kind == "foreign_key" and set(constraint.columns) <= names:
                found.setdefault(constraint.columns, constraint)
        return tuple(found.values())

    @property
    def unique(self) -> frozenset[frozenset[str]]:
        """The sets of columns of which no two rows have the same."""
        shapes = [shape for shape in (self.table, self.goal) if shape is not None]
        return frozenset(
            [frozenset(item.columns) for item in self.constraints if item.kind in ("primary_key", "unique")]
            + [frozenset(index.columns) for shape in shapes for index in shape.indexes if index.unique]
        )

    @property
    def unique_later(self) -> tuple[Index, ...]:
        """The unique indexes that only the new shape has, over columns that stay as they are."""
        mapped = {old for made in self._made.values() for old in made.old} | self._made.keys()
        kept = {column.name for column in self.table.columns} - mapped
        now = {index.definition for index in self.table.indexes}
        return tuple(
            index
            for index in (self.goal.indexes if self.goal is not None else ())
            if index.unique and index.definition not in now and set(index.columns) <= kept
        )

    def is_not_null(self, column: Column) -> bool:
        """Whether the column must have a value now, or has to when the change is there."""
        later = self.goal.column(column.name) if self.goal is not None else None
        mapped = any(column.name in made.old for made in self._made.values())
        return column.not_null or (later is not None and later.not_null and not mapped)

    def naming(self, column: str) -> tuple[str, ...]:
        """Return the expressions that say something of a column: constraints, mapping, the change's own conditions."""
        return (
            *(item.definition for item in self.constraints if column in item.columns),
            *(made.expression for made in self._made.values() if column in made.old),
            *(text for text in self._of_data_changes() if column in text),
        )

    def conditions(self) -> Iterator[Condition]:
        """Yield what every row must satisfy. Raises Unsupported for a CHECK that cannot be asked by itself."""
        names = {column.name for column in self.table.columns}
        for constraint in self.table.constraints:
            if constraint.kind == "check":
                yield Condition(frozenset(constraint.columns), is_not_false(constraint))
        made = self._made
        for column in self.goal.columns if self.goal is not None else ():
            if column.name in made:
                value = sql.SQL("({})::{}").format(verbatim(made[column.name].expression), verbatim(column.type))
                # That one is evaluated, too: a constant condition would be left out with what may fail in it.
                needed = "({} IS NOT NULL)" if column.not_null else "(({} IS NULL) IN (true, false))"
                yield Condition(frozenset(made[column.name].old), sql.SQL(needed).format(value))
        for constraint in self.goal.constraints if self.goal is not None else ():
            is_new = constraint.kind == "check" and constraint not in self.table.constraints
            if is_new and set(constraint.columns) <= names | made.keys():
                yield self._of_goal(constraint)

    def _of_goal(self, constraint: Constraint) -> Condition:
        """Return a CHECK of the new shape as a condition on the old columns."""
        made = self._made
        columns = [column for column in self.goal.columns if column.name in constraint.columns] if self.goal else []
        values = sql.SQL(", ").join(
            sql.SQL("({})::{} AS {}").format(
                verbatim(made[column.name].expression) if column.name in made else sql.Identifier(column.name),
                verbatim(column.type),
                sql.Identifier(column.name),
            )
            for column in columns
        )
        read = {old for name in constraint.columns for old in (made[name].old if name in made else (name,))}
        holds = sql.SQL("(SELECT {} FROM (SELECT {}) AS new_shape)").format(is_not_false(constraint), values)
        return Condition(frozenset(read), holds)

    @property
    def _made(self) -> Mapping[str, _Made]:
        return {
            last.column: _Made(group.old, first.expression)
            for group in self.plan.groups
            if group.table == self.table.name
            for last, first in zip(group.from_switch.up, group.up, strict=True)
        }

    def _of_data_changes(self) -> Iterator[str]:
        """Yield conditions and values of the change's own UPDATE and DELETE of the table."""
        for phase in self.plan.phases:
            for step in phase.steps:
                if isinstance(step.action, UpdateRows | DeleteRows) and step.action.table == self.table.name:
                    yield step.action.due
                if isinstance(step.action, UpdateRows) and step.action.table == self.table.name:
                    yield from (item.expression for item in step.action.assignments)


def is_not_false(constraint: Constraint) -> sql.Composed:
    """Return the condition that a CHECK takes a row. Raises Unsupported for one with more than an expression."""
    return sql.SQL("({}) IS NOT FALSE").format(verbatim(check_expression(constraint)))


def all_of(conditions: Iterable[Condition]) -> sql.Composed:
    """Return the condition that all of them hold."""
    return sql.SQL(" AND ").join([sql.SQL("true"), *(item.holds for item in conditions)])
