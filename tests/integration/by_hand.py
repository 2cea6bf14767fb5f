"""Somebody who carries a plan out with psql alone."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from tasks.database.connection import Target
from tasks.database.server import program


class ByHand:
    """Somebody with psql and the folder of scripts."""

    def __init__(self, target: Target, folder: Path, found: Mapping[str, str]) -> None:
        self.target = target
        self._folder = folder
        self.texts = found
        self.names = list(found)
        for name, text in found.items():
            (folder / name).write_text(text)

    def run(self, name: str, *options: str) -> subprocess.CompletedProcess[str]:
        command = [
            str(program("psql")),
            "-X",
            "-q",
            "-d",
            self.target.conninfo,
            *options,
            "-f",
            str(self._folder / name),
        ]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)

    def must(self, *names: str) -> None:
        """Run scripts as the runbook says: again after a lock that was not granted."""
        for name in names:
            for _ in range(50):
                done = self.run(name, "-v", "approved=yes", "-v", "waive_soak=yes")
                if "lock timeout" not in done.stderr and "run this again" not in done.stderr:
                    break
                time.sleep(0.1)
            assert done.returncode == 0, f"{name}:\n{done.stdout}{done.stderr}"

    def forward(self, *, last: str) -> list[str]:
        there = [name for name in self.names if "rollback" not in name]
        return there[: next(number for number, name in enumerate(there) if name.endswith(f"-{last}.sql")) + 1]

    def back(self, phases: list[str]) -> list[str]:
        wanted = [name.split("-", 1)[1] for name in phases]
        return [name for name in self.names if "rollback" in name and name.split("-rollback-")[1] in wanted]
