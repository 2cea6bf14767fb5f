"""Files of SQL that are looked at and not carried out: read, put in order, and refused where they are no SQL."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tasks.planning import parser
from tasks.planning.errors import SpecError
from tasks.planning.findings.allowances import Allowance, allowances
from tasks.planning.flyway.folder import read_folder, read_sql
from tasks.planning.flyway.history import Applied, judge
from tasks.planning.flyway.names import is_flyway_name
from tasks.planning.flyway.script_settings import ScriptSettings
from tasks.planning.flyway.settings import Settings
from tasks.planning.flyway.validation import refuse, stops_migrate
from tasks.planning.statements import caret, read_statements
from tasks.planning.text_files import read_text
from tasks.planning.transactions import SourceFile

MAX_BYTES = 4_000_000
"""Each statement is run and looked at by itself: 1 MB of 16,000 short ones takes 100 s (measured), one INSERT of 10 MB
takes 120 s and 0.9 GB of memory. A file of that size is data and not schema."""

_PLACEHOLDER = re.compile(r"\$\{[^}\s]+\}")


@dataclass(frozen=True, slots=True)
class Script:
    """A file of SQL, and the comments in it that allow findings."""

    file: SourceFile
    allowances: tuple[Allowance, ...] = ()


@dataclass(frozen=True, slots=True)
class Reading:
    """The files of a call in the order in which they run, and what is to be said of its folders."""

    scripts: tuple[Script, ...]
    remarks: tuple[str, ...] = ()
    """Files that Flyway passes over, and what it would object to before it ran any; one sentence each."""


def read_scripts(paths: Iterable[Path], history: Sequence[Applied] = ()) -> Reading:
    """Read files, and of a folder what Flyway would run next, given the ``history`` of a database.

    A file below the latest version that was run is read too: whether it runs is a setting of the project's. A folder
    without any file of Flyway's stands for its ``.sql`` files, by name. Raises `SpecError` for what is not there, for a
    folder without SQL, for a history with a failure, and whatever `read_script` and `read_folder` raise.
    """
    scripts: list[Script] = []
    remarks: list[str] = []
    for path in paths:
        if path.is_dir():
            reading = _read_folder(path, history)
            scripts.extend(reading.scripts)
            remarks.extend(reading.remarks)
        else:
            scripts.append(read_script(path))
    return Reading(tuple(scripts), tuple(remarks))


def _read_folder(path: Path, history: Sequence[Applied]) -> Reading:
    folder = read_folder(path)
    if not folder.migrations:
        return Reading(tuple(read_script(item) for item in _sql_files(path)))
    settings = Settings(out_of_order=True)
    judgement = judge(folder, history, settings)
    refuse(stops_migrate(judgement, replace(settings, validate_on_migrate=False)))
    remarks = [f"{item.path}: passed over, {item.reason}." for item in folder.ignored]
    remarks += [f"{item}: passed over, a callback, which Flyway runs around its own work." for item in folder.callbacks]
    remarks += [f"Flyway would not run these: {problem.what}" for problem in stops_migrate(judgement, settings)]
    scripts: list[Script] = []
    for migration in judgement.pending():
        if migration.type == "SCRIPT":
            remarks.append(f"{migration.path}: passed over, a program: only SQL can be looked into.")
            continue
        _refuse_long(migration.path)
        scripts.append(script(migration.text, str(migration.path), migration.script_settings))
    if not scripts:
        remarks.append(f"{path}: nothing is left to run.")
    return Reading(tuple(scripts), tuple(remarks))


def _sql_files(folder: Path) -> tuple[Path, ...]:
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() == ".sql")
    if not found:
        raise SpecError(f"{folder}: there is no .sql file in this folder.")
    return tuple(found)


def read_script(path: Path) -> Script:
    """Read a file, as Flyway would if the name is one of its. Raises `SpecError` with the file, and the line."""
    if not path.exists():
        raise SpecError(f"There is no file {str(path)!r}.", remedy="Give the path of a .sql file, or of a folder.")
    _refuse_long(path)
    if not is_flyway_name(path.name):
        return script(read_text(path), str(path))
    beside = path.with_name(f"{path.name}.conf")
    text, settings = read_sql(path, beside if beside.is_file() else None, Settings())
    return script(text, str(path), settings)


def script(text: str, source: str, settings: ScriptSettings = ScriptSettings()) -> Script:  # noqa: B008 - frozen
    """Split and classify a text. Raises `SpecError` for what is not SQL, and for placeholders that are not replaced."""
    text = text.replace("\r\n", "\n")
    statements = read_statements(text, source=source)
    replaces = settings.placeholder_replacement is not False
    placeholder = _PLACEHOLDER.search(_without_comments(text)) if replaces and "${" in text else None
    if placeholder:
        line = text.count("\n", 0, placeholder.start()) + 1
        column = placeholder.start() - text.rfind("\n", 0, placeholder.start())
        content = text.split("\n")[line - 1]
        raise SpecError(
            f"{source}, line {line}, column {column}: {placeholder[0]} is a placeholder\n"
            f"  {content}\n  {caret(content[: column - 1])}",
            remedy="Placeholders like ${name} are not replaced: write the value.",
        )
    noted = allowances(text, parser.parse(text)) if "lockstep:allow" in text.lower() else ()
    return Script(SourceFile(source, text, statements, settings), noted)


def _refuse_long(path: Path) -> None:
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise SpecError(
            f"{path}: {size / 1e6:.0f} MB of SQL, and at most {MAX_BYTES / 1e6:.0f} MB are read.",
            remedy="Schema changes are not that long: load data apart from them, e.g. with COPY.",
        )


def _without_comments(text: str) -> str:
    """Return the text with its comments blanked, so that every place in it stays where it is."""
    pieces: list[str] = []
    read = 0
    for comment in parser.comments(text):
        pieces += (text[read : comment.offset], re.sub(r"[^\n]", " ", comment.text))
        read = comment.offset + len(comment.text)
    return "".join(pieces) + text[read:]
