"""The real Flyway, as Spring Boot starts it: its libraries from Maven Central, called through a small console in Java.

The libraries are fetched once and stay in a temporary folder.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict

from tasks.database.connection import Target
from tests.conftest import missing, require

HERE = Path(__file__).parent / "flyway"
WANTED = hashlib.sha256((HERE / "pom.xml").read_bytes()).hexdigest()[:12]
FETCH_SECONDS = 300

Line = tuple[str | None, ...]


class FlywayFailed(Exception):
    """Flyway threw an exception; its message."""


class RealFlyway:
    """Runs Flyway's verbs on a database and a folder. Settings have Flyway's own names, without ``flyway.``."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def __call__(self, verb: str, database: Target, folder: Path, /, **settings: str) -> list[Line]:
        parts = {key: str(value) for key, value in conninfo_to_dict(database.conninfo).items()}
        url = f"jdbc:postgresql://{parts['host']}:{parts['port']}/{parts['dbname']}"
        given = (f"flyway.{name}={value}" for name, value in settings.items())
        return self.ask(verb, url, parts["user"], parts.get("password", ""), str(folder), *given)

    def ask(self, *words: str) -> list[Line]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\t".join(words).encode() + b"\n")
        self._process.stdin.flush()
        lines: list[Line] = []
        while (raw := self._process.stdout.readline()) != b".\n":
            assert raw, "the JVM ended"
            lines.append(tuple(_field(text) for text in raw.decode().removesuffix("\n").split("\t")))
        if lines and lines[0][0] == "error":
            raise FlywayFailed(lines[0][1])
        return [line for line in lines if line != ("",)]


@contextmanager
def real_flyway() -> Iterator[RealFlyway]:
    """Start the console; skip, or fail under LOCKSTEP_REQUIRE_ALL, where there is no JDK or no way to the libraries."""
    require("javac")
    java = require("java")
    command = [java, "-cp", f"{_libraries()}/*", str(HERE / "Console.java")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=tempfile.gettempdir()) as process:
        try:
            yield RealFlyway(process)
        finally:
            process.kill()


def _libraries() -> Path:
    """Return the folder with Flyway and the driver; Maven's own client fetches them where they are not there yet."""
    folder = Path(tempfile.gettempdir()) / f"lockstep-flyway-{WANTED}-{os.getuid()}"
    if folder.is_dir():
        return folder
    maven = require("mvn")
    partial = Path(tempfile.mkdtemp(prefix="lockstep-flyway-"))
    command = [
        maven,
        "-q",
        "-B",
        "-f",
        str(HERE / "pom.xml"),
        "dependency:copy-dependencies",
        f"-DoutputDirectory={partial}",
    ]
    try:
        subprocess.run(command, capture_output=True, text=True, timeout=FETCH_SECONDS, check=True)
    except subprocess.TimeoutExpired:
        shutil.rmtree(partial)
        missing(f"Flyway could not be fetched within {FETCH_SECONDS} s")
    except subprocess.CalledProcessError as error:
        shutil.rmtree(partial)
        missing(f"Flyway cannot be fetched: {error.stdout.strip()[-300:]}")
    try:
        partial.rename(folder)
    except OSError:
        shutil.rmtree(partial)  # another worker of the same run was faster
    return folder


def _field(text: str) -> str | None:
    if text == "\\N":
        return None
    return re.sub(r"\\(.)", lambda match: {"t": "\t", "n": "\n", "r": "\r"}.get(match[1], match[1]), text)
