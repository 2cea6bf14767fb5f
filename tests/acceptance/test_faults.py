"""Bad input and faults, through the command line: what it says, and that nothing is lost or half done."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from tasks.application.application import Application
from tasks.application.client import Pace
from tasks.application.drink_water import EXAMPLE, fill
from tasks.database.connection import Target
from tasks.database.server import EmbeddedServer, start
from tests.acceptance.harness import VARIABLE, Lockstep, catalog_text, content, execute, query
from tests.acceptance.shell import ROOT, Answer, run_once
from tests.conftest import AnyServer
from tests.standby import standby_of

PERSON = b"""
CREATE TABLE country (id int PRIMARY KEY);
CREATE TABLE person (
    id         int PRIMARY KEY,
    code       text NOT NULL,
    country_id int REFERENCES country (id)
);
INSERT INTO country VALUES (1), (2);
INSERT INTO person SELECT n, n::text, 1 + n % 2 FROM generate_series(1, 500) AS n;
"""
NUMBER = """
name: number
database: acceptance
change: |
  ALTER TABLE person ALTER COLUMN code TYPE int USING code::int;
  ALTER TABLE person RENAME COLUMN code TO number;
mapping:
  person.number: {down: "number::text"}
"""


@pytest.fixture
def person(database: Target) -> Target:
    execute(database, PERSON)
    return database


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    file = tmp_path / "number.yaml"
    file.write_text(NUMBER)
    return file


@contextmanager
def untouched(database: Target) -> Iterator[None]:
    """Within the block, catalog and content of the database must not change, the ledger's schema included."""
    before = (catalog_text(database), content(database), ledger_exists(database))
    yield
    assert (catalog_text(database), content(database), ledger_exists(database)) == before


def ledger_exists(database: Target) -> bool:
    return bool(query(database, "SELECT to_regnamespace('lockstep') IS NOT NULL")[0][0])


def said(answer: Answer) -> str:
    return answer.out + answer.err


# ------------------------------------------------------------------------------------------- bad specs: exit 2

BAD_SPECS = {
    "unknown table": ("change: ALTER TABLE persn RENAME COLUMN code TO number;", "persn"),
    "unknown column": ("change: ALTER TABLE person RENAME COLUMN cod TO number;", "cod"),
    "syntax error": ("change: ALTER TABEL person RENAME COLUMN code TO number;", "TABEL"),
    "empty change": ("change: ''", "change"),
    "only a comment": ("change: '-- nothing'", "change"),
    "unknown key": ("change: ALTER TABLE person RENAME COLUMN code TO number;\nchagne: x", "chagne"),
    "wrong shape": ("change: [1, 2]", "change"),
    "transaction": ("change: BEGIN; ALTER TABLE person RENAME COLUMN code TO number; COMMIT;", "BEGIN"),
    "up of the wrong type": (
        "change: ALTER TABLE person ADD COLUMN born date NOT NULL;\nmapping: {person.born: {up: id + 1}}",
        "born",
    ),
    "up names no column": (
        "change: ALTER TABLE person ADD COLUMN born int NOT NULL;\nmapping: {person.born: {up: brithday}}",
        "brithday",
    ),
    "down names no column": (
        "change: ALTER TABLE person RENAME COLUMN code TO number;\nmapping: {person.number: {down: nubmer}}",
        "nubmer",
    ),
    "mapping of no column": (
        "change: ALTER TABLE person RENAME COLUMN code TO number;\nmapping: {person.nubmer: {up: code}}",
        "nubmer",
    ),
    "not supported": (
        "change: ALTER TABLE person ALTER COLUMN code TYPE int USING code::int;",
        "under the name that it has",
    ),
}


@pytest.mark.parametrize("name", BAD_SPECS)
def test_a_bad_spec_is_refused_before_anything_is_touched(
    name: str, lockstep: Lockstep, person: Target, spec: Path
) -> None:
    text, named = BAD_SPECS[name]
    spec.write_text(f"name: bad\ndatabase: acceptance\n{text}\n")
    with untouched(person):
        answer = lockstep.must("run", str(spec), code=2)
    assert named in answer.err
    assert "Nothing was touched" in answer.err
    assert "Traceback" not in said(answer)


def test_a_table_without_a_key_is_refused(lockstep: Lockstep, database: Target, spec: Path) -> None:
    execute(database, b"CREATE TABLE person (code text); INSERT INTO person VALUES ('1')")
    with untouched(database):
        answer = lockstep.must("run", str(spec), code=2)
    assert "person" in answer.err
    assert "key" in answer.err


# ------------------------------------------------------------------------------------------- connections: exit 1


