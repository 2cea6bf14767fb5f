"""From what was observed of a statement to its facts, in the names that its relations had before it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from tasks.database.observation import (
    BUILD,
    INDEXES,
    PROVEN,
    REFERENCE,
    REWRITE_OR_CHECK,
    NewConstraint,
    Observation,
    Relation,
    Relations,
)
from tasks.planning.catalog import Catalog
from tasks.planning.names import TableName, is_rebuild_of
from tasks.planning.plan import LockMode

OPAQUE = frozenset({"do", "call", "select", "insert", "update", "delete", "merge", "execute"})
"""Statements that may run any other, inside a function."""

_LOCKED = frozenset("rpfvmSc")


@dataclass(frozen=True, slots=True)
class Frame:
    """Around one statement: the relations that were there before its file, and all of them before and after it."""

    known: Collection[int]
    earlier: Mapping[int, Relation]
    now: Relations
    before: Catalog
    after: Catalog
    has_rows: bool
    """Whether the clone has rows at all. A schema-only one has none, and an empty table proves nothing then."""


def named_locks(
    locks: Mapping[int, LockMode], known: Collection[int], relations: Mapping[int, Relation]
) -> dict[TableName, LockMode]:
    """Return the locks on tables, views, materialized views and sequences that were there, by name."""
    return {relations[oid].name: mode for oid, mode in _on(locks, known, relations, _LOCKED)}


def index_locks(
    locks: Mapping[int, LockMode], known: Collection[int], relations: Mapping[int, Relation]
) -> dict[TableName, LockMode]:
    return {relations[oid].name: mode for oid, mode in _on(locks, known, relations, INDEXES)}


def _on(
    locks: Mapping[int, LockMode], known: Collection[int], relations: Mapping[int, Relation], kinds: frozenset[str]
) -> list[tuple[int, LockMode]]:
    found = ((oid, mode) for oid, mode in locks.items() if oid in known and oid in relations)
    return sorted(
        ((oid, mode) for oid, mode in found if relations[oid].kind in kinds), key=lambda x: relations[x[0]].name
    )


@dataclass(frozen=True, slots=True)
class Work:
    """What a statement does to the content of relations that were there."""

    rewrites: tuple[TableName, ...]
    index_builds: tuple[tuple[str, TableName], ...]
    scans: tuple[TableName, ...]
    validations: tuple[tuple[str, TableName], ...]


def work_of(seen: Observation, frame: Frame, kind: str) -> Work:
    """Return the work that a statement of this kind did on every row of something."""
    rewritten = frozenset(_rewritten(seen, frame, kind))
    built = tuple(_built(seen, frame, kind))
    references = tuple(_references(seen, frame))
    scanned = set(seen.scans)
    if seen.written is None:
        # Nobody counted: what is rewritten or indexed is read, and what is checked says so.
        scanned |= rewritten | {index.table for index in built} | frozenset(_checked(seen, frame))
    if not frame.has_rows:
        # Without rows to check, the server does not always come to read the other side.
        scanned |= {
            leaf for item in references for oid in (item.table, item.referenced) for leaf in _leaves(oid, frame)
        }
    scanned &= set(frame.known)
    valid = (*_validated(seen, frame, scanned | rewritten, references), *_by_index(seen, frame, built))
    return Work(
        rewrites=_names(rewritten, frame),
        index_builds=tuple(sorted((index.name.name, frame.earlier[index.table].name) for index in built)),
        scans=_names(scanned, frame),
        validations=tuple(sorted(set(valid))),
    )


def _names(oids: Collection[int], frame: Frame) -> tuple[TableName, ...]:
    return tuple(sorted(frame.earlier[oid].name for oid in oids if oid in frame.earlier))


def _rewritten(seen: Observation, frame: Frame, kind: str) -> Iterator[int]:
    """Yield the tables whose content is in another file now, but for those that were only emptied."""
    announced = {name for item in seen.announced if item.function == REWRITE_OR_CHECK for name in item.names}
    for oid, relation in seen.touched.items():
        old = frame.earlier.get(oid)
        if oid not in frame.known or old is None or old.kind not in "rm" or relation.file in (0, old.file):
            continue
        if kind != "truncate" and (kind not in OPAQUE or relation.name.name in announced):
            yield oid


def _built(seen: Observation, frame: Frame, kind: str) -> Iterator[Relation]:
    """Yield the indexes that are filled, on tables that were there. One that keeps its file is only renamed."""
    announced = {item.names[0] for item in seen.announced if item.function == BUILD and item.names}
    files = {relation.file for relation in frame.earlier.values()}
    for relation in seen.touched.values():
        if relation.kind != "i" or relation.file == 0 or relation.file in files or relation.table not in frame.known:
            continue
        name = relation.name.name
        if kind != "truncate" and any(name == said or is_rebuild_of(said, name) for said in announced):
            yield relation


def _checked(seen: Observation, frame: Frame) -> Iterator[int]:
    """Yield the tables whose rows the server announced to verify."""
    names = {name for item in seen.announced if item.function == REWRITE_OR_CHECK for name in item.names}
    for oid in seen.locks:
        relation = frame.earlier.get(oid)
        if relation is not None and relation.kind == "r" and relation.name.name in names:
            yield oid


def _references(seen: Observation, frame: Frame) -> Iterator[NewConstraint]:
    """Yield the foreign keys that the server announced to check against the rows."""
    names = {name for item in seen.announced if item.function == REFERENCE for name in item.names[:1]}
    for item in seen.constraints:
        if item.kind == "f" and item.name in names and item.table in frame.known and not _was_valid(item, frame):
            yield item


def _leaves(oid: int, frame: Frame) -> frozenset[int]:
    """Return the tables with rows of their own that a name stands for: itself, or its partitions."""
    relation = frame.earlier.get(oid)
    if relation is None or relation.kind != "p":
        return frozenset({oid})
    children = [table.oid for table in frame.before.tables if table.partition_of == relation.name]
    return frozenset(leaf for child in children for leaf in _leaves(child, frame))


def _validated(
    seen: Observation, frame: Frame, scanned: Collection[int], references: Collection[NewConstraint]
) -> Iterator[tuple[str, TableName]]:
    """Yield constraint and table of what was checked against rows that were read for it."""
    for item in seen.constraints:
        if item.domain and item.kind in ("c", "n"):
            yield from ((item.name, frame.earlier[oid].name) for oid in scanned if oid in frame.earlier)
        elif item.table not in frame.known or not item.validated or _was_valid(item, frame):
            continue
        elif item in references or (item.kind in ("c", "n") and item.table in scanned):
            for leaf in _leaves(item.table, frame) if item in references else (item.table,):
                yield item.name, frame.earlier[leaf].name
    yield from _not_null(seen, frame, scanned)


def _not_null(seen: Observation, frame: Frame, scanned: Collection[int]) -> Iterator[tuple[str, TableName]]:
    """Yield every NOT NULL that is checked, under the name that PostgreSQL 18, where it is a constraint, gives it."""
    proven = {name for item in seen.announced if item.function == PROVEN for name in item.names}
    listed = {item.table for item in seen.constraints if item.kind == "n"}
    later = {table.oid: table for table in frame.after.tables if table.oid in scanned}
    for table in frame.before.tables:
        after = later.get(table.oid)
        if after is None or table.oid in listed or table is after:
            continue
        known = {column.attnum for column in table.columns if not column.not_null}
        for column in after.columns:
            if column.not_null and column.attnum in known and f"{table.name.name}.{column.name}" not in proven:
                yield f"{table.name.name}_{column.name}_not_null", table.name


def _by_index(seen: Observation, frame: Frame, built: Collection[Relation]) -> Iterator[tuple[str, TableName]]:
    """Yield the UNIQUE, PRIMARY KEY and EXCLUDE constraints that building their index checks."""
    indexes = {index.oid for index in built}
    for item in seen.constraints:
        if item.kind in ("u", "p", "x") and item.index in indexes and item.table in frame.earlier:
            yield item.name, frame.earlier[item.table].name


def _was_valid(item: NewConstraint, frame: Frame) -> bool:
    table = next((table for table in frame.before.tables if table.oid == item.table), None)
    return table is not None and any(old.oid == item.oid and old.validated for old in table.constraints)
