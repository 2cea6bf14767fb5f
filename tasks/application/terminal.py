"""The command line in a process that can be killed, and that stays for the next command as long as it is not.

Prefect and Great Expectations take some eight seconds to import; six commands of the demo need not wait for that six
times. A command that dies takes the process with it, and the next one starts in a new process, as a user's would.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType

KILLED = -signal.SIGKILL
"""What `Terminal.run` returns for a command that was killed."""

_END = "\0exit "
# Runs in the other process. The environment of a command holds for that command only.
_SERVE = f"""
import json, os, sys
from flows.cli import run_cli
for line in sys.stdin:
    request = json.loads(line)
    before = dict(os.environ)
    os.environ.update(request["environment"])
    code = run_cli(request["arguments"])
    for name in request["environment"].keys() - before.keys():
        del os.environ[name]
    print({_END!r} + str(code), flush=True)
"""


class Terminal:
    """``with Terminal(environment) as terminal: code = terminal.run(["status"], {}, print)``"""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            with self._process as process:
                if process.stdin:
                    process.stdin.close()
            self._process = None

    def run(self, arguments: Sequence[str], environment: Mapping[str, str], say: Callable[[str], None]) -> int:
        """Run one command, pass on the lines it prints, and return its exit code, negative for a signal."""
        if self._process is None:
            self._process = self._start()
        process = self._process
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("the process has no pipes")
        process.stdin.write(json.dumps({"arguments": list(arguments), "environment": dict(environment)}) + "\n")
        process.stdin.flush()
        for line in process.stdout:
            if line.startswith(_END):
                return int(line.removeprefix(_END))
            say(f"  | {line.rstrip()}")
        self._process = None
        with process:
            return process.wait()

    def _start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", _SERVE],
            env=os.environ | dict(self._environment) | {"PYTHONUNBUFFERED": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
