"""The embedded PostgreSQL server of the demo, of the planner's schema clones and of the tests.

A server listens on 127.0.0.1 only and has a random password::

    FOLDER/password         the superuser's password (mode 600)
    FOLDER/data             the data folder, or a link to it
    FOLDER/data/server.log  what the server wrote
    FOLDER/lock             held while a process starts or stops the server
    FOLDER/users            share-locked by every process inside `serving`
    FOLDER/boot             during which start of the machine the server was started last
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import re
import secrets
import shutil
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import platformdirs
import psutil

from tasks.database import installation
from tasks.planning.errors import CannotConnect, UsageError

SUPERUSER = "postgres"
DEFAULT_MAJOR = 16
START_SECONDS = 60
STOP_SECONDS = 60
START_TRIES = 5
PASSING_TROUBLE = ("could not bind", "shared memory block", "lock file")
"""Worth another try: a port that was taken a moment ago, or backends of a killed postmaster that are still ending."""

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

SETTINGS: tuple[tuple[str, str], ...] = (
    ("listen_addresses", "127.0.0.1"),
    # No socket: its path may be longer than the 107 bytes that the kernel allows.
    ("unix_socket_directories", ""),
    ("wal_level", "logical"),
    ("max_connections", "200"),
    ("max_prepared_transactions", "20"),
    ("max_replication_slots", "10"),
    ("max_wal_senders", "10"),
    ("timezone", "UTC"),
    ("log_timezone", "UTC"),
    ("log_line_prefix", "%m [%p] %q%a "),
)


DISPOSABLE: tuple[tuple[str, str], ...] = (("fsync", "off"), ("full_page_writes", "off"), ("synchronous_commit", "off"))
"""For a server on which nothing is worth keeping: it never waits for a disk."""


@dataclass(frozen=True)
class EmbeddedServer:
    """A server that `start` has started. It outlives this object and this process; `stop` ends it."""

    major: int
    folder: Path
    port: int

    def url(self, database: str) -> str:
        """Return the superuser's URL of a database, password included: for connecting, never for showing."""
        return f"postgresql://{SUPERUSER}:{self._password}@127.0.0.1:{self.port}/{quote(database, safe='')}"

    @property
    def running(self) -> bool:
        return self.pid is not None

    @property
    def pid(self) -> int | None:
        """The postmaster's process id, None when the server is down."""
        process = _postmaster(self.data)
        return process.pid if process else None

    @property
    def data(self) -> Path:
        return (self.folder / "data").resolve()

    def stop(self) -> None:
        """End the server: sessions are disconnected, open transactions rolled back. Stopping twice is no error."""
        with installation.locked(self.folder / "lock"):
            _stop(self)

    def remove(self) -> None:
        """Stop the server and delete its folder with all its databases."""
        self.stop()
        shutil.rmtree(self.data)
        shutil.rmtree(self.folder)

    @functools.cached_property
    def _password(self) -> str:
        return (self.folder / "password").read_text()


def program(name: str, major: int = DEFAULT_MAJOR) -> Path:
    """Return the path of initdb, pg_ctl, pg_dump, psql, pgbench … of an embedded major version.

    Raises UsageError if the version is not embedded or has no such program.
    """
    path = installation.shipped(major) / "bin" / name
    if not path.is_file():
        raise UsageError(f"The embedded PostgreSQL {major} has no program {name!r}.")
    return path


def default_folder(major: int) -> Path:
    """Return the per-user folder of the embedded server of this major version."""
    return platformdirs.user_data_path("lockstep") / f"postgresql-{major}"


