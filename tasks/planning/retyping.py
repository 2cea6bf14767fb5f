"""Changes of a column's type under the same name: which of them the old application version can live with.

Under one name both application versions read and write the same column, so the old one meets the new type from the
moment of the change on. The list of changes that it does not notice is short; every other one needs the author's word
(``old_version_reads: true`` in the spec's mapping).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from psycopg import sql

from tasks.planning.catalog import Catalog, Column, Table
from tasks.planning.errors import SpecError
from tasks.planning.expressions import is_same
from tasks.planning.names import TableName, display, verbatim
from tasks.planning.plan import LockUse, Note

_INTEGERS = ("smallint", "integer", "bigint")
_FLOATS = ("real", "double precision")
_TYPE = re.compile(r"(?P<base>[^(]*?)\s*(?:\((?P<first>\d+)(?:,\s*(?P<second>-?\d+))?\))?(?P<rest>\D*)")
_NO_LIMIT = 10**9


@dataclass(frozen=True, slots=True)
class Retyped:
    """A column that gets another type (or collation) and keeps its name."""

    table: TableName
    old: Column
    new: Column

    @property
    def name(self) -> str:
        return self.old.name

    def __str__(self) -> str:
        return f"{self.table}.{display(self.name)}"

    @property
    def types(self) -> str:
        """Old and new type for people: ``integer → bigint``."""
        return f"{_told(self.old)} → {_told(self.new)}"


@dataclass(frozen=True, slots=True)
class DirectRetype:
    """A change of type that the server makes in its catalog alone: no rewrite, no scan, no index build.

    ``back`` is the statement of the way back where that is direct as well, else None. ``locks`` are all that the
    statement takes. ``checks`` are the CHECK constraints over the column, which the server would verify again row by
    row: they are dropped and added NOT VALID around the change.
    """

    column: Retyped
    statement: str
    back: str | None
    checks: tuple[str, ...]
    locks: tuple[LockUse, ...]


def retyped_columns(before: Catalog, after: Catalog) -> tuple[Retyped, ...]:
    """Return the columns that keep their name and get another type or collation, by table and in their order."""
    later = {table.oid: table for table in after.tables}
    return tuple(found for table in before.tables if table.oid in later for found in _retyped(table, later[table.oid]))


def _retyped(before: Table, after: Table) -> Iterator[Retyped]:
    later = {column.attnum: column for column in after.columns}
    for old in before.columns:
        new = later.get(old.attnum)
        if new is None or new.name != old.name or old.generated or new.generated:
            continue
        if (old.type, old.collation) != (new.type, new.collation):
            yield Retyped(before.name, old, new)


def statement(column: Retyped, to: Column, using: str | None = None) -> str:
    """Return ALTER TABLE … ALTER COLUMN … TYPE of one column."""
    parts = [
        sql.SQL("ALTER TABLE {} ALTER COLUMN {} TYPE ").format(column.table.identifier, sql.Identifier(column.name)),
        verbatim(to.type),
    ]
    if to.collation:
        parts.append(verbatim(f" COLLATE {to.collation}"))
    if using is not None:
        parts.append(verbatim(f" USING ({using})"))
    return sql.Composed(parts).as_string()


def is_plain_cast(expression: str, column: str, to: str) -> bool:
    """Whether a USING or `up` says no more than the change of type itself does: ``c``, ``c::bigint``.

    >>> is_plain_cast("CAST(age AS bigint)", "age", "bigint"), is_plain_cast("age + 1", "age", "bigint")
    (True, False)
    """
    name = sql.Identifier(column).as_string()
    try:
        return is_same(expression, name) or is_same(expression, f"CAST({name} AS {to})")
    except SpecError:
        return False


# ------------------------------------------------------------------------------------------------ both versions


def old_version_can(old: str, new: str) -> bool:
    """Whether an application that reads and writes ``old`` goes on with ``new``: every value it writes has a place.

    Types as ``format_type`` prints them.

    >>> old_version_can("integer", "bigint"), old_version_can("bigint", "integer")
    (True, False)
    >>> old_version_can("numeric(8,2)", "numeric(10,2)"), old_version_can("numeric(8,2)", "numeric(8,3)")
    (True, False)
    >>> old_version_can("character varying(50)", "text"), old_version_can("timestamp(3) with time zone", "text")
    (True, False)
    """
    if old == new:
        return True
    before, after = _TYPE.fullmatch(old), _TYPE.fullmatch(new)
    if before is None or after is None:
        return False
    base, to = _base(before), _base(after)
    first, to_first = _limit(before, "first"), _limit(after, "first")
    if base in _INTEGERS and to in _INTEGERS:
        return _INTEGERS.index(base) <= _INTEGERS.index(to)
    if base in _INTEGERS and to == "numeric":
        return after["first"] is None
    if base in _FLOATS and to in _FLOATS:
        return _FLOATS.index(base) <= _FLOATS.index(to)
    match base:
        case "numeric" if to == "numeric":
            scale, to_scale = (int(match["second"] or 0) if match["first"] else _NO_LIMIT for match in (before, after))
            whole, to_whole = first - scale, to_first - to_scale
            return after["first"] is None or (before["first"] is not None and scale <= to_scale and whole <= to_whole)
        case "character varying" | "text":
            return to in ("character varying", "text") and first <= to_first
        case "cidr":
            return to == "inet"
        case _:
            return (
                base == to and first <= to_first and base.startswith(("timestamp", "time", "interval", "bit varying"))
            )


def means_the_same(old: str, new: str) -> bool:
    """Whether an expression over a value of the one type says the same over the widened value of the other.

    >>> means_the_same("smallint", "bigint"), means_the_same("integer", "numeric")  # 3 / 2
    (True, False)
    """
    before, after = _TYPE.fullmatch(old), _TYPE.fullmatch(new)
    if before is None or after is None or not old_version_can(old, new):
        return False
    base, to = _base(before), _base(after)
    return base == to or any({base, to} <= set(family) for family in (_INTEGERS, ("character varying", "text")))


def _base(match: re.Match[str]) -> str:
    return str(match["base"] + match["rest"])


def _limit(match: re.Match[str], part: str) -> int:
    return int(match[part]) if match[part] else _NO_LIMIT


def require_word(columns: Collection[Retyped], given: Mapping[TableName, Collection[str]]) -> None:
    """Refuse a change that the old version may not survive, unless its author has said that it does.

    ``given`` are the columns, by table, whose mapping says ``old_version_reads: true``.
    """
    for column in columns:
        if not old_version_can(column.old.type, column.new.type) and column.name not in given.get(column.table, ()):
            raise SpecError(
                f"{column} becomes {column.new.type} under the name that it has as {column.old.type}: from the switch "
                "on the old application version would read and write the new type.",
                remedy="Give the new column another name in the same change (ALTER … TYPE, then RENAME COLUMN), so "
                "that each version has its own. Or, if the old version copes with the new type, say so:  "
                f"mapping: {{{column.table.name}.{column.name}: {{old_version_reads: true}}}}",
            )


def notes(columns: Collection[Retyped], direct: Collection[Retyped]) -> tuple[Note, ...]:
    """Return what the application's authors have to know of changes under the same name.

    Measured: after such a change every execution of a prepared statement that returns the column fails in the sessions
    that prepared it before (0A000 *cached plan must not change result type*); writes without RETURNING, parameters
    and conditions go on.
    """
    if not columns:
        return ()
    listed = ", ".join(f"{column} ({column.types})" for column in columns)
    found = [
        Note(
            severity="WARNING",
            text=f"Another type under the same name: {listed}. In sessions that prepared a statement returning such a "
            "column before the switch, that statement fails from then on (0A000, cached plan must not change result "
            "type) until the session prepares it anew. Before the switch let the application do without prepared "
            "statements (psycopg: prepare_threshold=None; pgjdbc: prepareThreshold=0, or autosave=conservative), or "
            "renew its connections right after it.",
        )
    ]
    moved = [str(column) for column in columns if column not in direct]
    if moved:
        found.append(
            Note(
                severity="WARNING",
                text=f"{', '.join(moved)}: the column stands last in its table after the change. Name the columns in "
                "SELECT, INSERT and COPY rather than rely on their order.",
            )
        )
    return tuple(found)


def _told(column: Column) -> str:
    return f"{column.type} COLLATE {column.collation}" if column.collation else column.type
