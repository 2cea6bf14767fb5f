"""libpg_query, PostgreSQL's own parser: the only module that loads `postgast`, so that it can be exchanged.

It splits and parses statements and cuts them into words, and it tells what expressions read and call. Whether two of
them are the same is `parse_tree.form`'s to say. Nothing here looks at a database.
"""

from __future__ import annotations

import importlib
from bisect import bisect_left
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from tasks.planning.errors import SpecError, Unsupported
from tasks.planning.parse_tree import Node, form, walk

# Loaded by name because the stubs that postgast 0.2 ships are not valid Python: mypy stops at them.
postgast: Any = importlib.import_module("postgast")
DecodeError: type[Exception] = importlib.import_module("google.protobuf.message").DecodeError

# By default protobuf reads a hundred levels: a sum of fifty columns is deeper. Other implementations have no limit.
with suppress(ImportError):
    importlib.import_module("google._upb._message").SetAllowOversizeProtos(True)


class SyntaxFault(Exception):
    """The parser's objection. ``offset`` counts characters from 0, None when the parser does not say where."""

    def __init__(self, message: str, offset: int | None) -> None:
        self.message = message
        self.offset = offset
        super().__init__(message)


@dataclass(frozen=True)
class Parsed:
    """One statement: ``text`` is the source's own slice without surrounding comments; ``offset`` counts characters."""

    text: str
    offset: int
    name: str
    """The statement's name in the parse tree, e.g. ``alter_table_stmt``."""
    node: Node


class Token(NamedTuple):
    """A word, sign or literal: the bytes of the UTF-8 text where it stands, from ``start`` up to ``end``."""

    start: int
    end: int
    word: str
    """A keyword in upper case, or a sign of one character; empty for names in quotes, literals and other names."""


class Comment(NamedTuple):
    """A comment with its ``--`` or ``/* */``; ``offset`` counts characters."""

    text: str
    offset: int


@dataclass(frozen=True)
class Expression:
    """A scalar SQL expression, parsed. Made by `parse_expression`; the tree is nobody else's business."""

    text: str
    tree: Node

    @property
    def value(self) -> Node:
        """The expression itself within its tree."""
        return self.tree.stmts[0].stmt.select_stmt.target_list[0].res_target.val


# ------------------------------------------------------------------------------------------------ statements


def parse(text: str) -> tuple[Parsed, ...]:
    """Return the statements of the text. Raises `SyntaxFault`."""
    if "\0" in text:
        # libpg_query takes a C string: it would silently stop reading here.
        raise SyntaxFault("a NUL character", text.index("\0"))
    tree = tree_of(text)
    scanned = tokens(text)
    source = text.encode()
    starts = [token.start for token in scanned]
    parsed: list[Parsed] = []
    characters, read = 0, 0
    for raw in tree.stmts:
        # Locations are bytes; a length of 0 means "to the end".
        end = raw.stmt_location + raw.stmt_len if raw.stmt_len else len(source)
        inside = list(scanned[bisect_left(starts, raw.stmt_location) : bisect_left(starts, end)])
        # The semicolons around it are not the statement's; those of a BEGIN ATOMIC body are followed by its END.
        while inside[0].word == ";":
            del inside[0]
        while inside[-1].word == ";":
            del inside[-1]
        name = str(raw.stmt.WhichOneof("node"))
        # Counted on from the statement before: from the beginning each time takes minutes for a file of 10 MB.
        characters += len(source[read : inside[0].start].decode())
        read = inside[0].start
        parsed.append(
            Parsed(
                text=source[inside[0].start : inside[-1].end].decode(),
                offset=characters,
                name=name,
                node=getattr(raw.stmt, name),
            )
        )
    return tuple(parsed)


def is_one_select(text: str) -> bool:
    """Whether a text is one SELECT; WITH and VALUES are. Raises ValueError, which says why, for what is not SQL."""
    try:
        return [statement.name for statement in parse(text)] == ["select_stmt"]
    except SyntaxFault as fault:
        raise ValueError(f"is not SQL: {fault.message}") from None


def tokens(text: str) -> tuple[Token, ...]:
    """Return the words, signs and literals of the text, without its comments. Raises `SyntaxFault`."""
    source = text.encode()
    return tuple(
        Token(
            token.start,
            token.end,
            # An identifier in quotes is never a keyword.
            source[token.start : token.end].decode().upper() if token.keyword_kind or token.token < _ASCII else "",
        )
        for token in _scanned(text)
        if token.token not in _COMMENTS
    )


def comments(text: str) -> tuple[Comment, ...]:
    """Return the comments of the text in order, with the marks that make them one. Raises `SyntaxFault`."""
    source = text.encode()
    found: list[Comment] = []
    characters, read = 0, 0
    for token in _scanned(text):
        if token.token in _COMMENTS:
            characters += len(source[read : token.start].decode())
            read = token.start
            found.append(Comment(source[token.start : token.end].decode(), characters))
    return tuple(found)


def _scanned(text: str) -> Iterable[Any]:
    try:
        return cast("Iterable[Any]", postgast.scan(text).tokens)
    except postgast.PgQueryError as error:
        raise _fault(error) from None


def tree_of(text: str) -> Node:
    """Return the parse tree of statements. Raises `SyntaxFault`."""
    try:
        return postgast.parse(text)
    except postgast.PgQueryError as error:
        raise _fault(error) from None
    except DecodeError:
        raise SyntaxFault("nested too deeply to be read", None) from None


