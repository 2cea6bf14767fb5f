"""Values worth trying on a mapping: for each type the edges where roundings, signs and lengths go wrong.

All of them are made up, so they may be shown to anybody.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping

MOST_ROWS = 2_000
"""Combinations of several columns' candidates are cut off here."""

_WITH_MODIFIER = re.compile(r"(?P<base>[^(]*?)\s*(?:\((?P<first>\d+)(?:,\s*(?P<second>-?\d+))?\))?(?P<rest>\D*)")

_WORDS = re.compile(r"'((?:[^']|'')*)'")
_NUMBERS = re.compile(r"(?<![\w.])\d{1,6}(?:\.\d{1,6})?(?![\w.])")
_WHOLE = re.compile(r"(?<![\w.])\d{1,4}(?![\w.])")

_INTEGERS = {"smallint": 15, "integer": 31, "bigint": 63}
_FIXED: dict[str, tuple[str, ...]] = {
    "boolean": ("true", "false"),
    "real": ("0", "0.3", "0.5", "1", "-1", "1e38"),
    "double precision": ("0", "0.3", "0.5", "1", "-1", "1e300"),
    "date": ("1970-01-01", "2024-02-29", "0001-01-01", "9999-12-31", "infinity", "-infinity"),
    "time without time zone": ("00:00", "12:30:15.5", "24:00"),
    "time with time zone": ("00:00+00", "12:30:15.5-11", "24:00+14"),
    "interval": ("0", "1.5 seconds", "1 mon", "-1 day", "10000 years"),
    "uuid": ("00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"),
    "bytea": ("", "\\x00", "\\xff"),
    "json": ("{}", "[]", "null", "0", '"x"'),
    "jsonb": ("{}", "[]", "null", "0", '"x"'),
    "inet": ("10.0.0.1", "10.0.0.0/8", "::1"),
}
_MOMENTS = ("1970-01-01 00:00:00", "2024-02-29 23:59:59.999999", "0001-01-01 00:00:00", "9999-12-31 23:59:59",
            "4713-01-01 00:00:00 BC", "294276-12-31 23:59:59", "infinity", "-infinity")  # fmt: skip


def taken_apart(type_: str) -> tuple[str, int | None, int | None]:
    """Return a type as ``format_type`` prints it without its modifier, and what is in that.

    >>> taken_apart("numeric(6,2)"), taken_apart("timestamp(3) with time zone"), taken_apart("text")
    (('numeric', 6, 2), ('timestamp with time zone', 3, None), ('text', None, None))
    """
    match = _WITH_MODIFIER.fullmatch(type_)
    if match is None:
        return "", None, None
    first, second = (int(match[group]) if match[group] else None for group in ("first", "second"))
    return match["base"] + match["rest"], first, second


def values(type_: str) -> tuple[str, ...]:
    """Return values of a type in the server's input syntax; none for a type that nothing is known about.

    ``type_`` is as ``format_type`` prints it. NULL is not among them.
    """
    if type_.endswith("[]"):
        return ("{}", "{NULL}", *(f'{{"{value}"}}' for value in values(type_[:-2])[:3] if '"' not in value))
    base, first, second = taken_apart(type_)
    match base:
        case "numeric":
            return _numeric(first, second or 0)
        case "smallint" | "integer" | "bigint":
            greatest = 2 ** _INTEGERS[base] - 1
            return ("0", "1", "2", "-1", str(greatest), str(-greatest - 1))
        case "timestamp without time zone":
            return _MOMENTS
        case "timestamp with time zone":
            return tuple(value if "infinity" in value else f"{value}+00" for value in _plain_years(_MOMENTS))
        case "text" | "character varying" | "character":
            longest = first or (1 if base == "character" else 1_000)
            return tuple(dict.fromkeys(value[:longest] for value in ("", "x", "Ä", "0", " x", "x" * longest)))
        case _:
            return _FIXED.get(base, ())


def literals(type_: str, expressions: Iterable[str]) -> tuple[str, ...]:
    """Return the constants that expressions name and that a column of this type may take: words or numbers.

    Where a CHECK admits a few values only, the edges of the type are not among them.

    >>> literals("text", ["((unit = ANY (ARRAY['ML'::text, 'OZ'::text])))"])
    ('ML', 'OZ')
    >>> literals("integer", ["(((n >= 5) AND (n <= 10)))", "n = '7'::integer"])
    ('5', '10', '7')
    """
    base, longest, _ = taken_apart(type_)
    if base in ("text", "character varying", "character"):
        found = (word.replace("''", "'") for text in expressions for word in _WORDS.findall(text))
        return tuple(dict.fromkeys(word for word in found if longest is None or len(word) <= longest))
    if base in _INTEGERS or base == "numeric":
        pattern = _NUMBERS if base == "numeric" else _WHOLE
        return tuple(dict.fromkeys(number for text in expressions for number in pattern.findall(text)))
    return ()


def rows(types: Mapping[str, tuple[str | None, ...]]) -> Iterator[dict[str, str | None]]:
    """Yield rows that combine the columns' values, at most `MOST_ROWS` of them; of no columns there is one empty row.

    Every value of every column comes once before the combinations are cut off.
    """
    if not types:
        yield {}
        return
    first = {column: options[0] for column, options in types.items()}
    single = ({**first, column: value} for column, options in types.items() for value in options)
    combined = (dict(zip(types, row, strict=True)) for row in itertools.product(*types.values()))
    seen: set[tuple[str | None, ...]] = set()
    for row in itertools.chain(single, itertools.islice(combined, MOST_ROWS)):
        if len(seen) == MOST_ROWS:
            return
        if tuple(row.values()) not in seen:
            seen.add(tuple(row.values()))
            yield row


def _numeric(precision: int | None, scale: int) -> tuple[str, ...]:
    fractions = ("0.30", "0.49", "0.5", "0.01")
    if precision is None:
        return ("0", "1", *fractions, "-1", "10000000000000000000")
    greatest = "9" * (precision - scale) or "0"
    if scale > 0:
        greatest += "." + "9" * scale
    smallest = "0." + "0" * (scale - 1) + "1" if scale > 0 else "1"
    whole = ("1", "-1") if precision > scale else ()
    return tuple(dict.fromkeys(("0", *(fractions if scale > 0 else ()), smallest, *whole, greatest, f"-{greatest}")))


def _plain_years(moments: tuple[str, ...]) -> Iterator[str]:
    # A zone goes before BC, and the first and last years are left to the type without a zone.
    return (moment for moment in moments if "BC" not in moment and not moment.startswith("294276"))
