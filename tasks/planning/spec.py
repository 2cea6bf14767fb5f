"""The spec: what the user wants, as YAML or as a bare ``.sql`` file. Everything but the change is optional.

`load` reads a file; every objection is a `SpecError` that names the file, the line and what to write instead.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from tasks.planning import parser
from tasks.planning.errors import SpecError
from tasks.planning.flyway.settings import HISTORY_TABLE, Repeatable, Settings
from tasks.planning.flyway.versions import parse_version
from tasks.planning.names import TableName
from tasks.planning.plan import FlywayHistory, Severity, Strategy
from tasks.planning.spec_text import SpecText
from tasks.planning.statements import Statement, has_statements, parse_change
from tasks.planning.text_files import read_text
from tasks.planning.throttle import Limits
from tasks.planning.windows import Window

ENDINGS = (".yaml", ".yml", ".sql")

PhaseName = Literal["expand", "backfill", "constrain", "switch", "contract"]
UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


class Part(BaseModel):
    """Base of the spec's types: frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def split_name(text: str) -> tuple[str, ...]:
    """Split ``schema.table.column`` as PostgreSQL would: quoted parts verbatim, others in lower case.

    Raises ValueError for what is not a dotted name.
    """
    parts = re.findall(r'"(?:[^"]|"")+"|[^".\s]+', text.strip())
    if not parts or ".".join(parts) != text.strip():
        raise ValueError(f"{text!r} is not a name")
    return tuple(part[1:-1].replace('""', '"') if part.startswith('"') else part.lower() for part in parts)


def column_name(text: str) -> tuple[TableName, str]:
    """Return the table (``schema`` empty when none is written) and the column of ``[schema.]table.column``."""
    parts = split_name(text)
    if len(parts) not in (2, 3):
        raise ValueError(f"{text!r} is not of the form table.column")
    return TableName("" if len(parts) == 2 else parts[0], parts[-2]), parts[-1]


def table_name(text: str) -> TableName:
    """Return the table of ``[schema.]table``; ``schema`` is empty when none is written."""
    parts = split_name(text)
    if len(parts) > 2:
        raise ValueError(f"{text!r} is not of the form table or schema.table")
    return TableName("" if len(parts) == 1 else parts[0], parts[-1])


def _is_column(text: str) -> str:
    column_name(text)
    return text


def _is_table(text: str) -> str:
    table_name(text)
    return text


def _duration(value: object) -> object:
    match = re.fullmatch(r"(\d{1,6})\s*([smhdw])", value) if isinstance(value, str) else None
    if match:
        return timedelta(seconds=int(match[1]) * UNITS[match[2]])
    if value == "0" or (value == 0 and not isinstance(value, bool)):
        return timedelta()
    raise ValueError("a duration is a number and a unit: 7d, 12h, 30m, 45s, or 0")


ColumnText = Annotated[str, Field(description="table.column or schema.table.column"), BeforeValidator(_is_column)]
TableText = Annotated[str, Field(description="table or schema.table"), BeforeValidator(_is_table)]
Expression = Annotated[str, Field(min_length=1, description="An SQL expression over one row")]
Duration = Annotated[
    timedelta,
    BeforeValidator(_duration, json_schema_input_type=str | Literal[0]),
    Field(description="How long both shapes are kept after the switch: 7d, 12h, 30m, 0"),
]


class Mapping(Part):
    """How a new column follows from the old ones (``up``) and the old ones from it (``down``)."""

    up: Expression | None = None
    down: Expression | dict[str, Expression] | None = None
    """One expression for the one old column, or an expression for every old column by name."""
    old_version_reads: bool = False
    """The author's word on a column that changes its type and keeps its name: the old application copes with it."""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.up is None and self.down is None and not self.old_version_reads:
            raise ValueError("a mapping needs up, down or both")
        return self

    def down_columns(self) -> str | dict[str, str] | None:
        """Return ``down`` with its column names unquoted, as the catalog has them."""
        if not isinstance(self.down, dict):
            return self.down
        return {split_name(name)[-1]: expression for name, expression in self.down.items()}


class Rule(Part):
    """A business rule: ``where`` has to be true for every row of the table."""

    table: TableText
    where: Expression
    severity: Severity = "CRITICAL"


