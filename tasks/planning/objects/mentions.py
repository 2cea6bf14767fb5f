"""Functions whose body is text: PostgreSQL records no dependency for them, so only their words tell what they use."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tasks.planning.catalog import Catalog, SchemaObject, Table, Trigger

_ROUTINES = ("function", "procedure")


def mentioning(catalog: Catalog, *words: str) -> Iterator[SchemaObject]:
    """Yield the functions and procedures whose definition has every one of the names as a word."""
    patterns = [re.compile(rf"(?<![\w$]){re.escape(word)}(?![\w$])", re.IGNORECASE) for word in words]
    for item in catalog.objects:
        if item.kind in _ROUTINES and all(pattern.search(_body(item)) for pattern in patterns):
            yield item


def triggers_that_use(catalog: Catalog, table: Table, column: str) -> Iterator[tuple[Trigger, SchemaObject]]:
    """Yield the row triggers of a table whose function says NEW.column or OLD.column."""
    pattern = re.compile(rf'(?<![\w$."])(new|old)\s*\.\s*"?{re.escape(column)}(?![\w$])', re.IGNORECASE)
    functions = {item.name.split("(", 1)[0]: item for item in catalog.objects if item.kind == "function"}
    for trigger in table.triggers:
        called = re.search(r"EXECUTE (?:FUNCTION|PROCEDURE) (.+?)\(", trigger.definition.replace("\n", " "))
        found = functions.get(called[1]) if called else None
        if found is not None and pattern.search(_body(found)):
            yield trigger, found


def _body(item: SchemaObject) -> str:
    """Return the definition from the body on: the arguments in front of it are the function's own names."""
    return item.definition.partition("\nAS ")[2] or item.definition