def test_no_connection(lockstep: Lockstep, database: Target, spec: Path) -> None:
    nowhere = Target("acceptance", make_conninfo(database.conninfo, port=1, password="hunter2 secret"))
    answer = Lockstep(lockstep.shell, nowhere).must("run", str(spec), code=1)
    assert "acceptance" in answer.err
    assert "hunter2" not in said(answer)


def test_a_wrong_password_is_never_printed(lockstep: Lockstep, database: Target, spec: Path) -> None:
    wrong = Target("acceptance", make_conninfo(database.conninfo, password="hunter2 secret"))
    for command in (("run", str(spec)), ("plan", str(spec)), ("doctor",), ("status",)):
        answer = Lockstep(lockstep.shell, wrong).must(*command, code=1)
        assert "password" in said(answer)
        assert "hunter2" not in said(answer)


def test_an_unknown_database_is_named(lockstep: Lockstep, spec: Path) -> None:
    answer = lockstep.shell.lockstep("run", str(spec), "--database", "nowhere")
    assert answer.code == 2
    assert "LOCKSTEP_NOWHERE_URL" in answer.err


@pytest.fixture
def guest(person: Target) -> Iterator[Target]:
    """A role that may use the table's rows, and no more."""
    role = f"guest_{secrets.token_hex(4)}"
    name, password = sql.Identifier(role), secrets.token_hex(8)
    with psycopg.connect(person.conninfo, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(name, sql.Literal(password)))
        connection.execute(sql.SQL("GRANT SELECT, UPDATE ON person TO {}").format(name))
        yield Target("acceptance", make_conninfo(person.conninfo, user=role, password=password))
        connection.execute(sql.SQL("DROP OWNED BY {}").format(name))
        connection.execute(sql.SQL("DROP ROLE {}").format(name))


def test_missing_privileges_are_named_with_their_grant(
    lockstep: Lockstep, guest: Target, person: Target, spec: Path
) -> None:
    with untouched(person):
        answer = Lockstep(lockstep.shell, guest).must("run", str(spec), code=1)
    assert "GRANT" in answer.err
    assert "Nothing was touched" in answer.err


def test_a_read_only_session_is_refused(lockstep: Lockstep, person: Target, spec: Path) -> None:
    options = make_conninfo(person.conninfo, options="-c default_transaction_read_only=on")
    with untouched(person):
        answer = Lockstep(lockstep.shell, Target("acceptance", options)).must("run", str(spec), code=1)
    assert "read-only" in answer.err


def test_a_standby_is_refused(lockstep: Lockstep, own_server: EmbeddedServer, spec: Path) -> None:
    primary = Target("acceptance", own_server.url("postgres"))
    execute(primary, PERSON)
    with standby_of(own_server) as standby:
        answer = Lockstep(lockstep.shell, standby).must("run", str(spec), code=1)
    assert "standby" in answer.err
    assert not ledger_exists(primary)


# ------------------------------------------------------------------------------------------- bad data: the gate says


@dataclass(frozen=True)
class BadData:
    """Rows that must be found before anything is changed; ``count`` of them fail, ``sign`` names the check."""

    damage: bytes
    spec: str
    sign: str
    count: int


BAD_DATA = {
    "orphans": BadData(
        b"ALTER TABLE person DROP CONSTRAINT person_country_id_fkey;"
        b"UPDATE person SET country_id = 99 WHERE id IN (17, 21, 40);"
        b"ALTER TABLE person ADD CONSTRAINT person_country_id_fkey"
        b" FOREIGN KEY (country_id) REFERENCES country NOT VALID;",
        NUMBER,
        "country",
        3,
    ),
    "duplicates": BadData(
        b"UPDATE person SET code = '7' WHERE id IN (8, 9);",
        "name: unique\ndatabase: acceptance\nchange: CREATE UNIQUE INDEX person_code_key ON person (code);\n",
        "person_code_key",
        3,
    ),
    "a rule": BadData(
        b"UPDATE person SET code = '-5' WHERE id = 3;",
        f"{NUMBER}gates:\n  rules: {{positive: {{table: person, where: 'code::int > 0'}}}}\n",
        "positive",
        1,
    ),
}


@pytest.mark.parametrize("name", BAD_DATA)
def test_bad_data_is_found_before_anything_is_changed(
    name: str, lockstep: Lockstep, person: Target, spec: Path
) -> None:
    bad = BAD_DATA[name]
    execute(person, bad.damage)
    spec.write_text(bad.spec)
    before = catalog_text(person), content(person)
    answer = lockstep.must("run", str(spec), code=1)
    assert (catalog_text(person), content(person)) == before
    assert bad.sign in said(answer)
    assert f" {bad.count:,} of 50" in said(answer), answer


