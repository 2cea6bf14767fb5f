"""The statements of one backfill, composed once.

A plain table's rows are locked by a subquery (SKIP LOCKED) and updated by their ctid: a row that changed between
snapshot and lock has another ctid than the snapshot shows, is not updated, stays unfilled and is met by the sweep. As
the UPDATE reads from no second relation, the assignments' column names can mean only the row's own. A partitioned
table's ctid is not unique, so there the rows are found by key.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from psycopg import sql

from tasks.planning.names import PENDING_COLUMN, TableName, verbatim
from tasks.planning.plan import Backfill

TURNS = 4
"""In how many turns a page of keys can be filled: a power of two, up to 256."""

# A row's number in its block, or rather its last byte. PostgreSQL 13 has no plainer way to it that is fast.
_IN_TURN = sql.SQL("(pg_catalog.get_byte(pg_catalog.tidsend({row}.ctid), 5) & {mask}) <= %(turn)s::integer")


def escaped(part: sql.Composable) -> sql.SQL:
    """Return a part for a statement with parameters, where a plain ``%`` would begin a placeholder."""
    return sql.SQL(part.as_string().replace("%", "%%"))


def name(identifier: str) -> sql.SQL:
    return escaped(sql.Identifier(identifier))


@dataclass(frozen=True)
class BatchStatements:
    """Statements of work done in batches, over key texts.

    Named parameters: ``after`` and ``upto`` as ``k0, k1 …`` and ``u0, u1 …``, ``n``, ``turn``
    from 0: with the last one a range's rows are complete.
    """

    page_end: sql.Composed
    """The key of the n-th row after the cursor; none when fewer are left."""
    first_page_end: sql.Composed
    last_page: sql.Composed
    """The last key after the cursor within n rows, and how many rows that are."""
    first_last_page: sql.Composed
    fill_range: sql.Composed
    fill_first_range: sql.Composed
    fill_keys: sql.Composed
    """Does the work on the rows of the key arrays ``a0, a1 …``."""
    lock_keys: sql.Composed | None
    """Locks those of them that still need it and that nobody else has locked."""
    pending_range: sql.Composed
    """The keys of the unfilled rows of a range, with the key as failures record it."""
    pending_first_range: sql.Composed
    pending: sql.Composed
    """Up to ``n`` unfilled rows anywhere."""
    resolve: sql.Composed | None
    """Marks recorded failures whose row is in step now, or gone."""


def compose(migration: str, action: Backfill, *, plain: bool) -> BatchStatements:
    """Return the statements for an action; ``plain`` says that the table has no partitions and no children."""
    return _Composer(migration, action, plain=plain).statements()


def joined(parts: Iterable[sql.Composable]) -> sql.Composed:
    return sql.SQL(", ").join(parts)


def keys(prefix: str, key: Sequence[str] | None) -> dict[str, str]:
    """Return a key's parameters, e.g. ``{"k0": "17"}``."""
    return {f"{prefix}{number}": text for number, text in enumerate(key or ())}