class Gates(Part):
    """What is checked besides what Lockstep always checks."""

    rules: dict[str, Rule] = Field(default_factory=dict)
    suites: tuple[str, ...] = ()
    """Paths of the user's own expectation suites."""


class FlywayFolder(Part):
    """The migrations of a project that uses Flyway: what the database does not have yet is the change."""

    folder: str = Field(min_length=1, description="The folder, relative to the spec")
    schema_name: str | None = Field(
        default=None,
        alias="schema",
        min_length=1,
        description="Where the history table is; else the first of the search_path (Flyway's defaultSchema)",
    )
    table: str = Field(default=HISTORY_TABLE, min_length=1, description="The history table's name")
    placeholders: dict[str, str] = Field(default_factory=dict, description="The values of ${…}, without flyway's own")
    target: str | None = Field(default=None, description="The last version that belongs to this migration")
    repeatable: Repeatable = Field(
        default="refuse",
        description="run: R__ files that are new or changed are carried out too, and the old version must not start "
        "again once their rows are written",
    )

    @field_validator("target")
    @classmethod
    def _is_version(cls, value: str | None) -> str | None:
        if value is not None and parse_version(value) is None:
            raise ValueError(f"{value!r} is not a version of Flyway's")
        return value

    def settings(self) -> Settings:
        """Return Flyway's settings; what is not said here has Flyway's default."""
        return Settings(
            default_schema=self.schema_name,
            table=self.table,
            placeholders=self.placeholders,
            target=None if self.target is None else parse_version(self.target),
        )