def start(
    major: int = DEFAULT_MAJOR, folder: Path | None = None, *, settings: Sequence[tuple[str, str]] = ()
) -> EmbeddedServer:
    """Start the server of a folder, creating it on first use, and wait until it accepts connections.

    A server that runs already is returned as it is, whichever process started it. ``settings`` override `SETTINGS`
    for this start. Raises CannotConnect when the server does not come up, UsageError for a version not embedded.
    """
    program("postgres", major)  # an unknown version is refused before a folder is made for it
    folder = (folder or default_folder(major)).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CannotConnect(
            f"The embedded server cannot have its folder {folder}: {error.strerror}.",
            safety="Nothing was touched.",
            remedy="Set XDG_DATA_HOME to a folder that this user may write.",
        ) from None
    with installation.locked(folder / "lock"):
        data = installation.make_data_folder(folder)
        if _postmaster(data) is None:
            if not (data / "lockstep.conf").exists() or _is_doubtful(folder, data):
                _initialise(major, folder, data)
            _refuse_other_major(major, folder, data)
            _start(major, data, settings)
            (folder / "boot").write_text(_boot())
        return EmbeddedServer(major, folder, _wait_until_ready(data))


@contextmanager
def serving(
    major: int = DEFAULT_MAJOR, folder: Path | None = None, *, settings: Sequence[tuple[str, str]] = ()
) -> Iterator[EmbeddedServer]:
    """Start the server for the length of a block; the last process to leave such a block stops it.

    A process that is killed inside its block no longer counts: the kernel releases its lock.
    """
    server = start(major, folder, settings=settings)
    with (server.folder / "users").open("a") as users:
        fcntl.flock(users, fcntl.LOCK_SH)
        try:
            # Again, now that nobody else stops it: the last user may have left between the two lines above.
            yield start(major, server.folder, settings=settings)
        finally:
            with installation.locked(server.folder / "lock"), contextlib.suppress(BlockingIOError):
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _stop(server)


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _initialise(major: int, folder: Path, data: Path) -> None:
    # Without lockstep.conf, which is written last, what lies here is an initdb that was killed.
    for remains in data.iterdir():
        shutil.rmtree(remains) if remains.is_dir() and not remains.is_symlink() else remains.unlink()
    password = secrets.token_urlsafe(24)
    secret = folder / "password"
    secret.unlink(missing_ok=True)
    secret.touch(mode=0o600)
    secret.write_text(password)
    # initdb wants the password in a file that its user can read, and an empty data folder.
    handed_over = data.parent / f"{data.name}.password"
    handed_over.unlink(missing_ok=True)
    handed_over.touch(mode=0o600)
    handed_over.write_text(password)
    installation.give_to_server(handed_over, 0o600)
    try:
        done = installation.run_as_server(
            [
                installation.server_program("initdb", major),
                *("--pgdata", data, "--username", SUPERUSER, "--pwfile", handed_over),
                *("--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C"),
            ]
        )
    finally:
        handed_over.unlink()
    if done.returncode != 0:
        raise CannotConnect(f"initdb could not make {data}: {_reason(done.stderr)}", safety="Nothing was touched.")
    with (data / "postgresql.conf").open("a") as configuration:
        configuration.write("\ninclude_if_exists = 'lockstep.conf'\n")
    _configure(data, free_port(), ())


def _is_doubtful(folder: Path, data: Path) -> bool:
    """Whether the machine went down under a server without fsync: then nothing in its data folder can be trusted."""
    unsafe = "fsync = 'off'" in (data / "lockstep.conf").read_text()
    boot = folder / "boot"
    return unsafe and (data / "postmaster.pid").exists() and (not boot.exists() or boot.read_text() != _boot())


def _boot() -> str:
    """Return what tells one start of this machine from another."""
    return BOOT_ID.read_text().strip() if BOOT_ID.exists() else str(round(psutil.boot_time()))


def _configure(data: Path, port: int, settings: Sequence[tuple[str, str]]) -> None:
    chosen = dict(SETTINGS) | {"port": str(port)} | dict(settings)
    lines = [f"{name} = '{value.replace(chr(39), chr(39) * 2)}'\n" for name, value in chosen.items()]
    partial = data / "lockstep.conf.partial"
    partial.write_text("".join(lines))
    installation.give_to_server(partial, 0o600)
    partial.rename(data / "lockstep.conf")


