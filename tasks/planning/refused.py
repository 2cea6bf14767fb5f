"""Statements that a change may not contain in this version, by kind, and what to do instead."""

from __future__ import annotations

_DATA = (
    "Run it by itself, before or after the migration. UPDATE and DELETE of one table may stand in a change: Lockstep"
    " carries them out in batches."
)
_NO_SCHEMA = "Remove it: it does not change the schema."
_OPAQUE = "Write the schema statements that it would run: what a block of code does cannot be planned from its text."
_SETTING = (
    "Remove it: Lockstep sets timeouts and pins the settings itself; write schema-qualified names for search_path."
)
_FROM_QUERY = (
    "Create the table with its columns, then fill it apart from the migration; create a materialized view by itself,"
    " WITH NO DATA, and refresh it."
)
_CLUSTER = "Run it by itself before the migration: it concerns the whole server, not this database's schema."
_MAINTENANCE = "Remove it: Lockstep analyses what it fills; run other maintenance by itself."

REFUSED: dict[str, str] = {
    **dict.fromkeys(("insert", "merge", "copy", "truncate"), _DATA),
    **dict.fromkeys(("create_table_as",), _FROM_QUERY),
    **dict.fromkeys(
        ("select", "explain", "show", "declare_cursor", "fetch", "close_portal", "listen", "unlisten", "notify"),
        _NO_SCHEMA,
    ),
    **dict.fromkeys(("prepare", "execute", "deallocate", "discard", "load", "checkpoint", "lock"), _NO_SCHEMA),
    **dict.fromkeys(("do", "call"), _OPAQUE),
    **dict.fromkeys(("set", "set_constraints"), _SETTING),
    **dict.fromkeys(
        (
            "create_role", "alter_role", "alter_role_set", "drop_role", "grant_role", "drop_owned", "reassign_owned",
            "create_database", "alter_database", "alter_database_set", "alter_database_refresh_coll", "drop_database",
            "create_table_space", "alter_table_space_options", "drop_table_space", "alter_table_move_all",
            "alter_system",
        ),
        _CLUSTER,
    ),
    **dict.fromkeys(("create_subscription", "alter_subscription", "drop_subscription"), _CLUSTER),
    **dict.fromkeys(
        ("create_user_mapping", "alter_user_mapping", "drop_user_mapping", "import_foreign_schema"),
        "Run it by itself: it carries credentials or reads another server.",
    ),
    **dict.fromkeys(("vacuum", "analyze", "cluster", "refresh_materialized_view"), _MAINTENANCE),
}  # fmt: skip
