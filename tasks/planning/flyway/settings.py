"""Flyway's settings, as far as they decide what a folder of migrations means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from tasks.planning.flyway.versions import Version

HISTORY_TABLE = "flyway_schema_history"

Repeatable = Literal["refuse", "run"]
"""What a migration of a folder does with repeatable files that Flyway would run."""

PENDING_IGNORED = "*:pending"
"""What `migrate` adds to ``ignore_migration_patterns`` when it validates."""


@dataclass(frozen=True, slots=True)
class Settings:
    """A project's settings; the names are Flyway's, the defaults too. `docs/flyway.md` has them in a table."""

    sql_migration_prefix: str = "V"
    repeatable_sql_migration_prefix: str = "R"
    baseline_migration_prefix: str = "B"
    sql_migration_separator: str = "__"
    sql_migration_suffixes: tuple[str, ...] = (".sql",)
    encoding: str = "UTF-8"
    placeholder_replacement: bool = True
    placeholders: Mapping[str, str] = field(default_factory=dict)
    """Their case does not matter, as in Flyway."""
    placeholder_prefix: str = "${"
    placeholder_suffix: str = "}"
    placeholder_separator: str = ":"
    execute_in_transaction: bool = True
    mixed: bool = False
    out_of_order: bool = False
    target: Version | None = None
    validate_on_migrate: bool = True
    ignore_migration_patterns: tuple[str, ...] = ("*:future",)
    default_schema: str | None = None
    """Where the history table is; without it, the first schema of the connection's search_path."""
    table: str = HISTORY_TABLE
