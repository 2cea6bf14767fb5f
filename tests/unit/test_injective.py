"""Only mappings that keep different values different may carry a UNIQUE constraint."""

from __future__ import annotations

import pytest

from tasks.planning.catalog import Column
from tasks.planning.strategies.expand_contract.injective import is_injective, keeps_apart

TYPES = {
    "small": "integer", "exact": "numeric(8,2)", "ratio": "double precision", "word": "character varying(10)",
    "moment": "timestamp without time zone", "Odd Name": "integer", "id": "uuid",
}  # fmt: skip


@pytest.mark.parametrize(
    "expression",
    [
        "small",
        '"Odd Name"',
        "((small))",
        "(small)::bigint",
        "small::numeric",
        "CAST((small) AS BIGINT)",
        'CAST("Odd Name" AS TEXT)',
        '("Odd Name")::text',
        "(exact)::text",
        "(word)::text",
        "id::text",
        "(moment AT TIME ZONE 'UTC'::text)",
        "timezone('UTC'::text, moment)",
    ],
)
def test_different_values_stay_different(expression: str) -> None:
    assert is_injective(expression, TYPES)


@pytest.mark.parametrize(
    "expression",
    [
        "(exact)::bigint",
        "CAST(exact AS BIGINT)",
        "CAST(word AS VARCHAR(3))",
        "ratio::bigint",
        "ratio::numeric",
        "(word)::numeric",
        "(word)::bigint",
        "unknown::text",
        "lower(word)",
        "small / 2",
        "(small)::bigint + (small)::bigint",
        "(moment AT TIME ZONE 'Europe/Berlin'::text)",
        "small::text::character varying(3)",
        "'constant'",
    ],
)
def test_values_that_could_become_one(expression: str) -> None:
    assert not is_injective(expression, TYPES)


def test_a_collation_that_ignores_case_keeps_no_more_apart_than_itself() -> None:
    plain = Column(name="a", attnum=1, type="text", not_null=False)
    loose = plain.model_copy(update={"collation": "public.without_case", "deterministic": False})
    stricter = loose.model_copy(update={"collation": "public.without_accents"})
    assert keeps_apart(loose, plain)
    assert keeps_apart(loose, loose)
    assert not keeps_apart(plain, loose)
    assert not keeps_apart(stricter, loose)
