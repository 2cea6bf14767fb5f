"""The switch of a table whose columns keep their names: one short transaction, and another that takes it back.

The old columns get hidden names and the new ones theirs, and with them what belongs to them: keys, indexes, defaults,
sequences, column privileges. From its commit on the application, whichever version, reads and writes the new columns;
the sync keeps the hidden ones through `down`, so that going back stays possible until contract.

Keys of the old columns go here: the hidden columns are NULL where they cannot hold a value, which a primary key
refuses, and a second unique index is one that ON CONFLICT does not name. On the way back they are built anew, without
blocking writes, before the tables swap.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from psycopg import sql

from tasks.planning.catalog import Column, Constraint, Index
from tasks.planning.names import PENDING_COLUMN, verbatim
from tasks.planning.plan import Action, BuildIndex, Step, Transaction, swap_id
from tasks.planning.strategies.expand_contract import moved
from tasks.planning.strategies.expand_contract.contribution import (
    LONG_STATEMENT_TIMEOUT_MS,
    TableChange,
    short_step,
)
from tasks.planning.strategies.expand_contract.keys import (
    Inbound,
    build_key,
    final_names,
    index_of,
    key_index,
    old_indexes,
)
from tasks.planning.strategies.expand_contract.sequences import moved_identity, moved_serial, sequences_of


@dataclass(frozen=True)
class Swap:
    """One table's swap: the table in both stages, and the definitions of sequences before and after the change."""

    expanded: TableChange
    switched: TableChange
    sequences_before: Mapping[str, str]
    sequences_after: Mapping[str, str]
    functions: tuple[str, str]
    """The sync function of the stage before and of the stage after."""
    inbound: tuple[Inbound, ...] = ()
    """The foreign keys that need the table's primary key."""

    def step(self) -> Step:
        change = self.expanded
        names = ", ".join(column.name for column in change.moved)
        forward = (
            *self._old_keys_go(),
            *self._loosened(),
            *self._forward(),
            *self._new_keys(),
            *self._index_columns("coming"),
            self.functions[1],
        )
        return short_step(
            change,
            swap_id(change.name),
            f"Swap the columns of {change.name} that keep their name ({names}): the new ones are in place from here on",
            forward,
            undo=tuple(self._undo()),
        )

    # ------------------------------------------------------------------------------------------ what there is

    def _old_key(self) -> Constraint | None:
        return self.expanded.before.primary_key if self.expanded.has_moved_key else None

    def _old_unique(self, change: TableChange) -> list[Constraint]:
        return [c for c in change.before.constraints if c.kind == "unique" and set(c.columns) & change.moved_old]

    def _old_indexes(self, change: TableChange) -> list[Index]:
        """Old indexes that no constraint stands on."""
        return [i for i in change.before.indexes if i.constraint is None and set(i.columns) & change.moved_old]

    # ------------------------------------------------------------------------------------------ forward

    def _old_keys_go(self) -> Iterator[str]:
        change = self.expanded
        key = self._old_key()
        for constraint in (*([key] if key is not None else []), *self._old_unique(change)):
            yield change.alter("DROP CONSTRAINT {c}", c=sql.Identifier(constraint.name))
        for index in self._old_indexes(change):
            if index.unique:
                yield self._index("DROP INDEX {a}", index.name)
            else:
                yield self._index("ALTER INDEX {a} RENAME TO {b}", index.name, self._aside(index))

    def _loosened(self) -> Iterator[str]:
        """Move identities, and let the old columns be NULL where `down` fails, as `relax` does for other columns."""
        change = self.expanded
        for column in change.moved:
            old = next(item for item in change.before.columns if item.name == column.name)
            new = next(item for item in change.after.columns if item.name == column.coming)
            for sequence in sequences_of(self.switched.after, _named(new, column.name), self.sequences_after):
                if sequence.identity:
                    yield from moved_identity(
                        change.migration, change.name, sequence, source=column.name, target=column.coming
                    )
            if self._is_loosened(column.coming):
                yield self._tolerant(change, old.name)
                yield change.alter("ALTER COLUMN {n} DROP NOT NULL", n=sql.Identifier(old.name))

    def _is_loosened(self, coming: str) -> bool:
        change = self.expanded
        group = change.group_of(coming)
        old = group.old.columns[0]
        return old.not_null and moved.is_pinned(change, old) and group.may_raise("down")

    def _tolerant(self, change: TableChange, column: str) -> str:
        group = next(group for group in change.groups if column in group.old.names)
        name = sql.Identifier(column)
        return change.alter(
            "ADD CONSTRAINT {c} CHECK ((({marker} & {bits}) <> 0) OR ({n} IS NOT NULL)) NOT VALID",
            c=sql.Identifier(change.own_name("relaxnn", column)),
            marker=sql.Identifier(PENDING_COLUMN),
            bits=sql.Literal(group.down_failed_bit),
            n=name,
        )

    def _forward(self) -> Iterator[str]:
        change = self.expanded
        for column in change.moved:
            old = next(item for item in change.before.columns if item.name == column.name)
            if old.default is not None:
                yield change.alter("ALTER COLUMN {n} DROP DEFAULT", n=sql.Identifier(column.name))
            yield self._renamed(column.name, column.hidden)
            yield self._renamed(column.coming, column.name)
            new = next(item for item in self.switched.after.columns if item.name == column.name)
            if new.default is not None:
                yield self._default(column.name, new.default)
            for sequence in sequences_of(self.switched.after, new, self.sequences_after):
                if not sequence.identity:
                    yield moved_serial(change.name, sequence, column.name)
            yield _PRIVILEGES.format(
                table=sql.Literal(change.name.identifier.as_string()),
                source=sql.Literal(column.hidden),
                target=sql.Literal(column.name),
            ).as_string()

    def _new_keys(self) -> Iterator[str]:
        change = self.expanded
        key = change.after.primary_key
        if key is not None and change.has_moved_key:
            yield self._attached(key, "PRIMARY KEY", key_index(change))
            yield from self._comments(key, index_of(change.after, key.name))
        for constraint in _new_unique(self.expanded):
            temporary = change.temporary_name("uq", constraint.name)
            if temporary != constraint.name:
                yield self._constraint_renamed(temporary, constraint.name)
            yield from self._comments(constraint, index_of(change.after, constraint.name))
        for index in _new_indexes(self.expanded):
            temporary = change.temporary_name("ix", index.name)
            if temporary != index.name:
                yield self._index("ALTER INDEX {a} RENAME TO {b}", temporary, index.name)
            yield from self._comments(None, index)

    # ------------------------------------------------------------------------------------------ back

    def _undo(self) -> Iterator[Action]:
        change = self.switched
        builds = old_indexes(self.switched)
        yield from builds.values()
        for foreign_key in self.inbound:
            yield foreign_key.exchanged(change)
        checked = [column for column in change.moved if self._is_loosened(column.coming)]
        if checked:
            strict = [(sql.Identifier(change.own_name("oldnn", c.hidden)), sql.Identifier(c.hidden)) for c in checked]
            add = "ADD CONSTRAINT {c} CHECK ({n} IS NOT NULL) NOT VALID"
            yield Transaction(statements=tuple(change.alter(add, c=check, n=name) for check, name in strict))
            for check, _ in strict:
                yield Transaction(
                    statements=(change.alter("VALIDATE CONSTRAINT {c}", c=check),),
                    statement_timeout_ms=LONG_STATEMENT_TIMEOUT_MS,
                )
        yield Transaction(
            statements=(
                *self._new_keys_go(),
                *self._tightened(),
                *self._backward(),
                *self._old_keys(builds),
                *self._index_columns("hidden"),
                self.functions[0],
            )
        )
        if change.has_moved_key:
            yield build_key(self.expanded)

    def _new_keys_go(self) -> Iterator[str]:
        change = self.expanded
        key = self.switched.after.primary_key
        if key is not None and change.has_moved_key:
            yield change.alter("DROP CONSTRAINT {c}", c=sql.Identifier(key.name))
        for constraint in _new_unique(self.expanded):
            temporary = change.temporary_name("uq", constraint.name)
            if temporary != constraint.name:
                yield self._constraint_renamed(constraint.name, temporary)
        for index in _new_indexes(self.expanded):
            temporary = change.temporary_name("ix", index.name)
            if temporary != index.name:
                yield self._index("ALTER INDEX {a} RENAME TO {b}", index.name, temporary)

    def _tightened(self) -> Iterator[str]:
        change = self.switched
        for column in change.moved:
            old = next(item for item in change.before.columns if item.name == column.hidden)
            if self._is_loosened(column.coming):
                yield change.alter("ALTER COLUMN {n} SET NOT NULL", n=sql.Identifier(column.hidden))
                for kind in ("oldnn", "relaxnn"):
                    check = change.own_name(kind, column.hidden)
                    yield change.alter("DROP CONSTRAINT {c}", c=sql.Identifier(check))
            for sequence in sequences_of(self.expanded.before, _named(old, column.name), self.sequences_before):
                if sequence.identity:
                    yield from moved_identity(
                        change.migration, change.name, sequence, source=column.name, target=column.hidden
                    )

    def _backward(self) -> Iterator[str]:
        change = self.switched
        for column in change.moved:
            new = next(item for item in change.after.columns if item.name == column.name)
            old = next(item for item in self.expanded.before.columns if item.name == column.name)
            if new.default is not None:
                yield change.alter("ALTER COLUMN {n} DROP DEFAULT", n=sql.Identifier(column.name))
            yield self._renamed(column.name, column.coming)
            yield self._renamed(column.hidden, column.name)
            if old.default is not None:
                yield self._default(column.name, old.default)
            for sequence in sequences_of(self.expanded.before, old, self.sequences_before):
                if not sequence.identity:
                    yield moved_serial(change.name, sequence, column.name)

    def _old_keys(self, builds: Mapping[str, BuildIndex]) -> Iterator[str]:
        change = self.expanded
        key = self._old_key()
        if key is not None:
            yield self._attached(key, "PRIMARY KEY", builds[key.name].index)
            yield from self._comments(key, index_of(change.before, key.name))
        for constraint in self._old_unique(change):
            yield self._attached(constraint, "UNIQUE", builds[constraint.name].index)
            yield from self._comments(constraint, index_of(change.before, constraint.name))
        for index in self._old_indexes(change):
            aside = builds[index.name].index if index.unique else self._aside(index)
            yield self._index("ALTER INDEX {a} RENAME TO {b}", aside, index.name)
            yield from self._comments(None, index)

    # ------------------------------------------------------------------------------------------ statements

    def _renamed(self, current: str, to: str) -> str:
        names = {"a": sql.Identifier(current), "b": sql.Identifier(to)}
        return self.expanded.alter("RENAME COLUMN {a} TO {b}", **names)

    def _constraint_renamed(self, current: str, to: str) -> str:
        return self.expanded.alter("RENAME CONSTRAINT {a} TO {b}", a=sql.Identifier(current), b=sql.Identifier(to))

    def _default(self, column: str, text: str) -> str:
        return self.expanded.alter("ALTER COLUMN {n} SET DEFAULT {d}", n=sql.Identifier(column), d=verbatim(text))

    def _attached(self, constraint: Constraint, kind: str, index: str) -> str:
        deferrable = re.search(r" (NOT )?DEFERRABLE.*$", constraint.definition)
        return self.expanded.alter(
            "ADD CONSTRAINT {c} {k} USING INDEX {i}{d}",
            c=sql.Identifier(constraint.name),
            k=verbatim(kind),
            i=sql.Identifier(index),
            d=verbatim(deferrable.group(0) if deferrable else ""),
        )

    def _aside(self, index: Index) -> str:
        return self.expanded.own_name("oldix", index.name)

    def _index_columns(self, former: str) -> Iterator[str]:
        """Rename the indexes' own columns, which are called as the table's were when the index was built."""
        for column in self.expanded.moved:
            yield _INDEX_COLUMNS.format(
                table=sql.Literal(self.expanded.name.identifier.as_string()),
                source=sql.Literal(getattr(column, former)),
                target=sql.Literal(column.name),
            ).as_string()

    def _index(self, text: str, name: str, to: str = "") -> str:
        parts = {"a": sql.Identifier(self.expanded.name.schema, name), "b": sql.Identifier(to)}
        return verbatim(text).format(**parts).as_string()

    def _comments(self, constraint: Constraint | None, index: Index) -> Sequence[str]:
        found = []
        table = self.expanded.name
        if constraint is not None and constraint.comment is not None:
            statement = sql.SQL("COMMENT ON CONSTRAINT {} ON {} IS {}")
            found.append(
                statement.format(sql.Identifier(constraint.name), table.identifier, sql.Literal(constraint.comment))
            )
        if index.comment is not None:
            statement = sql.SQL("COMMENT ON INDEX {} IS {}")
            found.append(statement.format(sql.Identifier(table.schema, index.name), sql.Literal(index.comment)))
        return [statement.as_string() for statement in found]


