"""The durations of `lockstep lint` come from what the database's ledger and a kept calibration know of it."""

from __future__ import annotations

import json
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from flows.cli import run_cli
from tasks.database import foresight, kept_calibrations
from tasks.database.catalog import snapshot
from tasks.database.connection import Target, connect
from tasks.database.foresight import earlier_runs, survey
from tasks.database.kept_calibrations import keep, kept
from tasks.database.ledger import Ledger
from tasks.planning.names import TableName
from tasks.planning.paces import Calibration
from tasks.survey import foreseen
from tests.integration.synthetic import NAME, READINGS, ask, create_readings, plan, register
from tests.integration.test_foresight import carry_out, foretold

ROWS = 40_000
WIDTH = 60
CALIBRATION = Calibration(
    table=READINGS, rows=10_000, row_bytes=WIDTH, indexes=2, speeds=(("scan", 1e6, 1e6), ("build", 1e5, 1e5)),
    filled_wal=100, entry_bytes=22, seconds=1,
)  # fmt: skip


@pytest.fixture
def readings(database: Target, monkeypatch: pytest.MonkeyPatch) -> Target:
    create_readings(database, ROWS)
    ask(database, "VACUUM ANALYZE readings")
    monkeypatch.setattr(os, "environ", {**os.environ, "LOCKSTEP_READINGS_URL": database.conninfo})
    return database


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "v1.sql"
    path.write_text("CREATE INDEX slow ON readings (litres);\nALTER TABLE readings ADD CHECK (litres IS NOT NULL);\n")
    return str(path)


