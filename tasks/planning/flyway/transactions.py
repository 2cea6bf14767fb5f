"""Whether Flyway runs a file in a transaction: decided by the words that its statements begin with, as it decides.

Flyway splits a file with a scanner of its own, that knows less of SQL than PostgreSQL's parser; this is the same one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from tasks.planning.errors import SpecError
from tasks.planning.flyway.script_settings import ScriptSettings
from tasks.planning.flyway.settings import Settings


@dataclass(slots=True)
class _Statement:
    """``words`` are all that are not in quotes, in upper case; ``outer`` those outside parentheses."""

    line: int = 0
    words: list[str] = field(default_factory=list)
    outer: list[str] = field(default_factory=list)

    @property
    def beginning(self) -> str:
        return " ".join(self.words[:4])


def in_transaction(text: str, script: ScriptSettings, settings: Settings, *, source: str) -> bool:
    """Whether Flyway runs this text in one transaction; without one each statement is committed as it ends.

    Raises `SpecError` where Flyway refuses a file for its mixture, and where it takes one into a transaction that
    PostgreSQL would then refuse.
    """
    statements = tuple(_statements(text))
    if script.execute_in_transaction is None:
        outside = [each for each in statements if _OUTSIDE.match(" ".join(each.outer[:4]))]
        if settings.execute_in_transaction and not settings.mixed and outside and len(outside) < len(statements):
            raise _mixed(outside[0], source)
        inside = settings.execute_in_transaction and not outside
    else:
        inside = script.execute_in_transaction
    if inside:
        for statement in statements:
            _refuse_unfit(statement, source)
    return inside


_OUTSIDE = re.compile(
    r"(?:(?:CREATE|DROP) (?:DATABASE|TABLESPACE|SUBSCRIPTION)"
    r"|ALTER SYSTEM"
    r"|(?:CREATE|DROP)(?: UNIQUE)? INDEX CONCURRENTLY"
    r"|REINDEX(?: VERBOSE)? (?:SCHEMA|DATABASE|SYSTEM)"
    r"|VACUUM"
    r"|DISCARD ALL)(?: |$)"
)
"""What Flyway knows to run outside a transaction (for PostgreSQL 12 and later)."""


def _refuse_unfit(statement: _Statement, source: str) -> None:
    """Refuse what PostgreSQL does not run in a transaction, and would therefore fail under Flyway."""
    words = statement.words
    unfit = (
        _OUTSIDE.match(statement.beginning) is not None
        or (words[:1] == ["REINDEX"] and "CONCURRENTLY" in words)
        or (words[:2] == ["ALTER", "TABLE"] and "DETACH" in words and words[-1] == "CONCURRENTLY")
        or (words[:2] == ["ALTER", "DATABASE"] and words[-3:-1] == ["SET", "TABLESPACE"])
        or words in (["CLUSTER"], ["CLUSTER", "VERBOSE"])
    )
    if unfit:
        raise SpecError(
            f"{source}, line {statement.line}: Flyway runs this file in a transaction, and PostgreSQL refuses "
            f"{statement.beginning} … there.",
            remedy="Put the statement into a file of its own, and beside it a file of the same name with .conf behind "
            "it that says executeInTransaction=false.",
        )


def _mixed(statement: _Statement, source: str) -> SpecError:
    return SpecError(
        f"{source}, line {statement.line}: {statement.beginning} … runs outside a transaction, and other statements of "
        "the file inside one: Flyway refuses to mix them.",
        remedy="Put it into a file of its own. executeInTransaction=false in the file's script configuration runs all "
        "of the file without a transaction; what was done before a failure then stays done.",
    )


# ------------------------------------------------------------------------------------------------ Flyway's scanner

_SCANNER = re.compile(
    r"""
      (?P<dollar>  (?P<quote> \$[^$]*(?:\$|\Z)) .*? (?: (?P=quote) | \Z) )
    | (?P<string>  [BEX]'(?: \\. | [^'\\] | '' )*(?:'|\Z) | (?:U&)?'(?: [^'] | '' )*(?:'|\Z) )
    | (?P<paren>   [()] )
    | (?P<quoted>  "(?: [^"] | "" )*(?:"|\Z) (?: \.(?: "(?: [^"] | "" )*(?:"|\Z) | [\w$]* ) ){0,2} )
    | (?P<comment> --[^\n\r]* )
    | (?P<open>    /\* )
    | (?P<number>  \d[0-9]* )
    | (?P<end>     ; )
    | (?P<word>    (?: [^\W\d] )[\w$]* (?: \.(?: "(?: [^"] | "" )*(?:"|\Z) | [\w$]* ) ){0,2} )
    | (?P<space>   \s+ )
    | (?P<sign>    . )
    """,
    re.VERBOSE | re.DOTALL,
)

_COMMENT_EDGE = re.compile(r"/\*|\*/")
_KEYWORD = re.compile(r"[^\W\d]+")
_COPY = re.compile(r"COPY( .*)? FROM STDIN( |$)")
_COPY_END = re.compile(r"^\s*\\\.\s*$", re.MULTILINE)


class _Scanner:
    """Reads a text token by token; comments and space are passed over."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._position = 0
        self._line = 1
        self._counted = 0

    def next(self) -> tuple[str, str, int] | None:
        """Return the next token's kind, its text, and where it starts; None at the end."""
        while match := _SCANNER.match(self._text, self._position):
            start, self._position = self._position, match.end()
            kind = match.lastgroup or ""
            if kind == "open":
                self._position = self._comment_end()
            elif kind not in ("space", "comment"):
                return kind, match[0], start
        return None

    def line(self, start: int) -> int:
        """Return the line of a place that is not before the last one asked for."""
        self._line += self._text.count("\n", self._counted, start)
        self._counted = start
        return self._line

    def skip_copied(self) -> None:
        """Go behind the data of a COPY … FROM STDIN, which ends with a line that is a backslash and a dot."""
        end = _COPY_END.search(self._text, self._position)
        self._position = len(self._text) if end is None else end.end()

    def _comment_end(self) -> int:
        depth, position = 1, self._position
        while depth:
            edge = _COMMENT_EDGE.search(self._text, position)
            if edge is None:
                return len(self._text)
            depth += 1 if edge[0] == "/*" else -1
            position = edge.end()
        return position


def _statements(text: str) -> Iterator[_Statement]:
    """Yield the statements as Flyway splits them: at semicolons outside parentheses and BEGIN ATOMIC bodies."""
    scanner = _Scanner(text)
    current, last, depth = _Statement(), "", 0
    blocks: list[str] = []
    while token := scanner.next():
        kind, value, start = token
        if kind == "end" and depth == 0 and not blocks:
            if current.line:
                yield current
            if current.outer[:1] == ["COPY"] and _COPY.match(" ".join(current.outer)):
                scanner.skip_copied()
            current, last = _Statement(), ""
            continue
        if kind == "paren":
            depth += 1 if value == "(" else -1
            continue
        current.line = current.line or scanner.line(start)
        word = value.upper() if kind == "word" and _KEYWORD.fullmatch(value) else ""
        if word:
            current.words.append(word)
        if word and depth == 0:
            _follow_blocks(blocks, word, last)
            current.outer.append(word)
        elif depth == 0 and value == "@":
            current.outer.append(value)  # SQL*Plus's sign for another file; Flyway counts it among the words
        last = word
    if current.line:
        yield current


def _follow_blocks(blocks: list[str], word: str, last: str) -> None:
    if (last == "BEGIN" and word == "ATOMIC") or (word == "CASE" and blocks[-1:] == ["ATOMIC"]):
        blocks.append(word)
    elif word == "END" and blocks:
        blocks.pop()
