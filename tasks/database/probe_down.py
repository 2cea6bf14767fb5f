"""Probing `down`: does every value that the new shape admits have a place in the old shape?

Runs on a clone, over lists of values; nothing is written. What is tried are made-up values for each new type and
what `up` makes of rows that are really there, as far as the new shape's own NOT NULL and CHECK constraints admit them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow

from tasks.database.canonical import Canonical
from tasks.database.connection import limits
from tasks.database.probe import is_cut
from tasks.planning import candidates
from tasks.planning.expression_tree import references
from tasks.planning.names import display, verbatim

MOST_EXAMPLES = 3
LOCK_TIMEOUT_MS = 1_000
STATEMENT_TIMEOUT_MS = 60_000

_RANGE_STATES = frozenset({"22003", "22008", "22001", "22015"})
"""Out of range for a number, a moment, a string or an interval: the old type is too small for the value."""

Row = Mapping[str, str | None]


@dataclass(frozen=True)
class NewColumn:
    """A column that `down` or a constraint reads, in the new shape; ``labels`` are an enum's, tried as its values."""

    type: str
    not_null: bool
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class OldColumn:
    """A column that `down` computes: how messages call it, its expression, and whether it takes NULL."""

    key: str
    down: Canonical
    not_null: bool


@dataclass(frozen=True)
class Example:
    """A row of the new shape that has no place in the old one.

    ``new`` and ``old`` are made up and may be shown; of a row that is really there they are None. ``breaks`` says what
    fails: a constraint's expression, ``NOT NULL of volume``, or an SQLSTATE. ``too_large`` marks a value that the old
    type cannot hold at all, which no `down` can mend.
    """

    new: Row | None
    old: Row | None
    breaks: str
    too_large: bool = False

    def __str__(self) -> str:
        if self.new is None:
            return f"a value made from a row that is there now breaks {self.breaks}"
        old = f" → {_shown(self.old)}" if self.old else ""
        return f"{_shown(self.new)}{old} breaks {self.breaks}"


@dataclass(frozen=True)
class DownProbe:
    """What was tried: ``admitted`` rows that the new shape admits, and up to three examples without a place."""

    admitted: int
    examples: tuple[Example, ...]
    unjudged: tuple[str, ...] = ()
    """CHECK expressions that read more than is known here; they were not evaluated."""

    @property
    def down_total(self) -> bool:
        """Whether every admitted value has a place in the old shape. No proof: no counter-example is known."""
        return not self.examples


def probe_down(
    connection: psycopg.Connection[TupleRow],
    new: Mapping[str, NewColumn],
    old: Mapping[str, OldColumn],
    *,
    new_checks: Sequence[str] = (),
    old_checks: Sequence[str] = (),
    real: Sequence[Row] = (),
) -> DownProbe:
    """Try `down` on values of the new columns, and its results on the old shape's constraints.

    Args:
        connection: to a clone in which the types and functions of both shapes exist.
        new: every column of the new shape that a `down` or one of the checks reads.
        old: the old columns that `down` computes.
        new_checks: canonical CHECK expressions over the new columns; a row that breaks one is not tried.
        old_checks: canonical CHECK expressions over the old columns and columns that stay.
        real: rows in the new shape as text, from `tasks.database.probe.sample_up`; never shown.
    """
    made_up = list(candidates.rows({name: _options(column) for name, column in new.items()}))
    rows: list[Row] = [*made_up, *({name: row[name] for name in new} for row in real)]
    admitting, _ = _judgeable(new_checks, set(new))
    judged, unjudged = _judgeable(old_checks, set(new) | set(old))
    trial = _Trial(connection, new, old, admitting, judged)
    with connection.transaction(force_rollback=True):
        limits(connection, lock_timeout_ms=LOCK_TIMEOUT_MS, statement_timeout_ms=STATEMENT_TIMEOUT_MS)
        connection.execute("SELECT set_config('search_path', '', true)")
        admitted = [rows[position] for position in trial.admitted(rows)]
        shown = {id(row) for row in made_up}
        examples: dict[str, Example] = {}
        for example, row in trial.broken(admitted):
            # One example of each kind of break; a made-up one can be shown, so it comes first.
            hidden = id(row) not in shown
            examples.setdefault(
                example.breaks,
                Example(None, None, example.breaks, example.too_large) if hidden else example,
            )
    # What a better `down` can mend comes first.
    found = sorted(examples.values(), key=lambda example: example.too_large)
    return DownProbe(len(admitted), tuple(found[:MOST_EXAMPLES]), unjudged)


