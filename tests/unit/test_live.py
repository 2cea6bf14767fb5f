"""What is concluded from two looks at the counters, and from the locks that others hold."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import get_args

import pytest

from tasks.planning.live import (
    Counters,
    LiveFacts,
    LiveTable,
    OpenTransaction,
    SequenceMark,
    WriteRate,
    Written,
    averages_since,
    conflicts,
    taken_between,
    wal_rate,
    writes_between,
)
from tasks.planning.names import TableName
from tasks.planning.plan import LOCK_ORDER, LockMode, LockUse

NOW = datetime(2026, 11, 26, 4, tzinfo=UTC)
T, U = TableName("public", "t"), TableName("public", "u")


def written(seconds: float, *counters: Counters, wal: int | None = 0) -> Written:
    return Written(at=NOW + timedelta(seconds=seconds), tables=counters, wal=wal)


def facts(**fields: object) -> LiveFacts:
    return LiveFacts.model_validate({"database": "d", "role": "r", "server_version": 160004, "taken_at": NOW, **fields})


def test_rates_are_the_difference_over_the_time() -> None:
    first = written(0, Counters(table=T, inserted=100, updated=10, deleted=1, hot=5), Counters(table=U, inserted=7))
    second = written(4, Counters(table=T, inserted=180, updated=30, deleted=5, hot=20), Counters(table=U, inserted=7))
    assert writes_between(first, second) == (
        WriteRate(table=T, seconds=4, inserted=20, updated=5, deleted=1, hot_share=0.75),
    )
    assert writes_between(first, second)[0].rows == 26


def test_a_new_table_counts_from_nothing_and_a_reset_one_not_at_all() -> None:
    first = written(0, Counters(table=T, inserted=100))
    second = written(2, Counters(table=T, inserted=3), Counters(table=U, inserted=8))
    assert [rate.table for rate in writes_between(first, second)] == [U]


def test_no_time_no_rate() -> None:
    look = written(0, Counters(table=T, inserted=1))
    assert writes_between(look, look) == ()
    assert wal_rate(look, look) is None
    assert averages_since(look, None) == ()


def test_the_average_is_since_the_counters_began() -> None:
    (rate,) = averages_since(written(0, Counters(table=T, inserted=3_600)), NOW - timedelta(hours=1))
    assert (rate.inserted, rate.hot_share) == (1.0, None)


def test_wal_rate() -> None:
    assert wal_rate(written(0, wal=1_000), written(2, wal=5_000)) == 2_000
    assert wal_rate(written(0, wal=None), written(2)) is None


def test_sequences_count_either_way_once_they_were_used() -> None:
    def look(seconds: float, up: int | None, down: int) -> Written:
        marks = (SequenceMark(sequence=T, last=up), SequenceMark(sequence=U, last=down))
        return Written(at=NOW + timedelta(seconds=seconds), sequences=marks)

    assert taken_between(look(0, 10, -5), look(2, 14, -11)) == {T: 2.0, U: 3.0}
    assert taken_between(look(0, None, -5), look(2, 14, -5)) == {U: 0.0}


def test_a_partitioned_table_is_written_by_its_partitions() -> None:
    one, two = TableName("public", "one"), TableName("public", "two")
    found = facts(
        tables=(LiveTable(name=T, kind="p"), *(LiveTable(name=part, kind="r", root=T) for part in (one, two))),
        rates=(
            WriteRate(table=one, seconds=5, inserted=1, updated=3, deleted=0, hot_share=1.0),
            WriteRate(table=two, seconds=5, inserted=2, updated=1, deleted=1, hot_share=0.0),
            WriteRate(table=U, seconds=5, inserted=9, updated=9, deleted=9),
        ),
    )
    assert found.rate_of(T) == WriteRate(table=T, seconds=5, inserted=3, updated=4, deleted=1, hot_share=0.75)


def test_the_average_serves_where_nothing_was_written_just_now() -> None:
    average = WriteRate(table=T, seconds=86_400, inserted=0.5, updated=0, deleted=0)
    assert facts(averages=(average,)).rate_of(T) == average
    assert facts().rate_of(T) is None


@pytest.mark.parametrize("held", get_args(LockMode))
@pytest.mark.parametrize("wanted", get_args(LockMode))
def test_conflicts_are_symmetric(held: LockMode, wanted: LockMode) -> None:
    assert conflicts(held, wanted) == conflicts(wanted, held)


def test_conflicts_as_in_the_manual() -> None:
    blocked = {mode: sum(conflicts(held, mode) for held in LOCK_ORDER) for mode in LOCK_ORDER}
    assert list(blocked.values()) == [1, 2, 4, 5, 5, 6, 7, 8]
    # SHARE lets another SHARE in, SHARE UPDATE EXCLUSIVE not itself.
    assert not conflicts("SHARE", "SHARE")
    assert conflicts("SHARE UPDATE EXCLUSIVE", "SHARE UPDATE EXCLUSIVE")


def test_who_is_in_the_way() -> None:
    reader = OpenTransaction(pid=1, holds=(LockUse(table=T, mode="ACCESS SHARE"),))
    writer = OpenTransaction(pid=2, holds=(LockUse(table=T, mode="ROW EXCLUSIVE"),))
    elsewhere = OpenTransaction(pid=3, holds=(LockUse(table=U, mode="ACCESS EXCLUSIVE"),))
    found = facts(transactions=(reader, writer, elsewhere))
    assert found.in_the_way([LockUse(table=T, mode="ACCESS EXCLUSIVE")]) == (reader, writer)
    assert found.in_the_way([LockUse(table=T, mode="SHARE")]) == (writer,)
    assert found.in_the_way([LockUse(table=T, mode="SHARE UPDATE EXCLUSIVE")]) == ()
    assert found.in_the_way([]) == ()
