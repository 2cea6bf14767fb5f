"""Which statements PostgreSQL refuses inside a transaction; what Flyway knows of it is `flyway.transactions`'s."""

from __future__ import annotations

from tasks.planning import parser
from tasks.planning.statements import Statement

_ALWAYS = frozenset(
    {
        "create_database", "drop_database", "create_table_space", "drop_table_space", "alter_system",
        "create_subscription", "drop_subscription", "vacuum",
    }
)  # fmt: skip
_REBUILT = ("INDEX", "TABLE", "SCHEMA", "DATABASE", "SYSTEM")


def runs_outside(statement: Statement) -> bool:
    """Whether the server refuses the statement inside a transaction."""
    match statement.kind:
        case "create_index" | "drop_index" | "alter_table":  # of ALTER TABLE, only DETACH PARTITION has the word
            return statement.concurrent
        case "reindex":
            what = next(word for word in words(statement) if word in _REBUILT)
            return statement.concurrent or what in ("SCHEMA", "DATABASE", "SYSTEM")
        case "discard":
            return "ALL" in words(statement)
        case "cluster":
            return not parser.parse(statement.sql)[0].node.relation.relname
        case "alter_database":
            return "TABLESPACE" in words(statement)
        case "alter_subscription":
            return "PUBLICATION" in words(statement)  # they refresh, unless told not to
        case kind:
            return kind in _ALWAYS


def words(statement: Statement) -> tuple[str, ...]:
    """Return the statement's keywords and signs, in upper case; of names, only their places."""
    return tuple(token.word for token in parser.tokens(statement.sql))
