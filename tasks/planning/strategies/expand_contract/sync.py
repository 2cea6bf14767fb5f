"""The sync trigger: keeps the old and the new shape of a row in step, whichever side the application writes.

One BEFORE INSERT OR UPDATE row trigger a table, last among the table's triggers, serves all its mapping groups.
What it decides, per group (the data rules of expand-contract; each was a reproduced loss elsewhere):

- the session setting ``lockstep.direction`` first (``up``, ``down``; ``none`` keeps the trigger from being called, and
  ``fill`` is the backfill's own where triggers of the user's write the row before this one);
- INSERT: the side that is given; UPDATE: the side that changed; both: kept when they agree, else new wins and the
  conflict is recorded; neither: a row that is still unfilled is filled;
- the application's own statement never fails because of the sync: an expression that raises, or whose result breaks
  a constraint of the other shape, is recorded by key and SQLSTATE, the group's bit is set in ``lockstep_pending``, and
  the write stands. The constraints of the shape that was *not* written are tolerant of exactly that bit, so a write
  that breaks the constraints of its own shape is refused as ever.

The text produced here is plpgsql whose column names went through `psycopg.sql`; the expressions are the server's own
canonical forms, rewritten and proven by `tasks.planning.expressions`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import assert_never

from psycopg import sql

from tasks.planning.catalog import Table
from tasks.planning.checks.triggers import in_force
from tasks.planning.expressions import distinct, substitute
from tasks.planning.names import DIRECTION_SETTING, LOCKSTEP_SCHEMA, PENDING_COLUMN, TableName, own_name
from tasks.planning.strategies.expand_contract.mapping import Group, all_unfilled_bits

_LAST = "zzz_lockstep_sync"
RECORDING_LOCK = 1_819_239_268
"""First key of the advisory lock (the second is the backend) under which a session records that it writes."""


def function_name(migration: str, table: TableName) -> str:
    """Return the name of the table's sync function, in schema ``lockstep``."""
    return own_name("sync", migration, *table)


def trigger_name(others: Iterable[str]) -> str:
    """Return a trigger name that sorts after all ``others``: triggers fire in byte order of their names."""
    last = max((name.encode() for name in others), default=b"")
    if _LAST.encode() > last:
        return _LAST
    # U+10FFFF is the last code point, and UTF-8 sorts as code points do.
    return "\U0010ffff" * (1 + len(last.decode()) - len(last.decode().lstrip("\U0010ffff"))) + _LAST


def trigger_of(table: Table) -> str:
    """Return the name of the sync trigger on a table as it is before the migration."""
    return trigger_name(trigger.name for trigger in table.triggers)


def create_trigger(migration: str, table: TableName, others: Iterable[str]) -> tuple[str, str]:
    """Return the statements that install the trigger; ALWAYS, so that writes of a replica role are kept in step too."""
    name = sql.Identifier(trigger_name(others))
    create = sql.SQL(
        "CREATE TRIGGER {name} BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW "
        "WHEN (pg_catalog.current_setting({setting}, true) IS DISTINCT FROM 'none') EXECUTE FUNCTION {function}()"
    ).format(
        name=name,
        table=table.identifier,
        setting=sql.Literal(DIRECTION_SETTING),
        function=sql.Identifier(LOCKSTEP_SCHEMA, function_name(migration, table)),
    )
    always = sql.SQL("ALTER TABLE {table} ENABLE ALWAYS TRIGGER {name}").format(table=table.identifier, name=name)
    return create.as_string(), always.as_string()


