"""What is dangerous, by measurement: the findings of Lockstep side by side with those of squawk, a linter of the text.

``python -m tests.benchmarks.linters`` prints the table of docs/benchmarks.md. It needs `squawk` on the PATH (pip
install squawk-cli, anywhere).
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from tasks.database.clone import scratch_server
from tasks.database.schema_file import SchemaFile
from tasks.database.server import DEFAULT_MAJOR
from tasks.database.statement_trace import trace_files
from tasks.planning.findings.judging import judge
from tasks.planning.guessed import guess
from tests.integration.test_danger import is_dangerous
from tests.integration.test_truth_table import MEASURED, RANGES, SETTINGS, SETUP_WITHOUT_CONTRIB, source, written

NOT_ABOUT_DANGER = frozenset(
    {
        "require-lock-timeout", "require-statement-timeout", "prefer-robust-stmts", "prefer-bigint-over-int",
        "prefer-bigint-over-smallint", "prefer-text-field", "prefer-identity", "ban-char-field", "prefer-timestamp-tz",
        "require-table-schema",
    }
)  # fmt: skip
"""squawk's rules of style and of timeouts: Lockstep's own of that kind do not count as danger either."""


def lockstep() -> Iterator[bool]:
    """Yield the judgement of every statement that was measured."""
    with scratch_server(DEFAULT_MAJOR) as server, SchemaFile(SETUP_WITHOUT_CONTRIB, "setup.sql", server) as schema:
        files = [
            source(f"{number}.sql", f"BEGIN; {written(item).replace(*RANGES)}; ROLLBACK")
            for number, item in enumerate(MEASURED)
        ]
        for facts in trace_files(files, schema, SETTINGS).facts:
            if facts.statement.kind != "transaction":
                yield judge((facts,))[0].dangerous


def without_server() -> Iterator[bool]:
    """Yield the judgement of the rules that know the statement only."""
    for number, item in enumerate(MEASURED):
        yield judge(guess((source(f"{number}.sql", written(item)),)))[-1].dangerous


def squawk() -> Iterator[bool]:
    program = shutil.which("squawk")
    if program is None:
        sys.exit("squawk is not on the PATH.")
    with TemporaryDirectory() as folder:
        path = Path(folder) / "change.sql"
        for item in MEASURED:
            path.write_text(f"{written(item)};\n")
            done = subprocess.run(
                [program, "--reporter", "json", "--pg-version", "15.0", str(path)],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            yield bool({found["rule_name"] for found in json.loads(done.stdout)} - NOT_ABOUT_DANGER)


def table() -> str:
    """Return the table as Markdown; statements that the server refused are left out."""
    truth = [is_dangerous(item) for item in MEASURED]
    counted = [position for position, item in enumerate(MEASURED) if "error" not in item]
    lines = ["| of the statements of the truth table | right | missed | false alarms |", "|---|---|---|---|"]
    judged = {
        "lockstep lint": list(lockstep()),
        "lockstep lint without a server": list(without_server()),
        "squawk": list(squawk()),
    }
    for name, found in judged.items():
        missed = sum(truth[n] and not found[n] for n in counted)
        false = sum(found[n] and not truth[n] for n in counted)
        lines.append(f"| {name} | {len(counted) - missed - false} of {len(counted)} | {missed} | {false} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(table() + "\n")
