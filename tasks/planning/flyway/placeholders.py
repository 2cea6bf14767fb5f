"""Placeholders, ``${name}``: replaced by what is given, in comments too, as Flyway does; else refused by name."""

from __future__ import annotations

import re
from collections.abc import Mapping

from tasks.planning.errors import SpecError
from tasks.planning.flyway.settings import Settings


def replaced(text: str, settings: Settings, own: Mapping[str, str], *, source: str) -> str:
    """Return the text with its placeholders replaced; values are not read again.

    ``own`` are the file's own (see `own_values`), which win over the project's. Raises `SpecError` for a placeholder
    without a value, with the place where it stands in ``source``.
    """
    values = {name.lower(): value for name, value in {**settings.placeholders, **own}.items()}

    def value(match: re.Match[str]) -> str:
        name = match["name"]
        if name is None or name.lower() not in values:
            raise _without_value(text, match.start(), name, settings, source)
        return values[name.lower()]

    prefix, suffix = re.escape(settings.placeholder_prefix), re.escape(settings.placeholder_suffix)
    return re.sub(f"{prefix}(?:(?P<name>.*?){suffix})?", value, text, flags=re.DOTALL)


def own_values(name: str, settings: Settings) -> dict[str, str]:
    """Return those of Flyway's own placeholders whose values a folder and its settings tell.

    ``name`` is the file's. The database's, the user's, the folder's of the application and the time are not among
    them: they have to be given.
    """
    known = {"filename": name, "table": settings.table, "environment": "default"}
    if settings.default_schema is not None:
        known["defaultSchema"] = settings.default_schema
    given = {each.lower() for each in settings.placeholders}
    full = {f"flyway{settings.placeholder_separator}{key}": value for key, value in known.items()}
    # What depends on the file is never given; the environment may have been named.
    return {key: value for key, value in full.items() if key.endswith("filename") or key.lower() not in given}


def _without_value(text: str, at: int, name: str | None, settings: Settings, source: str) -> SpecError:
    line = text.count("\n", 0, at) + 1
    column = at - text.rfind("\n", 0, at)
    where = f"{source}, line {line}, column {column}"
    if name is None:
        return SpecError(
            f"{where}: {settings.placeholder_prefix} begins a placeholder that does not end.",
            remedy="Flyway fails here too. Where it is meant as text, set placeholderReplacement=false in the file's "
            "script configuration, named like the file with .conf behind it.",
        )
    written = f"{settings.placeholder_prefix}{name}{settings.placeholder_suffix}"
    return SpecError(
        f"{where}: the placeholder {written} has no value.",
        remedy=f"Give its value as Flyway has it (flyway.placeholders.{name}), or write the value into the file. Where "
        "it is meant as text, set placeholderReplacement=false in the file's script configuration.",
    )