def create_function(
    migration: str, table: TableName, key: tuple[str, ...], groups: tuple[Group, ...], *,
    personal_key: bool, settings: tuple[tuple[str, str], ...], after_switch: bool,
) -> str:  # fmt: skip
    """Return CREATE OR REPLACE FUNCTION for the table's sync function.

    ``settings`` are pinned on the function (the application's TimeZone must not change what `up` means);
    ``after_switch`` adds the record of sessions that still write the old shape.
    """
    writer = _Writer(migration, table, key, personal_key)
    declarations = [line for group in groups for line in _declarations(group)]
    body = [line for group in groups for line in _group(writer, group)]
    if after_switch:
        body += writer.record_old_write()
    all_unfilled = all_unfilled_bits(groups)
    # search_path is a list: a literal would be one schema of that odd name.
    pinned = sql.SQL(" ").join(
        [
            sql.SQL("SET search_path TO pg_catalog, pg_temp"),
            *(
                sql.SQL("SET {} TO {}").format(sql.Identifier(name), sql.Literal(value))
                for name, value in settings
                if name.lower() != "search_path"
            ),
        ]
    )
    text = "\n".join(
        [
            "",
            "#variable_conflict use_variable",
            "DECLARE",
            f"  lockstep_direction CONSTANT text := coalesce(current_setting('{DIRECTION_SETTING}', true), '');",
            "  lockstep_mask integer;",
            "  lockstep_failed text;",
            "  lockstep_way text;",
            "  lockstep_old boolean;",
            "  lockstep_new boolean;",
            "  lockstep_old_shape boolean := false;",
            *declarations,
            "BEGIN",
            f"  IF TG_OP = 'INSERT' THEN lockstep_mask := {all_unfilled};",
            f"  ELSE lockstep_mask := OLD.{PENDING_COLUMN}; END IF;",
            *body,
            f"  NEW.{PENDING_COLUMN} := lockstep_mask;",
            "  RETURN NEW;",
            "END",
            "",
        ]
    )
    return (
        sql.SQL(
            "CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER {pinned} "
            "AS {body}"
        )
        .format(
            function=sql.Identifier(LOCKSTEP_SCHEMA, function_name(migration, table)),
            pinned=pinned,
            body=sql.Literal(text),
        )
        .as_string()
    )


def lock_table(table: TableName) -> str:
    return sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(table.identifier).as_string()


def require_in_step(migration: str, table: TableName, trigger: str) -> str:
    """Return the statement that raises unless the trigger is in force and no row's way to the new shape has failed."""
    body = sql.SQL(
        "BEGIN IF NOT EXISTS (SELECT FROM pg_catalog.pg_trigger AS g WHERE {in_force}) THEN "
        "RAISE object_not_in_prerequisite_state USING MESSAGE = {off}; "
        "ELSIF EXISTS (SELECT FROM lockstep.sync_failure AS f WHERE f.migration = {migration} "
        "AND f.table_name = {table} AND f.kind = 'failure' AND f.direction = 'up' AND f.resolved_at IS NULL) THEN "
        "RAISE object_not_in_prerequisite_state USING MESSAGE = {failed}; END IF; END"
    ).format(
        in_force=in_force(table, trigger),
        migration=sql.Literal(migration),
        table=sql.Literal(str(table)),
        off=sql.Literal(f"the trigger that keeps both shapes of {table} in step is not in force"),
        failed=sql.Literal(f"rows of {table} were written since the gate that cannot be brought to the new shape"),
    )
    return sql.SQL("DO {}").format(sql.Literal(body.as_string())).as_string()


def drop_trigger(table: TableName, others: Iterable[str]) -> str:
    return sql.SQL("DROP TRIGGER {} ON {}").format(sql.Identifier(trigger_name(others)), table.identifier).as_string()


def drop_function(migration: str, table: TableName) -> str:
    name = sql.Identifier(LOCKSTEP_SCHEMA, function_name(migration, table))
    return sql.SQL("DROP FUNCTION {}()").format(name).as_string()


# ------------------------------------------------------------------------------------------- one group


def _column(row: str, column: str) -> str:
    return f"{row}.{sql.Identifier(column).as_string()}"


def _declarations(group: Group) -> list[str]:
    sides = (("up", group.new), ("down", group.old))
    return [f"  {_local(group, way, i)} {column.type};" for way, side in sides for i, column in enumerate(side.columns)]


def _local(group: Group, way: str, position: int) -> str:
    return f"lockstep_{way}_{group.number}_{position}"


def _row(group: Group, expression: str, row: str) -> str:
    """Return the expression over the row being written (``NEW``) or as it was (``OLD``)."""
    return substitute(expression, {name: _column(row, name) for name in group.readable})


