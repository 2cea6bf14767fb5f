"""The command line in a process that can be killed, and that stays for the next command as long as it is not.

Prefect and Great Expectations take some eight seconds to import; six commands of the demo need not wait for that six
times. A command that dies takes its process with it; the next one is given to a second process, which has imported
both meanwhile.
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
import json, os, sys, warnings
from tasks.prefect_server import prepare
prepare()
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import great_expectations, prefect.main
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
        self._processes: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            with process:
                if process.stdin:
                    process.stdin.close()

    def run(self, arguments: Sequence[str], environment: Mapping[str, str], say: Callable[[str], None]) -> int:
        """Run one command, pass on the lines it prints, and return its exit code, negative for a signal."""
        if not self._processes:
            self.warm_up()
        process = self._processes[0]
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("the process has no pipes")
        process.stdin.write(json.dumps({"arguments": list(arguments), "environment": dict(environment)}) + "\n")
        process.stdin.flush()
        for line in process.stdout:
            if line.startswith(_END):
                return int(line.removeprefix(_END))
            say(f"  | {line.rstrip()}")
        del self._processes[0]
        with process:
            return process.wait()

    def warm_up(self) -> None:
        """Start a process that takes over when the present one is killed, or that serves the first command."""
        self._processes.append(self._start())

    def _start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", _SERVE],
            env=os.environ | dict(self._environment) | {"PYTHONUNBUFFERED": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