def paces(file: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    run_cli(["lint", file, "--database", "readings", "--format", "json"])
    statements = json.loads(capsys.readouterr().out)["statements"]
    return {entry["work"]: entry for statement in statements for entry in statement["seconds"]}


def text(file: str, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    run_cli(["lint", file, "--database", "readings"])
    return capsys.readouterr().out


def of(target: Target, width: int = WIDTH) -> tuple[Calibration, ...]:
    with connect(target, role="plan") as connection:
        return kept(connection, {READINGS: width})


@pytest.mark.usefixtures("readings")
def test_without_a_run_or_a_calibration_they_are_built_in(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert {work: entry["pace"] for work, entry in paces(file, capsys).items()} == {
        "build": "built-in", "scan": "built-in",
    }  # fmt: skip
    told = text(file, capsys)
    assert ", roughly\n" in told
    assert "Roughly: what two shared cores did" in told


def test_an_earlier_run_counts(readings: Target, file: str, capsys: pytest.CaptureFixture[str]) -> None:
    carry_out(readings, foretold(60.0))
    ask(readings, "UPDATE lockstep.step SET finished_at = started_at + interval '8 seconds' WHERE step LIKE '%index%'")
    found = paces(file, capsys)
    # Forty thousand rows in eight seconds, a quarter quicker at best and half as quick at worst.
    assert (found["build"]["pace"], found["build"]["best"], found["build"]["worst"]) == ("ledger", 6.4, 16.0)
    assert found["scan"]["pace"] == "built-in"
    told = text(file, capsys)
    assert "6.4 s to 16 s, as in earlier runs\n" in told
    assert "As in earlier runs: 1 step over 40,000 rows" in told


def test_what_a_plan_has_calibrated_counts(readings: Target, file: str, capsys: pytest.CaptureFixture[str]) -> None:
    survey(readings, plan(), sample_seconds=0.0)
    found = paces(file, capsys)
    assert {entry["pace"] for entry in found.values()} == {"calibration"}
    assert "By a calibration that a plan has made:" in text(file, capsys)


def test_another_database_of_the_server_has_none_of_it(readings: Target) -> None:
    with connect(readings, role="plan") as connection:
        keep(connection, [CALIBRATION])
    (found,) = of(readings)
    assert found.made_at is not None
    assert found.paces()[READINGS, "scan"].said.endswith(f"in the scratch database, on {found.made_at:%Y-%m-%d}")
    assert of(Target("postgres", make_conninfo(readings.conninfo, dbname="postgres"))) == ()


def test_a_calibration_of_other_rows_or_of_long_ago_counts_no_more(
    readings: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connect(readings, role="plan") as connection:
        keep(connection, [CALIBRATION])
    assert of(readings, 2 * WIDTH) != ()
    assert of(readings, 2 * WIDTH + 1) == of(readings, WIDTH // 2 - 1) == ()
    monkeypatch.setattr(kept_calibrations, "LONGEST", timedelta(0))
    assert of(readings) == ()


def test_the_newer_one_of_a_table_is_kept_and_a_broken_file_is_none(
    readings: Target, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with connect(readings, role="plan") as connection:
        keep(connection, [CALIBRATION])
        keep(connection, [CALIBRATION.model_copy(update={"rows": 20_000})])
        keep(connection, [])
        path = kept_calibrations._file_of(connection)
    assert [found.rows for found in of(readings)] == [20_000]
    assert path.stat().st_mode & 0o077 == 0
    path.write_text('[{"table": ')
    assert of(readings) == ()
    assert {entry["pace"] for entry in paces(file, capsys).values()} == {"built-in"}


def test_a_folder_that_cannot_be_written_stops_nothing(
    readings: Target, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "lockstep").write_text("a file is no folder")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    with connect(readings, role="plan") as connection:
        keep(connection, [CALIBRATION])
    assert of(readings) == ()


def test_a_role_that_may_not_ask_for_the_server_finds_its_own(readings: Target) -> None:
    name = f"shy_{readings.name}"
    ask(
        readings, f"CREATE ROLE {name} LOGIN PASSWORD 'shy'; REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC"
    )
    try:
        shy = Target("shy", make_conninfo(readings.conninfo, user=name, password="shy"))
        with connect(shy, role="plan") as connection:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute("SELECT * FROM pg_control_system()")
            keep(connection, [CALIBRATION])
        assert len(of(shy)) == 1
    finally:
        ask(readings, f"DROP ROLE {name}")


def test_a_server_that_has_no_such_number_finds_its_own(readings: Target) -> None:
    """As Aurora, which refuses the function: neither lint nor a run may end by that."""
    ask(readings, "ALTER FUNCTION pg_catalog.pg_control_system() RENAME TO pg_control_system_elsewhere")
    with connect(readings, role="test") as live:
        keep(live, [CALIBRATION])
        assert [found.table for found in kept(live, {READINGS: WIDTH})] == [READINGS]


def test_a_ledger_of_another_version_is_said(readings: Target, file: str, capsys: pytest.CaptureFixture[str]) -> None:
    one = plan(name="another")
    register(readings, one)
    ask(readings, "UPDATE lockstep.migration SET plan = plan - 'phases'")
    assert "Durations are told without earlier runs: the ledger has plans of another version" in text(file, capsys)
    told: list[str] = []
    assert foreseen(readings, one, told.append) is not None
    ask(readings, "ALTER TABLE lockstep.migration RENAME COLUMN plan TO content")
    assert foreseen(readings, one, told.append) is not None
    assert told == []


def test_a_run_begins_though_nothing_can_be_foretold(readings: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scratch server's folder cannot be had: a full disk, another user's."""
    one, told = plan(name="another"), list[str]()
    monkeypatch.setenv("XDG_DATA_HOME", "/proc/none")
    assert foreseen(readings, one, told.append) is None
    assert len(told) == 1
    assert "forecasts are built in" in told[0]


def test_a_ledger_that_may_not_be_read_is_said(readings: Target, file: str, capsys: pytest.CaptureFixture[str]) -> None:
    carry_out(readings, foretold(60.0))
    name = f"stranger_{readings.name}"
    ask(
        readings, f"CREATE ROLE {name} LOGIN PASSWORD 'stranger'; GRANT SELECT ON ALL TABLES IN SCHEMA public TO {name}"
    )
    try:
        os.environ["LOCKSTEP_READINGS_URL"] = make_conninfo(readings.conninfo, user=name, password="stranger")
        told = text(file, capsys)
    finally:
        ask(readings, f"DROP OWNED BY {name}; DROP ROLE {name}")
    assert "Durations are told without earlier runs:" in told
    assert ", roughly\n" in told


def test_only_the_latest_migrations_are_asked(readings: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    carry_out(readings, foretold(60.0))
    later = plan().model_copy(update={"name": "later", "change_hash": "other"})
    ask(readings, "UPDATE lockstep.migration SET created_at = created_at - interval '1 day'")
    register(readings, later)
    with connect(readings, role="plan") as connection:
        ledger = Ledger(connection)
        assert [record.name for record in ledger.latest(5)] == ["later", NAME]
        assert {run.migration for run in earlier_runs(ledger)} == {NAME}
        monkeypatch.setattr(foresight, "MOST_MIGRATIONS", 1)
        assert earlier_runs(ledger) == ()


def test_what_lies_in_toast_is_told_apart_and_only_a_rewrite_moves_it(
    readings: Target, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ask(
        readings,
        "CREATE TABLE papers (id int PRIMARY KEY, number int, body text);"
        "ALTER TABLE papers ALTER body SET STORAGE EXTERNAL;"
        "INSERT INTO papers SELECT n, n, repeat('x', 8000) FROM generate_series(1, 4000) AS n",
    )
    ask(readings, "VACUUM ANALYZE papers")
    with connect(readings, role="plan") as connection:
        papers = snapshot(connection).table(TableName("public", "papers"))
    assert papers is not None
    assert papers.toast_bytes > 32_000_000
    assert papers.bytes - papers.toast_bytes < 500_000
    (tmp_path / "v2.sql").write_text(
        "ALTER TABLE papers ALTER number TYPE bigint;\nALTER TABLE papers ADD CHECK (number > 0);\n"
    )
    found = paces(str(tmp_path / "v2.sql"), capsys)
    # Four times the bytes in TOAST, at 20 MB a second; the scan reads none of them.
    assert found["rewrite"]["worst"] > 4 * 32 / 20
    assert found["scan"]["worst"] < 0.1
