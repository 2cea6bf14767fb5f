"""Findings that somebody allows, by a comment in the SQL that says why: ``-- lockstep:allow ID because …``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tasks.planning import parser

_MARK = re.compile(r"lockstep:allow\b(?P<rest>.*)", re.IGNORECASE | re.DOTALL)
_REST = re.compile(
    r"\s+(?P<ids>[\w-]+(?:\s*,\s*[\w-]+)*?)(?:\s+because\b(?P<reason>.*))?\s*(?:\*/)?\s*$", re.IGNORECASE | re.DOTALL
)


@dataclass(frozen=True, slots=True)
class Allowance:
    """One comment. Without a reason, or with no rule's id, it allows nothing and is a finding itself."""

    statement: int
    """The position of its statement in the file, from 0."""
    line: int
    ids: tuple[str, ...]
    reason: str


def allowances(text: str, statements: Iterable[parser.Parsed]) -> tuple[Allowance, ...]:
    """Return the allowances of a file.

    A comment belongs to the statement that it stands in, or behind on the line where it ends, else to the next one.
    """
    if "lockstep:allow" not in text.lower():
        return ()
    return tuple(_read(text, tuple(statements)))


def _read(text: str, statements: tuple[parser.Parsed, ...]) -> Iterator[Allowance]:
    for comment in parser.comments(text):
        if found := _MARK.search(comment.text):
            rest = _REST.fullmatch(found["rest"])
            reason = ((rest["reason"] or "") if rest else "").removesuffix("*/")
            ids = tuple(name.strip().lower() for name in rest["ids"].split(",")) if rest else ()
            yield Allowance(
                statement=_owner(text, comment.offset, statements),
                line=text.count("\n", 0, comment.offset) + 1,
                ids=ids,
                reason=" ".join(reason.split()),
            )


def _owner(text: str, offset: int, statements: tuple[parser.Parsed, ...]) -> int:
    for position, item in enumerate(statements):
        end = item.offset + len(item.text)
        line_end = text.find("\n", end)
        if offset < (line_end if line_end >= 0 else len(text)):
            return position
    return len(statements) - 1
