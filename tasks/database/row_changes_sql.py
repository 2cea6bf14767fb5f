"""The statements of a data change in batches, and of taking it back; composed once.

One statement does a batch: it locks rows that are due (SKIP LOCKED), changes them by their ctid, and keeps what they
held, so all three are of the same rows. A row that changed between snapshot and lock has another ctid than the snapshot
shows: it is neither changed nor kept, stays due, and is met by the sweep. The user's expressions see no relation but
the table, under the name that the user gave it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import sql

from tasks.database.backfill_sql import BatchComposer, BatchStatements, escaped, joined, name
from tasks.planning.names import TableName, verbatim
from tasks.planning.plan import DeleteRows, ReinsertRows, RestoreRows, RowChange, UpdateRows


def compose_change(action: RowChange) -> BatchStatements:
    """Return the statements of a data change; those that change rows return how many, and how many were kept."""
    return _ChangeComposer(action).statements()


class _ChangeComposer(BatchComposer):
    def __init__(self, action: RowChange) -> None:
        super().__init__(action.table, action.alias, action.key, action.key_types, action.due, action.personal_key)
        self._action = action

    def fill(self, condition: sql.Composable) -> sql.Composed:
        parts, kept = [self._locked(condition), self._changed()], "lockstep_changed"
        if self._action.kept is not None:
            parts.append(self._kept(self._action.kept))
            kept = "lockstep_kept"
        return sql.SQL("WITH {} SELECT (SELECT count(*) FROM lockstep_changed), (SELECT count(*) FROM {})").format(
            joined(parts), sql.Identifier(kept)
        )

    def lock(self, condition: sql.Composable) -> sql.Composed:
        return sql.SQL("SELECT 1 FROM {} AS {} WHERE {} FOR {} OF {} SKIP LOCKED").format(
            self.table, self.row, self.unfilled(condition), self._strength(), self.row
        )

    def _strength(self) -> sql.SQL:
        match self._action:
            case UpdateRows():
                return sql.SQL("NO KEY UPDATE")
            case DeleteRows():
                return sql.SQL("UPDATE")

    def _locked(self, condition: sql.Composable) -> sql.Composed:
        values = [sql.SQL("{} AS {}").format(self.own(column), place) for column, place in self._old_values()]
        return sql.SQL(
            "lockstep_locked AS MATERIALIZED (SELECT {found} FROM {table} AS {row} WHERE {due}"
            " FOR {strength} OF {row} SKIP LOCKED)"
        ).format(
            found=joined([sql.SQL("{}.ctid AS lockstep_place").format(self.row), *self._keys(), *values]),
            table=self.table, row=self.row, due=self.unfilled(condition), strength=self._strength(),
        )  # fmt: skip

    def _changed(self) -> sql.Composed:
        where = sql.SQL(
            "WHERE {row}.ctid = ANY (ARRAY(SELECT lockstep_place FROM lockstep_locked)) AND ({due}) RETURNING {found}"
        )
        match self._action:
            case UpdateRows(assignments=assignments, columns=columns):
                head = sql.SQL("UPDATE {} AS {} SET {} ").format(
                    self.table,
                    self.row,
                    joined(
                        sql.SQL("{} = ({})").format(name(one.column), escaped(verbatim(one.expression)))
                        for one in assignments
                    ),
                )
                written = [
                    sql.SQL("{} AS {}").format(self.own(column), _place("w", number))
                    for number, column in enumerate(columns)
                ]
            case DeleteRows():
                head = sql.SQL("DELETE FROM {} AS {} ").format(self.table, self.row)
                written = []
        found = joined([*self._keys(), *written])
        tail = where.format(row=self.row, due=self.to_fill, found=found)
        return sql.SQL("lockstep_changed AS ({}{})").format(head, tail)

    def _kept(self, kept: TableName) -> sql.Composed:
        keys = [_place("k", number) for number in range(len(self._action.key))]
        old = [place for _, place in self._old_values()]
        written = (
            [_place("w", number) for number in range(len(self._action.columns))]
            if isinstance(self._action, UpdateRows)
            else []
        )
        same = sql.SQL(" AND ").join(sql.SQL("l.{k} = c.{k}").format(k=key) for key in keys)
        return sql.SQL(
            "lockstep_kept AS (INSERT INTO {kept} ({columns}) SELECT {values} FROM lockstep_locked AS l"
            " JOIN lockstep_changed AS c ON {same} RETURNING 1)"
        ).format(
            kept=escaped(kept.identifier),
            columns=joined([*keys, *old, *written]),
            values=joined(
                [*(sql.SQL("l.{}").format(p) for p in (*keys, *old)), *(sql.SQL("c.{}").format(p) for p in written)]
            ),
            same=same,
        )

    def _keys(self) -> list[sql.Composable]:
        return [
            sql.SQL("{} AS {}").format(self.own(column), _place("k", number))
            for number, column in enumerate(self._action.key)
        ]

    def _old_values(self) -> list[tuple[str, sql.Identifier]]:
        return [(column, _place("b", number)) for number, column in enumerate(self._action.columns)]


@dataclass(frozen=True)
class ReturnStatements:
    """Statements that take a data change back, from the kept rows. Named parameters: ``from`` (exclusive) and ``n``."""

    page: sql.Composed
    """Takes back up to n rows: returns how many, how many kept ones it looked at, and the last one's number."""
    waiting: sql.Composed
    """How many kept rows could be taken back by now."""
    left: sql.Composed
    """How many kept rows there are."""
    absent: sql.Composed
    """How many of them have a key that no row has now."""


