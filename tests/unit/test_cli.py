"""The command line: what it promises without a database."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from flows import console, known, logbook
from flows.cli import run_cli
from flows.command_pages import command_names, page
from tasks.planning.errors import CannotConnect, LockstepError, SpecError, UsageError, Waiting

ROOT = Path(__file__).parents[2]
COMMANDS = {
    "demo", "plan", "lint", "run", "status", "approve", "rollback", "verify", "cleanup", "schema", "doctor", "up",
    "pause", "resume", "throttle",
}  # fmt: skip
HELP_SECONDS = 0.5


@pytest.fixture(autouse=True)
def _own_state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith(("LOCKSTEP_", "PREFECT_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    # The command's preparation sets variables for good; the fixture's own values are put back afterwards.
    monkeypatch.setattr(os, "environ", os.environ.copy())


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(["--help"]) == 0
    printed = capsys.readouterr().out
    assert set(command_names()) == COMMANDS
    assert all(f"  {name} " in printed for name in COMMANDS)


def test_help_is_fast_and_imports_nothing_heavy() -> None:
    script = (
        "import sys; from flows.cli import run_cli; code = run_cli(['--help']);"
        "heavy = {'prefect', 'great_expectations', 'psycopg', 'pydantic', 'sqlalchemy'} & set(sys.modules);"
        "print('imported:', sorted(heavy)); sys.exit(code)"
    )
    best = float("inf")
    for _ in range(3):  # processor time: the machine may be busy with something else
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        best = min(best, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert "imported: []" in done.stdout
    assert best < HELP_SECONDS


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["run"],
        ["nonsense"],
        ["run", "a.yaml", "--format", "xml"],
        ["demo", "--rows", "0"],
        ["plan", "missing.yaml"],
    ],
)
def test_wrong_usage_is_exit_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(arguments) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_folder_is_no_spec(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(["plan", str(ROOT / "examples" / "drink-water")]) == 2
    told = capsys.readouterr().err.splitlines()
    assert "is a folder" in told[0]
    assert "intake-v2.yaml" in told[2]


def test_a_bare_sql_file_takes_the_only_database(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "v2.sql").write_text("ALTER TABLE intake ADD COLUMN ml int;")
    monkeypatch.setitem(os.environ, "LOCKSTEP_DEAD_URL", "postgresql://me@127.0.0.1:1/none")
    assert run_cli(["plan", str(tmp_path / "v2.sql")]) == 1, "it is asked, and does not answer"
    told = capsys.readouterr().err
    assert "Database: dead, the only one that is known here." in told
    assert "127.0.0.1:1" in told
    monkeypatch.setitem(os.environ, "LOCKSTEP_OTHER_URL", "postgresql://me@127.0.0.1:1/other")
    assert run_cli(["plan", str(tmp_path / "v2.sql")]) == 2
    assert "--database dead, --database other" in capsys.readouterr().err


def test_what_is_misspelt_is_refused_before_prefect_is_imported() -> None:
    spec = str(ROOT / "examples" / "drink-water" / "intake-v2.yaml")
    refused = [
        (["run", "intake-v3.yaml"], 2, "There is no file"),
        (["run", str(ROOT / "examples")], 2, "is a folder"),
        (["run", "Intake-V2", "--database", "dead"], 2, "There is no file"),
        (["run", spec, "--database", "nowhere"], 2, "LOCKSTEP_NOWHERE_URL"),
        (["run", "intake-v2", "--database", "nowhere"], 2, "LOCKSTEP_NOWHERE_URL"),
        (["run", spec, "--database", "dead", "--until", "backfil"], 2, "no phase 'backfil'"),
        (["run", "intake-v3", "--database", "dead"], 1, "127.0.0.1:1"),
        (["rollback", "intake-v3", "--database", "dead"], 1, "127.0.0.1:1"),
    ]
    script = (
        "import json, sys; from flows.cli import run_cli\n"
        "for arguments in json.loads(sys.argv[1]):\n"
        "    print('exit', run_cli(arguments), 'prefect' in sys.modules, file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps([arguments for arguments, _, _ in refused])],
        cwd=ROOT,
        env=dict(os.environ) | {"LOCKSTEP_DEAD_URL": "postgresql://me@127.0.0.1:1/none"},
        capture_output=True,
        text=True,
        check=True,
    )
    told = done.stderr.split("exit ")
    for number, (arguments, code, sentence) in enumerate(refused):
        assert sentence in told[number], arguments
        assert told[number + 1].startswith(f"{code} False\n"), arguments


def test_an_unknown_database_is_told_in_three_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(["status", "intake-v2", "--database", "nowhere"]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    lines = told.err.splitlines()
    assert len(lines) == 3
    assert "LOCKSTEP_NOWHERE_URL" in lines[0]
    assert lines[1] == "Nothing was touched."


def test_no_password_is_printed_when_the_server_does_not_answer(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(os.environ, "LOCKSTEP_DEAD_URL", "postgresql://me:s3cr3t-word@127.0.0.1:1/none")
    assert run_cli(["status", "--database", "dead"]) == 1
    told = capsys.readouterr()
    assert "127.0.0.1:1" in told.err
    assert "s3cr3t-word" not in told.err + told.out


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SpecError("bad"), 2),
        (UsageError("bad"), 2),
        (CannotConnect("away"), 1),
        (Waiting("later", reason="approval", phase="switch", remedy="lockstep approve x"), 3),
    ],
)
def test_every_kind_of_error_has_its_exit_code(
    error: LockstepError, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def command() -> int:
        raise error

    assert console.guarded(command) == code
    told = capsys.readouterr().err
    assert told.splitlines()[0] == error.what
    assert error.safety in told
    assert error.remedy is None or error.remedy in told


class QuotesARow(Exception):
    """Like an error of the server, which may quote a row in its message."""

    sqlstate = "22P02"


def test_the_unexpected_is_short_and_its_log_quotes_no_row(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> int:
        try:
            raise QuotesARow("DETAIL: " + "-".join(("can", "ary")))
        except QuotesARow as cause:
            raise RuntimeError("something broke") from cause

    assert console.guarded(command) == 1
    told = capsys.readouterr().err
    assert "Traceback" not in told
    assert len(told.splitlines()) == 3
    log = logbook.log_file().read_text()
    assert str(logbook.log_file()) in told
    assert "something broke" in log
    assert "SQLSTATE 22P02" in log
    assert "can-ary" not in log


def test_the_schema_is_one_json_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(["schema"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert "change" in document["properties"]
    assert document["additionalProperties"] is False


def test_waiving_a_soak_needs_a_reason(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(["approve", "intake-v2", "--waive-soak"]) == 2
    assert "--why" in capsys.readouterr().err
    assert run_cli(["run", "spec.yaml", "--waive-soak"]) == 2


def test_the_page_of_commands_is_up_to_date() -> None:
    assert (ROOT / "docs" / "commands.md").read_text() == page(), "python -m flows.command_pages > docs/commands.md"


def test_the_database_of_a_name_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "LOCKSTEP_DRINK_WATER_URL", "postgresql://localhost/a")
    assert known.database_of("intake-v2", None) == "drink-water"
    monkeypatch.setitem(os.environ, "LOCKSTEP_OTHER_URL", "postgresql://localhost/b")
    with pytest.raises(UsageError, match="drink-water, other"):
        known.database_of("intake-v2", None)
    known.remember("intake-v2", "other")
    assert known.database_of("intake-v2", None) == "other"
    assert known.database_of("intake-v2", "drink-water") == "drink-water"


def test_doctor_says_what_to_fix(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "LOCKSTEP_DEAD_URL", "postgresql://me:s3cr3t-word@127.0.0.1:1/none")
    assert run_cli(["doctor", "--format", "json"]) == 1
    findings = json.loads(capsys.readouterr().out)
    broken = [finding for finding in findings if finding["verdict"] == "fix"]
    assert [finding["subject"] for finding in broken] == ["database dead"]
    assert broken[0]["fix"]
    assert {"Python", "prefect", "embedded PostgreSQL"} <= {finding["subject"] for finding in findings}
    assert "s3cr3t-word" not in json.dumps(findings)
