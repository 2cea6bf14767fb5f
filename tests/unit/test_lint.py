"""`lockstep lint` on files that are not to be looked at: exit code 2 and the place, before a server is started."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from flows.cli import run_cli

SCHEMA = "CREATE TABLE t (a int);"


@pytest.fixture(autouse=True)
def _own_state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith(("LOCKSTEP_", "PREFECT_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    # A file is no folder for a server: whatever would start one fails.
    (tmp_path / "data" / "lockstep").mkdir(parents=True)
    (tmp_path / "data" / "lockstep" / "scratch-16").write_text("")
    # The command's preparation sets variables for good; the fixture's own values are put back afterwards.
    monkeypatch.setattr(os, "environ", os.environ.copy())


def lint(folder: Path, content: bytes, *, schema: str = SCHEMA) -> int:
    (folder / "schema.sql").write_text(schema)
    (folder / "v1.sql").write_bytes(content)
    return run_cli(["lint", str(folder / "v1.sql"), "--schema", str(folder / "schema.sql")])


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"SELECT 1;\nALTER TABLE t AD COLUMN b int;", "line 2, column 15: syntax error"),
        (b"\\d t\n", "line 1, column 1"),
        (b"COPY t FROM stdin;\n1\n\\.\n", "COPY … FROM STDIN with data"),
        (b"ALTER TABLE ${schema}.t ADD b int", "Placeholders like ${name} are not replaced"),
        (b"SELECT '${name}'", "${name} is a placeholder"),
        (b"", "v1.sql: the change is empty"),
        (b"-- only a comment\n", "v1.sql: the change is empty"),
        ("SELECT 'größe'".encode("latin-1"), "line 1: is not UTF-8"),
        (b"SELECT 1;\n" * 1_000_000, "10 MB of SQL"),
        (b"SELECT 1;\0", "NUL"),
    ],
    ids=["syntax", "psql", "copy", "placeholder", "placeholder in text", "empty", "comment", "latin-1", "10 MB", "NUL"],
)
def test_bad_input_is_exit_code_2(
    content: bytes, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lint(tmp_path, content) == 2
    printed = capsys.readouterr()
    assert told in printed.err
    assert "Nothing was touched." in printed.err
    assert printed.out == ""


def test_a_caret_shows_the_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert lint(tmp_path, b"SELECT 1;\nALTER TABLE t AD COLUMN b int;") == 2
    assert "  ALTER TABLE t AD COLUMN b int;\n                ^\n" in capsys.readouterr().err


def test_of_two_schemas_none_is_looked_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(tmp_path / "v1.sql")
    (tmp_path / "v1.sql").write_text("SELECT 1")
    assert run_cli(["lint", file, "--schema", file, "--database", "x"]) == 2
    assert "either --schema SCHEMA.sql, or --database NAME" in capsys.readouterr().err.replace("\n", " ")
    assert run_cli(["lint", file, "--database", "nowhere"]) == 2
    assert "LOCKSTEP_NOWHERE_URL" in capsys.readouterr().err
    assert run_cli(["lint", str(tmp_path / "missing.sql"), "--database", "nowhere"]) == 2
    assert "There is no file" in capsys.readouterr().err


def test_without_a_server_it_is_told_by_rules_and_said_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert lint(tmp_path, b"ALTER TABLE t ADD b int") == 0
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    assert "Nothing was measured: " in printed.err
    assert f"cannot have its folder {tmp_path / 'data' / 'lockstep' / 'scratch-16'}" in printed.err
    assert "ACCESS EXCLUSIVE on public.t" in printed.out
    assert "Told by rules from the statements alone, without a server" in printed.out
    assert lint(tmp_path, b"ALTER TABLE t ALTER a TYPE bigint") == 1


def test_without_a_schema_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "v1.sql").write_text("DROP TABLE t")
    assert run_cli(["lint", str(tmp_path / "v1.sql"), "--format", "json"]) == 1
    printed = capsys.readouterr()
    assert "Nothing was measured: --schema or --database says" in printed.err
    (told,) = json.loads(printed.out)["statements"]
    assert (told["source"], told["dangerous"]) == ("guessed", True)
