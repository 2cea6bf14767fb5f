"""Which changes of type under the same name the old application version goes on with."""

from __future__ import annotations

import pytest

from tasks.planning.retyping import is_plain_cast, old_version_can

CAN = [
    ("smallint", "integer"), ("integer", "bigint"), ("smallint", "bigint"), ("bigint", "numeric"),
    ("real", "double precision"), ("numeric(8,2)", "numeric(10,2)"), ("numeric(8,2)", "numeric(9,3)"),
    ("numeric(8,2)", "numeric"), ("numeric(5)", "numeric(6,1)"), ("character varying(50)", "character varying(51)"),
    ("character varying(50)", "text"), ("text", "character varying"), ("cidr", "inet"),
    ("timestamp(3) with time zone", "timestamp with time zone"), ("time(0) with time zone", "time(6) with time zone"),
    ("bit varying(3)", "bit varying(4)"), ("jsonb", "jsonb"),
]  # fmt: skip
CANNOT = [
    ("bigint", "integer"), ("integer", "numeric(10,0)"), ("integer", "text"), ("numeric(8,2)", "numeric(8,3)"),
    ("numeric", "numeric(10,2)"), ("character varying(50)", "character varying(49)"), ("text", "character varying(9)"),
    ("character(3)", "text"), ("timestamp without time zone", "timestamp with time zone"),
    ("timestamp(6) without time zone", "timestamp(3) without time zone"), ("integer[]", "bigint[]"), ("json", "jsonb"),
    ("inet", "cidr"), ("public.mood", "text"), ("double precision", "real"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new"), CAN)
def test_the_old_version_goes_on(old: str, new: str) -> None:
    assert old_version_can(old, new)


@pytest.mark.parametrize(("old", "new"), CANNOT)
def test_the_old_version_is_not_known_to_go_on(old: str, new: str) -> None:
    assert not old_version_can(old, new)


def test_a_plain_cast_is_told_from_a_computation() -> None:
    assert is_plain_cast("c", "c", "bigint")
    assert is_plain_cast("c::int8", "c", "bigint") or is_plain_cast("c::bigint", "c", "bigint")
    assert is_plain_cast('"C d"::numeric(8,2)', "C d", "numeric(8,2)")
    assert not is_plain_cast("c + 1", "c", "bigint")
    assert not is_plain_cast("d", "c", "bigint")
    assert not is_plain_cast("c::text", "c", "bigint")
