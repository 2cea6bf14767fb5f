"""UPDATE and DELETE of a change, read from the parse tree: one table, expressions over its row, nothing else.

Their expressions are kept as the user's own text, each proven to be the expression that the parser saw, so that they
mean in a batch what they mean in the statement: also the names in front of columns, since a batch gives the table the
name that the statement gave it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from tasks.planning import expression_tree, parser
from tasks.planning.errors import Unsupported
from tasks.planning.names import TableName
from tasks.planning.parse_tree import Node, form, walk

Verb = Literal["update", "delete"]
VERBS: dict[str, Verb] = {"update_stmt": "update", "delete_stmt": "delete"}

_JOIN = "Read the other table in a subquery instead:  WHERE EXISTS (SELECT … WHERE …)  or  SET x = (SELECT … WHERE …)."


class Written(BaseModel):
    """An UPDATE or DELETE as it is written: names as they are valid at this statement."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    verb: Verb
    table: TableName
    """``schema`` is empty when the user wrote none."""
    alias: str
    """What the expressions call the table: its alias, else its name."""
    assignments: tuple[tuple[str, str], ...] = ()
    """Column and expression; none for a DELETE."""
    where: str | None = None
    """None: every row."""

    @property
    def expressions(self) -> tuple[str, ...]:
        return (*(expression for _, expression in self.assignments), *([self.where] if self.where else []))


def read(item: parser.Parsed, where: str) -> Written:
    """Return what the statement says; ``where`` is its place, for messages.

    Raises `Unsupported` for what cannot be carried out row by row: other tables in FROM or USING, WITH, RETURNING,
    cursors, DEFAULT, and assignments to parts of a value or to several columns at once.
    """
    node, verb = item.node, VERBS[item.name]
    _refuse_clauses(node, verb.upper(), where)
    slices = _clauses(item.text)
    condition = None
    if node.HasField("where_clause"):
        condition = _proven(item.text, slices.get("WHERE", ()), node.where_clause, where)
    return Written(
        verb=verb,
        table=TableName(node.relation.schemaname, node.relation.relname),
        alias=node.relation.alias.aliasname or node.relation.relname,
        assignments=tuple(_assignments(item.text, slices.get("SET", ()), node, where)) if verb == "update" else (),
        where=condition,
    )


def _refuse_clauses(node: Node, verb: str, where: str) -> None:
    fields = {field.name for field, _ in node.ListFields()}
    reasons = {
        "from_clause": ("with FROM", _JOIN),
        "using_clause": ("with USING", _JOIN),
        "with_clause": ("with WITH", "Write its queries as subqueries."),
        "returning_list": ("with RETURNING", "Leave RETURNING out: nobody reads the rows."),
        "returning_clause": ("with RETURNING", "Leave RETURNING out: nobody reads the rows."),
    }
    for name, (what, instead) in reasons.items():
        if name in fields:
            raise Unsupported(f"{verb} {what} ({where})", instead=instead)
    kinds = {type(inner).__name__ for inner in walk(node)}
    if "CurrentOfExpr" in kinds:
        raise Unsupported(f"{verb} WHERE CURRENT OF ({where})", instead="Write a condition over the row.")
    if "SetToDefault" in kinds:
        raise Unsupported(f"{verb} with SET … = DEFAULT ({where})", instead="Write the default's expression itself.")
    for target in node.target_list if verb == "UPDATE" else ():
        if target.res_target.indirection:
            raise Unsupported(
                f"an UPDATE of a part of {target.res_target.name} ({where})",
                instead="Assign the whole value, e.g. with jsonb_set or array functions.",
            )
        if target.res_target.val.WhichOneof("node") == "multi_assign_ref":
            raise Unsupported(
                f"an UPDATE of several columns from one row, (a, b) = (…) ({where})",
                instead="Write one assignment a column:  a = …, b = ….",
            )


def _assignments(text: str, words: Sequence[parser.Token], node: Node, where: str) -> Iterator[tuple[str, str]]:
    parts = list(_divided(words))
    if len(parts) != len(node.target_list):
        raise _unreadable(where)
    for part, target in zip(parts, node.target_list, strict=True):
        equals = next((number for number, token in enumerate(part) if token.word == "="), None)
        if equals is None:
            raise _unreadable(where)
        yield target.res_target.name, _proven(text, part[equals + 1 :], target.res_target.val, where)


def _proven(text: str, words: Sequence[parser.Token], tree: Node, where: str) -> str:
    """Return the text of the words, which must be the expression of the tree."""
    if words:
        found = text.encode()[words[0].start : words[-1].end].decode()
        if expression_tree.has_form(found, form(tree)):
            return found
    raise _unreadable(where)


def _unreadable(where: str) -> Unsupported:
    return Unsupported(
        f"the expressions of the statement ({where}), which cannot be told apart", instead="Simplify it."
    )


def _clauses(text: str) -> dict[str, list[parser.Token]]:
    """Return the words behind SET and behind WHERE, outside all parentheses, each up to the next of the two."""
    found: dict[str, list[parser.Token]] = {}
    current: list[parser.Token] = []
    for token, depth in depths(parser.tokens(text)):
        if depth == 0 and token.word in ("SET", "WHERE") and token.word not in found:
            current = found.setdefault(token.word, [])
        else:
            current.append(token)
    return found


def _divided(words: Sequence[parser.Token]) -> Iterator[list[parser.Token]]:
    """Yield the words between commas outside all parentheses and brackets."""
    part: list[parser.Token] = []
    for token, depth in depths(words):
        if token.word == "," and depth == 0:
            yield part
            part = []
        else:
            part.append(token)
    yield part


def depths(words: Sequence[parser.Token]) -> Iterator[tuple[parser.Token, int]]:
    """Yield each word with the number of parentheses and brackets that are open around it."""
    depth = 0
    for token in words:
        depth += (token.word in ("(", "[")) - (token.word in (")", "]"))
        yield token, depth


def tables_read(expression: str) -> frozenset[TableName]:
    """Return the relations that the expression's subqueries read, as written; also names of WITH queries in it."""
    tree = parser.parse_expression(expression).tree
    return frozenset(
        TableName(node.schemaname, node.relname) for node in walk(tree) if type(node).__name__ == "RangeVar"
    )


def columns_in_subqueries(expression: str) -> frozenset[str]:
    """Return the column names that stand in the expression's subqueries; ``*`` for all of a table's."""
    found: set[str] = set()
    for link in walk(parser.parse_expression(expression).tree):
        if type(link).__name__ == "SubLink":
            for node in walk(link.subselect):
                if type(node).__name__ == "ColumnRef":
                    last = node.fields[-1]
                    found.add(last.string.sval if last.WhichOneof("node") == "string" else "*")
    return frozenset(found)
