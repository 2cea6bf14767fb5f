"""Which mappings keep different values different: only those can carry a UNIQUE constraint without surprises.

A unique violation cannot be caught inside a BEFORE trigger. Where two values of one shape could become one value of
the other, the application's statement would fail for a constraint of a shape that it does not know; so such a
constraint is refused at planning instead.
"""

from __future__ import annotations

import re

from tasks.planning.errors import Unsupported
from tasks.planning.strategies.expand_contract.contribution import TableChange

_IDENTIFIER = r'(?:"(?:[^"]|"")+"|[a-z_][a-z0-9_$]*)'
_INJECTIVE = (
    # the column itself
    re.compile(rf"^{_IDENTIFIER}$"),
    # a time zone without daylight saving: every local time is one instant and back
    re.compile(rf"^{_IDENTIFIER} AT TIME ZONE '(UTC|GMT|Etc/UTC)'(::text)?$"),
    re.compile(rf"^(?:pg_catalog\.)?timezone\('(UTC|GMT|Etc/UTC)'(?:::text)?, {_IDENTIFIER}\)$"),
    # widening casts
    re.compile(rf"^{_IDENTIFIER}::(bigint|text|numeric|character varying)$"),
)


def is_injective(expression: str) -> bool:
    """Return whether the canonical expression is known to map different values to different values."""
    text = expression.strip()
    while text.startswith("(") and _closes_at_end(text):
        text = text[1:-1].strip()
    text = re.sub(rf"^\(({_IDENTIFIER})\)", r"\1", text)
    return any(pattern.match(text) for pattern in _INJECTIVE)


def _closes_at_end(text: str) -> bool:
    depth = 0
    for position, character in enumerate(text):
        depth += {"(": 1, ")": -1}.get(character, 0)
        if depth == 0:
            return position == len(text) - 1
    return False


def require(change: TableChange, constraint: str, columns: tuple[str, ...], way: str) -> None:
    """Refuse a unique constraint over columns that a mapping which may merge values writes.

    ``way`` is ``up`` for constraints of the new shape, ``down`` for those of the old one.
    """
    for group in change.groups:
        side, assignments = (group.new, group.up) if way == "up" else (group.old, group.down)
        for assignment in assignments:
            if assignment.column in columns and assignment.column in side.names:
                if len(side.columns) == 1 and is_injective(assignment.expression):
                    continue
                raise Unsupported(
                    f"the unique constraint {constraint} of {change.name} over {assignment.column}, which is computed "
                    f"as {assignment.expression}: two values could become one, and the application's statement would "
                    "fail",
                    instead="Use a mapping that keeps different values different (a rename, a widening cast, AT TIME "
                    "ZONE 'UTC'), or drop the constraint in a migration of its own first.",
                )
