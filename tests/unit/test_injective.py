"""Only mappings that keep different values different may carry a UNIQUE constraint."""

from __future__ import annotations

import pytest

from tasks.planning.strategies.expand_contract.injective import is_injective

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
