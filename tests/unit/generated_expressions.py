"""Boolean and arithmetic expressions at random, with parentheses wherever there may be any; the same in every run."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

COLUMNS = ("a", "b", "c")

BOOLEAN = (
    "(NOT {b})", "({b} AND {b})", "({b} OR {b})", "({b} IS NULL)", "({b} IS NOT TRUE)", "({n} < {n})", "({n} = {n})",
    "({n} BETWEEN {n} AND {n})", "({n} IN ({n}, {n}))", "({n} IS DISTINCT FROM {n})", "({t} ~ {t})",
    "({t} LIKE {t})", "({n} = ANY (ARRAY[{n}, {n}]))", "(({b} = {b}))",
)  # fmt: skip
NUMBER = (
    "({n} - {n})", "({n} * {n})", "(- {n})", "({n} ^ {n})", "(@ {n})", "({b}::integer)", "({n}::numeric(8,2))",
    "(CASE WHEN {b} THEN {n} ELSE {n} END)", "(length({t}))", "({n} OPERATOR(pg_catalog.+) {n})",
)  # fmt: skip
TEXT = ("({t} || {t})", '({t} COLLATE "C")', "({n}::text)", "('x, USING y'::text)", "lower({t})", "({b}::text)")
KINDS = {"b": BOOLEAN, "n": NUMBER, "t": TEXT}


def generated(count: int, seed: int = 20260101) -> Iterator[str]:
    """Yield boolean expressions over `COLUMNS`."""
    random = Random(seed)
    for _ in range(count):
        yield _expression(random, "b", 3)


def _expression(random: Random, kind: str, depth: int) -> str:
    if depth == 0 or random.random() < 0.1:
        return random.choice(COLUMNS)
    text = random.choice(KINDS[kind])
    for inner in KINDS:
        while f"{{{inner}}}" in text:
            text = text.replace(f"{{{inner}}}", _expression(random, inner, depth - 1), 1)
    return text
