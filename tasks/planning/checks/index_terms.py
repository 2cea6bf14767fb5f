"""Reading what a unique index demands from its definition, as ``pg_get_indexdef`` prints it.

The catalog keeps the definition only; its form is canonical, so finding the matching parenthesis is enough.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_OPENING = re.compile(r" USING \w+ \(")
_WORD = re.compile(r'"(?:[^"]|"")*"|\w+')


def key_list(definition: str) -> tuple[tuple[str, ...], str]:
    """Return the index's terms as SQL expressions, and what follows the list (``INCLUDE``, ``WHERE`` …).

    >>> key_list("CREATE UNIQUE INDEX i ON public.t USING btree (lower(email) text_pattern_ops, b DESC) WHERE (b > 0)")
    (('lower(email)', 'b'), ' WHERE (b > 0)')
    """
    opening = _OPENING.search(definition)
    if opening is None:
        raise ValueError(f"not an index definition: {definition}")
    start = opening.end()
    end = _closing(definition, start)
    return tuple(_expression(item) for item in _split(definition[start:end])), definition[end + 1 :]


def _depths(text: str, start: int) -> Iterator[tuple[int, str, int]]:
    """Yield (position, character, parenthesis depth before it) outside of quotes."""
    depth, quote = 0, ""
    for position in range(start, len(text)):
        character = text[position]
        if quote:
            # A doubled quote closes and opens again, which comes to the same.
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        else:
            yield position, character, depth
            depth += (character == "(") - (character == ")")


def _closing(text: str, start: int) -> int:
    for position, character, depth in _depths(text, start):
        if character == ")" and depth == 0:
            return position
    raise ValueError(f"unbalanced parentheses: {text}")


def _split(items: str) -> list[str]:
    cuts = [position for position, character, depth in _depths(items, 0) if character == "," and depth == 0]
    return [items[a + 1 : b].strip() for a, b in zip([-1, *cuts], [*cuts, len(items)], strict=True)]


def _expression(item: str) -> str:
    """Return the term without collation, operator class and order: a name, a call or a parenthesised expression."""
    if item.startswith("("):
        return item[: _closing(item, 1) + 1]
    position = 0
    while word := _WORD.match(item, position):
        position = word.end()
        if item[position : position + 1] == "(":
            return item[: _closing(item, position + 1) + 1]
        if item[position : position + 1] != ".":
            break
        position += 1
    return item[:position]
