"""Schema debt judged from made-up facts: what counts, and what only looks like it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from tasks.planning.live import ForeignKeyFacts, IndexFacts, KeyFacts, LiveFacts, LiveTable, WriteRate
from tasks.planning.names import TableName
from tasks.planning.schema_debt import (
    bloat,
    exhaustion,
    invalid_indexes,
    missing_indexes,
    near_exhaustion,
    notable_bloat,
    redundant_indexes,
    scanned_tables,
)
from tests.unit.test_live import NOW, T, U, facts

KEY = ForeignKeyFacts(name="fk", table=T, columns=("a", "b"), references=U)


def index(name: str, *columns: str | None, **fields: Any) -> IndexFacts:
    keys = tuple(f"{column or 'lower(x)'} int4_ops" for column in columns)
    return IndexFacts(name=name, table=T, method=fields.pop("method", "btree"), keys=keys, columns=columns, **fields)


def of(*indexes: IndexFacts, **fields: object) -> LiveFacts:
    return facts(indexes=indexes, **fields)


@pytest.mark.parametrize(
    ("found", "serves"),
    [
        (index("i", "a", "b"), True),
        (index("i", "b", "a", "c"), True),
        (index("i", "a"), False),
        (index("i", "c", "a", "b"), False),
        (index("i", None, "a", "b"), False),
        (index("i", "a", "b", valid=False), False),
        (index("i", "a", "b", method="brin"), False),
        (index("i", "a", "b", predicate="(a IS NOT NULL)"), True),
        (index("i", "a", "b", predicate="(c IS NOT NULL)"), False),
    ],
)
def test_which_index_serves_a_foreign_key(found: IndexFacts, serves: bool) -> None:
    assert (missing_indexes(of(found, foreign_keys=(KEY,))) == ()) is serves


def test_the_largest_table_without_an_index_comes_first() -> None:
    tables = (LiveTable(name=T, kind="r", rows=5), LiveTable(name=U, kind="r", rows=7, heap_bytes=8_192))
    keys = (KEY, KEY.model_copy(update={"table": U}))
    found = missing_indexes(facts(tables=tables, foreign_keys=keys))
    assert [(item.key.table, item.rows, item.bytes) for item in found] == [(U, 7, 8_192), (T, 5, 0)]


def names(found: LiveFacts) -> list[tuple[str, str, str, bool]]:
    return [(item.index.name, item.by.name, item.role, item.same) for item in redundant_indexes(found)]


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (index("i", "a"), index("j", "a", "b"), [("i", "j", "plain", False)]),
        (index("i", "a"), index("j", "a"), [("i", "j", "plain", True)]),
        (index("i", "a"), index("j", "b", "a"), []),
        (index("i", "a"), index("j", "a", "b", valid=False), []),
        (index("i", "a"), index("j", "a", "b", predicate="(c > 0)"), []),
        (index("i", "a", predicate="(c > 0)"), index("j", "a", "b", predicate="(c > 0)"), [("i", "j", "plain", False)]),
        (index("i", "a", method="gin"), index("j", "a", "b", method="gin"), []),
        (index("i", "a"), index("j", "a", "b", method="gist"), []),
        # What INCLUDE adds must be in the other one too.
        (index("i", "a", included=("b",)), index("j", "a", "b"), [("i", "j", "plain", False)]),
        (index("i", "a", included=("c",)), index("j", "a", "b"), []),
        # A unique one enforces something that a longer one does not.
        (index("i", "a", unique=True), index("j", "a", "b", unique=True), []),
        (index("i", "a", unique=True), index("j", "a"), [("j", "i", "plain", True)]),
        (index("i", "a", unique=True), index("j", "a", unique=True, primary=True), [("i", "j", "unique", True)]),
        (
            index("i", "a", unique=True, constraint="i"),
            index("j", "a", unique=True, primary=True, constraint="j"),
            [("i", "j", "constraint", True)],
        ),
        (index("i", "a", unique=True), index("j", "a", unique=True, nulls_not_distinct=True), []),
        (index("i", "a", unique=True), index("j", "a", unique=True, immediate=False, constraint="j"), [
            ("j", "i", "constraint", True)
        ]),
        (index("i", "a", replica_identity=True), index("j", "a", "b"), []),
        (index("i", "a", attached=True), index("j", "a", "b", attached=True), []),
    ],
)  # fmt: skip
def test_which_index_is_redundant(
    one: IndexFacts, other: IndexFacts, expected: list[tuple[str, str, str, bool]]
) -> None:
    assert names(of(one, other)) == expected
    assert names(of(other, one)) == expected


def test_of_three_that_are_the_same_one_remains() -> None:
    found = names(of(index("i", "a"), index("j", "a"), index("k", "a")))
    assert [name for name, *_ in found] == ["i", "j"]
    assert {by for _, by, *_ in found} == {"k"}


def test_an_index_of_another_table_replaces_nothing() -> None:
    assert names(of(index("i", "a"), index("j", "a").model_copy(update={"table": U}))) == []


@pytest.mark.parametrize(
    ("fields", "state"),
    [
        ({"being_built": False}, "failed"),
        ({"being_built": True}, "being built"),
        ({"being_built": None}, "unknown"),
        ({"partitioned": True}, "incomplete"),
    ],
)
def test_why_an_index_is_invalid(fields: dict[str, Any], state: str) -> None:
    (found,) = invalid_indexes(of(index("i", "a", valid=False, **fields), index("j", "b")))
    assert (found.index.name, found.state) == ("i", state)


@pytest.mark.parametrize(
    ("scans", "rows_read", "rows", "expected"),
    [
        (100, 100 * 200_000, 200_000, 1),
        (19, 19 * 200_000, 200_000, 0),
        (100, 100 * 20, 200_000, 0),  # each ended early
        (100, 100 * 90_000, 90_000, 0),  # small
        (0, 0, 200_000, 0),
    ],
)
def test_which_scans_count(scans: int, rows_read: int, rows: int, expected: int) -> None:
    table = LiveTable(name=T, kind="r", rows=rows, seq_scans=scans, seq_rows=rows_read, index_scans=300)
    found = scanned_tables(facts(tables=(table,)))
    assert len(found) == expected
    assert [(item.rows_a_scan, item.share) for item in found] == [(200_000, 0.25)] * expected


def key(**fields: Any) -> KeyFacts:
    return KeyFacts.model_validate({"table": T, "column": "id", "type": "integer", **fields})


def inserting(rows_a_second: float) -> WriteRate:
    return WriteRate(table=T, seconds=5, inserted=rows_a_second, updated=0, deleted=0)


def test_the_date_is_what_is_left_over_the_rate() -> None:
    (found,) = exhaustion(facts(keys=(key(last=2**31 - 1 - 86_400),), rates=(inserting(1.0),)))
    assert (found.left, found.measured, found.ends_at) == (86_400, "inserts", NOW + timedelta(days=1))
    assert found.used == pytest.approx(1.0, abs=1e-4)


def test_the_fastest_of_the_known_rates_counts() -> None:
    found = facts(keys=(key(last=1, rate=5.0),), rates=(inserting(1.0),), averages=(inserting(2.0),))
    assert [(item.rate, item.measured) for item in exhaustion(found)] == [(5.0, "sequence")]
    found = facts(keys=(key(last=1, rate=0.0),), averages=(inserting(2.0),))
    assert [(item.rate, item.measured) for item in exhaustion(found)] == [(2.0, "average")]


def test_a_key_that_nobody_uses_has_no_date() -> None:
    (found,) = exhaustion(facts(keys=(key(last=2_000_000_000),)))
    assert (found.rate, found.measured, found.ends_at) == (0.0, "none", None)
    # More than nine of ten numbers are gone all the same.
    assert near_exhaustion(facts(keys=(key(last=2_000_000_000),))) == (found,)
    assert near_exhaustion(facts(keys=(key(last=1_000),))) == ()


def test_increments_downwards_and_by_more_than_one() -> None:
    down = key(type="smallint", increment=-2, sequence=U, sequence_min=-(2**63), last=-32_760, rate=1.0)
    (found,) = exhaustion(facts(keys=(down,)))
    assert (found.limit, found.left) == (-32_768, 4)
    assert found.ends_at == NOW + timedelta(seconds=8)
    (found,) = exhaustion(facts(keys=(key(increment=10, last=2**31 - 101),), rates=(inserting(1.0),)))
    assert (found.left, found.ends_at) == (10, NOW + timedelta(seconds=10))


def test_a_sequence_that_cycles_or_is_never_used_up() -> None:
    cycle = key(last=2**31 - 2, cycles=True, rate=1.0)
    assert exhaustion(facts(keys=(cycle,)))[0].ends_at is None
    far = key(type="bigint", last=1, rate=1.0)
    assert exhaustion(facts(keys=(far,)))[0].ends_at is None


def test_what_is_not_known_is_not_judged() -> None:
    assert exhaustion(facts(keys=(key(last=None, seen=False),))) == ()


def test_what_refers_to_a_wider_key_ends_first() -> None:
    wide = key(type="bigint", last=2**31 - 11, rate=1.0)
    narrow = ForeignKeyFacts(name="f", table=U, columns=("t_id",), types=("integer",), references=T, referenced=("id",))
    as_wide = narrow.model_copy(update={"types": ("bigint",)})
    found = exhaustion(facts(keys=(wide,), foreign_keys=(narrow, as_wide)))
    assert [(item.key.table, item.key.column, item.left, item.refers_to) for item in found] == [
        (U, "t_id", 10, T),
        (T, "id", 2**63 - 1 - (2**31 - 11), None),
    ]
    assert found[0].ends_at == NOW + timedelta(seconds=10)


def test_the_one_that_ends_first_comes_first() -> None:
    soon, later = key(column="b", last=2**31 - 100, rate=1.0), key(column="a", last=2**31 - 1_000, rate=1.0)
    found = exhaustion(facts(keys=(key(column="c", last=5), later, soon)))
    assert [item.key.column for item in found] == ["b", "a", "c"]


def table(**fields: Any) -> LiveTable:
    full = {"name": T, "kind": "r", "rows": 1_000_000, "columns": 4, "columns_measured": 4, "data_bytes": 40.0}
    return LiveTable.model_validate({**full, **fields})


def test_bloat_of_a_table() -> None:
    # 24 + 40 + 4 bytes a row: 120 rows in a page of 8,168 usable bytes.
    (found,) = bloat(facts(tables=(table(heap_bytes=8_192 * 16_668),)))
    assert found.expected_bytes == 8_192 * 8_334
    assert found.share == pytest.approx(0.5)
    assert notable_bloat(facts(tables=(table(heap_bytes=8_192 * 16_668),))) == (found,)
    assert notable_bloat(facts(tables=(table(heap_bytes=8_192 * 10_000),))) == ()
    assert notable_bloat(facts(tables=(table(rows=1, heap_bytes=81_920),))) == ()


def test_a_fillfactor_is_no_bloat() -> None:
    (found,) = bloat(facts(tables=(table(heap_bytes=8_192 * 16_668, fillfactor=50),)))
    assert found.share < 0.001


@pytest.mark.parametrize("fields", [{"columns_measured": 3}, {"rows": None}, {"data_bytes": None}, {"kind": "p"}])
def test_without_statistics_there_is_no_estimate(fields: dict[str, Any]) -> None:
    assert bloat(facts(tables=(table(heap_bytes=8_192, **fields),))) == ()


def test_bloat_of_an_index() -> None:
    # 8 + 8 + 4 bytes an entry, nine tenths of 8,152 bytes: 2,726 leaves, 7 pages above, the root and the first page.
    found = index("i", "a", entries=1_000_000, key_bytes=8.0, bytes=8_192 * 5_470)
    (item,) = bloat(of(found))
    assert item.expected_bytes == 8_192 * (2_726 + 7 + 1 + 1)
    assert item.relation == TableName("public", "i")
    assert item.share == pytest.approx(0.5, abs=0.01)
    assert bloat(of(index("i", "a", entries=9, method="gin", key_bytes=8.0))) == ()
    assert bloat(of(index("i", "a", entries=9, key_bytes=None))) == ()


def test_of_indexes_that_could_not_be_read_none_is_missing() -> None:
    assert missing_indexes(facts(foreign_keys=(KEY,), sees_indexes=False)) == ()
