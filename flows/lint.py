"""`lockstep lint`: what SQL would do to the running application. Needs no Prefect; it is run on copies only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flows import console
from tasks.databases import target_of
from tasks.lint import Looked, applied, look_at, look_at_file
from tasks.planning.findings import telling
from tasks.planning.flyway.history import Applied
from tasks.planning.script import read_scripts


def lint(files: Sequence[Path], schema: Path | None, database: str | None, form: str) -> int:
    """Print the findings; the exit code says whether a file cannot run (2), or something dangerous is left (1)."""
    reading = read_scripts(files, _history(files, database))
    for remark in reading.remarks:
        console.note(remark)
    looked = look_at_file(reading.scripts, schema) if schema else look_at(reading.scripts, target_of(database or ""))
    if form == "json":
        console.print_json(telling.document(looked.verdicts))
    else:
        console.out().print(telling.text(looked.verdicts, looked.live, looked.unseen), markup=False, end="")
    return _code(looked)


def _history(files: Sequence[Path], database: str | None) -> tuple[Applied, ...]:
    """Return what Flyway has run in the database, where a folder is asked about."""
    return applied(target_of(database)) if database and any(path.is_dir() for path in files) else ()


def _code(looked: Looked) -> int:
    if any(verdict.fails for verdict in looked.verdicts):
        return console.EXIT_USAGE
    return console.EXIT_FAILED if any(verdict.stops for verdict in looked.verdicts) else console.EXIT_DONE
