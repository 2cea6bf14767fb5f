"""Maintenance windows: days, midnights, weeks, and clocks that jump."""

from __future__ import annotations

import itertools
import random
from bisect import bisect_left
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from pydantic import ValidationError

from tasks.planning.windows import DAYS, Day, Opening, Window

BERLIN = "Europe/Berlin"
HOUR = 3600.0


def window(days: str, start: str, end: str, timezone: str = "UTC") -> Window:
    return Window.model_validate({"days": days.split(), "start": start, "end": end, "timezone": timezone})


def utc(text: str) -> datetime:
    return datetime.fromisoformat(f"2026-{text}").replace(tzinfo=UTC)


def opening(found: Window, near: str) -> tuple[str, str, float]:
    """The opening that is open or next at a moment: both ends in UTC, and its length in hours."""
    first = next(found.openings(utc(near)))
    return f"{first.opens:%m-%d %H:%M}", f"{first.closes:%m-%d %H:%M}", first.seconds / HOUR


def test_it_is_open_from_its_start_up_to_and_without_its_end() -> None:
    weekend = window("sat sun", "02:00", "05:00")
    assert weekend.opening_at(utc("11-28 01:59:59")) is None
    saturday = Opening(utc("11-28 02:00"), utc("11-28 05:00"))
    assert weekend.opening_at(utc("11-28 02:00")) == saturday
    assert weekend.opening_at(utc("11-28 04:59:59")) == saturday
    assert weekend.opening_at(utc("11-28 05:00")) is None
    assert saturday.seconds == weekend.seconds == 3 * HOUR


def test_the_next_one_is_the_one_that_begins_later() -> None:
    weekend = window("sat sun", "02:00", "05:00")
    assert weekend.next_opening(utc("11-25 12:00")).opens == utc("11-28 02:00")
    assert weekend.next_opening(utc("11-28 01:00")).opens == utc("11-28 02:00")
    assert weekend.next_opening(utc("11-28 02:00")).opens == utc("11-29 02:00"), "the one that is open is not next"
    assert weekend.next_opening(utc("11-29 06:00")).opens == utc("12-05 02:00"), "round the week"


def test_over_midnight_the_day_of_the_start_counts() -> None:
    friday = window("fri", "22:00", "04:00")
    assert friday.seconds == 6 * HOUR
    assert friday.opening_at(utc("11-27 03:00")) is None, "the morning of Friday belongs to Thursday's night"
    night = Opening(utc("11-27 22:00"), utc("11-28 04:00"))
    assert friday.opening_at(utc("11-27 23:00")) == night
    assert friday.opening_at(utc("11-28 00:00")) == night
    assert friday.opening_at(utc("11-28 03:59")) == night
    assert friday.opening_at(utc("11-28 22:30")) is None
    assert window("sun", "23:00", "00:00").opening_at(utc("11-29 23:30")) == Opening(
        utc("11-29 23:00"), utc("11-30 00:00")
    )


def test_days_and_times_are_those_of_its_zone() -> None:
    auckland = window("sat", "00:30", "02:00", "Pacific/Auckland")
    assert opening(auckland, "11-26 00:00") == ("11-27 11:30", "11-27 13:00", 1.5)
    los_angeles = window("sat", "22:00", "23:00", "America/Los_Angeles")
    assert opening(los_angeles, "11-26 00:00") == ("11-29 06:00", "11-29 07:00", 1.0)


SPRING, AUTUMN = "03-29 00:00", "10-25 00:00"
"""Sundays on which the clock jumps in Berlin: over 02:00 to 03:00, and from 03:00 back to 02:00, at 01:00 UTC."""


