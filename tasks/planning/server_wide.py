"""Statements that nobody may run to try them: they reach beyond the database that they are run in."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from tasks.planning import parser
from tasks.planning.statements import Statement

_SERVER = "It concerns the whole server and not this database: it was not run on the clone."
_ELSEWHERE = "It reads files or another server: it was not run on the clone."

NOT_RUN: Mapping[str, str] = {
    **dict.fromkeys(
        (
            "create_role", "alter_role", "alter_role_set", "drop_role", "grant_role", "drop_owned", "reassign_owned",
            "create_database", "alter_database", "alter_database_set", "alter_database_refresh_coll", "drop_database",
            "create_table_space", "alter_table_space_options", "drop_table_space", "alter_table_move_all",
            "alter_system", "create_subscription", "alter_subscription", "drop_subscription", "checkpoint",
        ),
        _SERVER,
    ),
    **dict.fromkeys(
        ("copy", "load", "import_foreign_schema", "create_user_mapping", "alter_user_mapping"), _ELSEWHERE
    ),
}  # fmt: skip
"""By kind of statement: what to say of it."""

_IDENTITY = re.compile(r"(re)?set\s+((local|session)\s+)?(role|session\s+authorization)\b", re.IGNORECASE)
_NOBODY = "The clone has no owners and no rights: the statements after it ran as Lockstep's own role."


def why_not_run(statement: Statement) -> str | None:
    """Return why nobody may run the statement to try it; None where it may be run."""
    if statement.kind == "set" and _IDENTITY.match(statement.sql):
        return _NOBODY
    return NOT_RUN.get(statement.kind)


def made_roles(statements: Iterable[Statement]) -> frozenset[str]:
    """Return the roles that the statements create: nobody runs them, and others may name the roles."""
    return frozenset(
        str(parser.parse(statement.sql)[0].node.role) for statement in statements if statement.kind == "create_role"
    )