def names_from_switch(change: TableChange) -> Mapping[str, str]:
    """Return the names that constraints and indexes of the new columns take at the switch, by their former ones.

    ``change`` is the table in the stage before the switch.
    """
    found = dict(final_names(change))
    key = change.after.primary_key
    if key is not None and change.has_moved_key:
        found[key_index(change)] = index_of(change.after, key.name).name
    for constraint in _new_unique(change):
        found[change.temporary_name("uq", constraint.name)] = constraint.name
    for index in _new_indexes(change):
        found[change.temporary_name("ix", index.name)] = index.name
    return found


def _new_unique(change: TableChange) -> list[Constraint]:
    return [c for c in change.after.constraints if c.kind == "unique" and change.moves(c.columns)]


def _new_indexes(change: TableChange) -> list[Index]:
    return [index for index in change.coming_indexes if change.moves(index.columns)]


def _named(column: Column, name: str) -> Column:
    """Return the column of one stage as the other stage calls it."""
    return column.model_copy(update={"name": name})


_INDEX_COLUMNS = sql.SQL(
    """DO $lockstep$
DECLARE
  built record;
BEGIN
  FOR built IN SELECT a.attrelid::pg_catalog.regclass AS name
    FROM pg_catalog.pg_index AS i JOIN pg_catalog.pg_attribute AS a ON a.attrelid = i.indexrelid
    WHERE i.indrelid = {table}::pg_catalog.regclass AND a.attname = {source}
  LOOP
    EXECUTE pg_catalog.format('ALTER TABLE %s RENAME COLUMN %I TO %I', built.name, {source}, {target});
  END LOOP;
END
$lockstep$"""
)

_PRIVILEGES = sql.SQL(
    """DO $lockstep$
DECLARE
  held record;
BEGIN
  FOR held IN SELECT a.privilege_type, a.is_grantable, a.grantee
    FROM pg_catalog.pg_attribute AS c, pg_catalog.aclexplode(c.attacl) AS a
    WHERE c.attrelid = {table}::pg_catalog.regclass AND c.attname = {source}
  LOOP
    EXECUTE pg_catalog.format('GRANT %s (%I) ON %s TO %s%s', held.privilege_type, {target},
      {table}::pg_catalog.regclass,
      CASE held.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(held.grantee)) END,
      CASE WHEN held.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END);
  END LOOP;
END
$lockstep$"""
)
"""Privileges are read where the statement runs: a plan's clones have neither them nor the roles."""
