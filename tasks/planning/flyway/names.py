"""What the name of a file says: ``prefix VERSION separator DESCRIPTION suffix``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tasks.planning.flyway.settings import Settings
from tasks.planning.flyway.versions import Version, parse_version

Kind = Literal["versioned", "repeatable", "baseline", "callback"]

SCRIPT_SUFFIXES = (".cmd", ".bat", ".ps1", ".py", ".sh", ".bash")
"""Programs that Flyway runs as migrations; on Linux also files without any suffix."""

# What Flyway can be told to run around its own work; the name of such a file is one of these, not V, B or R.
_ACTIONS = ("Clean", "Migrate", "Undo", "Validate", "Baseline", "Repair", "Info")
_EACH = tuple(
    f"{when}Each{action}{what}"
    for action in ("Migrate", "Undo")
    for when, what in (
        ("before", ""), ("before", "Statement"), ("after", "Statement"),
        ("after", "StatementError"), ("after", ""), ("after", "Error"),
    )
)  # fmt: skip
CALLBACKS = frozenset(
    {
        *(f"before{action}" for action in _ACTIONS),
        *(f"after{action}" for action in _ACTIONS),
        *(f"after{action}Error" for action in _ACTIONS),
        *_EACH,
        "beforeRepeatables",
        "afterVersioned",
        "afterMigrateApplied",
        *(f"after{action}OperationFinish" for action in _ACTIONS),
        "afterReportGenerated",
        "createSchema",
        "beforeCreateSchema",
        "beforeConnect",
        "afterConnect",
    }
)

# Flyway takes these words for marks in the order of versions, and no file can sensibly be one.
_MARKS = frozenset({"current", "next", "latest"})


@dataclass(frozen=True, slots=True)
class ScriptName:
    """A name that Flyway understands. ``version`` is None for repeatable migrations and callbacks."""

    kind: Kind
    version: Version | None
    description: str


@dataclass(frozen=True, slots=True)
class Misnamed:
    """A name that Flyway passes over; ``reason`` says why, for a person."""

    reason: str


def read_name(name: str, settings: Settings, suffixes: Sequence[str] | None = None) -> ScriptName | Misnamed:
    """Read a file's name, without its folders. ``suffixes`` are those of SQL migrations where none are given."""
    stem = _without_suffix(name, settings.sql_migration_suffixes if suffixes is None else suffixes)
    found = _prefix(stem, settings)
    if found is None:
        return Misnamed(_unknown_prefix(stem, settings))
    prefix, kind = found
    written, _, rest = stem.removeprefix(prefix).partition(settings.sql_migration_separator)
    description = rest.replace("_", " ")
    if kind in ("repeatable", "callback"):
        if written:
            separator = settings.sql_migration_separator
            return Misnamed(f"a name that begins with {prefix} has no version: {prefix}{separator}description is one")
        if kind == "repeatable" and stem == prefix:
            return Misnamed(f"nothing stands after {prefix}")
        return ScriptName(kind, None, description)
    if not written:
        return Misnamed(f"no version stands after {prefix}")
    version = None if written.lower() in _MARKS else parse_version(written)
    if version is None:
        return Misnamed(f"{written!r} is not a version")
    return ScriptName(kind, version, description)


def is_flyway_name(name: str) -> bool:
    """Whether Flyway, with the settings that it has by itself, would run a file of SQL with this name."""
    settings = Settings()
    return has_suffix(name, settings.sql_migration_suffixes) and isinstance(read_name(name, settings), ScriptName)


def has_suffix(name: str, suffixes: Sequence[str]) -> bool:
    """Whether a name ends in one of these, in whatever case, and is more than that."""
    return any(name.upper().endswith(suffix.upper()) and len(name) > len(suffix) for suffix in suffixes)


def is_program(name: str) -> bool:
    """Whether Flyway would run a file of this name as a program; one without a suffix counts."""
    return "." not in name or has_suffix(name, SCRIPT_SUFFIXES)


def _without_suffix(name: str, suffixes: Sequence[str]) -> str:
    for suffix in suffixes:
        if name.upper().endswith(suffix.upper()):
            return name[: len(name) - len(suffix)]
    return name


def _prefix(stem: str, settings: Settings) -> tuple[str, Kind] | None:
    """Return the longest prefix that the name begins with; upper and lower case are different here."""
    known: list[tuple[str, Kind]] = [
        (settings.sql_migration_prefix, "versioned"),
        (settings.repeatable_sql_migration_prefix, "repeatable"),
        (settings.baseline_migration_prefix, "baseline"),
        *((event, "callback") for event in CALLBACKS),
    ]
    fitting = [item for item in known if stem.startswith(item[0])]
    return max(fitting, key=lambda item: len(item[0]), default=None)


def _unknown_prefix(stem: str, settings: Settings) -> str:
    if stem.startswith("U"):
        return "undo scripts are not part of Flyway's open-source edition, which passes over them"
    prefix = settings.sql_migration_prefix
    if stem.startswith(prefix.swapcase()):
        return f"the prefix {prefix} is written like this, not {prefix.swapcase()}"
    return f"it begins with no prefix that Flyway knows: {prefix}, {settings.repeatable_sql_migration_prefix}, …"
