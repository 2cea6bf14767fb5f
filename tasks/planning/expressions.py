"""Rewriting of expressions under a column mapping, and comparisons that are right for every type.

sqlglot rewrites; libpg_query, the server's own grammar, proves: what sqlglot emits must parse to the same tree as
the original with the same columns renamed. Measured on 137 expressions as ``pg_get_expr`` prints them, sqlglot 30
passes on 118. The others it turns into something else (``B'101'::"bit"`` into ``CAST(b'101' AS BIT)``, which keeps
one bit; ``@ a`` into ``$a``; ``flag IS UNKNOWN`` into ``IS NULL``; ``a ^ b`` into ``POWER``), cannot read
(``bit varying(5)``) or makes a syntax error of (``date_part``). They are ordinary expressions, so for them the
identifiers are replaced in place, where the parser says that they stand, under the same proof (137 of 137, and 2,000
of 2,000 generated ones). The parser's own printer would be no way out, see `parse_tree`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import sqlglot
from sqlglot import exp
from sqlglot.errors import ErrorLevel, SqlglotError

from tasks.planning import expression_tree
from tasks.planning.errors import Unsupported
from tasks.planning.names import short_hash

_PLAIN_REFERENCE = re.compile(r'([A-Za-z_][A-Za-z0-9_$]*|"([^"]|"")*")(\.([A-Za-z_][A-Za-z0-9_$]*|"([^"]|"")*"))*')


def substitute(expression: str, columns: Mapping[str, str]) -> str:
    """Return the expression with its column references replaced by other SQL text.

    ``columns`` maps unquoted column names to what stands for them: ``NEW."volume"``, ``t."volume"``, a variable, a
    whole expression. A column that is not among them stays. The expression is canonical (`tasks.database.canonical`):
    its columns are unqualified. Raises Unsupported when no rewriting can be proven right.
    """
    # Placeholders have names of their own, so that what stands for a column is never itself taken for one to rename.
    prefix = f"lockstep_{short_hash(expression)}_"
    placeholders = {name: f"{prefix}{number}" for number, name in enumerate(columns)}
    references = expression_tree.references(expression)
    if references is None:
        raise _not_safe(expression)
    wanted = expression_tree.form(expression, placeholders)
    rewritten = rename_by_sqlglot(expression, placeholders)
    if rewritten is None or not expression_tree.has_form(rewritten, wanted):
        rewritten = expression_tree.replaced(expression, references, placeholders)
        if not expression_tree.has_form(rewritten, wanted):
            raise _not_safe(expression)
    operands = [_operand(text) for text in columns.values()]
    return re.sub(rf"\b{prefix}(\d+)\b", lambda match: operands[int(match[1])], rewritten)


def inline(expression: str, generated: Mapping[str, str]) -> str:
    """Return the expression with generated columns replaced by their own expressions.

    Generated columns are NULL inside a BEFORE trigger, so a trigger must compute them anew. A generated column cannot
    read another one, so one pass is enough.
    """
    return substitute(expression, generated) if generated else expression


def distinct(left: str, right: str, has_equality: bool) -> str:
    """Return the condition that two values differ, NULL being equal to NULL.

    Types without an equality operator (json, xml, point) are compared by their text, which can call two equal values
    different but never the other way round. Pass False also for base types of extensions whose ``=`` is outside
    pg_catalog: IS DISTINCT FROM finds its operator by search_path, which is empty where Lockstep's SQL runs.
    """
    if has_equality:
        return f"{_operand(left)} IS DISTINCT FROM {_operand(right)}"
    return f"{_operand(left)}::text IS DISTINCT FROM {_operand(right)}::text"


def rename_by_sqlglot(expression: str, columns: Mapping[str, str]) -> str | None:
    """Return what sqlglot makes of the expression with its columns renamed, unproven; None when it cannot read it."""

    def renamed(node: exp.Expression) -> exp.Expression:
        if isinstance(node, exp.Column) and not node.table and node.name in columns:
            return exp.column(columns[node.name])
        return node

    try:
        tree = sqlglot.parse_one(expression, dialect="postgres")
        return tree.transform(renamed).sql(dialect="postgres", unsupported_level=ErrorLevel.RAISE)
    except SqlglotError:
        return None


def is_same(left: str, right: str, rename: Mapping[str, str] | None = None) -> bool:
    """Whether two expressions are the same to the parser, once the columns of ``left`` are renamed."""
    return expression_tree.form(left, rename or {}) == expression_tree.form(right, {})


def _operand(text: str) -> str:
    return text if _PLAIN_REFERENCE.fullmatch(text) else f"({text})"


def _not_safe(expression: str) -> Unsupported:
    return Unsupported(
        f"the expression {expression!r}, which cannot be rewritten safely for the trigger and the backfill",
        instead="Write it in a simpler form, with unqualified column names, or as a function that takes the columns.",
    )
