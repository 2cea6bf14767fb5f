"""A file's own settings: the script configuration ``V1__name.sql.conf`` beside ``V1__name.sql``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tasks.planning.errors import SpecError, Unsupported


@dataclass(frozen=True, slots=True)
class ScriptSettings:
    """None: the project's setting holds."""

    execute_in_transaction: bool | None = None
    placeholder_replacement: bool | None = None
    encoding: str | None = None
    should_execute: bool = True


def read_script_settings(text: str, *, source: str) -> ScriptSettings:
    """Read a script configuration. Raises `SpecError` as Flyway would fail, and `Unsupported` for expressions."""
    values = _properties(text)
    unknown = sorted(set(values) - {"executeInTransaction", "placeholderReplacement", "encoding", "shouldExecute"})
    if unknown:
        raise SpecError(
            f"{source}: {unknown[0]} is not a setting of a script.",
            remedy="Flyway knows executeInTransaction, placeholderReplacement, encoding and shouldExecute here, "
            "without flyway. before them.",
        )
    condition = values.get("shouldExecute")
    if condition is not None and condition.strip().lower() not in ("true", "false"):
        raise Unsupported(
            f"the condition of shouldExecute in {source}",
            instead="Flyway evaluates it in its paid editions only. Write true or false.",
        )
    return ScriptSettings(
        execute_in_transaction=_truth(values, "executeInTransaction", source),
        placeholder_replacement=_truth(values, "placeholderReplacement", source),
        encoding=values.get("encoding"),
        should_execute=_truth(values, "shouldExecute", source) is not False,
    )


def _properties(text: str) -> dict[str, str]:
    """Read Java's properties in the form that Flyway gives them: lines trimmed, backslashes kept."""
    found: dict[str, str] = {}
    for raw in re.split(r"\r\n|\r|\n", text):
        line = raw.strip()
        if line and line[0] not in "#!":
            name, value = re.fullmatch(r"([^\s=:]*)\s*[=:]?\s*(.*)", line).groups()  # type: ignore[union-attr]
            found[name] = value
    return found


def _truth(values: dict[str, str], name: str, source: str) -> bool | None:
    value = values.get(name)
    if value is None:
        return None
    if value.lower() not in ("true", "false"):
        raise SpecError(f"{source}: {name} is {value!r}, and can be true or false.")
    return value.lower() == "true"
