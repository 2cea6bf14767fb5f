"""The command line in a process that stays: Prefect and Great Expectations are imported once, not for each command.

Run as a module it reads one JSON request a line, ``{"arguments", "environment"}``, and answers with one JSON line,
``{"code", "out", "err"}``. Everything else about a command is as in a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Answer:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def __str__(self) -> str:
        return f"exit {self.code}\n--- stdout\n{self.out[-4000:]}\n--- stderr\n{self.err[-4000:]}"


class Shell:
    """Sends commands to the process that stays. ``environment`` is added to this process's own."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env=os.environ | environment,
            text=True,
        )

    def lockstep(self, *arguments: str, **environment: str) -> Answer:
        """Run one command; ``environment`` is set for this command only."""
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("the shell has no pipes")
        self._process.stdin.write(json.dumps({"arguments": arguments, "environment": environment}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the shell ended with {self._process.wait()}")
        return Answer(**json.loads(line))

    def close(self) -> None:
        if self._process.stdin:
            self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()


def run_once(*arguments: str, environment: Mapping[str, str], timeout: float = 120) -> Answer:
    """Run one command in a process of its own, as a user does."""
    done = subprocess.run(
        [sys.executable, "-c", "from flows.cli import main; main()", *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    return Answer(done.returncode, done.stdout, done.stderr)


def main() -> None:
    """Serve requests until standard input ends."""
    from flows.cli import run_cli

    # What a library writes to the file descriptors must not get between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        before = dict(os.environ)
        os.environ.update(request["environment"])
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            streams: tuple[IO[str], IO[str]] = (sys.stdout, sys.stderr)
            sys.stdout, sys.stderr = out, err
            try:
                code = run_cli(request["arguments"])
            finally:
                sys.stdout, sys.stderr = streams
                for name in os.environ.keys() - before.keys():
                    del os.environ[name]
                os.environ.update(before)
            out.seek(0)
            err.seek(0)
            answer = {"code": code, "out": out.read(), "err": err.read()}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