@pytest.mark.parametrize(
    ("near", "start", "end", "expected"),
    [
        # In spring the clock shows 01:59, then 03:00.
        (SPRING, "01:00", "05:00", ("03-29 00:00", "03-29 03:00", 3.0)),
        (SPRING, "02:30", "04:00", ("03-29 01:00", "03-29 02:00", 1.0)),  # begins in the gap: at the jump
        (SPRING, "01:30", "02:30", ("03-29 00:30", "03-29 01:00", 0.5)),  # ends in the gap: at the jump
        (SPRING, "02:00", "03:00", ("04-05 00:00", "04-05 01:00", 1.0)),  # the gap itself: not on this day
        (SPRING, "02:10", "02:50", ("04-05 00:10", "04-05 00:50", 40 / 60)),
        (SPRING, "03:00", "04:00", ("03-29 01:00", "03-29 02:00", 1.0)),
        # In autumn it shows 02:59, then 02:00 again.
        (AUTUMN, "01:00", "05:00", ("10-24 23:00", "10-25 04:00", 5.0)),
        (AUTUMN, "02:30", "04:00", ("10-25 00:30", "10-25 03:00", 2.5)),  # begins with the first 02:30
        (AUTUMN, "01:30", "02:30", ("10-24 23:30", "10-25 00:30", 1.0)),  # ends with the first 02:30
        (AUTUMN, "02:10", "02:50", ("10-25 00:10", "10-25 00:50", 40 / 60)),  # within the hour: once
        (AUTUMN, "02:00", "03:00", ("10-25 00:00", "10-25 02:00", 2.0)),
        (AUTUMN, "03:00", "04:00", ("10-25 02:00", "10-25 03:00", 1.0)),
    ],
)
def test_clocks_that_jump(near: str, start: str, end: str, expected: tuple[str, str, float]) -> None:
    near = near if start > "01:30" else (utc(near) - timedelta(hours=2)).strftime("%m-%d %H:%M")
    assert opening(window("sun", start, end, BERLIN), near) == expected


def test_a_night_with_a_jump_in_it_is_an_hour_shorter_or_longer() -> None:
    night = window("sat", "22:00", "06:00", BERLIN)
    assert night.seconds == 8 * HOUR
    assert opening(night, "03-28 12:00") == ("03-28 21:00", "03-29 04:00", 7.0)
    assert opening(night, "10-24 12:00") == ("10-24 20:00", "10-25 05:00", 9.0)
    assert opening(night, "11-28 12:00") == ("11-28 21:00", "11-29 05:00", 8.0)


def test_the_repeated_hour_is_open_once() -> None:
    short = window("sun", "02:10", "02:50", BERLIN)
    assert short.opening_at(utc("10-25 00:30")) is not None
    assert short.opening_at(utc("10-25 01:30")) is None, "02:30 for the second time"
    assert short.next_opening(utc("10-25 00:30")).opens == utc("11-01 01:10")


def test_a_midnight_that_does_not_exist() -> None:
    # In Beirut the clock jumped from 23:59 to 01:00 at the beginning of 29 March 2026.
    beirut = window("sun", "00:00", "02:00", "Asia/Beirut")
    assert opening(beirut, "03-28 12:00") == ("03-28 22:00", "03-28 23:00", 1.0)
    evening = window("sat", "22:00", "00:30", "Asia/Beirut")
    assert opening(evening, "03-28 12:00") == ("03-28 20:00", "03-28 22:00", 2.0)


def test_a_day_that_does_not_exist() -> None:
    # Samoa went from Thursday 29 December 2011 to Saturday the 31st.
    before = datetime(2011, 12, 29, 12, tzinfo=UTC)
    friday = window("fri", "02:00", "05:00", "Pacific/Apia")
    assert friday.next_opening(before).opens.astimezone(ZoneInfo("Pacific/Apia")).strftime("%d %H:%M") == "06 02:00"
    thursday = window("thu", "22:00", "06:00", "Pacific/Apia")
    (night,) = itertools.islice(thursday.openings(before), 1)
    assert night.seconds == 2 * HOUR


def test_a_moment_needs_a_zone() -> None:
    with pytest.raises(ValueError, match="time zone"):
        window("sat", "02:00", "05:00").opening_at(datetime(2026, 11, 28, 3))  # noqa: DTZ001 - that is the point


