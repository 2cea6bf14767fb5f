"""The way back after contract: a migration of its own, written out as a spec that can be planned and run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml
from psycopg import sql

from tasks.planning import retyping
from tasks.planning.catalog import Column
from tasks.planning.expressions import substitute
from tasks.planning.names import verbatim
from tasks.planning.strategies.expand_contract.contribution import TableChange
from tasks.planning.strategies.expand_contract.kept import (
    added_constraints,
    altered_columns,
    altered_constraints,
    altered_indexes,
    dropped_constraints,
    has_other_default,
)
from tasks.planning.strategies.expand_contract.mapping import Group
from tasks.planning.strategies.expand_contract.moved import narrowed_keys


def reverse_spec(migration: str, database: str, changes: Sequence[TableChange], beside: Sequence[str] = ()) -> str:
    """Return the YAML of the reverse migration; what it cannot bring back stands in comments at the top.

    ``beside`` describes what the migration did to other objects, by statements run as they were written.
    """
    statements: list[str] = []
    mapping: dict[str, dict[str, Any]] = {}
    lost: list[str] = []
    for change in changes:
        statements += _statements(change)
        mapping |= _mapping(change)
        lost += _lost(change)
    if not statements:
        return ""
    spec: dict[str, Any] = {
        "name": f"{migration}-reverse",
        "database": database,
        "change": "\n".join(f"{statement};" for statement in statements) + "\n",
    }
    if mapping:
        spec["mapping"] = mapping
    head = [
        f"# Takes {migration} back after its contract phase"
        + (": the old columns are computed by `down`." if mapping else ".")
    ]
    head += [f"# Cannot be recovered: {item}" for item in lost]
    head += [
        f"# Lockstep refuses to do this beside a running application: {sentence}. Run the statements in a pause of it."
        for change in changes
        for sentence in narrowed_keys(change)
    ]
    head += [
        f"# Yours to say before it can be planned, that the version running then copes with {item}:  "
        "old_version_reads: true  in the column's mapping."
        for change in changes
        for item in _words(change)
    ]
    head += [f"# Not taken back here, write its way back yourself: {' '.join(item.split())}" for item in beside]
    return "\n".join(head) + "\n" + yaml.dump(spec, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


class _Dumper(yaml.SafeDumper):
    """Writes statements as a block, one a line, and every mapping out in full."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:str", data, style="|" if "\n" in data else None)


_Dumper.add_representer(str, _Dumper.represent_str)


def _statements(change: TableChange) -> list[str]:
    gone, came = _gone(change), _came(change)
    gone_names, came_names = {column.name for column in gone}, {column.name for column in came}
    found = [_add(change, column) for column in gone]
    found += [change.alter("DROP COLUMN {c}", c=sql.Identifier(column.name)) for column in came]
    found += [retyping.statement(retype.column, retype.column.old) for retype in change.direct]
    found += [statement for group in _moved(change) for statement in _retyped(change, group)]
    before, after = change.before, change.after
    known = {index.name for index in before.indexes}
    kept = {index.oid for index in before.indexes}
    for index in after.indexes:
        carried = index.oid in kept or (change.moves(index.columns) and index.name in known)
        if not carried and index.constraint is None and not set(index.columns) & came_names:
            found.append(sql.SQL("DROP INDEX {}").format(sql.Identifier(change.name.schema, index.name)).as_string())
    found += _constraints_of_moved(change)
    for constraint in before.constraints:
        if set(constraint.columns) & gone_names and constraint.kind != "not_null":
            name, definition = sql.Identifier(constraint.name), verbatim(constraint.definition)
            found.append(change.alter("ADD CONSTRAINT {c} {d}", c=name, d=definition))
    found += _kept_statements(change)
    remaining = {index.oid for index in after.indexes}
    follows = {index.name for index in after.indexes if change.moves(index.columns)}
    for index in before.indexes:
        lost = index.oid not in remaining and index.name not in follows
        if index.constraint is None and (lost or set(index.columns) & gone_names):
            found.append(index.definition)
    return found


def _gone(change: TableChange) -> list[Column]:
    return [column for column in change.dropped if column.name not in change.moved_old]


def _came(change: TableChange) -> list[Column]:
    return [column for column in change.new if column.name not in change.moved_new]


def _moved(change: TableChange) -> list[Group]:
    """Return the groups of the columns that have kept their name: after contract one column each, of the new type."""
    return [change.group_of(column.coming) for column in change.moved]


def _retyped(change: TableChange, group: Group) -> list[str]:
    """Return what gives a column that has kept its name its old type back; keys and indexes over it follow."""
    (old,), (new,) = group.old.columns, group.new.columns
    back = _called_after(change, group.down[0].expression) if group.down else None
    using = None if back is None or retyping.is_plain_cast(back, old.name, old.type) else _one_line(back)
    name = sql.Identifier(old.name)
    found = [retyping.statement(retyping.Retyped(change.name, old, new), old, using)]
    if old.not_null != new.not_null:
        found.append(change.alter("ALTER COLUMN {c} {w} NOT NULL", c=name, w=_set_or_drop(old.not_null)))
    if old.default is None and new.default is not None:
        found.append(change.alter("ALTER COLUMN {c} DROP DEFAULT", c=name))
    if old.default is not None and new.default is None:
        found.append(change.alter("ALTER COLUMN {c} SET DEFAULT {d}", c=name, d=verbatim(old.default)))
    return found


