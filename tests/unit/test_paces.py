"""Which pace counts, and what earlier runs teach."""

from __future__ import annotations

import pytest

from tasks.planning.names import TableName
from tasks.planning.paces import (
    BUILT_IN,
    LEAST_ROWS,
    QUICKER,
    SLOWER,
    Calibration,
    Run,
    foretold,
    learnt,
    paces,
    table_of,
    work_of,
)
from tasks.planning.plan import (
    Action,
    Analyze,
    Backfill,
    BuildIndex,
    Forecast,
    LockUse,
    Reindex,
    Step,
    Transaction,
    Work,
)

T, U, V = TableName("public", "t"), TableName("public", "u"), TableName("public", "v")
FILL = Backfill(table=T, key=("id",), key_types=("bigint",), unfilled="true", assignments=())
VALIDATE = Transaction(statements=("ALTER TABLE public.t VALIDATE CONSTRAINT c",))


def build(table: TableName) -> BuildIndex:
    return BuildIndex(table=table, index="i", statement="CREATE INDEX CONCURRENTLY i ON t (a)")


def step(action: Action, **fields: object) -> Step:
    return Step.model_validate({"id": "x", "title": "x", "action": action, **fields})


def run(action: Action, rows: int, seconds: float, migration: str = "m") -> Run:
    return Run(migration, step(action), seconds, rows)


def calibration(table: TableName = T, ratio: float | None = None) -> Calibration:
    speeds: tuple[tuple[Work, float, float], ...] = (("build", 3e6, 3e6), ("validation", 4e6, 1e6))
    return Calibration(
        table=table, rows=50_000, row_bytes=80, indexes=2, speeds=speeds, filled_wal=300, entry_bytes=22, seconds=1,
        ratio=ratio,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("action", "work"),
    [
        (FILL, "backfill"),
        (build(T), "build"),
        (Reindex(table=T, index="i"), "build"),
        (VALIDATE, "validation"),
        (Transaction(statements=("ALTER TABLE public.t DROP CONSTRAINT c",)), None),
        (Analyze(table=T), None),
    ],
)
def test_the_work_of_a_step(action: Action, work: Work | None) -> None:
    assert work_of(step(action)) == work


def test_what_the_planner_said_of_its_work_counts() -> None:
    said = Forecast(best=1, worst=2, work="scan", rows=5)
    assert work_of(step(Transaction(statements=("ALTER TABLE t ALTER c SET NOT NULL",)), forecast=said)) == "scan"


def test_the_table_of_a_step() -> None:
    assert table_of(step(FILL)) == T
    assert table_of(step(VALIDATE, locks=(LockUse(table=U, mode="SHARE UPDATE EXCLUSIVE"),))) == U
    assert table_of(step(VALIDATE)) is None


def test_foretold() -> None:
    assert foretold("build", 1_200_000, BUILT_IN["build"]) == Forecast(best=1, worst=6, work="build", rows=1_200_000)


def test_a_run_teaches_a_range() -> None:
    pace = learnt([run(FILL, 100_000, 1.0), run(FILL, 100_000, 4.0, "other")])[T, "backfill"]
    assert (pace.best, pace.worst) == (100_000 * QUICKER, 25_000 * SLOWER)
    assert pace.said == "2 steps over 200,000 rows in earlier runs here (m, other)"


@pytest.mark.parametrize("short", [run(FILL, LEAST_ROWS - 1, 9.0), run(FILL, 10**6, 0.1), run(VALIDATE, 10**6, 9.0)])
def test_short_runs_and_those_of_no_table_teach_nothing(short: Run) -> None:
    assert learnt([short]) == {}


def test_this_table_then_others_then_the_calibration_then_what_is_built_in() -> None:
    known = paces([run(build(T), 100_000, 1.0), run(build(U), 100_000, 0.5)], [calibration(V)])
    assert known.of(T, "build").best == 125_000
    assert known.of(T, "build").source == "ledger"
    # Of a third table, what both of them show.
    both = known.of(V, "build")
    assert (both.best, both.worst, both.source) == (250_000, 50_000, "ledger")
    assert "other tables" in both.said
    assert known.of(V, "validation").source == "calibration"
    assert known.of(U, "validation") == BUILT_IN["validation"]
    assert known.of(None, "backfill") == BUILT_IN["backfill"]
    assert known.calibration_of(V) == calibration(V)
    assert known.calibration_of(T) is None


def test_one_other_table_is_named_as_such() -> None:
    assert paces([run(build(U), 100_000, 0.5)]).of(T, "build").said.endswith("(m), on another table")


def test_a_calibration_leaves_room_for_another_disk() -> None:
    found = calibration().paces()
    spread = BUILT_IN["build"].best / BUILT_IN["build"].worst
    assert (found[T, "build"].best, found[T, "build"].worst) == pytest.approx((3e6 * QUICKER, 3e6 / spread))
    # The slowest kind of validation, and that spread.
    assert found[T, "validation"].worst == pytest.approx(1e6 / 8)
    assert found[T, "build"].said == "50,000 generated rows of 80 bytes in the scratch database"


def test_a_calibration_is_scaled_by_how_fast_the_live_server_computes() -> None:
    found = calibration(ratio=0.5).paces()[T, "build"]
    assert found.best == 1.5e6 * QUICKER
    assert "this server computing 0.5 times as fast" in found.said
