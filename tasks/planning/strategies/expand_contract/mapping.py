"""Mapping groups: which old and new columns belong together, and by which expressions.

A draft is what the user's change and spec say, in the user's words; a `Group` is the same with the server's canonical
expressions. In between the expressions are type-checked on the clone, which needs a connection and so happens a floor
above.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from psycopg import sql

from tasks.planning.catalog import Column, Table
from tasks.planning.errors import SpecError, Unsupported
from tasks.planning.expressions import is_same
from tasks.planning.names import TableName
from tasks.planning.parser import column_references
from tasks.planning.plan import Assignment, Inserts, MappedGroup
from tasks.planning.retyping import is_plain_cast, old_version_can

MAX_GROUPS = 15
"""Two bits a group in an ``integer`` marker, the sign bit left alone."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the spec says of one column: the expressions as the user wrote them."""

    up: str | None = None
    down: Mapping[str, str] | str | None = None
    old_version_reads: bool = False


@dataclass(frozen=True, slots=True)
class Draft:
    """A mapping group in the user's words: ``up`` by new column over the old shape, ``down`` the other way."""

    table: TableName
    old: tuple[str, ...]
    new: tuple[str, ...]
    up: Mapping[str, str]
    down: Mapping[str, str]

    @property
    def keeps_name(self) -> bool:
        """Whether the new column is to have the old one's name: its type alone changes."""
        return bool(set(self.old) & set(self.new))


@dataclass(frozen=True, slots=True)
class Canonical:
    """An expression as the server prints it: schema-qualified, typed, over the row's own columns only."""

    text: str
    inputs: tuple[str, ...]
    may_raise: bool
    immutable: bool


@dataclass(frozen=True, slots=True)
class Side:
    """One shape of a group: its columns, and the CHECK expressions (canonical) that only this side's columns decide."""

    columns: tuple[Column, ...]
    checks: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)


@dataclass(frozen=True, slots=True)
class Group:
    """A mapping group ready for SQL. ``number`` is its place in the table's marker (two bits each)."""

    table: TableName
    number: int
    old: Side
    new: Side
    up: tuple[Assignment, ...]
    down: tuple[Assignment, ...]
    readable: tuple[str, ...]
    """Every column of the row while both shapes exist."""
    kept_inputs: tuple[Column, ...] = ()
    """Columns that `up` reads and that belong to neither side."""
    raising: frozenset[str] = field(default_factory=frozenset)
    """The ways, ``up`` and ``down``, whose expressions can raise on some value."""
    immutable: bool = True
    inserts: Inserts = "told"

    @property
    def unfilled_bit(self) -> int:
        return 1 << (2 * self.number)

    @property
    def down_failed_bit(self) -> int:
        return 2 << (2 * self.number)

    @property
    def bits(self) -> int:
        return self.unfilled_bit | self.down_failed_bit

    def may_raise(self, way: str) -> bool:
        """Whether computing the ``way`` can raise; CHECKs of the receiving side are evaluated with it and count too."""
        return way in self.raising or bool((self.new if way == "up" else self.old).checks)

    @property
    def is_rename(self) -> bool:
        """Whether both sides hold the same values of the same type under another name."""
        return (
            len(self.old.columns) == len(self.new.columns) == 1
            and self.old.columns[0].type == self.new.columns[0].type
            and self.old.columns[0].collation == self.new.columns[0].collation
            and not self.raising
            and len(self.up) == len(self.down) == 1
            and is_same(self.up[0].expression, _plain(self.old.columns[0].name))
            and is_same(self.down[0].expression, _plain(self.new.columns[0].name))
        )

    def as_plan(self) -> MappedGroup:
        return MappedGroup(
            table=self.table, old=self.old.names, new=self.new.names, up=self.up, down=self.down, bits=self.bits,
            inserts=self.inserts,
        )  # fmt: skip


def drafts(
    before: Table, after: Table, wanted: Mapping[str, Wanted], using: Mapping[str, str], direct: Collection[str] = ()
) -> tuple[Draft, ...]:
    """Derive the mapping groups of one table from its catalogs before and after the user's change.

    Args:
        wanted: what the spec's ``mapping`` says, by column name (new names; old names for plain drops).
        using: USING expressions of the change's ALTER COLUMN TYPE, by the column's old name.
        direct: columns whose type the server changes where they stand; there is nothing to map.

    Raises:
        SpecError: an expression is missing or contradicts another.
        Unsupported: a change of a column that this version does not carry out.
    """
    old_by_number = {column.attnum: column for column in before.columns}
    new_by_number = {column.attnum: column for column in after.columns}
    dropped = {column.name for number, column in old_by_number.items() if number not in new_by_number}
    found: list[Draft] = []
    for number, new in new_by_number.items():
        old = old_by_number.get(number)
        spec = wanted.get(new.name, Wanted())
        if old is None:
            if spec.up is not None:
                found.append(_added(before, new, spec.up, spec.down, dropped))
        elif old.name == new.name and old.name in direct:
            continue
        elif (old.name, old.type, old.collation) != (new.name, new.type, new.collation):
            found.append(_kept(before.name, old, new, spec, using))
    merged = _merge(found)
    _refuse_company(merged)
    taken = {name for draft in merged for name in draft.old}
    for name in sorted(dropped - taken):
        down = wanted.get(name, Wanted()).down
        if isinstance(down, str):
            merged.append(Draft(before.name, (name,), (), {}, {name: down}))
    _refuse_unused(before, after, {name: spec for name, spec in wanted.items() if name not in direct}, merged)
    if len(merged) > MAX_GROUPS:
        raise Unsupported(
            f"{len(merged)} independent column mappings on {before.name} in one migration (at most {MAX_GROUPS})",
            instead="Split the change into several migrations.",
        )
    return tuple(sorted(merged, key=lambda draft: (draft.new, draft.old)))


