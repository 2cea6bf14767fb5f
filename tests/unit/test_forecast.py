"""What a plan takes, from made-up facts, and how wrong a forecast was."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.planning.fit import Measured, window_notes
from tasks.planning.forecast import (
    ANALYZE,
    ENTRY_BYTES,
    UPDATE_WAL_BYTES,
    Volume,
    forecast,
    forecast_error,
    with_forecast,
)
from tasks.planning.live import Disk, IndexFacts, LiveFacts, LiveTable, OpenTransaction, SlotFacts
from tasks.planning.names import TableName
from tasks.planning.paces import Calibration, Paces, paces
from tasks.planning.plan import (
    Action,
    Analyze,
    AwaitSnapshots,
    Check,
    Forecast,
    Gate,
    LockUse,
    Note,
    Phase,
    Plan,
    Reindex,
    Step,
    Transaction,
    UpdateRows,
)
from tasks.planning.windows import Window
from tests.unit.test_live import facts
from tests.unit.test_paces import FILL, VALIDATE, T, build, run

ROWS = 1_200_000
ALTER = Transaction(statements=("ALTER TABLE public.t ADD COLUMN a int",))


def table(**fields: Any) -> LiveTable:
    # 24 + 40 + 4 bytes a row.
    full = {"name": T, "kind": "r", "rows": ROWS, "columns": 4, "columns_measured": 4, "data_bytes": 40.0,
            "heap_bytes": 80_000_000, "index_bytes": 30_000_000}  # fmt: skip
    return LiveTable.model_validate({**full, **fields})


def found(**fields: Any) -> LiveFacts:
    return facts(**{"tables": (table(),), **fields})


def step(id_: str, action: Action, **fields: Any) -> Step:
    return Step.model_validate({"id": id_, "title": id_, "action": action, **fields})


def plan(*steps: Step, gate: Gate | None = None) -> Plan:
    phase = Phase(name="constrain", purpose="", application="", steps=steps, gate_after=gate)
    return Plan(
        name="m", database="d", strategy="expand-contract", why="", change="", change_hash="", server_version=160004,
        phases=(phase,),
    )  # fmt: skip


def test_seconds_are_of_todays_rows() -> None:
    stale = Forecast(best=0.01, worst=0.02, work="build", rows=10)
    expected = forecast(plan(step("i", build(T), forecast=stale)), found(), Paces())
    assert expected.step("i").seconds == Forecast(best=1.0, worst=6.0, work="build", rows=ROWS)
    assert expected.step("i").pace is not None
    assert expected.seconds == Forecast(best=1.0, worst=6.0)


def test_a_table_that_nobody_measured_has_the_plans_rows() -> None:
    said = Forecast(best=0, worst=0, work="build", rows=240_000)
    assert forecast(plan(step("i", build(T), forecast=said)), facts(), Paces()).step("i").seconds.best == 0.2


def test_short_steps_keep_their_forecast_and_analyze_has_one() -> None:
    short = Forecast(best=0.01, worst=0.05)
    expected = forecast(plan(step("a", ALTER, forecast=short), step("b", Analyze(table=T))), found(), Paces())
    assert (expected.step("a").seconds, expected.step("b").seconds) == (short, ANALYZE)
    assert (expected.step("a").pace, expected.step("a").wal, expected.disk) == (None, Volume(), Volume())


def test_the_ledger_goes_before_what_is_built_in() -> None:
    known = paces([run(FILL, 600_000, 10.0)])
    expected = forecast(plan(step("f", FILL)), found(), known)
    assert expected.step("f").seconds == Forecast(best=16.0, worst=40.0, work="backfill", rows=ROWS)


def test_stalls_are_the_wait_for_the_lock_and_the_work_under_it() -> None:
    lock = LockUse(table=T, mode="ACCESS EXCLUSIVE")
    short = Forecast(best=0.01, worst=0.05)
    expected = forecast(
        plan(
            step("a", ALTER, locks=(lock,), lock_timeout_ms=60, forecast=short),
            step("b", ALTER, locks=(lock,), lock_timeout_ms=60, forecast=Forecast(best=0.01, worst=90)),
            step("c", VALIDATE, locks=(LockUse(table=T, mode="SHARE UPDATE EXCLUSIVE"),)),
        ),
        found(),
        Paces(),
    )
    assert expected.step("a").stall == Forecast(best=0.01, worst=0.11)
    # The statement_timeout ends it after five seconds.
    assert expected.longest_stall == Forecast(best=0.01, worst=5.06)
    assert expected.stalled == Forecast(best=0.02, worst=5.17)
    assert expected.step("c").stall is None


def test_who_is_in_the_way() -> None:
    reader = OpenTransaction(pid=1, holds_rows_back=True, holds=(LockUse(table=T, mode="ACCESS SHARE"),))
    idle = OpenTransaction(pid=2, seconds=600.0)
    lock = (LockUse(table=T, mode="ACCESS EXCLUSIVE"),)
    expected = forecast(
        plan(step("a", ALTER, locks=lock), step("i", build(T)), step("f", FILL)),
        found(transactions=(reader, idle)),
        Paces(),
    )
    assert expected.step("a").in_the_way == (reader,)
    # A concurrent build waits for snapshots too, whatever they look at.
    assert expected.step("i").in_the_way == (reader,)
    assert expected.step("f").in_the_way == ()


def test_an_index_needs_its_size_in_disk_and_wal_and_room_to_sort() -> None:
    expected = forecast(plan(step("i", build(T))), found(disk=Disk(sort_bytes=2**30)), Paces()).step("i")
    assert expected.disk == Volume(best=ROWS * ENTRY_BYTES[0], worst=ROWS * ENTRY_BYTES[1])
    assert expected.wal == expected.disk
    assert expected.temporary.worst == 0, "it fits maintenance_work_mem"
    little = forecast(plan(step("i", build(T))), found(disk=Disk(sort_bytes=2**20)), Paces()).step("i")
    assert little.temporary.worst == little.disk.worst


def test_an_index_is_as_wide_as_the_widest_that_is_there() -> None:
    wide = IndexFacts(name="w", table=T, method="btree", keys=("a",), columns=("a",), bytes=200_000, entries=1_000)
    assert forecast(plan(step("i", build(T))), found(indexes=(wide,)), Paces()).disk.worst == ROWS * 200
    again = forecast(plan(step("r", Reindex(table=T, index="w"))), found(indexes=(wide,)), Paces())
    assert again.disk.worst == 200_000


def test_a_backfill_writes_every_row_again() -> None:
    expected = forecast(plan(step("f", FILL)), found(), Paces()).step("f")
    row = 68
    assert expected.wal.best == ROWS * (row + UPDATE_WAL_BYTES)
    assert expected.wal.worst == expected.wal.best + 2 * 80_000_000 + 30_000_000
    assert expected.disk == Volume(best=int(0.2 * ROWS * row), worst=ROWS * row + 30_000_000)


def test_a_calibration_knows_the_wal_of_a_row() -> None:
    measured = Calibration(
        table=T, rows=1, row_bytes=68, indexes=2, speeds=(), filled_wal=400.0, entry_bytes=22, seconds=1
    )
    wal = forecast(plan(step("f", FILL)), found(), paces((), [measured])).wal
    assert wal == Volume(best=ROWS * 268, worst=ROWS * 400 + 190_000_000)


def test_what_an_update_keeps_of_the_old_rows_is_counted() -> None:
    fields: dict[str, Any] = {"table": T, "alias": "t", "key": ("id",), "key_types": ("bigint",), "due": "true"}
    without = forecast(plan(step("u", UpdateRows(**fields, assignments=()))), found(), Paces()).disk
    kept = UpdateRows(**fields, assignments=(), kept=TableName("lockstep", "kept_1"))
    assert forecast(plan(step("u", kept)), found(), Paces()).disk.worst == without.worst + ROWS * 68


def test_wal_is_given_back_unless_something_keeps_it() -> None:
    small = Disk(max_wal_bytes=2**20)
    free = forecast(plan(step("f", FILL)), found(disk=small), Paces())
    assert free.disk_needed.worst == free.disk.worst + 2 * 2**20
    kept = forecast(plan(step("f", FILL)), found(disk=small, slots=(SlotFacts(name="s", kind="logical"),)), Paces())
    assert kept.disk_needed.worst == kept.disk.worst + kept.wal.worst
    assert kept.disk_needed.best == kept.disk.best + 2**20


def test_gates_read_tables_too() -> None:
    def check(kind: str) -> Check:
        return Check.model_validate(
            {"id": kind, "kind": kind, "title": kind, "severity": "CRITICAL", "table": T, "sql": "SELECT"}
        )

    gate = Gate(name="g", title="g", checks=(check("parity"), check("schema")), user_suites=("own.yaml",))
    expected = forecast(plan(step("a", ALTER), gate=gate), found(), Paces())
    (told,) = expected.gates
    assert told.seconds == Forecast(best=0.31, worst=2.9)
    assert told.suites == 1
    assert expected.seconds == told.seconds


def test_the_plan_takes_the_forecast_over() -> None:
    made = plan(step("i", build(T)), step("a", ALTER, forecast=Forecast(best=0.01, worst=0.05)))
    moved = with_forecast(made, forecast(made, found(), Paces()))
    assert [found.forecast.worst for found in moved.phases[0].steps] == [6.0, 0.05]
    assert moved.phases[0].steps[0].forecast.rows == ROWS
    assert Plan.model_validate_json(moved.model_dump_json()) == moved


def test_what_may_not_fit_the_window_is_noted_by_the_forecast_of_this_database() -> None:
    window = Window(days=("sat",), start="02:00", end="05:00", timezone="UTC")
    other = Note(severity="INFO", text="Something else.")

    def noted(worst: float, rows: int) -> tuple[Note, ...]:
        """Return the notes of a plan whose built-in forecast is the first one, on a database of so many rows."""
        slow = step("i", build(T), forecast=Forecast(best=1.0, worst=worst))
        phases = tuple(one.model_copy(update={"heavy": True}) for one in plan(slow).phases)
        made = plan().model_copy(
            update={"phases": phases, "window": window, "notes": (*window_notes(window, phases), other)}
        )
        return with_forecast(made, forecast(made, found(tables=(table(rows=rows),)), Paces())).notes

    assert noted(40 * 3600.0, ROWS) == (other,)
    kept, added = noted(6.0, 5_000_000_000)
    assert kept == other
    assert "longer than the whole maintenance window" in added.text


def timed(*times: tuple[float, float, float]) -> tuple[Plan, list[Measured]]:
    steps = [step(str(n), ALTER, forecast=Forecast(best=best, worst=worst)) for n, (best, worst, _) in enumerate(times)]
    return plan(*steps), [Measured(found, took) for found, (_, _, took) in zip(steps, times, strict=True)]


@pytest.mark.parametrize(
    ("best", "worst", "took", "verdict", "factor"),
    [
        (10, 20, 15, "within", 1.0),
        (10, 20, 30, "slower", 1.5),
        (10, 20, 4, "quicker", 2.5),
        (0.01, 0.05, 0.9, "within", 1.0),
        (0.01, 0.05, 3.0, "slower", 3.0),
        (0.5, 2.0, 0.01, "within", 1.0),
    ],
)
def test_the_error_of_a_step(best: float, worst: float, took: float, verdict: str, factor: float) -> None:
    (error,) = forecast_error(*timed((best, worst, took))).steps
    assert (error.verdict, error.factor) == (verdict, factor)


def test_the_error_of_a_run() -> None:
    error = forecast_error(*timed((10, 20, 15), (10, 20, 60)))
    assert (error.expected, error.actual, error.verdict) == (Forecast(best=20, worst=40), 75, "slower")
    assert error.factor == pytest.approx(1.88, abs=0.01)
    assert str(error) == "2 steps took 75.0 s, forecast were 20.0 to 40.0 s; beyond it: 1 slower 3.0 times"


def test_what_was_not_measured_is_named_and_compared_with_nothing() -> None:
    made, measured = timed((10, 20, 15), (100, 200, 150))
    error = forecast_error(made, measured[:1])
    assert (error.missing, error.expected, error.verdict) == (("1",), Forecast(best=10, worst=20), "within")


def test_waits_are_no_error() -> None:
    wait = step("wait", AwaitSnapshots())
    error = forecast_error(plan(wait), [Measured(wait, 600.0)])
    assert (error.steps, error.missing, error.actual) == ((), (), 0.0)
