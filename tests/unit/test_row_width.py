"""Forecasts count how wide rows are, forward and back."""

from __future__ import annotations

import pytest

from tasks.planning.forecast import forecast, on_table, with_forecast
from tasks.planning.live import LiveTable
from tasks.planning.names import TableName
from tasks.planning.paces import (
    BUILT_IN,
    QUICKER,
    SLOWER,
    TOAST_WEIGHT,
    UNKNOWN_ROW_BYTES,
    Paces,
    bytes_of,
    foretold,
    paces,
    row_width,
)
from tasks.planning.plan import Action, BuildIndex, Forecast, Irreversible, LockUse, RestoreRows, Transaction, Work
from tasks.planning.recovery import recoveries, undoing
from tests.unit.test_forecast import ALTER, ROWS, found, plan, step, table
from tests.unit.test_paces import FILL, T, U, build, calibration, run

MB = 1_000_000
WIDE = table(data_bytes=4_000.0, heap_bytes=ROWS * 4_100)


@pytest.mark.parametrize(
    ("work", "rows", "heap", "toast", "took"),
    [
        ("rewrite", 2_000_000, 202 * MB, 0, 4.22),
        ("backfill", 2_000_000, 202 * MB, 0, 29.05),
        ("scan", 200_000, 205 * MB, 0, 0.08),
        ("build", 200_000, 205 * MB, 0, 0.19),
        ("rewrite", 200_000, 205 * MB, 0, 1.69),
        ("backfill", 200_000, 205 * MB, 0, 4.89),
        ("scan", 50_000, 205 * MB, 0, 0.03),
        ("validation", 50_000, 205 * MB, 0, 0.04),
        ("build", 50_000, 205 * MB, 0, 0.09),
        ("rewrite", 50_000, 205 * MB, 0, 1.73),
        ("backfill", 50_000, 205 * MB, 0, 2.22),
        ("rewrite", 50_000, 4 * MB, 207 * MB, 7.20),
    ],
)
def test_what_was_measured_lies_within_and_near_the_best(
    work: Work, rows: int, heap: int, toast: int, took: float
) -> None:
    """The numbers are those of `tests.benchmarks.row_width` that the paces were made of."""
    live = LiveTable(name=T, kind="r", rows=rows, heap_bytes=heap, toast_bytes=toast)
    best, worst = BUILT_IN[work].seconds(rows, bytes_of(work, live, rows))
    assert best / 1.1 <= took <= worst
    assert took < 2.2 * best


def test_narrow_rows_are_counted_and_wider_ones_measured_too() -> None:
    assert foretold("backfill", 990_000, BUILT_IN["backfill"], 990_000 * UNKNOWN_ROW_BYTES).best == 10
    wider = foretold("backfill", 990_000, BUILT_IN["backfill"], 990_000 * UNKNOWN_ROW_BYTES + 1_500 * MB)
    assert (wider.best, wider.worst) == (20, 49.5 + 75)


def test_a_row_is_as_wide_as_its_statistics_say_else_as_the_table_is_large() -> None:
    assert row_width(table()) == 68
    assert row_width(table(data_bytes=None)) == 67
    assert row_width(table(columns_measured=3)) == 67
    assert row_width(None) == row_width(table(data_bytes=None, rows=None)) == UNKNOWN_ROW_BYTES


def test_each_work_moves_its_own_bytes() -> None:
    live = table(toast_bytes=1_000)
    assert bytes_of("scan", live, ROWS) == 80 * MB
    assert bytes_of("backfill", live, 1_000) == 68_000
    assert bytes_of("rewrite", live, ROWS) == 80 * MB + TOAST_WEIGHT * 1_000


def test_a_step_over_wide_rows_takes_longer_and_so_does_its_gate() -> None:
    narrow = forecast(plan(step("f", FILL)), found(), Paces()).step("f").seconds
    wide = forecast(plan(step("f", FILL)), found(tables=(WIDE,)), Paces()).step("f").seconds
    assert wide.best > 3 * narrow.best
    assert wide.worst > 4 * narrow.worst
    assert on_table("scan", WIDE, Paces()).worst > 10 * on_table("scan", table(), Paces()).worst


def test_runs_of_another_table_are_brought_to_rows_of_this_width() -> None:
    known = paces([run(FILL, 100_000, 1.0)], widths={T: 100})
    same, wider = known.of(U, "backfill", 100), known.of(U, "backfill", 4_000)
    assert (same.best, same.worst) == pytest.approx((100_000 * QUICKER, 100_000 * SLOWER))
    assert wider.best < same.best / 3
    assert wider.worst < same.worst / 4
    # The other way round the best is better, and the worst no better than what was seen.
    back = paces([run(FILL, 100_000, 1.0)], widths={T: 4_000}).of(U, "backfill", 100)
    assert back.best > 3 * same.best
    assert back.worst == same.worst
    assert known.of(T, "backfill", 4_000) == known.of(T, "backfill"), "its own rows were as wide"


def test_a_calibration_on_wide_rows_leaves_more_room_for_the_disk() -> None:
    narrow, wide = calibration(), calibration().model_copy(update={"row_bytes": 4_000})
    quick, slow = narrow.paces()[T, "validation"], wide.paces()[T, "validation"]
    assert quick.best == slow.best
    assert slow.worst < quick.worst / 5


# ------------------------------------------------------------------------------------------------ going back

REBUILT = BuildIndex(table=T, index="i", statement="CREATE INDEX CONCURRENTLY i ON t (a)")
CHECKED = Transaction(statements=("ALTER TABLE public.t VALIDATE CONSTRAINT c",))
KEPT = RestoreRows(table=T, key=("id",), columns=(), kept=TableName("l", "k"))


@pytest.mark.parametrize(("undo", "work"), [(REBUILT, "build"), (CHECKED, "validation"), (KEPT, "backfill")])
def test_going_back_is_foretold_as_going_on_is(undo: Action, work: Work) -> None:
    locks = (LockUse(table=T, mode="SHARE UPDATE EXCLUSIVE"),)
    made = plan(step("x", ALTER, undo=(undo, ALTER), locks=locks))
    expected = forecast(made, found(), Paces())
    straight = on_table(work, table(), Paces())
    takes = expected.step("x").undo
    assert takes is not None
    assert (takes.best, takes.worst) == pytest.approx((straight.best + 0.01, straight.worst + 0.1), abs=0.011)
    assert undoing(made, made.phases[0]) == Forecast(best=0.01, worst=0.1), "nobody looked, no catalog knows the table"
    seen = with_forecast(made, expected)
    assert undoing(seen, seen.phases[0]) == takes


def test_going_back_counts_what_the_ledger_knows() -> None:
    made = plan(step("x", ALTER, undo=(REBUILT,)))
    known = paces([run(build(T), 600_000, 60.0)])
    seen = with_forecast(made, forecast(made, found(), known))
    (back,) = recoveries(seen)
    assert back.takes == Forecast(best=round(ROWS / 12_500, 2), worst=ROWS / 5_000)


def test_what_cannot_be_undone_has_no_forecast_of_it() -> None:
    made = plan(step("x", ALTER, undo=Irreversible(reason="gone")))
    assert forecast(made, found(), Paces()).step("x").undo is None