class Spec(Part):
    """One migration as its author describes it."""

    name: str = Field(description="The migration's name, e.g. intake-v2")
    database: str | None = Field(default=None, description="The database's name; never a URL")
    change: str | None = Field(default=None, description="The SQL that should simply have been run")
    change_file: str | None = Field(default=None, description="A file with that SQL, relative to the spec")
    flyway: FlywayFolder | None = Field(default=None, description="A folder of Flyway's; what is pending is the change")
    mapping: dict[ColumnText, Mapping] = Field(default_factory=dict)
    personal: tuple[ColumnText, ...] = Field(default=(), description="Columns never shown, logged or sampled")
    gates: Gates = Gates()
    approvals: tuple[PhaseName, ...] = Field(
        default=("switch", "contract"), description="Phases that wait for a person's word"
    )
    soak: Duration = timedelta()
    window: Window | None = None
    throttle: Limits = Field(default=Limits(), description="What the server may suffer meanwhile; `off` is no limit")
    strategy: Strategy | None = Field(default=None, description="Asked for instead of the one that Lockstep chooses")
    queries: tuple[str, ...] = Field(default=(), description="SELECTs to be explained and timed before and after")

    @field_validator("name")
    @classmethod
    def _is_plain(cls, value: str) -> str:
        if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,62}", value):
            raise ValueError("a name has up to 63 lower-case letters, digits, '-' and '_'")
        return value

    @field_validator("database")
    @classmethod
    def _is_no_url(cls, value: str | None) -> str | None:
        # The value is not repeated: it may be a URL with a password.
        if value is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", value):
            raise ValueError("a database is given by its name (letters, digits, '-' and '_'), never by a URL")
        return value

    @field_validator("queries")
    @classmethod
    def _are_queries(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            if not parser.is_one_select(text):
                raise ValueError("each entry is one SELECT, with values in the place of parameters")
        return value

    @model_validator(mode="after")
    def _has_one_change(self) -> Self:
        if [self.change, self.change_file, self.flyway].count(None) != 2:
            raise ValueError("write either change (the SQL), change_file (a path) or flyway (a folder), and only one")
        return self

    def mappings(self) -> dict[tuple[TableName, str], Mapping]:
        """Return the mapping by table (as written) and column, unquoted."""
        return {column_name(name): mapping for name, mapping in self.mapping.items()}

    def personal_columns(self) -> tuple[tuple[TableName, str], ...]:
        """Return the personal columns by table (as written) and column, unquoted."""
        return tuple(column_name(name) for name in self.personal)


@dataclass(frozen=True)
class Sql:
    """SQL of the change, from one file."""

    text: str
    source: str
    """The name of the file, for messages."""
    first_line: int = 1
    """The line of ``source`` on which the SQL starts."""


@dataclass(frozen=True)
class LoadedSpec:
    """A spec as read from its file. That of a Flyway folder has no ``parts`` before a database says what is pending."""

    spec: Spec
    text: str
    """What was read, for the ledger; SQL from files of its own is part of it, as comments."""
    folder: Path
    parts: tuple[Sql, ...]
    """The SQL, wherever it was written, in the order in which it would be run."""
    flyway: FlywayHistory | None = None
    """The pending files of a Flyway folder, one for each part, and where the database keeps their history."""

    @property
    def change(self) -> str:
        """The whole SQL; each of several files under its name."""
        if len(self.parts) == 1:
            return self.parts[0].text
        return "\n".join(f"-- {part.source}\n{part.text.rstrip()}\n" for part in self.parts)

    def statements(self) -> tuple[Statement, ...]:
        """Return the change's statements. Raises `SpecError` and `Unsupported`."""
        found: list[Statement] = []
        for part in self.parts:
            if self.flyway is not None and not has_statements(part.text):
                continue  # Flyway runs nothing of it, and writes its row
            parsed = parse_change(part.text, source=part.source, first_line=part.first_line)
            named = {} if self.flyway is None else {"file": part.source}
            found += [statement.model_copy(update=named) for statement in parsed]
        return tuple(found)

    def with_pending(self, history: FlywayHistory, texts: Sequence[str]) -> LoadedSpec:
        """Return the spec with the files of ``history`` as its change, and their ``texts`` as they are run."""
        parts = tuple(Sql(text, file.script) for text, file in zip(texts, history.files, strict=True))
        text = "\n".join([self.text, *(_quoted(part) for part in parts)])
        return replace(self, text=text, parts=parts, flyway=history)

    @cached_property
    def change_hash(self) -> str:
        """Return the SHA-256 of what the spec means for the data: statements, mapping, personal columns, gates.

        Comments and white space between statements, approvals, soak, window and throttle do not matter.
        """
        meaning: dict[str, Any] = {
            "change": [statement.sql for statement in self.statements()],
            **self.spec.model_dump(mode="json", include={"mapping", "personal", "gates"}),
        }
        return hashlib.sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()


def load(path: Path) -> LoadedSpec:
    """Read a spec: YAML, or a bare ``.sql`` file whose name is the migration's. Raises `SpecError`."""
    if path.suffix not in ENDINGS:
        raise SpecError(f"{path}: a spec ends in {', '.join(ENDINGS)}.")
    text = read_text(path)
    if path.suffix == ".sql":
        spec = Spec(name=migration_name(path), change=text)
        return LoadedSpec(spec, text, path.parent, (Sql(text, path.name),))
    document = SpecText(text, path.name)
    try:
        spec = Spec.model_validate(document.content)
    except ValidationError as error:
        raise SpecError(
            document.explain(error, Spec), remedy="`lockstep schema` prints what a spec may contain."
        ) from None
    if spec.flyway is not None:
        return LoadedSpec(spec, text, path.parent, ())
    if spec.change_file is None:
        line = document.scalar_line("change")
        return LoadedSpec(spec, text, path.parent, (Sql(spec.change or "", path.name, line),))
    place = document.place(("change_file",))
    change = read_text(path.parent / spec.change_file, called=f"{place}: change_file {spec.change_file}")
    part = Sql(change, spec.change_file)
    return LoadedSpec(spec, f"{text}\n{_quoted(part)}", path.parent, (part,))


def _quoted(part: Sql) -> str:
    lines = "".join(f"# {line}\n" for line in part.text.splitlines())
    return f"# {part.source}:\n{lines}"


def migration_name(path: Path) -> str:
    """Return the name that a ``.sql`` file gives its migration: ``V12__intake_v2.sql`` → ``intake-v2``."""
    stem = re.sub(r"^[VURB][\d._]*__", "", path.stem)
    name = re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-")[:63].strip("-")
    if not name:
        raise SpecError(f"{path}: the file's name gives no name for the migration.", remedy="Rename it, e.g. v2.sql.")
    return name


def json_schema() -> str:
    """Return the JSON Schema of a YAML spec, as JSON text, for editors."""
    schema = Spec.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "Lockstep migration"
    schema["oneOf"] = [{"required": [key]} for key in ("change", "change_file", "flyway")]
    return json.dumps(schema, indent=2)
