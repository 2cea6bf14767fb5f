"""Names that personal data has, and how the rules are written."""

from __future__ import annotations

import pytest

from tasks.planning.catalog import Column, Table
from tasks.planning.names import TableName
from tasks.planning.plan import Risk, RiskLevel
from tasks.planning.risks import RULES, looks_personal, proposed, worst


@pytest.mark.parametrize("name", ["email", "Email", "full_name", "birth_date", "phone", "ip", "home_address", "weight"])
def test_names_of_personal_data(name: str) -> None:
    assert looks_personal(name)


@pytest.mark.parametrize("name", ["id", "name", "description", "zippy", "shipped_at", "emailed_total", "volume_ml"])
def test_names_of_other_data(name: str) -> None:
    assert not looks_personal(name)


def test_what_looks_personal_and_is_not_named_is_proposed() -> None:
    columns = tuple(
        Column(name=name, attnum=n, type="text", not_null=True) for n, name in enumerate(("id", "email", "phone"))
    )
    table = Table(name=TableName("public", "users"), oid=1, kind="r", persistence="p", owner="o", columns=columns)
    (note,) = proposed([table], {"public.users.phone"})
    assert "users.email" in note.text
    assert "phone" not in note.text
    assert proposed([table], {"public.users.phone", "public.users.email"}) == ()


def test_the_worst_counts() -> None:
    levels: tuple[RiskLevel, ...] = ("LOW", "HIGH", "MEDIUM")
    risks = [Risk(rule="r", level=level, what="", concerns="", mitigation="", tolerance="") for level in levels]
    assert worst(risks) == "HIGH"
    assert worst([]) == "LOW"


def test_rules_have_names_of_their_own() -> None:
    assert len({rule.id for rule in RULES}) == len(RULES)
