"""Prefect for people who run none: the environment of a local run, and a local server with its UI.

Nothing here imports Prefect, because Prefect reads its environment when it is imported: `prepare` comes before.
A server of the user's own (PREFECT_API_URL) is used as it is.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from tasks.planning.errors import MigrationError

DEFAULT_PORT = 4200
START_SECONDS = 180
STOP_SECONDS = 15

PRIVATE: dict[str, str] = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_CLI_PROMPT": "false",
}
"""No call to the outside, no question on the terminal."""

LOCAL: dict[str, str] = {
    "PREFECT_SERVER_EPHEMERAL_ENABLED": "true",
    # 20 s, the default, is not enough for a first start on a slow disk: it creates the database.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": str(START_SECONDS),
}


CONSOLE_LEVEL = "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"
"""Prefect's log lines belong into its log, not between progress bars."""


@dataclass(frozen=True)
class PrefectServer:
    """A Prefect server on this machine: ``url`` is its API's address, ``ui`` what a browser opens."""

    ui: str
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"{self.ui}/api"

    def stop(self) -> None:
        """End the server, if this object started it; one that ran before is left alone."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def default_home() -> Path:
    """Return the per-user folder of the local server's database and of Prefect's settings."""
    return platformdirs.user_data_path("lockstep") / "prefect"


def prepare() -> None:
    """Set the environment of a run in this process, before Prefect is imported. What the user set stays.

    Without PREFECT_API_URL, Prefect starts a server of its own for the length of the run and keeps its records in
    `default_home`; `prepare_verbose` lets its log lines reach the console.
    """
    settings = dict(PRIVATE)
    if "PREFECT_API_URL" not in os.environ:
        settings |= {"PREFECT_HOME": str(default_home())}
    settings |= LOCAL | {CONSOLE_LEVEL: "CRITICAL"}
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    Path(os.environ.get("PREFECT_HOME", "~/.prefect")).expanduser().mkdir(parents=True, exist_ok=True)


def prepare_verbose() -> None:
    """Do what `prepare` does, with Prefect's log lines on the console."""
    prepare()
    os.environ.pop(CONSOLE_LEVEL, None)


def start(port: int = DEFAULT_PORT, home: Path | None = None) -> PrefectServer:
    """Start a Prefect server with its UI and wait until it answers; one that answers on the port is taken as it is.

    Its log goes to ``home/server.log``. Raises MigrationError when it does not come up.
    """
    server = PrefectServer(f"http://127.0.0.1:{port}")
    if _answers(server):
        return server
    home = home or default_home()
    home.mkdir(parents=True, exist_ok=True)
    log = home / "server.log"
    # Its own API address must not be inherited: a server that finds one serves that one's UI.
    inherited = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            env=inherited | PRIVATE | {"PREFECT_HOME": str(home), "PREFECT_UI_API_URL": server.url},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    started = PrefectServer(server.ui, process)
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if _answers(started):
            return started
        time.sleep(0.2)
    started.stop()
    raise MigrationError(
        f"The local Prefect server did not come up on port {port}.",
        safety="Nothing was touched.",
        remedy=f"See {log}, or choose another port with --port.",
    )


@contextmanager
def serving(port: int = DEFAULT_PORT, home: Path | None = None) -> Iterator[PrefectServer]:
    """Have a local server for the length of a block, with PREFECT_API_URL set to it."""
    server = start(port, home)
    before = os.environ.get("PREFECT_API_URL")
    os.environ["PREFECT_API_URL"] = server.url
    try:
        yield server
    finally:
        if before is None:
            del os.environ["PREFECT_API_URL"]
        else:
            os.environ["PREFECT_API_URL"] = before
        server.stop()


def port_for_ui() -> int:
    """Return Prefect's usual port if it is free or a Prefect server answers there, another free one else."""
    if _answers(PrefectServer(f"http://127.0.0.1:{DEFAULT_PORT}")):
        return DEFAULT_PORT
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", DEFAULT_PORT))
        except OSError:
            return free_port()
    return DEFAULT_PORT


def free_port() -> int:
    """Return a port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(server: PrefectServer) -> bool:
    try:
        with urllib.request.urlopen(f"{server.url}/health", timeout=2) as answer:  # noqa: S310 - our own http address
            return bool(answer.status == 200 and answer.read().strip() == b"true")
    except (OSError, urllib.error.URLError):
        return False