def test_an_invalid_volume_is_found_before_anything_is_changed(lockstep: Lockstep, drink_water: Target) -> None:
    execute(drink_water, b"UPDATE water_intake SET volume = 20000 WHERE id IN (5, 6)")
    before = catalog_text(drink_water), content(drink_water)
    answer = Lockstep(lockstep.shell, drink_water).must("run", str(EXAMPLE / "intake-v2.yaml"), code=1)
    assert (catalog_text(drink_water), content(drink_water)) == before
    assert "intake_volume" in said(answer)
    assert " 2 of 1,000" in said(answer), answer


# ------------------------------------------------------------------------------------------- sync


def test_a_write_that_up_cannot_convert_stands_and_stops_the_migration(
    lockstep: Lockstep, person: Target, spec: Path
) -> None:
    lockstep.must("run", str(spec), "--until", "backfill")
    execute(person, b"UPDATE person SET code = 'abc-personal' WHERE id = 42")
    assert query(person, "SELECT code FROM person WHERE id = 42") == [("abc-personal",)]
    answer = lockstep.must("run", str(spec), "--yes", "--waive-soak", code=1)
    assert "42" in said(answer)
    assert "abc-personal" not in said(answer)
    assert query(person, "SELECT code FROM person WHERE id = 42") == [("abc-personal",)]
    status = lockstep.must("status", "number", "--format", "json")
    assert status.json["state"] in {"failed", "rolled_back"}
    execute(person, b"UPDATE person SET code = '4242' WHERE id = 42")
    lockstep.must("run", str(spec), "--yes", "--waive-soak")
    assert query(person, "SELECT number FROM person WHERE id = 42") == [(4242,)]


COUNTER = b"""
CREATE TABLE counter (id int PRIMARY KEY, hits int NOT NULL);
INSERT INTO counter SELECT n, n FROM generate_series(1, 50) AS n;
"""
TOTAL = """
name: total
database: acceptance
change: |
  ALTER TABLE counter ALTER COLUMN hits TYPE bigint;
  ALTER TABLE counter RENAME COLUMN hits TO total;
mapping:
  counter.total: {down: "total::int"}
"""


def test_going_back_is_refused_while_the_old_shape_cannot_hold_a_value(
    lockstep: Lockstep, database: Target, spec: Path
) -> None:
    execute(database, COUNTER)
    before = catalog_text(database)
    spec.write_text(TOTAL)
    lockstep.must("run", str(spec), "--until", "switch", "--yes")
    execute(database, b"UPDATE counter SET total = 3000000000 WHERE id = 7")
    refused = lockstep.must("rollback", "total", "--old-version-deployed", code=1)
    assert "[7]" in said(refused)
    assert query(database, "SELECT total FROM counter WHERE id = 7") == [(3_000_000_000,)]
    execute(database, b"UPDATE counter SET total = 3 WHERE id = 7")
    lockstep.must("rollback", "total", "--old-version-deployed")
    assert catalog_text(database) == before
    assert query(database, "SELECT id, hits FROM counter WHERE id <> hits") == [(7, 3)]


def test_a_value_that_the_old_shape_cannot_hold_survives_contract(
    lockstep: Lockstep, database: Target, spec: Path
) -> None:
    execute(database, COUNTER)
    spec.write_text(TOTAL)
    lockstep.must("run", str(spec), "--until", "switch", "--yes")
    execute(database, b"UPDATE counter SET total = 3000000000 WHERE id = 7")
    asked = lockstep.must("run", str(spec), "--waive-soak", "--yes")
    assert "1 of 50" in said(asked)
    assert query(database, "SELECT total FROM counter WHERE id = 7") == [(3_000_000_000,)]


# ------------------------------------------------------------------------------------------- locks, restarts, rivals


