"""Files of SQL that are looked at and not carried out: read, put in order, and refused where they are no SQL."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tasks.planning import parser
from tasks.planning.errors import SpecError
from tasks.planning.findings.allowances import Allowance, allowances
from tasks.planning.statements import caret, read_statements
from tasks.planning.transactions import SourceFile

MAX_BYTES = 4_000_000
"""The parse tree of 10 MB takes 1 GB and 12 s (measured); a file of that size is data and not schema."""

_PLACEHOLDER = re.compile(r"\$\{[^}\s]+\}")
_VERSIONED = re.compile(r"V(?P<version>\d+(?:[._]\d+)*)(?:__.*)?\.sql", re.IGNORECASE)
_REPEATABLE = re.compile(r"R__.*\.sql", re.IGNORECASE)
_UNDO = re.compile(r"U\d.*__.*\.sql")


@dataclass(frozen=True, slots=True)
class Script:
    """A file of SQL, and the comments in it that allow findings."""

    file: SourceFile
    allowances: tuple[Allowance, ...] = ()


def read_script(path: Path) -> Script:
    """Read a file. Raises `SpecError`, which names the file, and the line where there is one."""
    return script(_limited(path), str(path), told=_told(path.with_name(f"{path.name}.conf")))


def script(text: str, source: str, *, told: bool | None = None) -> Script:
    """Split and classify a text. Raises `SpecError` for what is not SQL, and for placeholders that are not replaced."""
    statements = read_statements(text, source=source)
    placeholder = _PLACEHOLDER.search(_without_comments(text)) if "${" in text else None
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
    return Script(SourceFile(source, text, statements, told), noted)


def sql_files(paths: Iterable[Path]) -> tuple[Path, ...]:
    """Return the files of a call in the order in which they run; a folder stands for the ``.sql`` files in it.

    In a folder Flyway's versioned files come first, by version, then its repeatable ones, then others by name; undo
    scripts are left out. Raises `SpecError` for what is not there, and for a folder without SQL.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = [item for item in path.rglob("*") if item.suffix.lower() == ".sql" and not _UNDO.match(item.name)]
            if not inside:
                raise SpecError(f"{path}: there is no .sql file in this folder.")
            found.extend(sorted(inside, key=_order))
        elif path.exists():
            found.append(path)
        else:
            raise SpecError(f"There is no file {str(path)!r}.", remedy="Give the path of a .sql file, or of a folder.")
    return tuple(found)


def _order(path: Path) -> tuple[int, tuple[int, ...], str]:
    versioned = _VERSIONED.fullmatch(path.name)
    if versioned:
        numbers = [int(part) for part in re.split(r"[._]", versioned["version"])]
        while len(numbers) > 1 and numbers[-1] == 0:
            del numbers[-1]
        return 0, tuple(numbers), path.name
    return (1 if _REPEATABLE.fullmatch(path.name) else 2), (), str(path)


def read_text(path: Path) -> str:
    """Return the text of a file in UTF-8, with or without a byte order mark. Raises `SpecError`."""
    try:
        content = path.read_bytes()
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise SpecError(
            f"{path}, line {line}: is not UTF-8 (byte {error.start}).", remedy="Save the file as UTF-8."
        ) from None


def _limited(path: Path) -> str:
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise SpecError(
            f"{path}: {size / 1e6:.0f} MB of SQL, and at most {MAX_BYTES / 1e6:.0f} MB are read.",
            remedy="Schema changes are not that long: load data apart from them, e.g. with COPY.",
        )
    return read_text(path)


def _told(configuration: Path) -> bool | None:
    """Return ``executeInTransaction`` of a Flyway script configuration, None where it is not said."""
    if not configuration.is_file():
        return None
    said = re.search(r"^\s*executeInTransaction\s*=\s*(true|false)\s*$", read_text(configuration), re.MULTILINE)
    return said[1] == "true" if said else None


def _without_comments(text: str) -> str:
    """Return the text with its comments blanked, so that every place in it stays where it is."""
    for comment in parser.comments(text):
        end = comment.offset + len(comment.text)
        text = text[: comment.offset] + re.sub(r"[^\n]", " ", comment.text) + text[end:]
    return text