def relations(text: str) -> frozenset[tuple[str, str]]:
    """Return schema (empty where none is written) and name of every relation that statements name.

    >>> sorted(relations("WITH c AS (SELECT 1) SELECT * FROM c JOIN shop.t ON t.a = $1 WHERE EXISTS (TABLE u)"))
    [('', 'u'), ('shop', 't')]

    Raises `SyntaxFault`.
    """
    nodes = tuple(walk(tree_of(text)))
    aside = {node.ctename for node in nodes if type(node).__name__ == "CommonTableExpr"}
    named = {(node.schemaname, node.relname) for node in nodes if type(node).__name__ == "RangeVar"}
    return frozenset(pair for pair in named if pair[0] or pair[1] not in aside)


def printed(tree: Node) -> str:
    """Return the tree as SQL to be shown: it may read as another tree (see `parse_tree`), or as none."""
    return str(postgast.deparse(tree))


def _fault(error: Any) -> SyntaxFault:
    # cursorpos counts characters from 1 (postgast's documentation says bytes; measured otherwise).
    return SyntaxFault(error.message, error.cursorpos - 1 if error.cursorpos else None)


_COMMENTS = (postgast.pg_query_pb2.SQL_COMMENT, postgast.pg_query_pb2.C_COMMENT)
_ASCII = 128
"""Tokens below it are single characters."""


def is_concurrent(node: Node) -> bool:
    """Whether the statement asks for CONCURRENTLY."""
    return any("concurrent" in inner.DESCRIPTOR.fields_by_name and inner.concurrent for inner in walk(node)) or (
        type(node).__name__ == "ReindexStmt" and any(item.def_elem.defname == "concurrently" for item in node.params)
    )


def without_concurrently(text: str) -> str:
    """Return the single statement in its transactional form: the word CONCURRENTLY taken out of the text, no more."""
    wanted = tree_of(text)
    for node in walk(wanted):
        if "concurrent" in node.DESCRIPTOR.fields_by_name:
            node.concurrent = False
    source = text.encode()
    for token in tokens(text):
        if token.word != "CONCURRENTLY":
            continue
        # A function may have that name too: the word that is meant is the one that makes the difference.
        rest = (source[: token.start] + source[token.end :].lstrip()).decode().rstrip()
        with suppress(SyntaxFault):
            if form(tree_of(rest)) == form(wanted):
                return rest
    raise Unsupported(f"CONCURRENTLY in {text!r}", instead="Write the statement without it: Lockstep adds it itself.")


# ------------------------------------------------------------------------------------------------ expressions


HEAD = "SELECT "
"""What stands before an expression when it is parsed: the tree's locations count from there, in bytes."""


def parse_expression(text: str) -> Expression:
    """Parse one scalar expression. Raises `SpecError` for anything else, a second statement or a clause included."""
    if "\0" in text:
        raise SpecError("An expression contains a NUL character.")
    try:
        tree = tree_of(f"{HEAD}{text}\n")
    except SyntaxFault as fault:
        raise SpecError(f"Not an SQL expression: {text.strip()!r}: {fault.message}.") from None
    select: Node = tree.stmts[0].stmt.select_stmt if tree.stmts else None
    alone = (
        len(tree.stmts) == 1
        and {field.name for field, _ in select.ListFields()} <= {"target_list", "limit_option", "op"}
        and len(select.target_list) == 1
        and not select.target_list[0].res_target.name
        and not _is_star(select.target_list[0].res_target.val)
    )
    if not alone:
        raise SpecError(f"Not one SQL expression: {text.strip()!r}.")
    return Expression(text=text.strip(), tree=tree)


def column_references(expression: Expression | str) -> frozenset[str]:
    """Return the names of the columns that the expression reads, without their qualifiers."""
    return frozenset(path[-1] for path in qualified_references(expression))


def qualified_references(expression: Expression | str) -> frozenset[tuple[str, ...]]:
    """Return the column references as written: ``("a",)``, ``("t", "a")``, ``("s", "t", "a")``; ``*`` as ``"*"``."""
    return frozenset(
        tuple(part.string.sval if part.WhichOneof("node") == "string" else "*" for part in node.fields)
        for node in walk(_parsed(expression).tree)
        if type(node).__name__ == "ColumnRef"
    )


def has_subquery(expression: Expression | str) -> bool:
    """Whether the expression reads more than its own row."""
    return any(type(node).__name__ == "SubLink" for node in walk(_parsed(expression).tree))


def has_window(expression: Expression | str) -> bool:
    """Whether the expression has an OVER, FILTER or aggregate-only clause, so that it is not about one row."""
    return any(
        type(node).__name__ == "FuncCall"
        and (
            node.HasField("over") or node.HasField("agg_filter") or node.agg_star or node.agg_distinct or node.agg_order
        )
        for node in walk(_parsed(expression).tree)
    )


def function_names(expression: Expression | str) -> frozenset[str]:
    """Return the functions called, as written; ``AT TIME ZONE`` and the like as ``pg_catalog.timezone``."""
    return frozenset(
        ".".join(part.string.sval for part in node.funcname)
        for node in walk(_parsed(expression).tree)
        if type(node).__name__ == "FuncCall"
    ) | frozenset(
        node.DESCRIPTOR.fields_by_name["op"].enum_type.values_by_number[node.op].name.removeprefix("SVFOP_").lower()
        for node in walk(_parsed(expression).tree)
        if type(node).__name__ == "SQLValueFunction"
    )


def _parsed(expression: Expression | str) -> Expression:
    return parse_expression(expression) if isinstance(expression, str) else expression


def _is_star(node: Node) -> bool:
    return bool(node.WhichOneof("node") == "column_ref" and node.column_ref.fields[-1].WhichOneof("node") == "a_star")