def _changed(columns: Iterable[str]) -> str:
    """Return whether a column was written with another value, compared by its bytes.

    Not by the type's equality: interval '1 mon' = '30 days', 1.0 = 1.00, and under a case-insensitive collation
    'a' = 'A', and each such write would be lost at contract. It also serves types that have no equality.
    """
    tests = [f"record_image_ne(ROW({_column('NEW', name)}), ROW({_column('OLD', name)}))" for name in columns]
    return " OR ".join(f"({test})" for test in tests) or "false"


def _new_given(group: Group) -> str:
    """Return whether an INSERT gave the new side: until contract its columns have no default."""
    return " OR ".join(f"{_column('NEW', name)} IS NOT NULL" for name in group.new.names) or "false"


def _old_given(group: Group) -> str:
    """Return whether an INSERT gave the old side: where nothing is a default, what is not NULL was given."""
    tests = [f"{_column('NEW', column.name)} IS NOT NULL" for column in group.old.columns if column.default is None]
    return " OR ".join(tests) or "false"


def _given_by_old_application(group: Group) -> str:
    """Return whether an INSERT that is read as one of the old shape can only be the old application's.

    The new one may leave out nullable columns and those with a default, and always leaves out what is only dropped.
    What is left out in both versions alike is no reason to wait for the old one; what differs from a default was given.
    """
    if any(column.not_null and column.default is None for column in group.new.columns):
        return "true"
    other_than_default = [
        f"record_image_ne(ROW({_column('NEW', column.name)}), ROW(({column.default})::{column.type}))"
        for column in group.old.columns
        # A default that is computed must not be computed here: nextval() would take a number.
        if column.default is not None and "(" not in column.default
    ]
    return " OR ".join([_old_given(group), *other_than_default])


def _group(writer: _Writer, group: Group) -> list[str]:
    old = list(group.old.names)
    new = list(group.new.names)
    kept = [column.name for column in group.kept_inputs]
    lines = [
        f"  -- {', '.join(old) or '(derived)'} <-> {', '.join(new)}",
        "  IF TG_OP = 'INSERT' THEN",
        *_inserted(group),
        "  ELSE",
        f"    lockstep_new := {_changed(new)};",
        f"    lockstep_old := {_changed(old)};",
        *(_kept_input_changed(group, kept) if kept and group.new.columns else []),
        "  END IF;",
        *(_told_by_application(group) if group.inserts == "told" else []),
    ]
    if not group.new.columns:
        return [*lines, *_dropped(writer, group)]
    if not group.down:
        return [*lines, *_one_way(writer, group)]
    return [
        *lines,
        "  IF lockstep_old AND lockstep_new THEN",
        *_agreement(writer, group),
        "  END IF;",
        "  lockstep_way := CASE WHEN lockstep_new THEN 'down'",
        f"    WHEN lockstep_old OR lockstep_mask & {group.unfilled_bit} <> 0 THEN 'up'",
        f"    WHEN lockstep_mask & {group.down_failed_bit} <> 0 THEN 'down' END;",
        "  IF lockstep_way = 'down' THEN",
        *_apply(writer, group, "down"),
        "  ELSIF lockstep_way = 'up' THEN",
        *_apply(writer, group, "up"),
        "  END IF;",
    ]


def _inserted(group: Group) -> list[str]:
    """Under one name it is known which side an INSERT writes; only one without a column list still finds the old one.

    Such an INSERT gives its values by position, and the old column keeps its place in the table.
    """
    match group.inserts:
        case "told":
            return [
                f"    lockstep_new := {_new_given(group)};",
                f"    lockstep_old := NOT lockstep_new OR {_old_given(group)};",
            ]
        case "old":
            return ["    lockstep_old := true; lockstep_new := false;"]
        case "new":
            return [
                f"    lockstep_old := {_column('NEW', group.old.names[0])} IS NOT NULL;",
                "    lockstep_new := NOT lockstep_old;",
            ]
        case _:
            assert_never(group.inserts)