def _refuse_unused(before: Table, after: Table, wanted: Mapping[str, Wanted], merged: Sequence[Draft]) -> None:
    """A mapping that nothing comes of is a misspelt one, or one that its author believes to be at work."""
    used = {column for draft in merged for column in (*draft.new, *draft.down)}
    for name in sorted(set(wanted) - used):
        where = f"mapping {before.name}.{name}"
        if before.column(name) is None and after.column(name) is None:
            known = ", ".join(column.name for column in after.columns)
            raise SpecError(
                f"{where}: there is no such column, before the change or after it.", remedy=f"It has: {known}."
            )
        if before.column(name) is None:
            raise SpecError(f"{where}: up is missing, and down alone cannot fill a new column.")
        if after.column(name) is None:
            raise SpecError(
                f"{where}: the column is not there after the change.",
                remedy="Write the mapping of a renamed column under its new name; of a dropped one, say down.",
            )
        raise SpecError(
            f"{where}: the change leaves this column as it is.",
            remedy="A mapping belongs to a column that the change adds, renames, retypes or drops.",
        )


def _kept(table: TableName, old: Column, new: Column, spec: Wanted, using: Mapping[str, str]) -> Draft:
    retyped = old.type != new.type or old.collation != new.collation
    up = spec.up or using.get(old.name) or _plain(old.name)
    given = spec.up is not None or old.name in using
    is_plain = not given or (is_plain_cast(up, old.name, new.type) and old_version_can(old.type, new.type))
    down = spec.down
    if isinstance(down, Mapping):
        if set(down) != {old.name}:
            raise SpecError(
                f"mapping {table}.{new.name}: down must give the old column {old.name}, and gives {', '.join(down)}."
            )
        down = down[old.name]
    if down is None:
        if retyped and not is_plain:
            raise SpecError(
                f"mapping {table}.{new.name}: down is missing. {old.name} becomes {new.name} by an expression, and "
                "Lockstep needs the way back to keep the old application running and to roll back.",
                remedy=f'Add to the spec:  mapping: {{{table.name}.{new.name}: {{down: "…"}}}}',
            )
        down = _plain(new.name)
    return Draft(table, (old.name,), (new.name,), {new.name: up}, {old.name: down})


def _refuse_company(merged: Iterable[Draft]) -> None:
    """A column that keeps its name is kept in step by itself: from the switch on its name means another column."""
    for draft in merged:
        if draft.keeps_name and (len(draft.old), len(draft.new)) != (1, 1):
            raise Unsupported(
                f"changing the type of {', '.join(sorted(set(draft.old) & set(draft.new)))} of {draft.table} under the "
                f"same name and in one mapping with other columns ({', '.join(draft.old)} → {', '.join(draft.new)})",
                instead="Give the column its new type in a migration of its own, before or after this one.",
            )


def _added(before: Table, new: Column, up: str, wanted: Mapping[str, str] | str | None, dropped: set[str]) -> Draft:
    down: dict[str, str] = {}
    if isinstance(wanted, str):
        if len(dropped) != 1:
            raise SpecError(
                f"mapping {before.name}.{new.name}: down is one expression, but it is not clear for which old column; "
                "write it as {old_column: expression}."
            )
        down = {next(iter(dropped)): wanted}
    elif wanted is not None:
        down = dict(wanted)
    for name in down:
        if before.column(name) is None:
            known = ", ".join(column.name for column in before.columns)
            raise SpecError(
                f"mapping {before.name}.{new.name}: down names the column {name}, which {before.name} does not have.",
                remedy=f"It has: {known}.",
            )
    return Draft(before.name, tuple(down), (new.name,), {new.name: up}, down)


def _merge(found: Iterable[Draft]) -> list[Draft]:
    """Unite drafts that share an old column, or of which one's `down` reads the other's new columns."""
    merged: list[Draft] = []
    for draft in found:
        related = [other for other in merged if set(other.old) & set(draft.old) or _reads(other, draft)]
        for other in related:
            merged.remove(other)
            for name in set(other.down) & set(draft.down):
                if other.down[name] != draft.down[name]:
                    raise SpecError(
                        f"mapping: {draft.table}.{name} has two different down expressions: "
                        f"{other.down[name]!r} and {draft.down[name]!r}."
                    )
            draft = Draft(
                draft.table,
                tuple(dict.fromkeys((*other.old, *draft.old))),
                tuple(dict.fromkeys((*other.new, *draft.new))),
                {**other.up, **draft.up},
                {**other.down, **draft.down},
            )
        merged.append(draft)
    return merged


def _reads(one: Draft, other: Draft) -> bool:
    """Whether the way back of one needs the new columns of the other: a name split in two, given one `down`."""
    return any(
        column_references(expression) & set(right.new)
        for left, right in ((one, other), (other, one))
        for expression in left.down.values()
    )


def _plain(column: str) -> str:
    return sql.Identifier(column).as_string()


def all_unfilled_bits(groups: Iterable[Group]) -> int:
    """Return the marker of a row that no side but the old one has filled."""
    return sum(group.unfilled_bit for group in groups if group.new.columns)
