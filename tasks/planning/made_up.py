"""Made-up values of a column, as SQL over the number of the row: what a table for a rehearsal is filled with. Pure.

Nothing of a real row is in them: of the live column only its width, its share of NULLs and how many different values
it has are known. A column has several `variants`, of which the first may be anything of its type, and later ones words
and numbers that its constraints and the change name: which of them its constraints take, the server says.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil

from psycopg import sql

from tasks.planning import candidates
from tasks.planning.names import verbatim

ROW = sql.SQL("made.i")
"""The number of the row that is made up, from 1 on."""

WIDEST = 1_900
"""Bytes of a made-up text or document; longer ones would be compressed, or stored elsewhere."""
USUAL_WIDTH = 12
UNKNOWN_NULLS = 0.1
_NUMBERS = frozenset({"smallint", "integer", "bigint", "numeric", "real", "double precision"})
_TEXTS = frozenset({"text", "character varying", "character"})

_MOMENT = sql.SQL("timestamptz '2016-01-01 00:00:00+00' + interval '1 second' * ({n} % 315360000)")
_OF_DAY = sql.SQL("time '00:00' + interval '1 second' * ({n} % 86400)")
_BIG = sql.SQL("1 + {n} % 1000000000000")
_QUARTERS = sql.SQL("({n} % 4194304) / 4.0")
_ADDRESS = sql.SQL("inet '10.0.0.0' + ({n} % 16777216)")
_BY_TYPE: dict[str, sql.SQL] = {
    "smallint": sql.SQL("1 + {n} % 32767"),
    "integer": sql.SQL("1 + {n} % 2147483647"),
    "bigint": _BIG,
    "money": _BIG,
    "real": _QUARTERS,
    "double precision": _QUARTERS,
    "boolean": sql.SQL("{n} % 2 = 0"),
    "date": sql.SQL("date '2016-01-01' + ({n} % 3650)::integer"),
    "timestamp without time zone": _MOMENT,
    "timestamp with time zone": _MOMENT,
    "time without time zone": _OF_DAY,
    "time with time zone": _OF_DAY,
    "interval": sql.SQL("interval '1 second' * ({n} % 86400)"),
    "uuid": sql.SQL("pg_catalog.md5(({n})::text)::uuid"),
    "inet": _ADDRESS,
    "cidr": _ADDRESS,
    "point": sql.SQL("pg_catalog.point({n} % 1000, {n} % 997)"),
    "tsvector": sql.SQL("'word' || {n}"),
    "macaddr": sql.SQL("pg_catalog.left(pg_catalog.md5(({n})::text), 12)"),
    "macaddr8": sql.SQL("pg_catalog.left(pg_catalog.md5(({n})::text), 16)"),
    "bit": sql.SQL("{n}"),
    "oid": sql.SQL("1 + {n} % 2147483647"),
    "name": sql.SQL("'name' || {n}"),
    # Of ranges no two overlap, which is what exclusion constraints are mostly about.
    "int4range": sql.SQL("pg_catalog.int4range((1 + {n} % 2147483646)::integer, (2 + {n} % 2147483646)::integer)"),
    "int8range": sql.SQL("pg_catalog.int8range(1 + {n} % 1000000000000, 2 + {n} % 1000000000000)"),
    "numrange": sql.SQL("pg_catalog.numrange(({n} % 1000000000000)::numeric, (1 + {n} % 1000000000000)::numeric)"),
    "daterange": sql.SQL(
        "pg_catalog.daterange(date '2016-01-01' + ({n} % 1000000)::integer, "
        "date '2016-01-02' + ({n} % 1000000)::integer)"
    ),
    "tsrange": sql.SQL(
        "pg_catalog.tsrange(timestamp '2016-01-01' + interval '1 second' * ({n} % 315360000), "
        "timestamp '2016-01-01 00:00:01' + interval '1 second' * ({n} % 315360000))"
    ),
    "tstzrange": sql.SQL(
        "pg_catalog.tstzrange(timestamptz '2016-01-01 00:00:00+00' + interval '1 second' * ({n} % 315360000), "
        "timestamptz '2016-01-01 00:00:01+00' + interval '1 second' * ({n} % 315360000))"
    ),
}
"""Values of the types that need no more than a number."""


@dataclass(frozen=True)
class ColumnType:
    """A type as `format_type` prints it, and what it is behind that: a domain's base type, an enum's labels."""

    name: str
    base: str
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Shape:
    """What is known of a column's values. ``distinct`` is as in pg_stats: a number, or negative a share of the rows."""

    width: float | None = None
    nulls: float | None = None
    distinct: float | None = None


def variants(
    column: str, type_: ColumnType, shape: Shape, *, rows: int, unique: bool, nullable: bool, named: Sequence[str]
) -> tuple[sql.Composed, ...]:
    """Return expressions for a column's values in row `ROW`, to be tried in this order; none for an unknown type.

    ``named`` are expressions whose constants are worth having: constraints, mapping, conditions of the change.
    """
    number: sql.Composable = ROW if unique else _number(column, rows, shape)
    natural = tuple(_natural(type_, number, shape))
    words = _with_neighbours(type_.base, candidates.literals(type_.base, named))
    pick, either = _hash(f"{column} palette"), _hash(f"{column} mixed")
    found = [*natural]
    if words:
        found.append(_one_of(words, type_, pick))
        # Of each some, where the constraints take both.
        both = sql.SQL("CASE WHEN {} % 2 = 0 THEN {} ELSE {} END")
        found[:0] = [both.format(either, value, found[-1]) for value in natural[:1]]
    if edges := candidates.values(type_.base):
        found.append(_one_of(edges, type_, pick))
    return tuple(_with_nulls(column, value, shape) if nullable else value for value in found)