def _refuse_other_major(major: int, folder: Path, data: Path) -> None:
    found = (data / "PG_VERSION").read_text().strip()
    if found != str(major):
        raise UsageError(
            f"The folder {folder} holds a PostgreSQL {found} server, not {major}.",
            remedy="Name another folder, or the version that is there.",
        )


def _start(major: int, data: Path, settings: Sequence[tuple[str, str]]) -> None:
    log = data / "server.log"
    for attempt in range(START_TRIES):
        _clear_remains(data)
        _configure(data, _port_for(data), settings)
        written = log.stat().st_size if log.exists() else 0
        done = installation.run_as_server(
            [
                installation.server_program("pg_ctl", major),
                *("start", "--pgdata", data, "--log", log, "--wait", "--timeout", str(START_SECONDS), "--silent"),
            ]
        )
        if done.returncode == 0:
            return
        said = _read_from(log, written)
        if not any(trouble in said for trouble in PASSING_TROUBLE):
            break
        time.sleep(0.5 + attempt)
    raise CannotConnect(
        f"The embedded PostgreSQL {major} in {data} did not start: {_reason(said or done.stderr)}",
        remedy=f"Read {log}.",
    )


def _stop(server: EmbeddedServer) -> None:
    if not server.running:
        return
    done = installation.run_as_server(
        [
            installation.server_program("pg_ctl", server.major),
            *("stop", "--pgdata", server.data, "--mode", "fast", "--wait", "--timeout", str(STOP_SECONDS), "--silent"),
        ]
    )
    if done.returncode != 0 and server.running:
        raise CannotConnect(
            f"The embedded PostgreSQL {server.major} in {server.data} did not stop within {STOP_SECONDS} seconds: "
            f"{_reason(done.stderr)}",
            remedy=f"Read {server.data / 'server.log'}.",
        )


def _postmaster(data: Path) -> psutil.Process | None:
    """Return the process that serves this data folder. A stale postmaster.pid, or a reused process id, is nobody."""
    try:
        process = psutil.Process(int((data / "postmaster.pid").read_text().split("\n", 1)[0]))
        # Not its working directory: a container's root may read only the command line of another user's process.
        return process if str(data) in process.cmdline() else None
    except (OSError, ValueError, psutil.Error):
        return None


def _clear_remains(data: Path) -> None:
    """After a kill -9 of the postmaster: remove its pid file, and end backends that have not noticed."""
    (data / "postmaster.pid").unlink(missing_ok=True)
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.name().startswith("postgres") and Path(process.cwd()) == data:
                process.kill()


def _wait_until_ready(data: Path) -> int:
    """Wait until the server accepts connections; return its port (fourth line of postmaster.pid, PostgreSQL 10+)."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        lines = (data / "postmaster.pid").read_text().splitlines() if _postmaster(data) else []
        if len(lines) >= 8 and lines[7].strip() == "ready":
            return int(lines[3])
        time.sleep(0.05)
    raise CannotConnect(
        f"The embedded PostgreSQL in {data} was not ready after {START_SECONDS} seconds.",
        remedy=f"Read {data / 'server.log'}.",
    )


def _port_for(data: Path) -> int:
    """Return the port of the last time, so that URLs stay true over a restart, or a free one if that is taken."""
    last = next(
        (int(line.split("'")[1]) for line in (data / "lockstep.conf").read_text().splitlines() if line[:5] == "port "),
        0,
    )
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", last))
        except OSError:
            return free_port()
        return int(probe.getsockname()[1])


def _read_from(log: Path, offset: int) -> str:
    if not log.exists():
        return ""
    with log.open("rb") as handle:
        handle.seek(offset)
        return handle.read().decode(errors="replace")


def _reason(text: str) -> str:
    """Return the last three lines of what a program wrote, without the times: the first of them tells the cause."""
    lines = [re.sub(r"^[-\d]+ [:.\d]+ \w+ \[\d+\] ", "", line).strip() for line in text.splitlines() if line.strip()]
    return "; ".join(lines[-3:]) or "no reason was given"
