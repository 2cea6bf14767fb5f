"""Statements that nobody may run to try them: they reach beyond the database that they are run in."""

from __future__ import annotations

from collections.abc import Mapping

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
