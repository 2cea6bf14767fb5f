"""Statements that nobody may run to try them: they reach beyond the database that they are run in.

The clone may be on the live server itself, and its role a superuser there, so what may be run is looked at before: the
kind of a statement, what it names, the functions that it calls, and the text of the code that those run (`reaching`).
What a text does not show, a name that EXECUTE puts together or a function written in C, is seen by nobody: there the
rights of the role that plans are the only bound.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache

from tasks.planning import parser
from tasks.planning.catalog import Catalog
from tasks.planning.parse_tree import Node, walk
from tasks.planning.statements import Statement

_SERVER = "It concerns the whole server and not this database: it was not run on the clone."
_ELSEWHERE = "It reads files or another server: it was not run on the clone."
_NOBODY = "The clone has no owners and no rights: the statements after it ran as Lockstep's own role."

NOT_RUN: Mapping[str, str] = {
    **dict.fromkeys(
        (
            "create_role", "alter_role", "alter_role_set", "drop_role", "rename_role", "grant_role", "drop_owned",
            "reassign_owned", "create_database", "alter_database", "alter_database_set", "alter_database_refresh_coll",
            "rename_database", "drop_database", "create_table_space", "alter_table_space_options", "rename_tablespace",
            "drop_table_space", "alter_table_move_all", "alter_system", "create_subscription", "alter_subscription",
            "rename_subscription", "drop_subscription", "checkpoint",
        ),
        _SERVER,
    ),
    **dict.fromkeys(
        ("copy", "load", "import_foreign_schema", "create_user_mapping", "alter_user_mapping"), _ELSEWHERE
    ),
}  # fmt: skip
"""By kind of statement: what to say of it."""

_OF_THE_SERVER = frozenset({"database", "role", "tablespace", "subscription", "parameter_acl"})
"""Objects that COMMENT, GRANT, SECURITY LABEL and OWNER TO change for the whole server."""

_SHARED = (
    "pg_authid|pg_auth_members|pg_database|pg_tablespace|pg_db_role_setting|pg_parameter_acl|pg_replication_origin"
    "|pg_shdepend|pg_shdescription|pg_shseclabel|pg_subscription"
)
"""The catalogs that all databases of a server have in common."""

_FUNCTIONS = (
    r"dblink\w*|pg_terminate_backend|pg_cancel_backend|pg_reload_conf|pg_rotate_logfile\w*|pg_promote|pg_switch_\w+"
    r"|pg_create_restore_point|pg_(?:start|stop)_backup|pg_backup_(?:start|stop)|pg_wal_replay_(?:pause|resume)"
    r"|pg_(?:create|copy)_(?:physical|logical)_replication_slot|pg_drop_replication_slot|pg_replication_slot_advance"
    r"|pg_logical_slot_get_\w+|pg_sync_replication_slots|pg_replication_origin_\w+|pg_stat_reset_shared"
    r"|pg_stat_reset_\w*slot|pg_stat_reset_slru|pg_stat_statements_reset|pg_log_backend_memory_contexts|lo_import"
    r"|lo_export|pg_read_file|pg_read_binary_file|pg_file_\w+|pg_background_launch|http(?:_\w+)?"
)
"""Functions that reach sessions, files, slots or servers that are not the scratch database's."""

_CALLS = re.compile(_FUNCTIONS)
_CODE = re.compile(
    rf"""
      \b(?:{_FUNCTIONS})"?\s*\(
    | \b(?:create|alter|drop)\s+(?:role|user|group|database|tablespace|subscription)\b
    | \balter\s+system\b | \b(?:drop|reassign)\s+owned\b | \bimport\s+foreign\s+schema\b
    | \b(?:comment|label)\b[^;]*?\bon\s+(?:database|role|tablespace|subscription)\b
    | \b(?:grant|revoke)\b[^;]*?\bon\s+(?:database|tablespace|parameter)\b
    | \b(?:grant|revoke)\b(?:(?!\bon\b)[^;])*?\b(?:to|from)\b
    | \bcopy\b[^;]*?\b(?:to|from)\s+(?:program\b|'|\|\||%)
    | (?:[;'$]|\b(?:begin|then|else|loop))\s*set\s+(?:(?:local|session)\s+)?
      (?:role|"role"|session\s+authorization|"?session_authorization"?)\b
    | \breset\s+(?:role|session\s+authorization)\b | \bset_config\s*\(\s*'+(?:role|session_authorization)'
    | \b(?:update|insert\s+into|delete\s+from|truncate|lock|merge\s+into)\s+(?:table\s+|only\s+)*(?:pg_catalog\s*\.\s*)?
      (?:{_SHARED})\b
    """,
    re.IGNORECASE | re.VERBOSE,
)
"""What in the text of a block, function or view reaches beyond the database, in a string for EXECUTE too."""

_HINTS = re.compile(rf"\b(?:{_FUNCTIONS}|{_SHARED}|set_config)\b", re.IGNORECASE)
"""Without one of these words only a statement of `_LOOKED_AT` can reach beyond the database."""
_LOOKED_AT = frozenset({"comment", "grant", "sec_label", "alter_owner", "set", "do"})

_COMMENTS = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)
_MADE_IN_CODE = re.compile(r'\bcreate\s+(?:role|user|group)\s+(?!mapping\b)"?(\w+)', re.IGNORECASE)

_EXECUTING = frozenset(
    {
        "select", "insert", "update", "delete", "merge", "truncate", "call", "do", "create_table_as", "prepare",
        "refresh_materialized_view", "explain", "declare_cursor",
    }
)  # fmt: skip
"""Kinds of statements that run the functions, triggers and views that they name; others only make or change them."""

_MAKING = frozenset({"create_function", "create_view", "create_rule", "create_trigger", "create_policy"})
_WRITING = frozenset({"InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt"})


