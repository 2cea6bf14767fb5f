"""The scripts of the three tiers, run by bash: each refuses what is not its own, acts, and looks whether it is done."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tasks.database.connection import Target
from tests.acceptance.harness import DATABASE, VARIABLE, Lockstep, execute, query
from tests.acceptance.shell import ROOT

SCHEMA = b"""
CREATE TABLE person (id int PRIMARY KEY, code text NOT NULL);
INSERT INTO person SELECT n, n::text FROM generate_series(1, 300) AS n;
"""
SPEC = f"""
name: number
database: {DATABASE}
soak: 0s
change: ALTER TABLE person RENAME COLUMN code TO number;
"""


class Scripts:
    """The folder that `lockstep plan --out` wrote, and the machine on which its scripts are run."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder = folder
        self._environment = {**os.environ, **environment}
        self._environment["LOCKSTEP"] = str(Path(sys.executable).with_name("lockstep"))
        self._environment["PYTHONPATH"] = str(ROOT)  # this checkout, whichever one is installed

    def run(self, name: str, **more: str) -> subprocess.CompletedProcess[str]:
        command = [str(self.folder / name)]
        return subprocess.run(
            command, env=self._environment | more, capture_output=True, text=True, check=False, timeout=240
        )


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "number.yaml"
    path.write_text(SPEC)
    return path


@pytest.fixture
def scripts(
    lockstep: Lockstep, database: Target, environment: Mapping[str, str], spec: Path, tmp_path: Path
) -> Scripts:
    execute(database, SCHEMA)
    lockstep.must("plan", str(spec), "--out", str(tmp_path / "plans"))
    written = {path.name for path in (tmp_path / "plans").iterdir()}
    assert written == {"number.md", "number.html", "number.json", "number-runbook", "number-rollback"}
    return Scripts(tmp_path / "plans" / "number-rollback", {**environment, VARIABLE: database.conninfo})


def columns(database: Target) -> list[str]:
    found = query(database, "SELECT attname FROM pg_attribute WHERE attrelid = 'person'::regclass AND attnum > 0"
                            " AND NOT attisdropped ORDER BY attnum")  # fmt: skip
    return [str(name) for (name,) in found]


def test_immediate_and_emergency(scripts: Scripts, lockstep: Lockstep, database: Target, spec: Path) -> None:
    lockstep.must("run", str(spec), "--until", "constrain")
    answer = scripts.run("3-planned.sh")
    assert (answer.returncode, "lockstep rollback takes it back" in answer.stderr) == (1, True), answer.stderr
    answer = scripts.run("1-immediate.sh")
    assert answer.returncode == 0, answer.stderr
    assert columns(database) == ["id", "code"]
    assert "rolled back already" in scripts.run("1-immediate.sh").stderr

    lockstep.must("run", str(spec), "--until", "switch", "--yes")
    execute(database, b"INSERT INTO person (id, number) VALUES (1000, '7')")
    answer = scripts.run("1-immediate.sh")
    assert (answer.returncode, "run 2-emergency.sh" in answer.stderr) == (1, True), answer.stderr
    answer = scripts.run("2-emergency.sh")
    assert (answer.returncode, "OLD_VERSION_DEPLOYED=yes" in answer.stderr) == (1, True), answer.stderr
    assert "number" in columns(database)
    answer = scripts.run("2-emergency.sh", OLD_VERSION_DEPLOYED="yes")
    assert answer.returncode == 0, answer.stderr
    assert columns(database) == ["id", "code"]
    assert query(database, "SELECT code FROM person WHERE id = 1000") == [("7",)]


def test_planned(scripts: Scripts, lockstep: Lockstep, database: Target, spec: Path) -> None:
    lockstep.must("run", str(spec), "--yes", "--waive-soak")
    execute(database, b"INSERT INTO person (id, number) VALUES (1000, '7')")
    answer = scripts.run("2-emergency.sh", OLD_VERSION_DEPLOYED="yes")
    assert (answer.returncode, "see 3-planned.sh" in answer.stderr) == (1, True), answer.stderr
    answer = scripts.run("3-planned.sh")
    assert (answer.returncode, "waits" in answer.stderr) == (3, True), answer.stderr
    for arguments, code in (((), 3), (("--waive-soak", "--why", "the change is not wanted"), 0)):
        lockstep.must("approve", "number-reverse", *arguments)
        answer = scripts.run("3-planned.sh")
        assert answer.returncode == code, answer.stderr
    assert (answer.returncode, "is taken back" in answer.stderr) == (0, True), answer.stderr
    assert columns(database) == ["id", "code"]
    assert query(database, "SELECT code FROM person WHERE id = 1000") == [("7",)]


def test_they_are_bash(scripts: Scripts) -> None:
    bash = shutil.which("bash")
    assert bash is not None
    for path in sorted(scripts.folder.glob("*.sh")):
        assert subprocess.run([bash, "-n", str(path)], check=False).returncode == 0, path.name
    assert len(list(scripts.folder.glob("*.sh"))) == 3