def _with_neighbours(base: str, words: Sequence[str]) -> tuple[str, ...]:
    """Return whole numbers with those beside them: a condition may be about more or less than what it names."""
    if base not in ("smallint", "integer", "bigint"):
        return tuple(words)
    return tuple(dict.fromkeys(str(int(word) + more) for more in (0, 1, -1) for word in words))


def _with_nulls(column: str, value: sql.Composed, shape: Shape) -> sql.Composed:
    share = round(1000 * (UNKNOWN_NULLS if shape.nulls is None else shape.nulls))
    if not share:
        return value
    return sql.SQL("CASE WHEN {} % 1000 < {} THEN NULL ELSE {} END").format(
        _hash(f"{column} null"), sql.Literal(share), value
    )


def _number(column: str, rows: int, shape: Shape) -> sql.Composed:
    """Return a number for the row out of as many as the column has different values."""
    distinct = shape.distinct or -1.0
    many = ceil(distinct if distinct > 0 else -distinct * rows)
    return sql.SQL("({} % {})").format(_hash(column), sql.Literal(max(1, many)))


def _hash(seed: str) -> sql.Composed:
    """Return a number from 0 to 2^63 - 1 that looks random and is the same in every run."""
    return sql.SQL("(pg_catalog.hashint8extended({}, {}) & 9223372036854775807)").format(
        ROW, sql.Literal(zlib.crc32(seed.encode()))
    )


def _one_of(values: Sequence[str], type_: ColumnType, number: sql.Composable) -> sql.Composed:
    array = sql.SQL(", ").join(sql.Literal(value) for value in values)
    return sql.SQL("((ARRAY[{}]::text[])[1 + {} % {}])::{}").format(
        array, number, sql.Literal(len(values)), verbatim(type_.name)
    )


def _natural(type_: ColumnType, number: sql.Composable, shape: Shape) -> Iterator[sql.Composed]:
    if type_.labels:
        yield _one_of(type_.labels, type_, number)
        return
    if type_.base.endswith("[]"):
        element = ColumnType(type_.base[:-2], type_.base[:-2])
        for one in _natural(element, number, shape):
            yield sql.SQL("(ARRAY[{}])::{}").format(one, verbatim(type_.name))
        return
    for value in _of_base(*candidates.taken_apart(type_.base), number, shape):
        yield sql.SQL("({})::{}").format(value, verbatim(type_.name))


def _of_base(
    base: str, first: int | None, second: int | None, n: sql.Composable, shape: Shape
) -> Iterator[sql.Composable]:
    if base in _TEXTS:
        yield from _texts(n, shape, longest=first or (1 if base == "character" else None))
    elif base == "numeric":
        yield _numeric(n, first, second or 0)
    elif base in ("json", "jsonb"):
        width = sql.Literal(max(0, min(WIDEST, round(shape.width or 40)) - 24))
        yield sql.SQL("pg_catalog.jsonb_build_object('n', {}, 'text', pg_catalog.repeat('x', {}))").format(n, width)
    elif base == "bytea":
        # Sixteen bytes each, all different: what repeats would be compressed.
        many = sql.Literal(ceil(min(WIDEST, shape.width or 16) / 16))
        yield sql.SQL(
            "(SELECT pg_catalog.decode(pg_catalog.string_agg(pg_catalog.md5({n}::text || '-' || part), ''), 'hex')"
            " FROM pg_catalog.generate_series(1, {many}) AS part)"
        ).format(n=n, many=many)
    elif base in _BY_TYPE:
        yield _BY_TYPE[base].format(n=n)
    if base in _NUMBERS:
        yield sql.SQL("1 + {} % 9").format(n)
        yield sql.SQL("1 + {} % 99").format(n)


def _numeric(n: sql.Composable, precision: int | None, scale: int) -> sql.Composed:
    if precision is None or scale < 0:
        return sql.SQL("({} % 1000000)::numeric / 100").format(n)
    whole = sql.Literal(10 ** min(15, max(0, precision - scale)))
    part = sql.Literal(10 ** min(15, scale))
    return sql.SQL("({} % {}) + (({} * 7919) % {})::numeric / {}").format(
        n, whole, sql.SQL("({} % 1000000000)").format(n), part, part
    )


def _texts(n: sql.Composable, shape: Shape, *, longest: int | None) -> Iterator[sql.Composable]:
    """Yield texts that many a condition takes: anything, an address, letters, digits, a telephone number."""
    width = min(WIDEST, round(shape.width or USUAL_WIDTH), *([longest] if longest else []))
    length = sql.Literal(max(1, width))
    filler = sql.Literal(ceil(width / 32))
    digits = sql.SQL("({})::text").format(n)
    letters = sql.SQL("pg_catalog.translate({}, '0123456789', 'abcdefghij')").format(digits)
    yield sql.SQL("pg_catalog.left({d} || '-' || pg_catalog.repeat(pg_catalog.md5({d}), {}), {})").format(
        filler, length, d=digits
    )
    yield sql.SQL("{} || '@example.org'").format(letters)
    yield letters
    yield sql.SQL("pg_catalog.upper({})").format(letters)
    yield digits
    yield sql.SQL("'+' || pg_catalog.lpad({}, 11, '4')").format(digits)
    yield sql.SQL("pg_catalog.initcap({l}) || ' ' || pg_catalog.initcap({l})").format(l=letters)
    if longest:
        # A number of one length, in as few characters as may be.
        yield sql.SQL("pg_catalog.lpad(pg_catalog.to_hex({}), {}, '0')").format(n, sql.Literal(longest))