@dataclass(frozen=True)
class _Trial:
    """The statements of one probe."""

    connection: psycopg.Connection[TupleRow]
    new: Mapping[str, NewColumn]
    old: Mapping[str, OldColumn]
    new_checks: Sequence[str]
    old_checks: Sequence[str]

    def admitted(self, rows: Sequence[Row]) -> list[int]:
        """Return the positions of the rows that are values of their types and keep the new shape's constraints."""
        conditions = [
            sql.SQL("{} IS NOT NULL").format(sql.Identifier(name)) for name, c in self.new.items() if c.not_null
        ] + [sql.SQL("({}) IS NOT FALSE").format(verbatim(check)) for check in self.new_checks]
        where = sql.SQL(" AND ").join(conditions) if conditions else sql.SQL("true")
        statement = sql.SQL("SELECT lockstep_position FROM {} WHERE {}")
        found: list[int] = []
        for start, part in _parts(rows):
            found += self._admitted(part, start, statement, where)
        return found

    def _admitted(self, rows: Sequence[Row], start: int, statement: sql.SQL, where: sql.Composable) -> list[int]:
        try:
            with self.connection.transaction():
                found = self.connection.execute(statement.format(self._rows(rows), where)).fetchall()
            return sorted(start + int(position) for (position,) in found)
        except psycopg.Error:
            if len(rows) == 1:
                return []  # no value of its type, or a constraint that raises: the new shape refuses it
            half = len(rows) // 2
            return self._admitted(rows[:half], start, statement, where) + self._admitted(
                rows[half:], start + half, statement, where
            )

    def broken(self, rows: Sequence[Row]) -> Iterator[tuple[Example, Row]]:
        """Yield what has no place in the old shape, in the rows' order."""
        for _, part in _parts(rows):
            yield from self._broken(part)

    def _broken(self, rows: Sequence[Row]) -> Iterator[tuple[Example, Row]]:
        names = list(self.old)
        breaks = self._breaks()
        statement = sql.SQL(
            "SELECT lockstep_position, {texts}, {breaks} FROM (SELECT lockstep_position, {kept} {downs} FROM {rows}"
            " OFFSET 0) AS lockstep_old ORDER BY lockstep_position"
        ).format(
            texts=sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(name)) for name in names),
            breaks=sql.SQL(", ").join(condition for _, condition in breaks) if breaks else sql.SQL("false"),
            kept=sql.SQL("").join(sql.SQL("{}, ").format(sql.Identifier(n)) for n in self.new if n not in self.old),
            downs=sql.SQL(", ").join(
                sql.SQL("({}) AS {}, {} AS {}").format(
                    verbatim(column.down.text), sql.Identifier(name), is_cut(column.down), _cut_name(number)
                )
                for number, (name, column) in enumerate(self.old.items())
            ),
            rows=self._rows(rows),
        )
        try:
            with self.connection.transaction():
                found = self.connection.execute(statement).fetchall()
        except psycopg.Error as error:
            if len(rows) == 1:
                state = error.sqlstate or ""
                breaks_what = f"down itself: {type(error).__name__} (SQLSTATE {state})"
                yield Example(rows[0], None, breaks_what, state in _RANGE_STATES), rows[0]
            else:
                half = len(rows) // 2
                yield from self._broken(rows[:half])
                yield from self._broken(rows[half:])
            return
        for position, *values in found:
            texts, verdicts = values[: len(names)], values[len(names) :]
            for (what, _), broken in zip(breaks, verdicts, strict=False):
                if broken:
                    old = dict(zip(names, texts, strict=True))
                    yield Example(rows[position], old, what, what.startswith("the length")), rows[position]

    def _breaks(self) -> list[tuple[str, sql.Composable]]:
        """Return what can break, in words and as a condition over the old shape."""
        found: list[tuple[str, sql.Composable]] = []
        for number, (name, column) in enumerate(self.old.items()):
            found.append((f"the length of {display(name)} {column.down.type}", _cut_name(number)))
            if column.not_null:
                found.append((f"NOT NULL of {display(name)}", sql.SQL("{} IS NULL").format(sql.Identifier(name))))
        found += [(check, sql.SQL("({}) IS FALSE").format(verbatim(check))) for check in self.old_checks]
        return found

    def _rows(self, rows: Sequence[Row]) -> sql.Composable:
        """Return a FROM item with the rows typed, and their positions as ``lockstep_position``."""
        columns = list(self.new)
        if not columns:
            return sql.SQL("(SELECT 0 AS lockstep_position) AS lockstep_new")
        lines = sql.SQL(", ").join(
            sql.SQL("({}, {})").format(
                sql.Literal(position), sql.SQL(", ").join(sql.Literal(row[name]) for name in columns)
            )
            for position, row in enumerate(rows)
        )
        return sql.SQL(
            "(SELECT lockstep_position, {typed} FROM (VALUES {lines}) AS v (lockstep_position, {raw})) AS lockstep_new"
        ).format(
            typed=sql.SQL(", ").join(
                sql.SQL("({}::text)::{} AS {}").format(_raw(n), verbatim(self.new[name].type), sql.Identifier(name))
                for n, name in enumerate(columns)
            ),
            lines=lines,
            raw=sql.SQL(", ").join(_raw(number) for number in range(len(columns))),
        )


def _options(column: NewColumn) -> tuple[str | None, ...]:
    known: tuple[str | None, ...] = column.labels or candidates.values(column.type)
    # NULL also where nothing is known of the type, so that the other columns are tried at all.
    return known if column.not_null and known else (*known, None)


def _judgeable(checks: Sequence[str], known: set[str]) -> tuple[list[str], tuple[str, ...]]:
    judged: list[str] = []
    unjudged: list[str] = []
    for check in checks:
        read = references(check)
        fits = read is not None and {reference.name for reference in read} <= known
        (judged if fits else unjudged).append(check)
    return judged, tuple(unjudged)


def _parts(rows: Sequence[Row]) -> Iterator[tuple[int, Sequence[Row]]]:
    for start in range(0, len(rows), 500):
        yield start, rows[start : start + 500]


def _cut_name(number: int) -> sql.Identifier:
    return sql.Identifier(f"lockstep_cut_{number}")


def _raw(number: int) -> sql.Identifier:
    return sql.Identifier(f"lockstep_raw_{number}")


def _shown(row: Row | None) -> str:
    parts = {name: "NULL" if value is None else value for name, value in (row or {}).items()}
    shortened = {
        name: value if len(value) <= 40 else f"{value[:10]}… ({len(value)} characters)" for name, value in parts.items()
    }
    return ", ".join(f"{display(name)} = {value}" for name, value in shortened.items())
