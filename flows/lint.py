"""`lockstep lint`: what SQL would do to the running application. Needs no Prefect; it is run on copies only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flows import console
from tasks.databases import target_of
from tasks.lint import Looked, applied, look_at, look_at_file, look_without_server, paces_of
from tasks.planning.findings import telling
from tasks.planning.findings.telling import Sizes
from tasks.planning.flyway.history import Applied
from tasks.planning.script import Script, read_scripts

NO_SCHEMA = "--schema or --database says which schema the SQL meets."


def lint(files: Sequence[Path], schema: Path | None, database: str | None, form: str) -> int:
    """Print the findings; the exit code says whether a file cannot run (2), or something dangerous is left (1)."""
    reading = read_scripts(files, _history(files, database))
    for remark in reading.remarks:
        console.note(remark)
    looked = _look(reading.scripts, schema, database)
    if looked.unmeasured is not None:
        console.note(f"Nothing was measured: {looked.unmeasured}")
    sizes = _sizes(looked, database)
    if form == "json":
        console.print_json(telling.document(looked.verdicts, sizes))
    else:
        console.out().print(telling.text(looked.verdicts, sizes, looked.unseen), markup=False, end="")
    return _code(looked)


def _sizes(looked: Looked, database: str | None) -> Sizes | None:
    if looked.live is None or database is None:
        return None
    return Sizes(looked.live, paces_of(target_of(database), looked.live))


def _look(scripts: Sequence[Script], schema: Path | None, database: str | None) -> Looked:
    if schema is not None:
        return look_at_file(scripts, schema)
    return look_at(scripts, target_of(database)) if database else look_without_server(scripts, NO_SCHEMA)


def _history(files: Sequence[Path], database: str | None) -> tuple[Applied, ...]:
    """Return what Flyway has run in the database, where a folder is asked about."""
    return applied(target_of(database)) if database and any(path.is_dir() for path in files) else ()


def _code(looked: Looked) -> int:
    if any(verdict.fails for verdict in looked.verdicts):
        return console.EXIT_USAGE
    return console.EXIT_FAILED if any(verdict.stops for verdict in looked.verdicts) else console.EXIT_DONE