def _told_by_application(group: Group) -> list[str]:
    """The session's setting decides first; and a write of the old side is one of the old application version."""
    return [
        "  IF lockstep_direction = 'up' THEN lockstep_old := true; lockstep_new := false;",
        "  ELSIF lockstep_direction = 'down' THEN lockstep_old := false; lockstep_new := true;",
        # What a batch put into the new columns was made of the row before the user's triggers.
        f"  ELSIF lockstep_direction = 'fill' AND lockstep_mask & {group.unfilled_bit} <> 0 THEN",
        "    lockstep_old := true; lockstep_new := false; END IF;",
        "  lockstep_old_shape := lockstep_old_shape OR (lockstep_old AND CASE TG_OP"
        f" WHEN 'INSERT' THEN {_given_by_old_application(group)} ELSE {_changed(group.old.names)} END);",
    ]


def _kept_input_changed(group: Group, kept: Iterable[str]) -> list[str]:
    """Only a column that `up` reads and both shapes keep was written: by which application, nobody can tell.

    New columns that are what `up` made of the row before follow it; others are the new application's own values,
    which stand.
    """
    lines = [
        f"IF NOT lockstep_old AND NOT lockstep_new AND lockstep_mask & {group.unfilled_bit} = 0",
        f"    AND ({_changed(kept)}) THEN",
        *(f"  {line}" for line in _compute(group, "up", "OLD")),
        f"  lockstep_old := lockstep_failed IS NULL AND {_agrees(group, 'up', 'OLD')};",
        *(["  lockstep_new := NOT lockstep_old;"] if group.down else []),
        "END IF;",
    ]
    return [f"    {line}" for line in lines]


def _one_way(writer: _Writer, group: Group) -> list[str]:
    """A derived group has no way back: what the application writes into the new columns stands."""
    return [
        f"  IF lockstep_new THEN lockstep_mask := lockstep_mask & ~{group.bits};",
        f"  ELSIF lockstep_old OR lockstep_mask & {group.unfilled_bit} <> 0 THEN",
        *_apply(writer, group, "up"),
        "  END IF;",
    ]


def _dropped(writer: _Writer, group: Group) -> list[str]:
    """Columns that only the old shape has: an INSERT of the new shape leaves them out, and gets what `down` says.

    Where there is a default, only an explicit NULL leaves a column without value: what is there may have been given.
    """
    left_out = " AND ".join(f"{_column('NEW', column.name)} IS NULL" for column in group.old.columns)
    return [
        f"  lockstep_mask := lockstep_mask & ~{group.bits};",
        f"  IF TG_OP = 'INSERT' AND {left_out} THEN",
        *_apply(writer, group, "down"),
        "  END IF;",
    ]


def _compute(group: Group, way: str, row: str = "NEW") -> list[str]:
    """Compute the other side's values into locals, and into `lockstep_failed` the SQLSTATE that refuses them."""
    expressions, side = (group.up, group.new) if way == "up" else (group.down, group.old)
    locals_ = {column.name: _local(group, way, i) for i, column in enumerate(side.columns)}
    order = {column.name: i for i, column in enumerate(side.columns)}
    lines = [
        f"{locals_[assignment.column]} := {_row(group, assignment.expression, row)};"
        for assignment in sorted(expressions, key=lambda a: order[a.column])
    ]
    values = {name: _column(row, name) for name in group.readable} | locals_
    lines += [
        f"IF {locals_[column.name]} IS NULL THEN lockstep_failed := '23502'; END IF;"
        for column in side.columns
        if column.not_null
    ]
    # IF takes NULL as false, so a CHECK that is NULL holds, as it does in a constraint.
    lines += [f"IF NOT ({substitute(check, values)}) THEN lockstep_failed := '23514'; END IF;" for check in side.checks]
    if not group.may_raise(way):
        return ["lockstep_failed := NULL;", *lines]
    return [
        "lockstep_failed := NULL;",
        "BEGIN",
        *(f"  {line}" for line in lines),
        "EXCEPTION WHEN OTHERS THEN lockstep_failed := SQLSTATE;",
        "END;",
    ]


