"""Which old and new columns belong together, derived from two catalogs and the spec."""

from __future__ import annotations

import pytest

from tasks.planning.catalog import Column, Table
from tasks.planning.errors import SpecError, Unsupported
from tasks.planning.names import TableName
from tasks.planning.strategies.expand_contract.mapping import MAX_GROUPS, Draft, Wanted, drafts

NAME = TableName("public", "person")


def table(**columns: tuple[int, str]) -> Table:
    found = tuple(Column(name=name, attnum=n, type=type_, not_null=False) for name, (n, type_) in columns.items())
    return Table(name=NAME, oid=1, kind="r", persistence="p", owner="me", columns=found)


def test_a_rename_is_told_by_the_attribute_number() -> None:
    found = drafts(table(a=(1, "text")), table(b=(1, "text")), {}, {})
    assert found == (Draft(NAME, ("a",), ("b",), {"b": '"a"'}, {"a": '"b"'}),)


def test_an_unchanged_table_has_no_groups() -> None:
    assert drafts(table(a=(1, "text")), table(a=(1, "text")), {}, {}) == ()


def test_using_is_the_way_up_of_a_renamed_and_retyped_column() -> None:
    wanted = {"b": Wanted(down="b::text")}
    (found,) = drafts(table(a=(1, "text")), table(b=(1, "integer")), wanted, {"a": "a::int"})
    assert (found.up, found.down) == ({"b": "a::int"}, {"a": "b::text"})


def test_a_conversion_without_the_way_back_is_refused() -> None:
    with pytest.raises(SpecError, match="down is missing") as refused:
        drafts(table(a=(1, "text")), table(b=(1, "integer")), {}, {"a": "a::int"})
    assert refused.value.remedy is not None


@pytest.mark.parametrize("using", [{}, {"a": "a::bigint"}])
def test_another_type_under_the_same_name_is_a_group_of_its_own(using: dict[str, str]) -> None:
    (found,) = drafts(table(a=(1, "integer")), table(a=(1, "bigint")), {}, using)
    assert (found.old, found.new, found.down) == (("a",), ("a",), {"a": '"a"'})
    assert found.keeps_name
    assert drafts(table(a=(1, "integer")), table(a=(1, "bigint")), {}, using, direct=("a",)) == ()


def test_another_type_under_the_same_name_does_not_join_other_columns() -> None:
    before, after = table(a=(1, "integer"), b=(2, "text")), table(a=(1, "bigint"), c=(3, "text"))
    with pytest.raises(Unsupported, match="same name and in one mapping"):
        drafts(before, after, {"c": Wanted("b", {"b": "c || a"})}, {})


@pytest.mark.parametrize("last_down", [None, {"full": "first || ' ' || last"}])
def test_a_column_split_in_two_is_one_group(last_down: dict[str, str] | None) -> None:
    """With one `down` as with two: a write of either new column has to reach the old one."""
    before, after = table(full=(1, "text")), table(first=(2, "text"), last=(3, "text"))
    wanted = {
        "first": Wanted("split_part(full, ' ', 1)", {"full": "first || ' ' || last"}),
        "last": Wanted("split_part(full, ' ', 2)", last_down),
    }
    (found,) = drafts(before, after, wanted, {})
    assert (set(found.old), set(found.new)) == ({"full"}, {"first", "last"})
    assert set(found.up) == {"first", "last"}
    assert found.down == {"full": "first || ' ' || last"}


def test_two_columns_merged_are_one_group() -> None:
    before, after = table(first=(1, "text"), last=(2, "text")), table(full=(3, "text"))
    down = {"first": "split_part(full, ' ', 1)", "last": "split_part(full, ' ', 2)"}
    (found,) = drafts(before, after, {"full": Wanted("first || last", down)}, {})
    assert (found.old, found.new) == (("first", "last"), ("full",))


def test_a_derived_column_stays_a_group_of_its_own() -> None:
    before, after = table(a=(1, "text")), table(b=(1, "text"), loud=(2, "text"))
    found = drafts(before, after, {"loud": Wanted("upper(a)")}, {})
    assert [(draft.old, draft.new) for draft in found] == [(("a",), ("b",)), ((), ("loud",))]


def test_two_ways_back_to_one_column_are_refused() -> None:
    before, after = table(full=(1, "text")), table(first=(2, "text"), last=(3, "text"))
    wanted = {"first": Wanted("full", {"full": "first"}), "last": Wanted("full", {"full": "last"})}
    with pytest.raises(SpecError, match="two different down"):
        drafts(before, after, wanted, {})


def test_a_down_for_an_unknown_column_is_refused() -> None:
    with pytest.raises(SpecError, match="nowhere"):
        drafts(table(a=(1, "text")), table(b=(2, "text")), {"b": Wanted("a", {"nowhere": "b"})}, {})


def test_one_down_for_several_dropped_columns_is_refused() -> None:
    before, after = table(a=(1, "text"), c=(2, "text")), table(b=(3, "text"))
    with pytest.raises(SpecError, match="not clear for which"):
        drafts(before, after, {"b": Wanted("a", "b")}, {})


def test_a_drop_with_a_way_back_is_a_group() -> None:
    (found,) = drafts(table(a=(1, "text"), k=(2, "text")), table(k=(2, "text")), {"a": Wanted(down="'x'")}, {})
    assert (found.old, found.new, found.down) == (("a",), (), {"a": "'x'"})


def test_more_groups_than_bits_are_refused() -> None:
    before = table(**{f"a{n}": (n + 1, "text") for n in range(MAX_GROUPS + 1)})
    after = table(**{f"b{n}": (n + 1, "text") for n in range(MAX_GROUPS + 1)})
    with pytest.raises(Unsupported, match="at most"):
        drafts(before, after, {}, {})