def compose_return(action: RestoreRows | ReinsertRows) -> ReturnStatements:
    left = sql.SQL("SELECT count(*) FROM {}").format(escaped(action.kept.identifier))
    absent = sql.SQL(
        "SELECT count(*) FROM {kept} AS k WHERE NOT EXISTS (SELECT FROM {table} AS r WHERE {same})"
    ).format(kept=escaped(action.kept.identifier), table=escaped(action.table.identifier), same=_same_key(action.key))
    match action:
        case RestoreRows():
            return ReturnStatements(_restore(action), _restorable(action), left, absent)
        case ReinsertRows():
            return ReturnStatements(_reinsert(action), sql.SQL("SELECT 0::bigint").format(), left, absent)


def _restore(action: RestoreRows) -> sql.Composed:
    return sql.SQL(
        "WITH lockstep_page AS MATERIALIZED (SELECT * FROM {kept} AS k WHERE k.n > %(from)s ORDER BY k.n LIMIT %(n)s),"
        " lockstep_locked AS MATERIALIZED (SELECT r.ctid AS place, k.n FROM {table} AS r JOIN lockstep_page AS k"
        " ON {same} WHERE {unchanged} FOR NO KEY UPDATE OF r SKIP LOCKED),"
        " lockstep_back AS (UPDATE {table} AS r SET {assignments} FROM lockstep_locked AS l"
        " JOIN lockstep_page AS k ON k.n = l.n WHERE r.ctid = l.place RETURNING k.n),"
        " lockstep_gone AS (DELETE FROM {kept} AS k USING lockstep_back AS b WHERE k.n = b.n RETURNING 1)"
        " SELECT (SELECT count(*) FROM lockstep_gone), count(*), max(k.n) FROM lockstep_page AS k"
    ).format(
        kept=escaped(action.kept.identifier),
        table=escaped(action.table.identifier),
        same=_same_key(action.key),
        unchanged=_unchanged(action),
        assignments=joined(
            sql.SQL("{} = k.{}").format(name(column), _place("b", number))
            for number, column in enumerate(action.columns)
        ),
    )


def _restorable(action: RestoreRows) -> sql.Composed:
    return sql.SQL("SELECT count(*) FROM {table} AS r JOIN {kept} AS k ON {same} WHERE {unchanged}").format(
        table=escaped(action.table.identifier),
        kept=escaped(action.kept.identifier),
        same=_same_key(action.key),
        unchanged=_unchanged(action),
    )


def _unchanged(action: RestoreRows) -> sql.Composed:
    """By the values' bytes, as the sync compares: 1.0 is not 1.00, and some types have no equality."""
    now = joined(sql.SQL("r.{}").format(name(column)) for column in action.columns)
    written = joined(sql.SQL("k.{}").format(_place("w", number)) for number in range(len(action.columns)))
    return sql.SQL("pg_catalog.record_image_eq(ROW({}), ROW({}))").format(now, written)


def _reinsert(action: ReinsertRows) -> sql.Composed:
    """The last deleted first: a row that others refer to was deleted after them."""
    keys = joined(sql.SQL("r.{} AS {}").format(name(key), _place("k", number)) for number, key in enumerate(action.key))
    same = sql.SQL(" AND ").join(
        sql.SQL("k.{p} = b.{p}").format(p=_place("k", number)) for number in range(len(action.key))
    )
    return sql.SQL(
        "WITH lockstep_page AS MATERIALIZED (SELECT * FROM {kept} AS k WHERE k.n < %(from)s ORDER BY k.n DESC"
        " LIMIT %(n)s), lockstep_back AS (INSERT INTO {table} AS r ({columns}) OVERRIDING SYSTEM VALUE"
        " SELECT {values} FROM lockstep_page AS k ON CONFLICT DO NOTHING RETURNING {keys}),"
        " lockstep_gone AS (DELETE FROM {kept} AS k USING lockstep_back AS b, lockstep_page AS p"
        " WHERE k.n = p.n AND {same} RETURNING 1)"
        " SELECT (SELECT count(*) FROM lockstep_gone), count(*), min(k.n) FROM lockstep_page AS k"
    ).format(
        kept=escaped(action.kept.identifier),
        table=escaped(action.table.identifier),
        columns=joined(name(column) for column in action.columns),
        values=joined(sql.SQL("k.{}").format(_place("b", number)) for number in range(len(action.columns))),
        keys=keys,
        same=same,
    )


def _same_key(key: Sequence[str]) -> sql.Composed:
    return sql.SQL(" AND ").join(
        sql.SQL("r.{} = k.{}").format(name(column), _place("k", number)) for number, column in enumerate(key)
    )


def _place(prefix: str, number: int) -> sql.Identifier:
    return sql.Identifier(f"{prefix}{number}")
