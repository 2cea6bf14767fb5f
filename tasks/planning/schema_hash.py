"""The schema hash: whether a schema is the one that a plan was made for, by name and readable.

`schema_text` writes the tables of a scope with all that hangs on them, and every other object that this text names.
It is the same for two databases of the same schema: no OIDs or attribute numbers, no column order, no sizes. Left
out are also

- Lockstep's own objects: the marker column and triggers, constraints and indexes named ``lockstep_*``;
- what a schema-only clone cannot carry, so that the live database and its clone compare equal: owners, privileges,
  tablespaces, publications;
- the values of enums, which can be added but never taken away: `catalog_text` has them;
- how one server version prints a query differently from another (`definitions.version_free`).

Whether an index or a constraint is valid is part of it.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache

from tasks.planning.catalog import Catalog, Column, Constraint, Dependent, Index, SchemaObject, Table, Trigger
from tasks.planning.definitions import settled_constraint, version_free
from tasks.planning.names import LOCKSTEP_SCHEMA, OWN_COLUMNS, TableName

UNCLONED_KINDS = frozenset({"privileges", "publication", "default acl", "event trigger", "extension", "schema"})
"""Objects that a clone does not carry or that differ from server to server by nature: an extension's version."""

QUERY_KINDS = frozenset({"view", "materialized view", "rule", "policy", "function", "procedure"})
"""Objects whose definition holds a query, which server versions print differently."""


def schema_hash(catalog: Catalog, scope: Sequence[TableName]) -> str:
    """Return the SHA-256 of `schema_text`, as 64 hexadecimal digits."""
    return digest(schema_text(catalog, scope))


def digest(text: str) -> str:
    """Return the SHA-256 of a schema text."""
    return hashlib.sha256(text.encode()).hexdigest()


def schema_text(catalog: Catalog, scope: Sequence[TableName]) -> str:
    """Return the canonical text of the scope's tables and of what they name or are named by; one fact a line.

    A name of the scope that is no table is a line of its own, so that creating or dropping it is a difference; what
    else has that name, a view or a function, follows as any object that is named.
    """
    lines: list[str] = []
    tables = {table.name: table for table in catalog.tables}
    references = _references(catalog)
    for name in sorted(set(scope)):
        table = tables.get(name)
        if table is None:
            lines.append(f"{name}: no table")
        else:
            lines.extend(_table_lines(table))
        lines.extend(sorted(references[name]))
    lines.extend(_named_objects(lines, catalog.objects))
    return "\n".join(lines) + "\n"


def describe_difference(expected: str, found: str) -> tuple[str, ...]:
    """Return what differs between two schema texts as short lines for people, at most 20 of them."""
    differing = [
        f"{'missing' if line[0] == '-' else 'unexpected'}: {line[1:]}"
        for line in difflib.unified_diff(expected.splitlines(), found.splitlines(), lineterm="", n=0)
        if line[0] in "+-" and not line.startswith(("---", "+++"))
    ]
    short = [line if len(line) <= 240 else f"{line[:239]}…" for line in differing]
    return tuple(short) if len(short) <= 20 else (*short[:19], f"… and {len(short) - 19} more")


# ------------------------------------------------------------------------------------------------ tables


def _table_lines(table: Table) -> Iterator[str]:
    name = str(table.name)
    yield _line("table", name, *_table_facts(table))
    yield from sorted(_column_line(name, column) for column in table.columns if column.name not in OWN_COLUMNS)
    yield from sorted(_constraint_line(name, item) for item in table.constraints if not _own(item.name))
    yield from sorted(_index_line(name, item) for item in table.indexes if not _own(item.name))
    yield from sorted(_trigger_line(name, item) for item in table.triggers if not _own(item.name))
    yield from sorted({_dependent_line(name, item) for item in table.dependents if item.kind != "publication"})


def _references(catalog: Catalog) -> Mapping[TableName, list[str]]:
    """Return, per table, the foreign keys of other tables that point to it."""
    found: dict[TableName, list[str]] = defaultdict(list)
    for table in catalog.tables:
        for item in table.constraints:
            if item.references is not None and item.references != table.name and not _own(item.name):
                facts = (str(item.references), "by", str(table.name), item.name, item.definition)
                found[item.references].append(_line("referenced", *facts))
    return found


def _table_facts(table: Table) -> Iterator[str]:
    yield f"kind={table.kind} persistence={table.persistence} replica_identity={table.replica_identity}"
    if table.row_security:
        yield "row_security"
    yield from (option for option in table.options if not option.startswith("tablespace="))
    if table.partition_of:
        yield f"partition of {table.partition_of}"
    yield from (f"inherits {parent}" for parent in table.inherits)
    if table.comment is not None:
        yield f"comment {table.comment!r}"


