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


@dataclass(frozen=True, slots=True)
class Mixture:
    """The first statement of a file that Flyway runs outside a transaction, and the first that it runs inside one."""

    beginning: str
    line: int
    inside_line: int


@dataclass(frozen=True, slots=True)
class Way:
    """How Flyway runs a file: not at all, where there is a ``mixture``."""

    in_transaction: bool
    """Without one each statement is committed as it ends."""
    mixture: Mixture | None = None


def way(text: str, script: ScriptSettings, settings: Settings) -> Way:
    """Return how Flyway runs this text, which need not be SQL that PostgreSQL understands."""
    if script.execute_in_transaction is not None:
        return Way(script.execute_in_transaction)
    outside: list[_Statement] = []
    inside: list[_Statement] = []
    for statement in _statements(text):
        (outside if _OUTSIDE.match(" ".join(statement.outer[:4])) else inside).append(statement)
    if not settings.execute_in_transaction or not outside:
        return Way(settings.execute_in_transaction)
    if settings.mixed or not inside:
        return Way(in_transaction=False)
    return Way(in_transaction=False, mixture=Mixture(outside[0].beginning, outside[0].line, inside[0].line))


def in_transaction(text: str, script: ScriptSettings, settings: Settings, *, source: str) -> bool:
    """Whether Flyway runs this text in one transaction. Raises `SpecError` where it refuses the file's mixture."""
    found = way(text, script, settings)
    if found.mixture is not None:
        raise SpecError(
            f"{source}, line {found.mixture.line}: {found.mixture.beginning} … runs outside a transaction, and other "
            "statements of the file inside one: Flyway refuses to mix them.",
            remedy="Put it into a file of its own. executeInTransaction=false in the file's script configuration runs "
            "all of the file without a transaction; what was done before a failure then stays done.",
        )
    return found.in_transaction


_OUTSIDE = re.compile(
    r"(?:(?:CREATE|DROP) (?:DATABASE|TABLESPACE|SUBSCRIPTION)"
    r"|ALTER SYSTEM"
    r"|(?:CREATE|DROP)(?: UNIQUE)? INDEX CONCURRENTLY"
    r"|REINDEX(?: VERBOSE)? (?:SCHEMA|DATABASE|SYSTEM)"
    r"|VACUUM"
    r"|DISCARD ALL)(?: |$)"
)
"""What Flyway knows to run outside a transaction (for PostgreSQL 12 and later)."""


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