def _constraints_of_moved(change: TableChange) -> list[str]:
    """Return what takes back constraints that came over such columns, and brings back those that went."""
    before = {c.name: c for c in change.before.constraints if set(c.columns) & change.moved_old}
    after = {c.name: c for c in change.after.constraints if change.moves(c.columns)}
    return [
        change.alter("DROP CONSTRAINT {c}", c=sql.Identifier(name))
        for name, found in after.items()
        if name not in before and found.kind != "not_null"
    ] + [
        change.alter("ADD CONSTRAINT {c} {d}", c=sql.Identifier(name), d=verbatim(found.definition))
        for name, found in before.items()
        if name not in after and found.kind != "not_null" and set(found.columns) <= set(change.moved_old)
    ]


def _called_after(change: TableChange, expression: str) -> str:
    """Return an expression over the columns as they are called after contract."""
    names = {column.coming: sql.Identifier(column.name).as_string() for column in change.moved}
    return substitute(expression, names) if names else expression


def _kept_statements(change: TableChange) -> list[str]:
    """Return what takes back the differences over columns that stay: first what came, then what went."""
    constraint = "RENAME CONSTRAINT {a} TO {b}"
    came = [change.alter("DROP CONSTRAINT {c}", c=sql.Identifier(c.name)) for c in added_constraints(change)]
    came += [
        change.alter(constraint, a=sql.Identifier(item.after.name), b=sql.Identifier(item.before.name))
        for item in altered_constraints(change)
        if item.renamed
    ]
    came += [
        sql.SQL("ALTER INDEX {} RENAME TO {}")
        .format(sql.Identifier(change.name.schema, item.after.name), sql.Identifier(item.before.name))
        .as_string()
        for item in altered_indexes(change)
        if item.renamed and item.after.constraint is None
    ]
    for item in altered_columns(change):
        name = sql.Identifier(item.before.name)
        if item.nullability_changed:
            came.append(change.alter("ALTER COLUMN {c} {w} NOT NULL", c=name, w=_set_or_drop(item.before.not_null)))
        if has_other_default(item) and item.before.default is None:
            came.append(change.alter("ALTER COLUMN {c} DROP DEFAULT", c=name))
        elif has_other_default(item):
            came.append(change.alter("ALTER COLUMN {c} SET DEFAULT {d}", c=name, d=verbatim(str(item.before.default))))
    return came + [
        change.alter("ADD CONSTRAINT {c} {d}", c=sql.Identifier(c.name), d=verbatim(c.definition))
        for c in dropped_constraints(change)
    ]


def _set_or_drop(wanted: bool) -> sql.SQL:
    return sql.SQL("SET") if wanted else sql.SQL("DROP")


def _add(change: TableChange, column: Column) -> str:
    mapped = any(column.name in [a.column for a in group.down] and group.new.columns for group in change.groups)
    parts = [sql.SQL("ADD COLUMN {} ").format(sql.Identifier(column.name)), verbatim(column.type)]
    if column.collation:
        parts.append(verbatim(f" COLLATE {column.collation}"))
    if column.default is not None and not mapped:
        parts.append(verbatim(f" DEFAULT {column.default}"))
    if column.not_null and (mapped or column.default is not None):
        parts.append(verbatim(" NOT NULL"))
    return change.alter("{rest}", rest=sql.Composed(parts))


def _mapping(change: TableChange) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    gone, moved = {column.name for column in _gone(change)}, _moved(change)
    for group in change.groups:
        if not group.new.columns:
            continue
        back = {assignment.column: _one_line(assignment.expression) for assignment in group.up}
        if group in moved:
            (old,), (new,) = group.old.columns, group.new.columns
            if not retyping.is_plain_cast(back[new.name], old.name, new.type):
                found[_key(change, old.name)] = {"down": back[new.name]}
            continue
        for assignment in group.down:
            if assignment.column in gone:
                expression = _one_line(_called_after(change, assignment.expression))
                found[_key(change, assignment.column)] = {"up": expression, "down": back}
    return found


def _key(change: TableChange, column: str) -> str:
    return f"{change.name.schema}.{change.name.name}.{column}"


def _words(change: TableChange) -> list[str]:
    """Return the columns that a version written for the new type may not cope with, with the type that they get."""
    return [
        f"{_key(change, group.old.columns[0].name)} as {group.old.columns[0].type}"
        for group in _moved(change)
        if not retyping.old_version_can(group.new.columns[0].type, group.old.columns[0].type)
    ]


def _one_line(expression: str) -> str:
    """The server prints CASE over several lines; a literal with a line break stays as it is."""
    return (
        expression
        if "'" in expression and "\n" in "".join(expression.split("'")[1::2])
        else " ".join(line.strip() for line in expression.splitlines()).strip()
    )


def _lost(change: TableChange) -> list[str]:
    mapped = {a.column for group in change.groups if group.new.columns for a in group.down}
    lost = [
        f"the values of {change.name}.{column.name}, which was dropped without a mapping"
        for column in change.dropped
        if column.name not in mapped
    ]
    lost += [f"the values of {change.name}.{column.name}" for column in change.new if column.name not in change.mapped]
    lost += [
        f"values of {retype.column} that {retype.column.old.type} does not hold: planning this names them"
        for retype in change.direct
        if retype.back is None
    ]
    return lost