def test_it_is_told_in_its_zone_and_in_utc() -> None:
    berlin = window("sat sun", "02:00", "05:00", BERLIN)
    assert str(berlin) == "sat, sun 02:00–05:00 Europe/Berlin"
    assert str(window("sun mon tue wed thu fri sat", "22:00", "04:00")) == "every day 22:00–04:00 UTC"
    assert berlin.told(utc("11-28 01:00")) == "Sat 2026-11-28 02:00 CET (01:00 UTC)"
    assert berlin.told(utc("06-27 22:30:05")) == "Sun 2026-06-28 00:30:05 CEST (Sat 2026-06-27 22:30:05 UTC)"
    assert window("sat", "02:00", "05:00").told(utc("11-28 02:00")) == "Sat 2026-11-28 02:00 UTC"


def test_it_comes_back_equal_from_json_and_refuses_what_it_does_not_know() -> None:
    berlin = window("sat sun", "22:00", "05:00:30", BERLIN)
    assert Window.model_validate_json(berlin.model_dump_json()) == berlin
    assert berlin.hours == (time(22), time(5, 0, 30))
    with pytest.raises(ValidationError):
        Window.model_validate(berlin.model_dump() | {"until": "06:00"})
    with pytest.raises(ValidationError, match="same time"):
        window("sat", "02:00", "02:00:00")


ZONES = (
    BERLIN, "UTC", "America/New_York", "Australia/Lord_Howe", "Asia/Beirut", "Africa/Casablanca", "Pacific/Apia",
    "America/Sao_Paulo", "Asia/Kathmandu", "America/St_Johns", "Antarctica/Troll",
)  # fmt: skip
TICK = timedelta(minutes=5)
TICKS = 9 * 288


def occurrences(latest: list[datetime], days: list[Day], start: int, end: int) -> list[tuple[int, int]]:
    """The definition, taken literally: from the first tick at which the clock has shown a time to that of another."""
    found = []
    first_day = latest[0].date() - timedelta(days=1)
    for day in (first_day + timedelta(days=number) for number in range(12)):
        midnight = datetime.combine(day, time())
        ends = midnight + TICK * start, midnight + TICK * (end + 288 * (end < start))
        opens, closes = (bisect_left(latest, wall) for wall in ends)
        if DAYS[day.weekday()] in days and 0 < opens < closes < TICKS:
            found.append((opens, closes))
    return found


@pytest.mark.parametrize("zone", ZONES)
def test_by_a_clock_that_is_watched_all_the_time(zone: str) -> None:
    seed = f"windows {zone}"
    choose = random.Random(seed)
    for first in (utc("03-26 00:00"), utc("10-22 00:00"), utc("11-01 00:00").replace(year=choose.randint(2000, 2030))):
        ticks = [first + TICK * number for number in range(TICKS)]
        # The latest that the clock has shown so far: it never decreases, so that a time can be looked up.
        shown = (tick.astimezone(ZoneInfo(zone)).replace(tzinfo=None) for tick in ticks)
        latest = list(itertools.accumulate(shown, max))
        for _ in range(12):
            days: list[Day] = choose.sample(DAYS, choose.randint(1, 7))
            start, end = choose.sample(range(288), 2)
            opens_at, closes_at = (f"{n // 12:02}:{n % 12 * 5:02}" for n in (start, end))
            found = window(" ".join(days), opens_at, closes_at, zone)
            expected = occurrences(latest, days, start, end)
            openings = itertools.islice(found.openings(ticks[0]), 12)
            got = [((one.opens - first) / TICK, (one.closes - first) / TICK) for one in openings]
            assert [(a, b) for a, b in got if a > 0 and b < TICKS] == expected, f"{seed}: {found} after {first}"
            for opens, closes in expected:
                assert found.opening_at(ticks[opens]) == found.opening_at(ticks[choose.randrange(opens, closes)])
                assert found.next_opening(ticks[opens - 1]).opens == ticks[opens]
            for (_, closed), (reopened, _) in itertools.pairwise(expected):
                assert closed == reopened or found.opening_at(ticks[choose.randrange(closed, reopened)]) is None
