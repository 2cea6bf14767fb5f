"""libpg_query, PostgreSQL's own parser: the only module that loads `postgast`, so that it can be exchanged.

It splits and parses statements, and it proves things about expressions: which columns they read, whether two of them
are the same once columns are renamed. Nothing here looks at a database.
"""

from __future__ import annotations

import importlib
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tasks.planning.errors import SpecError

Node = Any
"""A protobuf message of the parse tree; protobuf publishes no types for walking one generically."""

# Loaded by name because the stubs that postgast 0.2 ships are not valid Python: mypy stops at them.
postgast: Any = importlib.import_module("postgast")


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


@dataclass(frozen=True)
class Expression:
    """A scalar SQL expression, parsed. Made by `parse_expression`; the tree is nobody else's business."""

    text: str
    tree: Node


# ------------------------------------------------------------------------------------------------ statements


def parse(text: str) -> tuple[Parsed, ...]:
    """Return the statements of the text. Raises `SyntaxFault`."""
    if "\0" in text:
        # libpg_query takes a C string: it would silently stop reading here.
        raise SyntaxFault("a NUL character", text.index("\0"))
    try:
        tree = postgast.parse(text)
        tokens = [token for token in postgast.scan(text).tokens if token.token not in _COMMENTS]
    except postgast.PgQueryError as error:
        # cursorpos counts characters from 1 (postgast's documentation says bytes; measured otherwise).
        raise SyntaxFault(error.message, error.cursorpos - 1 if error.cursorpos else None) from None
    source = text.encode()
    starts = [token.start for token in tokens]
    parsed: list[Parsed] = []
    for raw in tree.stmts:
        # Locations are bytes; a length of 0 means "to the end".
        end = raw.stmt_location + raw.stmt_len if raw.stmt_len else len(source)
        inside = tokens[bisect_left(starts, raw.stmt_location) : bisect_left(starts, end)]
        # The semicolons around it are not the statement's; those of a BEGIN ATOMIC body are followed by its END.
        while inside[0].token == _SEMICOLON:
            del inside[0]
        while inside[-1].token == _SEMICOLON:
            del inside[-1]
        name = str(raw.stmt.WhichOneof("node"))
        parsed.append(
            Parsed(
                text=source[inside[0].start : inside[-1].end].decode(),
                offset=len(source[: inside[0].start].decode()),
                name=name,
                node=getattr(raw.stmt, name),
            )
        )
    return tuple(parsed)


_COMMENTS = (postgast.pg_query_pb2.SQL_COMMENT, postgast.pg_query_pb2.C_COMMENT)
_SEMICOLON = postgast.pg_query_pb2.ASCII_59


def without_concurrently(text: str) -> str:
    """Return the single statement in its transactional form: CONCURRENTLY taken out, all else the same."""
    tree = postgast.parse(text)
    for node in _walk(tree):
        if "concurrent" in node.DESCRIPTOR.fields_by_name:
            node.concurrent = False
    return str(postgast.deparse(tree))


def is_concurrent(node: Node) -> bool:
    """Whether the statement asks for CONCURRENTLY."""
    return any("concurrent" in inner.DESCRIPTOR.fields_by_name and inner.concurrent for inner in _walk(node))


def version_free(text: str) -> str:
    """Return statements printed by one server version so that every version's print gives the same.

    PostgreSQL 16 stopped writing ``table.`` before a column where it is not needed: column references lose their
    qualifier here. What the parser does not accept comes back with its white space collapsed.
    """
    try:
        tree = postgast.parse(text)
        for node in _walk(tree):
            if _names_a_column(node) and node.fields[0].string.sval not in ("old", "new"):
                del node.fields[:-1]
        _settle(tree)
        return str(postgast.deparse(tree))
    except postgast.PgQueryError:
        return " ".join(text.split())


def settled_constraint(definition: str) -> str:
    """Return a constraint's definition as the server prints it once what it printed is parsed again.

    ``x IN ('a', 'b')`` over a varchar is printed as a cast of the whole array, and that text, parsed and printed again
    (by a dump, by re-adding the constraint), as a cast of every element: the same condition twice.
    """
    head = "ALTER TABLE t ADD "
    try:
        tree = postgast.parse(head + definition)
    except postgast.PgQueryError:
        return definition
    _settle(tree)
    return str(postgast.deparse(tree)).removeprefix("ALTER TABLE t ADD ")


def _settle(message: Node) -> None:
    """Turn every cast of a whole ARRAY[…] in the tree into casts of its elements."""
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in value if field.is_repeated else (value,):
                _settle(inner)
    if type(message).__name__ != "Node" or not message.HasField("type_cast"):
        return
    cast = message.type_cast
    if not cast.arg.HasField("a_array_expr") or not cast.type_name.array_bounds:
        return
    array = type(message)()
    array.CopyFrom(cast.arg)
    for element, wrapped in zip(cast.arg.a_array_expr.elements, array.a_array_expr.elements, strict=True):
        wrapped.Clear()
        wrapped.type_cast.arg.CopyFrom(element)
        wrapped.type_cast.type_name.CopyFrom(cast.type_name)
        del wrapped.type_cast.type_name.array_bounds[:]
    message.CopyFrom(array)


def shape(
    text: str,
    columns: Mapping[str, str],
    *,
    referenced: Mapping[str, str] | None = None,
    tables: Mapping[tuple[str, str], tuple[str, str]] | None = None,
) -> str:
    """Return a printed definition with columns and tables renamed, without casts and without the object's own name.

    Two definitions have the same shape when one became the other only because something it reads was renamed or
    changed its type (PostgreSQL then prints other casts). ``referenced`` renames the columns that a foreign key
    points to. What the parser does not accept comes back unchanged.
    """
    try:
        tree = postgast.parse(text)
    except postgast.PgQueryError:
        return text
    _strip_casts(tree)
    for node in _walk(tree):
        _shape_names(node, columns, referenced or {})
        if type(node).__name__ == "RangeVar" and tables:
            written = (node.schemaname, node.relname)
            node.schemaname, node.relname = tables.get(written, written)
    return str(postgast.deparse(tree))