class BatchComposer(ABC):
    """Composes what all work in batches needs; ``row`` is what the table is called in the statements."""

    def __init__(
        self,
        table: TableName,
        row: str,
        key: Sequence[str],
        key_types: Sequence[str],
        unfilled: str,
        personal_key: bool,
    ) -> None:
        self.table = escaped(table.identifier)
        self.row = name(row)
        self.to_fill = escaped(verbatim(unfilled))
        self._key = tuple(key)
        self._columns = [self.own(column) for column in key]
        self._types = [escaped(verbatim(text)) for text in key_types]
        self._personal_key = personal_key

    @abstractmethod
    def fill(self, condition: sql.Composable) -> sql.Composed:
        """Return the statement that does the work on the rows that satisfy a condition and still need it."""

    def resolve(self) -> sql.Composed | None:
        return None

    def lock(self, condition: sql.Composable) -> sql.Composed | None:  # noqa: ARG002
        """Return the statement that locks what `fill` would change, where the work can tell by it what it left."""
        return None

    def own(self, column: str) -> sql.Composed:
        return sql.SQL("{}.{}").format(self.row, name(column))

    def statements(self) -> BatchStatements:
        after, upto = self._bound("k", ">"), self._bound("u", "<=")
        both = sql.SQL("{} AND {}").format(after, upto)
        everything = sql.SQL("true")
        return BatchStatements(
            page_end=self._page_end(after),
            first_page_end=self._page_end(everything),
            last_page=self._last_page(after),
            first_last_page=self._last_page(everything),
            fill_range=self.fill(self._in_turn(both)),
            fill_first_range=self.fill(self._in_turn(upto)),
            fill_keys=self.fill(self._listed()),
            lock_keys=self.lock(self._listed()),
            pending_range=self._pending(both, sql.SQL("ORDER BY {}").format(joined(self._columns))),
            pending_first_range=self._pending(upto, sql.SQL("ORDER BY {}").format(joined(self._columns))),
            pending=self._pending(everything, sql.SQL("LIMIT %(n)s")),
            resolve=self.resolve(),
        )

    def _key_texts(self) -> sql.Composed:
        return joined([sql.SQL("{}::text").format(column) for column in self._columns])

    def _bound(self, prefix: str, operator: str) -> sql.Composed:
        values = [
            sql.SQL("{}::text::{}").format(sql.Placeholder(f"{prefix}{number}"), kind)
            for number, kind in enumerate(self._types)
        ]
        comparison = sql.SQL(" > ") if operator == ">" else sql.SQL(" <= ")
        if len(values) == 1:
            return sql.SQL("{}{}{}").format(self._columns[0], comparison, values[0])
        return sql.SQL("ROW({}){}ROW({})").format(joined(self._columns), comparison, joined(values))

    def _listed(self) -> sql.Composed:
        # Each text is cast by itself: an array of texts cast as a whole could not become keys that are arrays.
        numbers = range(len(self._types))
        arrays = [sql.SQL("{}::text[]").format(sql.Placeholder(f"a{number}")) for number in numbers]
        texts = [sql.Identifier(f"a{number}") for number in numbers]
        values = [sql.SQL("{}::{}").format(text, kind) for text, kind in zip(texts, self._types, strict=True)]
        return sql.SQL("({}) IN (SELECT {} FROM unnest({}) AS listed ({}))").format(
            joined(self._columns), joined(values), joined(arrays), joined(texts)
        )

    def _in_turn(self, condition: sql.Composable) -> sql.Composed:
        turn = _IN_TURN.format(row=self.row, mask=sql.Literal(TURNS - 1))
        return sql.SQL("{} AND {}").format(condition, turn)

    def _page_end(self, condition: sql.Composable) -> sql.Composed:
        return sql.SQL("SELECT {} FROM {} AS {} WHERE {} ORDER BY {} OFFSET %(n)s::bigint - 1 LIMIT 1").format(
            self._key_texts(), self.table, self.row, condition, joined(self._columns)
        )

    def _last_page(self, condition: sql.Composable) -> sql.Composed:
        backwards = joined([sql.SQL("{} DESC").format(column) for column in self._columns])
        names = joined([name(column) for column in self._key])
        page = sql.SQL("SELECT {} FROM {} AS {} WHERE {} ORDER BY {} LIMIT %(n)s").format(
            joined(self._columns), self.table, self.row, condition, names
        )
        return sql.SQL("SELECT {}, count(*) OVER () FROM ({}) AS {} ORDER BY {} LIMIT 1").format(
            self._key_texts(), page, self.row, backwards
        )

    def unfilled(self, condition: sql.Composable) -> sql.Composed:
        return sql.SQL("{} AND ({})").format(condition, self.to_fill)

    def _recorded_key(self) -> sql.Composed:
        text = sql.SQL("jsonb_build_array({})::text").format(joined(self._columns))
        return sql.SQL("md5({})").format(text) if self._personal_key else text

    def _pending(self, condition: sql.Composable, tail: sql.Composable) -> sql.Composed:
        return sql.SQL("SELECT {}, {} FROM {} AS {} WHERE {} {}").format(
            self._recorded_key(), self._key_texts(), self.table, self.row, self.unfilled(condition), tail
        )


class _Composer(BatchComposer):
    def __init__(self, migration: str, action: Backfill, *, plain: bool) -> None:
        super().__init__(
            action.table, "lockstep_row", action.key, action.key_types, action.unfilled, action.personal_key
        )
        self._migration = migration
        self._action = action
        self._plain = plain

    def fill(self, condition: sql.Composable) -> sql.Composed:
        place: sql.Composable
        if self._plain:
            place, found = sql.SQL("ctid"), sql.SQL("{}.ctid").format(self.row)
            frame = sql.SQL("{place} = ANY (ARRAY({rows}))")
        else:
            place = joined([name(column) for column in self._key])
            found = joined(self._columns)
            frame = sql.SQL("({place}) IN ({rows})")
        rows = self._locked(found, condition)
        assignments = [
            sql.SQL("{} = ({})").format(name(one.column), escaped(verbatim(one.expression)))
            for one in self._action.assignments
        ]
        return sql.SQL("UPDATE {table} SET {assignments} WHERE {place} AND ({unfilled})").format(
            table=self.table,
            assignments=joined(assignments),
            place=frame.format(place=place, rows=rows),
            unfilled=self.to_fill,
        )

    def lock(self, condition: sql.Composable) -> sql.Composed:
        return self._locked(sql.SQL("1"), condition)

    def _locked(self, found: sql.Composable, condition: sql.Composable) -> sql.Composed:
        return sql.SQL("SELECT {} FROM {} AS {} WHERE {} FOR NO KEY UPDATE OF {} SKIP LOCKED").format(
            found, self.table, self.row, self.unfilled(condition), self.row
        )

    def resolve(self) -> sql.Composed:
        return sql.SQL(
            "UPDATE lockstep.sync_failure AS f SET resolved_at = clock_timestamp()"
            " WHERE f.migration = {migration} AND f.table_name = {table} AND f.kind = 'failure'"
            " AND f.resolved_at IS NULL AND f.key IS NOT NULL"
            " AND CASE f.direction WHEN 'up' THEN f.key NOT IN (SELECT {key} FROM {source} AS {row} WHERE {unfilled})"
            " ELSE f.key NOT IN (SELECT {key} FROM {source} AS {row} WHERE {row}.{pending} <> 0) END"
        ).format(
            migration=escaped(sql.Literal(self._migration)),
            table=escaped(sql.Literal(str(self._action.table))),
            key=self._recorded_key(),
            source=self.table,
            row=self.row,
            unfilled=self.to_fill,
            pending=name(PENDING_COLUMN),
        )
