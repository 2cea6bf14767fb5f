"""Our reading of a folder and its history, and the real Flyway's, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from tasks.database.connection import Target, connect
from tasks.database.flyway_history import judge_folder
from tasks.planning.flyway.folder import read_folder
from tasks.planning.flyway.history import Judgement, State
from tasks.planning.flyway.pending import pending_files
from tasks.planning.flyway.settings import Settings
from tasks.planning.flyway.validation import stops_migrate, validate
from tasks.planning.flyway.versions import Version
from tests.integration.real_flyway import FlywayFailed, RealFlyway

NO_WORD_OF_PENDING = ("*:future", "*:pending")

SESSION_LOCK = {"postgresql.transactional.lock": "false"}
"""By default Flyway holds its lock in a transaction, which also holds a snapshot: CONCURRENTLY waits for it forever."""


def write(folder: Path, files: Mapping[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def judged(target: Target, folder: Path, settings: Settings) -> Judgement:
    with connect(target, role="test") as connection:
        return judge_folder(connection, read_folder(folder, settings=settings), settings)


def told(settings: Settings) -> dict[str, str]:
    """The settings as Flyway's own properties."""
    given = {
        "outOfOrder": str(settings.out_of_order).lower(),
        "mixed": str(settings.mixed).lower(),
        "executeInTransaction": str(settings.execute_in_transaction).lower(),
        "validateOnMigrate": str(settings.validate_on_migrate).lower(),
        "ignoreMigrationPatterns": ",".join(settings.ignore_migration_patterns),
        "table": settings.table,
        **SESSION_LOCK,
        **{f"placeholders.{name}": value for name, value in settings.placeholders.items()},
    }
    if settings.default_schema:
        given["defaultSchema"] = settings.default_schema
    if settings.target:
        given["target"] = settings.target.text
    return given


def agree(flyway: RealFlyway, target: Target, folder: Path, settings: Settings = Settings()) -> Judgement:  # noqa: B008
    """Compare everything: states in their order, checksums, what validate says, what would run and how."""
    ours = judged(target, folder, settings)
    assert [
        (
            each.state.name, each.version and each.version.text, each.description, each.type, each.script,
            each.applied and str(each.applied.rank),
            (each.applied and each.applied.checksum is not None and str(each.applied.checksum)) or None,
            each.migration and str(each.migration.checksum),
        )
        for each in ours.all
    ] == flyway("info", target, folder, **told(settings))  # fmt: skip
    for patterns in {settings.ignore_migration_patterns, NO_WORD_OF_PENDING, ("versioned:missing",), ("*:ignored",)}:
        chosen = replace(settings, ignore_migration_patterns=patterns)
        assert [
            (problem.code, problem.judged.version.text if problem.judged.version else "", problem.judged.description)
            for problem in validate(ours, chosen)
        ] == [tuple(each or "" for each in line) for line in flyway("validate", target, folder, **told(chosen))]
    would_run = [(each.script, str(each.in_transaction).lower()) for each in pending_files(ours, settings)]
    assert would_run == flyway("transactions", target, folder, **told(settings))
    return ours


def migrates(flyway: RealFlyway, target: Target, folder: Path, settings: Settings = Settings()) -> bool:  # noqa: B008
    """Let Flyway migrate; whether it did has to be what we said."""
    expected = not stops_migrate(judged(target, folder, settings), settings)
    try:
        flyway("migrate", target, folder, **told(settings))
    except FlywayFailed:
        assert not expected
    else:
        assert expected
    return expected


def versions(target: Target, folder: Path) -> set[Version | None]:
    return {each.version for each in judged(target, folder, Settings()).all}


def states(judgement: Judgement) -> dict[str, State]:
    return {each.script: each.state for each in judgement.all}


HISTORY = """
CREATE TABLE flyway_schema_history (
    installed_rank int PRIMARY KEY, version varchar(50), description varchar(200) NOT NULL, type varchar(20) NOT NULL,
    script varchar(1000) NOT NULL, checksum int, installed_by varchar(100) NOT NULL,
    installed_on timestamp NOT NULL DEFAULT now(), execution_time int NOT NULL, success boolean NOT NULL)
"""