def _column_line(table: str, column: Column) -> str:
    facts = [column.type]
    facts += ["not null"] if column.not_null else []
    facts += [f"default {column.default}"] if column.default is not None and not column.generated else []
    facts += [f"generated {column.generated} {column.default}"] if column.generated else []
    facts += [f"identity {column.identity}"] if column.identity else []
    facts += [f"collate {column.collation}"] if column.collation else []
    facts += [f"storage {column.storage}"] if column.storage else []
    facts += [f"statistics {column.statistics_target}"] if column.statistics_target is not None else []
    facts += column.options
    facts += [f"comment {column.comment!r}"] if column.comment is not None else []
    return _line("column", table, repr(column.name), *facts)


def _constraint_line(table: str, item: Constraint) -> str:
    facts = [_settled(item.definition) if item.kind == "check" else item.definition]
    facts += [] if item.validated or "NOT VALID" in item.definition else ["NOT VALID"]
    facts += ["inherited"] if item.inherited else []
    facts += [f"comment {item.comment!r}"] if item.comment is not None else []
    return _line("constraint", table, repr(item.name), *facts)


def _index_line(table: str, item: Index) -> str:
    facts = [item.definition]
    facts += [] if item.valid else ["INVALID"]
    facts += [f"of constraint {item.constraint!r}"] if item.constraint else []
    facts += [f"comment {item.comment!r}"] if item.comment is not None else []
    return _line("index", table, repr(item.name), *facts)


def _trigger_line(table: str, item: Trigger) -> str:
    return _line("trigger", table, repr(item.name), item.definition, f"enabled={item.enabled}")


def _dependent_line(table: str, item: Dependent) -> str:
    columns = [column for column in item.columns if column not in OWN_COLUMNS]
    return _line("dependent of", table, item.kind, item.name, f"({', '.join(sorted(columns))})", _definition(item))


# ------------------------------------------------------------------------------------------------ other objects


def catalog_text(catalog: Catalog) -> str:
    """Return the canonical text of the whole catalog: all tables, the objects that no table names, all enum values."""
    tables = schema_text(catalog, [table.name for table in catalog.tables])
    lines = [_object_line(item) for item in catalog.objects if _is_described(item)]
    lines += [_line("values of", item.name, item.definition) for item in catalog.objects if item.kind == "enum"]
    return tables + "".join(sorted(f"{line}\n" for line in lines))


def _named_objects(lines: Sequence[str], objects: Iterable[SchemaObject]) -> list[str]:
    """Return the lines of all objects that the text names, and of those that these name in turn."""
    left: dict[str, list[SchemaObject]] = defaultdict(list)
    for item in objects:
        if _is_described(item):
            # A function is mentioned without its arguments: all of that name are taken.
            functions = ("function", "procedure", "aggregate")
            left[item.name.split("(", 1)[0] if item.kind in functions else item.name].append(item)
    found: list[str] = []
    text = "\n".join(lines)
    while named := {name for name in _QUALIFIED.findall(text) if name in left}:
        new = [_object_line(item) for name in named for item in left.pop(name)]
        found += new
        text = "\n".join(new)
    return sorted(found)


_QUALIFIED = re.compile(r'(?:"(?:[^"]|"")+"|[^\W\d]\w*)\.(?:"(?:[^"]|"")+"|[^\W\d]\w*)')
"""A qualified name as PostgreSQL prints it: each part a plain word or quoted."""


def _is_described(item: SchemaObject) -> bool:
    # The catch-all's definitions are catalog rows as JSON, with OIDs: they compare within one database only.
    return item.kind not in UNCLONED_KINDS and not item.definition.startswith('{"')


def _object_line(item: SchemaObject) -> str:
    return _line(item.kind, item.name, _definition(item))


def _definition(item: SchemaObject | Dependent) -> str:
    if item.kind == "enum":
        # Values only ever come, and nobody can take one away again: not even going back.
        return item.definition.partition(" (")[0]
    if item.kind == "statistics":
        # The server prints their columns in the table's order, which is not a difference.
        head, _, rest = item.definition.partition(" ON ")
        columns, _, table = rest.rpartition(" FROM ")
        return f"{head} ON {', '.join(sorted(columns.split(', ')))} FROM {table}"
    return _version_free(item.definition) if item.kind in QUERY_KINDS else item.definition


@lru_cache(maxsize=4096)
def _version_free(definition: str) -> str:
    return version_free(definition)


@lru_cache(maxsize=4096)
def _settled(definition: str) -> str:
    return settled_constraint(definition)


def _own(name: str) -> bool:
    return name.startswith(f"{LOCKSTEP_SCHEMA}_") or name.endswith(f"_{LOCKSTEP_SCHEMA}_sync")


def _line(*facts: str) -> str:
    """Join the facts into one line; a newline inside a definition is written as its escape (so a backslash is too)."""
    return " ".join(fact for fact in facts if fact).strip().replace("\\", "\\\\").replace("\n", "\\n")
