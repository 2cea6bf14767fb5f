"""Whether an expression can raise an error: read from the parse tree that the server itself keeps of it.

A sync trigger needs an EXCEPTION block, which costs a subtransaction a row, only where `up` or `down` can raise.
"Cannot raise" is claimed only for trees made of nothing but the nodes and functions listed here; whatever is not
listed, a node of a newer PostgreSQL included, can raise. Resolved functions are judged, not names, so that a function
of the user's that is called like a built-in one is never mistaken for it.

Left out on purpose: arithmetic (overflow), rounding and lengths (``numeric(8,2)``), text to anything, ``||`` (1 GB),
``date`` to ``timestamp`` (out of range), and time zones other than the constant ``'UTC'``: every other zone moves the
first and last hours of the range out of it. At ``'UTC'`` nothing moves, and ``infinity`` stays what it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_TOTAL_NODES = frozenset(
    {
        "VAR", "CONST", "RELABELTYPE", "COLLATEEXPR", "BOOLEXPR", "NULLTEST", "BOOLEANTEST", "CASETESTEXPR",
        "CASEEXPR", "CASE", "CASEWHEN", "WHEN", "COALESCEEXPR", "COALESCE", "MINMAXEXPR", "MINMAX",
        "OPEXPR", "FUNCEXPR", "DISTINCTEXPR", "NULLIFEXPR", "SCALARARRAYOPEXPR", "ARRAYEXPR", "ARRAY", "COERCEVIAIO",
    }
)  # fmt: skip
"""Nodes that add no error of their own; up to version 15 some have shorter names."""

_ORDERED = {
    "int2": "smallint", "int4": "integer", "int8": "bigint", "float4": "real", "float8": "double precision",
    "bool": "boolean", "numeric_": "numeric", "date_": "date", "uuid_": "uuid", "bytea": "bytea",
    "timestamp_": "timestamp without time zone", "timestamptz_": "timestamp with time zone", "text": "text",
}  # fmt: skip
_MIXED = {"int24": ("smallint", "integer"), "int42": ("integer", "smallint"), "int28": ("smallint", "bigint"),
          "int82": ("bigint", "smallint"), "int48": ("integer", "bigint"), "int84": ("bigint", "integer"),
          "float48": ("real", "double precision"), "float84": ("double precision", "real")}  # fmt: skip

_COMPARISONS = frozenset(
    f"{prefix}{operator}({left},{right})"
    for prefix, (left, right) in ({name: (type_, type_) for name, type_ in _ORDERED.items()} | _MIXED).items()
    for operator in ("eq", "ne", "lt", "le", "gt", "ge")
)

_WIDENINGS = frozenset(
    {
        "int4(smallint)", "int8(smallint)", "int8(integer)",
        "numeric(smallint)", "numeric(integer)", "numeric(bigint)",
        "float4(smallint)", "float4(integer)", "float4(bigint)",
        "float8(smallint)", "float8(integer)", "float8(bigint)", "float8(real)",
        "text(character)", "text(boolean)", "text(name)", 'text("char")', "int4(boolean)",
    }
)  # fmt: skip

_TEXT = frozenset({"lower(text)", "upper(text)", "btrim(text)", "ltrim(text)", "rtrim(text)", "length(text)",
                   "character_length(text)", "char_length(text)", "octet_length(text)"})  # fmt: skip

_ZONES = frozenset(
    {"timezone(text,timestamp without time zone)", "timezone(text,timestamp with time zone)"},
)

_TOTAL_FUNCTIONS = _COMPARISONS | _WIDENINGS | _TEXT
_NEEDS_COLLATION = _TEXT | frozenset(f"text{operator}(text,text)" for operator in ("eq", "ne", "lt", "le", "gt", "ge"))
_COMPARED_TYPES = frozenset({16, 20, 21, 23, 700, 701, 1082, 1114, 1184, 1700, 2950})
"""OIDs of the types whose B-tree comparison cannot raise, for GREATEST and LEAST."""

_FIRST_USER_OID = 16384
_UTC_ARGUMENT = re.compile(r":args \(\{CONST [^{}]*:constvalue 7 \[ 28 0 0 0 85 84 67 \]\}")
_TO_TEXT = re.compile(r"\{COERCEVIAIO :arg \{VAR [^{}]*?:vartype (\d+) [^{}]*\} :resulttype (?:25|1043) ")


def may_raise(tree: str, functions: Mapping[int, str]) -> bool:
    """Say whether the expression can raise for some row.

    ``tree`` is a ``pg_node_tree`` as text; ``functions`` maps the OID of every function in it to its signature, as
    ``regprocedure`` prints it with an empty search_path.
    """
    nodes = re.findall(r"\{([A-Z]+)", tree)
    return not (
        set(nodes) <= _TOTAL_NODES
        and all(_is_total(oid, name, tree) for oid, name in functions.items())
        and all(int(oid) in _COMPARED_TYPES for oid in re.findall(r":minmaxtype (\d+)", tree))
        and nodes.count("COERCEVIAIO") == sum(int(oid) < _FIRST_USER_OID for oid in _TO_TEXT.findall(tree))
    )


def is_column(tree: str) -> bool:
    """Say whether the expression, which is tested by ``IS NULL``, is a column as it stands, of just the type wanted."""
    return re.findall(r"\{([A-Z]+)", tree) == ["NULLTEST", "VAR"]


def _is_total(oid: int, name: str, tree: str) -> bool:
    if name in _ZONES:
        calls = re.findall(rf":funcid {oid} [^{{}}]*:args \(\{{CONST [^{{}}]*\}}", tree)
        return len(calls) == len(re.findall(rf":funcid {oid} ", tree)) and all(map(_UTC_ARGUMENT.search, calls))
    if name in _NEEDS_COLLATION:
        # Without a collation, comparing and case folding raise 42P22 for every row.
        return re.search(rf":(?:op)?funcid {oid} [^{{}}]*?:inputcollid 0 ", tree) is None
    return name in _TOTAL_FUNCTIONS
