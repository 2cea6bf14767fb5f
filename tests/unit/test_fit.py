"""What a window lets begin: by what is left of it, by forecasts, by this server's pace, by what it stopped before."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from tasks.planning.fit import Measured, Obstacle, Work, closed, expected_seconds, obstacle, waiting, window_notes
from tasks.planning.names import TableName
from tasks.planning.plan import Action, Analyze, Backfill, BuildIndex, Forecast, Phase, Plan, Step, Transaction
from tasks.planning.windows import Window

WINDOW = Window(days=("sat", "sun"), start="02:00", end="05:00", timezone="Europe/Berlin")
INTAKE = TableName("public", "intake")
INDEX = BuildIndex(table=INTAKE, index="i", statement="CREATE INDEX CONCURRENTLY i ON public.intake (a)")
FILL = Backfill(table=INTAKE, key=("id",), key_types=("bigint",), unfilled="true", assignments=())
NEXT = datetime(2026, 11, 29, 1, tzinfo=UTC)
"""Sunday, 02:00 in Berlin."""


def at(hour: int, minute: int = 0) -> datetime:
    """A time of Saturday, 28 November, by the clock of Berlin."""
    return datetime(2026, 11, 28, hour - 1, minute, tzinfo=UTC)


def step(action: Action, best: float = 0.0, worst: float = 0.0) -> Step:
    return Step(id="constrain/it", title="it", action=action, forecast=Forecast(best=best, worst=worst))


def found(work: Work, now: datetime) -> Obstacle:
    there = obstacle(WINDOW, work, now)
    assert there is not None
    return there


def test_what_can_stop_at_any_moment_begins_whenever_it_is_open() -> None:
    assert obstacle(WINDOW, Work("The backfill"), at(4, 59)) is None
    shut = found(Work("The backfill"), at(5))
    assert shut.until == NEXT
    assert shut.why == (
        "The maintenance window (sat, sun 02:00–05:00 Europe/Berlin) opens on Sun 2026-11-29 02:00 CET (01:00 UTC)."
    )


def test_what_does_not_fit_the_rest_waits_for_the_next_opening() -> None:
    build = Work("Step constrain/it", seconds=2 * 3600)
    assert obstacle(WINDOW, build, at(3)) is None, "it ends with the window"
    late = found(build, at(3, 1))
    assert late.until == NEXT
    assert late.why.startswith("Step constrain/it takes about 2 h, and the maintenance window")
    assert "closes in 119 min" in late.why


def test_what_is_longer_than_a_window_is_begun_at_the_start_of_one_and_only_there() -> None:
    build = Work("Step constrain/it", seconds=5 * 3600)
    assert obstacle(WINDOW, build, at(2)) is None
    assert obstacle(WINDOW, build, at(2, 15)) is None, "the scheduled run comes a little later"
    late = found(build, at(2, 30))
    assert late.until == NEXT
    assert "longer than a whole maintenance window" in late.why


def test_what_a_whole_window_was_too_short_for_asks_a_person() -> None:
    given_up = Work("Step constrain/it", seconds=600, cut_after=2.9 * 3600)
    for now in (at(2), at(3), at(12)):
        starved = found(given_up, now)
        assert starved.until is None
        assert "had a whole maintenance window" in starved.why
    due = waiting("intake-v2", "water", "constrain", starved)
    assert (due.exit_code, due.reason, due.phase) == (3, "window", "constrain")
    assert "a longer window" in str(due.remedy)
    assert str(due.remedy).endswith("  lockstep run intake-v2 --database water --ignore-window")


def test_what_was_stopped_early_is_expected_to_take_longer_than_that() -> None:
    cut = Work("Step constrain/it", seconds=60, cut_after=1800)
    assert found(cut, at(4, 45)).until == NEXT
    assert obstacle(WINDOW, cut, at(4)) is None


def test_who_waits_is_told_when_and_how_to_go_on() -> None:
    due = waiting("intake-v2", "water", "backfill", closed(WINDOW, "7 rows are done. ", at(5)))
    assert due.what == (
        "intake-v2 waits in backfill: The maintenance window (sat, sun 02:00–05:00 Europe/Berlin) has closed. "
        "7 rows are done. It opens again on Sun 2026-11-29 02:00 CET (01:00 UTC)."
    )
    run = "lockstep run intake-v2 --database water"
    assert str(due.remedy).splitlines() == [
        f"Then:  {run}   (the deployment `continue` does so by itself)",
        f"Now already, outside of it:  {run} --ignore-window",
    ]


def test_a_step_is_expected_to_go_at_the_pace_of_its_like_on_this_server() -> None:
    coming = step(INDEX, best=10, worst=60)
    assert expected_seconds(coming, ()) == 60, "nothing is known: the worst"
    slow, quick = Measured(step(INDEX, 5, 30), 45), Measured(step(INDEX, 5, 30), 6)
    assert expected_seconds(coming, [quick]) == 12
    assert expected_seconds(coming, [slow, quick]) == 90
    assert expected_seconds(coming, [Measured(step(INDEX, 5, 30), 1)]) == 10, "not below the best"
    scan = Measured(step(Transaction(statements=("ALTER TABLE …",)), 5, 30), 300)
    trifle = Measured(step(INDEX, 0.01, 0.05), 2)
    assert expected_seconds(coming, [scan, trifle]) == 60
    assert expected_seconds(step(FILL, 100, 100_000), [slow]) == 0, "a backfill stops between two batches"
    assert expected_seconds(step(Analyze(table=INTAKE)), ()) == 0


def phase(*steps: Step, heavy: bool = True) -> Phase:
    return Phase(name="constrain", purpose="", application="", steps=steps, heavy=heavy)


def test_a_plan_names_the_steps_that_no_window_is_long_enough_for() -> None:
    long, short = step(INDEX, 3600, 4 * 3600), step(INDEX, 60, 3600)
    (note,) = window_notes(WINDOW, (phase(short, long), phase(long, heavy=False)))
    assert note.severity == "WARNING"
    assert note.text.startswith("Step constrain/it may take 4 h, longer than the whole maintenance window (sat, sun")
    assert "--ignore-window" in note.text
    (note,) = window_notes(WINDOW, (phase(step(FILL, 3600, 40 * 3600)),))
    assert note.severity == "INFO"
    assert "goes on in the next one" in note.text
    assert window_notes(None, (phase(long),)) == ()


@pytest.mark.parametrize("window", [WINDOW, None])
def test_a_plan_takes_its_window_along_and_one_without_still_loads(window: Window | None) -> None:
    plan = Plan(
        name="n", database="d", strategy="direct", why="", change="", change_hash="", server_version=160000,
        phases=(), window=window,
    )  # fmt: skip
    document = plan.model_dump(mode="json")
    assert Plan.model_validate(document) == plan
    del document["window"]
    assert Plan.model_validate(document).window is None
