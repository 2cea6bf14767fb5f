"""Definitions as servers print them (constraints, views, rules, functions …), made comparable.

Two definitions that differ never become one here: comparisons go by the parse tree, and where the readable text does
not parse back to its tree, it carries the tree's digest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

from tasks.planning.parse_tree import Node, form, names_a_column, rename_in, walk
from tasks.planning.parser import SyntaxFault, printed, tokens, tree_of

# ------------------------------------------------------------------------------------------------ as text


def version_free(text: str) -> str:
    """Return statements printed by one server version so that every version's print gives the same.

    PostgreSQL 16 stopped writing ``table.`` before the columns of a view over one relation: those lose their
    qualifier here. What the parser does not accept comes back with the white space between its words collapsed.
    """
    try:
        tree = tree_of(text)
    except SyntaxFault:
        return _collapsed(text)
    for message in walk(tree):
        if type(message).__name__ in ("ViewStmt", "CreateTableAsStmt"):
            _drop_qualifiers(message.query.select_stmt)
    _settle(tree)
    return _told(tree)


def settled_constraint(definition: str) -> str:
    """Return a constraint's definition as the server prints it once what it printed is parsed again.

    ``x IN ('a', 'b')`` over a varchar is printed as a cast of the whole array, and that text, parsed and printed again
    (by a dump, by re-adding the constraint), as a cast of every element: the same condition twice.
    """
    try:
        tree = tree_of(f"{_CONSTRAINT}{definition}")
    except SyntaxFault:
        return definition
    _settle(tree)
    return _told(tree).removeprefix(_CONSTRAINT)


_CONSTRAINT = "ALTER TABLE t ADD "


def _told(tree: Node) -> str:
    """Return the tree as SQL, with the tree's digest where the printer's text is that of another tree, or of none."""
    text, wanted = printed(tree), form(tree)
    try:
        is_told = form(tree_of(text)) == wanted
    except SyntaxFault:
        is_told = False
    return text if is_told else f"{text} /* tree {hashlib.sha256(wanted).hexdigest()[:16]} */"


def _collapsed(text: str) -> str:
    source = text.encode()
    try:
        return " ".join(source[token.start : token.end].decode() for token in tokens(text))
    except SyntaxFault:
        return text


def _drop_qualifiers(select: Node) -> None:
    """Take ``t.`` off the columns of ``SELECT … FROM t``, not of the queries inside it: those have it in every version.

    Of two relations, or of none, every version writes the qualifier where it says something.
    """
    if len(select.from_clause) != 1:
        return
    kind = select.from_clause[0].WhichOneof("node")
    source = getattr(select.from_clause[0], kind)
    if "alias" not in source.DESCRIPTOR.fields_by_name or kind == "join_expr":
        return
    name = source.alias.aliasname or getattr(source, "relname", "")
    outputs = {target.res_target.name for target in select.target_list} - {""}
    ordered = {item.sort_by.node.column_ref.location for item in select.sort_clause}
    ordered |= {item.column_ref.location for item in select.distinct_clause}
    for reference in _own_references(select):
        if len(reference.fields) != 2 or not names_a_column(reference) or reference.fields[0].string.sval != name:
            continue
        # In ORDER BY a plain name is first of all the output column of that name.
        if reference.location not in ordered or reference.fields[1].string.sval not in outputs:
            del reference.fields[0]


def _own_references(select: Node) -> Iterator[Node]:
    """Yield the column references of a query without those of the queries inside it."""
    stack = [select]
    while stack:
        message = stack.pop()
        if type(message).__name__ == "ColumnRef":
            yield message
            continue
        for field, value in message.ListFields():
            if field.message_type is not None:
                inner = value if field.is_repeated else (value,)
                stack.extend(item for item in inner if type(item).__name__ != "SelectStmt")


def _settle(tree: Node) -> None:
    """Turn every cast of a whole ARRAY[…] in the tree into casts of its elements."""
    for message in walk(tree):
        if type(message).__name__ != "Node" or not message.HasField("type_cast"):
            continue
        cast = message.type_cast
        # An empty array has no element to carry the type.
        if not cast.type_name.array_bounds or not cast.arg.a_array_expr.elements:
            continue
        array = type(message)()
        array.CopyFrom(cast.arg)
        for element, wrapped in zip(cast.arg.a_array_expr.elements, array.a_array_expr.elements, strict=True):
            wrapped.Clear()
            wrapped.type_cast.arg.CopyFrom(element)
            wrapped.type_cast.type_name.CopyFrom(cast.type_name)
            # A nested array is cast to the array type, and so on down to its own elements.
            if not element.HasField("a_array_expr"):
                del wrapped.type_cast.type_name.array_bounds[:]
        message.CopyFrom(array)


# ------------------------------------------------------------------------------------------------ what followed


def renamed(
    text: str,
    columns: Mapping[str, str],
    *,
    referenced: Mapping[str, str] | None = None,
    tables: Mapping[tuple[str, str], tuple[str, str]] | None = None,
) -> bytes:
    """Return a value of a printed definition with columns and tables renamed and without the object's own name.

    Equal for two definitions when one became the other only because something it reads was renamed. ``referenced``
    renames the columns that a foreign key points to. What the parser does not accept is compared as it is written.
    """
    try:
        tree = tree_of(text)
    except SyntaxFault:
        return text.encode()
    _rename(tree, columns, referenced or {}, tables or {})
    return form(tree)


def shape(
    text: str,
    columns: Mapping[str, str],
    *,
    referenced: Mapping[str, str] | None = None,
    tables: Mapping[tuple[str, str], tuple[str, str]] | None = None,
) -> bytes:
    """As `renamed`, and without casts: those that PostgreSQL prints change with the type of a column."""
    try:
        tree = tree_of(text)
    except SyntaxFault:
        return text.encode()
    _strip_casts(tree)
    _rename(tree, columns, referenced or {}, tables or {})
    return form(tree)


# Where the nodes of the parse tree keep names of columns: as strings, or as targets.
_COLUMN_STRINGS = {
    "Constraint": ("keys", "fk_attrs", "including"),
    "CreateTrigStmt": ("columns",),
    "AccessPriv": ("cols",),
}
_COLUMN_TARGETS = {"InsertStmt": "cols", "UpdateStmt": "target_list"}


def _rename(
    tree: Node,
    columns: Mapping[str, str],
    referenced: Mapping[str, str],
    tables: Mapping[tuple[str, str], tuple[str, str]],
) -> None:
    for node in walk(tree):
        _rename_columns(node, columns, referenced)
        if type(node).__name__ == "RangeVar":
            written = (node.schemaname, node.relname)
            node.schemaname, node.relname = tables.get(written, written)


def _rename_columns(node: Node, columns: Mapping[str, str], referenced: Mapping[str, str]) -> None:
    """Rename the columns that one node names, wherever that kind of node keeps them."""
    kind = type(node).__name__
    for field in _COLUMN_STRINGS.get(kind, ()):
        for key in getattr(node, field):
            rename_in(key.string, columns)
    if kind in _COLUMN_TARGETS:
        for target in getattr(node, _COLUMN_TARGETS[kind]):
            target.res_target.name = columns.get(target.res_target.name, target.res_target.name)
    match kind:
        case "ColumnRef" if names_a_column(node):
            rename_in(node.fields[-1].string, columns)
        case "ResTarget" if not node.name and names_a_column(getattr(node.val, "column_ref", None)):
            # A view's column keeps its name when what it reads is renamed: from then on it is printed as an alias.
            node.name = node.val.column_ref.fields[-1].string.sval
        case "IndexElem" | "StatsElem":
            node.name = columns.get(node.name, node.name)
        case "IndexStmt":
            node.idxname = "x"
        case "Constraint":
            for key in node.pk_attrs:
                rename_in(key.string, referenced)


def _strip_casts(tree: Node) -> None:
    """Replace every cast by what it casts, in place."""
    for message in walk(tree):
        while type(message).__name__ == "Node" and message.HasField("type_cast"):
            bare = type(message)()
            bare.CopyFrom(message.type_cast.arg)
            message.CopyFrom(bare)
