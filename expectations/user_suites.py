"""The user's own suites: YAML files of Great Expectations' expectations on one table. docs/gates.md shows how.

Reading one needs no Great Expectations; whether its types and arguments exist is asked by `expectations.suite`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tasks.planning.errors import SpecError

GateName = Literal["preflight", "equality", "final"]

GATES_WITH_SUITES: tuple[GateName, ...] = ("preflight", "equality", "final")
"""The gates that run the user's suites: before anything is changed, before the switch, at the end."""

RESERVED = frozenset(
    {"batch_id", "catch_exceptions", "id", "meta", "notes", "rendered_content", "result_format", "windows"}
)
"""Arguments that Lockstep sets itself: some make Great Expectations write values of rows into its results."""


class Entry(BaseModel):
    """One expectation: ``type`` and its arguments as Great Expectations names them, beside Lockstep's own two."""

    model_config = ConfigDict(frozen=True, extra="allow")

    type: str = Field(pattern=r"^expect_[a-z0-9_]+$")
    severity: Literal["critical", "warning", "info"] = "critical"
    description: str | None = None

    @property
    def arguments(self) -> Mapping[str, Any]:
        return self.model_extra or {}


class UserSuite(BaseModel):
    """A file of the user's: expectations on ``table`` (``schema.table``, or a name of the schema public)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")
    table: str = Field(pattern=r"^[^.]+(\.[^.]+)?$")
    when: tuple[GateName, ...] = Field(default=GATES_WITH_SUITES, min_length=1)
    expectations: tuple[Entry, ...] = Field(min_length=1)

    def applies(self, gate: str) -> bool:
        """Whether the gate runs this suite. One that no suite can know of runs every suite."""
        return gate in self.when or gate not in GATES_WITH_SUITES

    def entry_id(self, number: int) -> str:
        """Return the id of an entry's check; entries are counted from 1."""
        return f"suite:{self.name}:{number}"

    def entry_title(self, number: int) -> str:
        entry = self.expectations[number - 1]
        column = entry.arguments.get("column")
        said = entry.description or f"{entry.type}{f' of {column}' if column else ''}"
        return f"{self.table}: {said} ({self.name})"


def find_suite(name: str, suites_root: Path | None) -> Path:
    """Return the file of a suite: beside the spec, else beside this package. Raises SpecError."""
    places = [*([suites_root] if suites_root is not None else []), Path(__file__).parent.parent]
    for place in places:
        if (place / name).is_file():
            return place / name
    raise SpecError(f"The suite {name} is neither in the folder of the spec nor among those of Lockstep.")


def load_suite(path: Path) -> UserSuite:
    """Read a suite. Raises SpecError that names the file and the entry (counted from 1)."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(f"The suite {path} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where is not None else ""
        raise SpecError(f"The suite {path}{line} is not valid YAML.") from error
    if not isinstance(content, dict):
        raise SpecError(f"The suite {path} is not a mapping with name, table and expectations.")
    try:
        suite = UserSuite.model_validate(content)
    except ValidationError as error:
        raise SpecError(f"The suite {path}: {'; '.join(_complaints(error))}.") from error
    for number, entry in enumerate(suite.expectations, 1):
        if reserved := sorted(RESERVED & set(entry.arguments)):
            raise SpecError(f"The suite {path}, expectation {number}: {', '.join(reserved)} is not the user's to set.")
    return suite


def _complaints(error: ValidationError) -> list[str]:
    return [f"{_place(item['loc'])}: {item['msg'].lower()}" for item in error.errors()]


def _place(location: tuple[int | str, ...]) -> str:
    match location:
        case ("expectations", int(number), *rest):
            return f"expectation {number + 1}{''.join(f', {part}' for part in rest)}"
        case _:
            return ".".join(str(part) for part in location)