def why_not_run(statement: Statement, reaching: frozenset[str] = frozenset()) -> str | None:
    """Return why nobody may run the statement to try it; None where it may be run.

    ``reaching`` are the names of the functions, views and tables that lead beyond the database (see `reaching`).
    """
    return _why_not_run(statement.sql, statement.kind, reaching)


@lru_cache(maxsize=1024)
def _why_not_run(text: str, kind: str, names: frozenset[str]) -> str | None:
    if kind in NOT_RUN:
        return NOT_RUN[kind]
    if kind not in _LOOKED_AT and not _HINTS.search(text) and not _names_any(text, names):
        # A statement may be megabytes of rows: its tree is walked for a reason only.
        return None
    node = parser.parse(text)[0].node
    if kind == "set":
        return _NOBODY if node.name in ("role", "session_authorization") else None
    if _is_of_the_server(node) or _concerns_shared_catalog(node, kind):
        return _SERVER
    found = _called(node, kind, text, names)
    return f"It runs code that reaches beyond this database ({found}): it was not run on the clone." if found else None


def reaching(catalog: Catalog, statements: Iterable[Statement] = ()) -> frozenset[str]:
    """Return the names, without schema, of what runs code that reaches beyond the database.

    Functions and views of the schema and of ``statements``, those that use such ones, tables with such a trigger, and
    foreign tables, unless their name is another table's too.
    """
    texts = [
        (_name(item.name), _COMMENTS.sub(" ", item.definition))
        for item in catalog.objects
        if item.kind in ("function", "procedure", "view", "materialized view")
    ]
    texts += [
        (table.name.name, trigger.definition.partition(" EXECUTE ")[2])
        for table in catalog.tables
        for trigger in table.triggers
    ]
    texts += [(name, _COMMENTS.sub(" ", statement.sql)) for statement in statements for name in _made(statement)]
    local = {table.name.name for table in catalog.tables if table.kind != "f"}
    found = frozenset(name for name, text in texts if _CODE.search(text)) | (
        {table.name.name for table in catalog.tables if table.kind == "f"} - local
    )
    while found:
        users = re.compile(rf"\b(?:{'|'.join(map(re.escape, sorted(found)))})\b")
        more = found | {name for name, text in texts if users.search(text)}
        if more == found:
            break
        found = more
    return found


def made_roles(statements: Iterable[Statement]) -> frozenset[str]:
    """Return the roles that the statements create: nobody runs them, and others may name the roles."""
    found: set[str] = set()
    for statement in statements:
        if statement.kind == "create_role":
            found.add(str(parser.parse(statement.sql)[0].node.role))
        elif statement.kind == "do":
            found.update(_MADE_IN_CODE.findall(_COMMENTS.sub(" ", statement.sql)))
    return frozenset(found)


def _names_any(text: str, names: frozenset[str]) -> bool:
    lower = text.lower()
    return any(name.lower() in lower for name in names)


def _is_of_the_server(node: Node) -> bool:
    """Whether a COMMENT, GRANT, SECURITY LABEL or OWNER TO is of an object that no database has for itself."""
    for name in ("objtype", "object_type"):
        field = node.DESCRIPTOR.fields_by_name.get(name)
        if field is not None and field.enum_type is not None:
            word = field.enum_type.values_by_number[getattr(node, name)].name
            return word.removeprefix("OBJECT_").lower() in _OF_THE_SERVER
    return False


def _concerns_shared_catalog(node: Node, kind: str) -> bool:
    """Whether a statement writes, locks or rebuilds a catalog that all databases have in common."""
    if kind in ("lock", "truncate", "vacuum", "reindex", "cluster", "alter_table"):
        tables = [message for message in walk(node) if type(message).__name__ == "RangeVar"]
    else:
        tables = [message.relation for message in walk(node) if type(message).__name__ in _WRITING]
    return any(re.fullmatch(_SHARED, table.relname) for table in tables)


def _called(node: Node, kind: str, text: str, names: frozenset[str]) -> str | None:
    """Return what a statement runs that reaches beyond its database."""
    if kind == "do":
        code = _COMMENTS.sub(" ", text)
        found = _CODE.search(code)
        if found:
            return " ".join(found[0].split()).rstrip("('\"% ")
        return next((name for name in sorted(names) if re.search(rf"\b{re.escape(name)}\b", code)), None)
    if kind in _MAKING:
        return None
    for message in walk(node):
        match type(message).__name__:
            case "FuncCall":
                name = message.funcname[-1].string.sval
                if _CALLS.fullmatch(name) or _sets_identity(name, message) or (kind in _EXECUTING and name in names):
                    return str(name)
            case "RangeVar" if kind in _EXECUTING and message.relname in names:
                return str(message.relname)
            case _:
                pass
    return None


def _sets_identity(name: str, call: Node) -> bool:
    return name == "set_config" and (
        not call.args or call.args[0].a_const.sval.sval in ("", "role", "session_authorization")
    )


def _made(statement: Statement) -> Iterator[str]:
    """Yield the function or view that a statement makes, and the table that gets a trigger."""
    if statement.kind == "create_function":
        yield str(parser.parse(statement.sql)[0].node.funcname[-1].string.sval)
    elif statement.kind == "create_view":
        yield str(parser.parse(statement.sql)[0].node.view.relname)
    elif statement.kind == "create_table_as":
        yield str(parser.parse(statement.sql)[0].node.into.rel.relname)
    elif statement.kind == "create_trigger":
        yield str(parser.parse(statement.sql)[0].node.relation.relname)


def _name(printed: str) -> str:
    """Return the name of ``schema.name(arguments)`` without schema and arguments."""
    return printed.partition("(")[0].rpartition(".")[2].strip('"')