class Background:
    """A command line in a process of its own, while the test goes on."""

    def __init__(self, environment: Mapping[str, str], *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from flows.cli import main; main()", *arguments],
            cwd=ROOT,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        self._lines.extend(self._process.stdout or ())

    def kill(self) -> None:
        self._process.kill()
        self.wait()

    def wait(self, seconds: float = 120) -> Answer:
        code = self._process.wait(seconds)
        self._reader.join(5)
        if self._process.stdout:
            self._process.stdout.close()
        return Answer(code, "".join(self._lines), "")


@pytest.fixture
def own(environment: Mapping[str, str], person: Target) -> dict[str, str]:
    """The environment of commands in processes of their own."""
    return {**environment, VARIABLE: person.conninfo}


def wait_until(database: Target, condition: str, seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not (ledger_exists(database) and query(database, condition)[0][0]):
        assert time.monotonic() < deadline, f"never true: {condition}"
        time.sleep(0.05)


EXPANDING = "SELECT EXISTS (SELECT FROM lockstep.phase WHERE phase = 'expand' AND state = 'running')"


def test_a_lock_that_is_held_delays_lockstep_and_not_the_application(
    own: dict[str, str], person: Target, spec: Path
) -> None:
    with psycopg.connect(person.conninfo) as holder, psycopg.connect(person.conninfo, autocommit=True) as reader:
        holder.execute("UPDATE person SET code = code WHERE id = 1")
        command = Background(own, "run", str(spec), "--until", "expand")
        wait_until(person, EXPANDING)
        worst, until = 0.0, time.monotonic() + 5
        while time.monotonic() < until:
            sent = time.monotonic()
            reader.execute("UPDATE person SET country_id = 1 WHERE id = 2")
            worst = max(worst, time.monotonic() - sent)
        holder.rollback()
        answer = command.wait()
    assert answer.code == 0, answer
    assert worst < 1.0, "a statement waited behind Lockstep's own request for the lock"


Blocked = tuple[Background, Target, int]


@pytest.fixture(scope="module", autouse=True)
def blocked_for_minutes(
    environment: Mapping[str, str], server: AnyServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Blocked]:
    """A run that cannot get its lock. It gives up after about a minute and a half: the other tests go on meanwhile."""
    name = f"blocked_{os.getpid()}"
    with psycopg.connect(server.url("postgres"), autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        target = Target("acceptance", server.url(name))
        execute(target, PERSON)
        spec = tmp_path_factory.mktemp("blocked") / "number.yaml"
        spec.write_text(NUMBER)
        with psycopg.connect(target.conninfo, application_name="the blocker") as holder:
            holder.execute("SELECT count(*) FROM person")
            command = Background({**environment, VARIABLE: target.conninfo}, "run", str(spec))
            yield command, target, holder.info.backend_pid
            command.kill()
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def test_two_runs_at_once(own: dict[str, str], person: Target, spec: Path) -> None:
    with psycopg.connect(person.conninfo) as holder:
        holder.execute("SELECT count(*) FROM person")
        first = Background(own, "run", str(spec), "--until", "expand")
        wait_until(person, EXPANDING)
        second = run_once("run", str(spec), environment=own)
        holder.rollback()
        answer = first.wait()
    assert second.code == 1, second
    assert "not disturbed" in second.err
    assert answer.code == 0, answer


def test_the_server_is_restarted_in_mid_backfill(environment: Mapping[str, str], own_server: EmbeddedServer) -> None:
    target = Target("drink-water", own_server.url("postgres"))
    fill(target.conninfo, intakes=60_000, users=1_000)
    own = {**environment, "LOCKSTEP_DRINK_WATER_URL": target.conninfo}
    run = ("run", str(EXAMPLE / "intake-v2.yaml"), "--yes", "--waive-soak", "--ignore-window")
    with Application(target.conninfo, pace=Pace(reconnect=30.0)) as application:
        application.set_shapes(old=3, new=0)
        command = Background(own, *run, "--until", "switch")
        wait_until(target, "SELECT coalesce(max(rows_done), 0) > 0 FROM lockstep.progress")
        own_server.stop()
        restarted = start(own_server.major, own_server.folder)
        assert restarted.port == own_server.port
        answer = command.wait()
        assert answer.code == 0, answer
        comparison = application.compare()
    report = application.report()
    assert report.errors == ()
    assert report.discrepancies == ()
    assert comparison.shapes == ("old", "new")
    assert comparison.discrepancies == ()
    assert application.dead == 0


def test_a_run_after_success_finds_nothing_to_do(lockstep: Lockstep, person: Target, spec: Path) -> None:
    lockstep.must("run", str(spec), "--yes", "--waive-soak")
    after = catalog_text(person), content(person)
    answer = lockstep.must("run", str(spec))
    assert "nothing to do" in said(answer).lower()
    assert (catalog_text(person), content(person)) == after


def test_a_lock_held_for_minutes_is_given_up_with_the_name_of_its_holder(
    blocked_for_minutes: Blocked,
) -> None:
    command, target, pid = blocked_for_minutes
    answer = command.wait(180)
    assert answer.code == 1, answer
    assert f"pid {pid}" in answer.out
    assert "the blocker" in answer.out
    assert query(target, "SELECT count(*) FROM person") == [(500,)]
    assert query(target, "SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal") == [(0,)]