def _apply(writer: _Writer, group: Group, way: str) -> list[str]:
    side = group.new if way == "up" else group.old
    success = [
        f"{_column('NEW', column.name)} := {_local(group, way, i)};" for i, column in enumerate(side.columns)
    ] + [f"lockstep_mask := lockstep_mask & ~{group.bits};"]
    bit = group.unfilled_bit if way == "up" else group.down_failed_bit
    failure = [f"lockstep_mask := (lockstep_mask & ~{group.bits}) | {bit};", writer.record("failure", way)]
    if way == "up" or group.inserts != "told":
        # What the one shape now says cannot be said in the other: unknown is better than stale. (Between two names the
        # old side keeps its last value, which the old version can still read.)
        failure = [f"{_column('NEW', column.name)} := NULL;" for column in side.columns] + failure
    lines = [*_compute(group, way), "IF lockstep_failed IS NULL THEN"]
    lines += [f"  {line}" for line in success]
    lines += ["ELSE", *(f"  {line}" for line in failure), "END IF;"]
    return [f"    {line}" for line in lines]


def _agreement(writer: _Writer, group: Group) -> list[str]:
    """Both sides written: nothing to do where they agree in either direction, else a conflict in which new wins."""
    lines = [
        *_compute(group, "up"),
        f"IF lockstep_failed IS NULL AND {_agrees(group, 'up')} THEN",
        "  lockstep_old := false; lockstep_new := false;",
        "ELSE",
        *(f"  {line}" for line in _compute(group, "down")),
        f"  IF lockstep_failed IS NULL AND {_agrees(group, 'down')} THEN",
        "    lockstep_old := false; lockstep_new := false;",
        f"  ELSE {writer.record('conflict', 'down')}",
        "  END IF;",
        "END IF;",
        f"IF NOT lockstep_new THEN lockstep_mask := lockstep_mask & ~{group.bits}; END IF;",
    ]
    return [f"    {line}" for line in lines]


def _agrees(group: Group, way: str, row: str = "NEW") -> str:
    """Return whether the row has the values that were just computed for the receiving side."""
    side = group.new if way == "up" else group.old
    tests = [
        f"NOT ({distinct(_column(row, column.name), _local(group, way, i), has_equality=column.has_equality)})"
        for i, column in enumerate(side.columns)
    ]
    return " AND ".join(tests)


class _Writer:
    """Writes the statements that record what happened, inside the application's own transaction."""

    def __init__(self, migration: str, table: TableName, key: tuple[str, ...], personal_key: bool) -> None:
        self._migration = sql.Literal(migration).as_string()
        self._table = sql.Literal(str(table)).as_string()
        array = f"jsonb_build_array({', '.join(_column('NEW', name) for name in key)})::text"
        self._key = f"md5({array})" if personal_key else array

    def record(self, kind: str, way: str) -> str:
        return (
            f"INSERT INTO {LOCKSTEP_SCHEMA}.sync_failure (migration, table_name, key, sqlstate, direction, kind) "
            f"VALUES ({self._migration}, {self._table}, {self._key}, coalesce(lockstep_failed, '00000'), "
            f"'{way}', '{kind}');"
        )

    def record_old_write(self) -> list[str]:
        return [
            "  IF lockstep_old_shape AND lockstep_direction = '' THEN",
            *(f"    {line}" for line in recorded_write(self._migration, self._table)),
            "  END IF;",
        ]


def recorded_write(migration: str, table: str) -> list[str]:
    """Return the statement that records the session as one that writes what goes; both arguments are SQL literals."""
    # One row a backend, written at most once a second: no two sessions ever wait for each other here. Nor does one for
    # its own prepared transaction, which may hold the row for long, and says what there is to say when it commits.
    return [
        f"IF pg_try_advisory_xact_lock({RECORDING_LOCK}, pg_backend_pid()) THEN",
        f"  INSERT INTO {LOCKSTEP_SCHEMA}.old_write AS seen "
        "(migration, table_name, pid, application_name, role_name, last_at)",
        f"  VALUES ({migration}, {table}, pg_backend_pid(), current_setting('application_name'), "
        "session_user, clock_timestamp())",
        "  ON CONFLICT (migration, table_name, pid) DO UPDATE SET last_at = excluded.last_at, "
        "application_name = excluded.application_name, role_name = excluded.role_name",
        "  WHERE seen.last_at < excluded.last_at - interval '1 second';",
        "END IF;",
    ]