# Where the nodes of the parse tree keep names of columns: as strings, or as targets.
_COLUMN_STRINGS = {
    "Constraint": ("keys", "fk_attrs", "including"),
    "CreateTrigStmt": ("columns",),
    "AccessPriv": ("cols",),
}
_COLUMN_TARGETS = {"InsertStmt": "cols", "UpdateStmt": "target_list"}


def _shape_names(node: Node, columns: Mapping[str, str], referenced: Mapping[str, str]) -> None:
    """Rename the columns that one node names, wherever that kind of node keeps them."""
    kind = type(node).__name__
    for field in _COLUMN_STRINGS.get(kind, ()):
        for key in getattr(node, field):
            _rename(key.string, columns)
    if kind in _COLUMN_TARGETS:
        for target in getattr(node, _COLUMN_TARGETS[kind]):
            target.res_target.name = columns.get(target.res_target.name, target.res_target.name)
    match kind:
        case "ColumnRef" if _names_a_column(node):
            _rename(node.fields[-1].string, columns)
        case "ResTarget" if not node.name and _names_a_column(getattr(node.val, "column_ref", None)):
            # A view's column keeps its name when what it reads is renamed: from then on it is printed as an alias.
            node.name = node.val.column_ref.fields[-1].string.sval
        case "IndexElem" | "StatsElem":
            node.name = columns.get(node.name, node.name)
        case "IndexStmt":
            node.idxname = "x"
        case "Constraint":
            for key in node.pk_attrs:
                _rename(key.string, referenced)


def _strip_casts(node: Node) -> None:
    """Replace every cast by what it casts, in place."""
    for field, value in node.ListFields():
        if field.message_type is None:
            continue
        for inner in value if field.is_repeated else (value,):
            while type(inner).__name__ == "Node" and inner.WhichOneof("node") == "type_cast":
                bare = type(inner)()
                bare.CopyFrom(inner.type_cast.arg)
                inner.CopyFrom(bare)
            _strip_casts(inner)


# ------------------------------------------------------------------------------------------------ expressions


def parse_expression(text: str) -> Expression:
    """Parse one scalar expression. Raises `SpecError` for anything else, a second statement or a clause included."""
    if "\0" in text:
        raise SpecError("An expression contains a NUL character.")
    try:
        tree = postgast.parse(f"SELECT {text}\n")
    except postgast.PgQueryError as error:
        raise SpecError(f"Not an SQL expression: {text.strip()!r}: {error.message}.") from None
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
        for node in _walk(_parsed(expression).tree)
        if type(node).__name__ == "ColumnRef"
    )


def has_subquery(expression: Expression | str) -> bool:
    """Whether the expression reads more than its own row."""
    return any(type(node).__name__ == "SubLink" for node in _walk(_parsed(expression).tree))


def has_window(expression: Expression | str) -> bool:
    """Whether the expression has an OVER, FILTER or aggregate-only clause, so that it is not about one row."""
    return any(
        type(node).__name__ == "FuncCall"
        and (
            node.HasField("over") or node.HasField("agg_filter") or node.agg_star or node.agg_distinct or node.agg_order
        )
        for node in _walk(_parsed(expression).tree)
    )


def function_names(expression: Expression | str) -> frozenset[str]:
    """Return the functions called, as written; ``AT TIME ZONE`` and the like as ``pg_catalog.timezone``."""
    return frozenset(
        ".".join(part.string.sval for part in node.funcname)
        for node in _walk(_parsed(expression).tree)
        if type(node).__name__ == "FuncCall"
    ) | frozenset(
        node.DESCRIPTOR.fields_by_name["op"].enum_type.values_by_number[node.op].name.removeprefix("SVFOP_").lower()
        for node in _walk(_parsed(expression).tree)
        if type(node).__name__ == "SQLValueFunction"
    )


def normal_form(expression: Expression | str, rename: Mapping[str, str] | None = None) -> str:
    """Return the expression as the parser prints it, its columns renamed all at once (a swap is possible).

    Two expressions are the same, up to the renaming, exactly when their normal forms are equal. A qualifier stays.
    """
    tree = postgast.ParseResult()
    tree.CopyFrom(_parsed(expression).tree)
    for node in _walk(tree):
        if _names_a_column(node):
            _rename(node.fields[-1].string, rename or {})
    return str(postgast.deparse(tree)).removeprefix("SELECT ")


def expression_text(node: Node) -> str:
    """Return the SQL text of an expression inside a statement's parse tree."""
    tree = postgast.parse("SELECT 1")
    tree.stmts[0].stmt.select_stmt.target_list[0].res_target.val.CopyFrom(node)
    return str(postgast.deparse(tree)).removeprefix("SELECT ")


def _parsed(expression: Expression | str) -> Expression:
    return parse_expression(expression) if isinstance(expression, str) else expression


def _names_a_column(node: Node) -> bool:
    return type(node).__name__ == "ColumnRef" and bool(node.fields) and node.fields[-1].WhichOneof("node") == "string"


def _rename(name: Node, names: Mapping[str, str]) -> None:
    name.sval = names.get(name.sval, name.sval)


def _is_star(node: Node) -> bool:
    return bool(node.WhichOneof("node") == "column_ref" and node.column_ref.fields[-1].WhichOneof("node") == "a_star")


def _walk(node: Node) -> Iterator[Node]:
    return (inner for _, inner in postgast.walk(node))
