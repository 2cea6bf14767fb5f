"""Maintenance windows: when one is open, when it closes, when it opens next. Pure; the moment is the caller's to ask.

One rule covers a clock that jumps. On each of its days a window opens at the first moment at which the clock of its
zone shows ``start`` or later, and closes at the first moment at which it shows ``end`` or later. So a time that is left
out in spring counts as the moment of the jump, a time that comes twice in autumn is its first coming, and a window that
lies within the hour that is left out does not open on that day. Lengths are real seconds.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated, Literal, Self, get_args
from zoneinfo import ZoneInfo

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: tuple[Day, ...] = get_args(Day)
"""In the order of `date.weekday`."""

_LOOK_BACK = timedelta(days=2)
"""An opening lasts less than a day, and a calendar can leave out a day (Samoa, 30 December 2011)."""


def _clock(value: object) -> object:
    if isinstance(value, int):
        # YAML 1.1 reads an unquoted 02:00 as a number to the base of sixty.
        raise ValueError('write the time in quotes, e.g. "02:00"')
    if isinstance(value, str) and not re.fullmatch(r"([01]\d|2[0-3])(:[0-5]\d){1,2}", value):
        raise ValueError('a time of day is written "HH:MM" or "HH:MM:SS"')
    return value


Clock = Annotated[str, BeforeValidator(_clock), Field(description="HH:MM or HH:MM:SS")]


@dataclass(frozen=True)
class Opening:
    """One time for which a window is open: from ``opens`` up to, and without, ``closes``; both in UTC."""

    opens: datetime
    closes: datetime

    @property
    def seconds(self) -> float:
        """Its length, by a clock that does not jump."""
        return (self.closes - self.opens).total_seconds()


class Window(BaseModel):
    """When heavy work may run. ``days`` are those on which it opens; ``end`` before ``start`` means past midnight."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    days: tuple[Day, ...] = Field(min_length=1)
    start: Clock
    end: Clock
    timezone: str = "UTC"

    @field_validator("timezone")
    @classmethod
    def _is_known(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (OSError, ValueError, KeyError):
            raise ValueError("no such time zone; write one like Europe/Berlin or UTC") from None
        return value

    @model_validator(mode="after")
    def _has_length(self) -> Self:
        first, last = self.hours
        if first == last:
            raise ValueError("start and end are the same time")
        return self

    @property
    def hours(self) -> tuple[time, time]:
        """Start and end as times of day in ``timezone``."""
        return time.fromisoformat(self.start), time.fromisoformat(self.end)

    @property
    def seconds(self) -> float:
        """Its length on a day on which the clock does not jump."""
        opens, closes = self._walls(date(2000, 1, 1))
        return (closes - opens).total_seconds()

    def opening_at(self, moment: datetime) -> Opening | None:
        """Return the opening in which an aware moment lies, None while the window is closed."""
        found = next(self.openings(moment))
        return found if found.opens <= moment else None

    def next_opening(self, moment: datetime) -> Opening:
        """Return the first opening that begins after an aware moment."""
        return next(opening for opening in self.openings(moment) if opening.opens > moment)

    def openings(self, moment: datetime) -> Iterator[Opening]:
        """Yield the openings that are not over at an aware moment, in order; they do not end."""
        if moment.tzinfo is None:
            raise ValueError("a moment needs a time zone")
        day = moment.astimezone(self._zone).date() - _LOOK_BACK
        while True:
            if DAYS[day.weekday()] in self.days:
                opens, closes = (_first_reached(wall, self._zone) for wall in self._walls(day))
                if opens < closes and moment < closes:
                    yield Opening(opens, closes)
            day += timedelta(days=1)

    def told(self, moment: datetime) -> str:
        """Return a moment in the window's zone and in UTC: ``Sat 2026-11-28 02:00 CET (01:00 UTC)``."""
        here, utc = moment.astimezone(self._zone), moment.astimezone(UTC)
        text = f"{_day_and_time(here)} {here.tzname()}"
        if here.tzname() == "UTC":
            return text
        there = _time(utc) if utc.date() == here.date() else _day_and_time(utc)
        return f"{text} ({there} UTC)"

    def __str__(self) -> str:
        """Return e.g. ``sat, sun 02:00–05:00 Europe/Berlin``."""
        days = "every day" if set(self.days) == set(DAYS) else ", ".join(self.days)
        return f"{days} {self.start}–{self.end} {self.timezone}"

    @property
    def _zone(self) -> ZoneInfo:
        return ZoneInfo(self.timezone)

    def _walls(self, day: date) -> tuple[datetime, datetime]:
        """Return what the clock on the wall shows at both ends of the opening of a day."""
        start, end = self.hours
        last = day if start < end else day + timedelta(days=1)
        return datetime.combine(day, start), datetime.combine(last, end)


def _first_reached(wall: datetime, zone: ZoneInfo) -> datetime:
    """Return the first moment, in UTC, at which the clock of a zone shows ``wall`` or later."""

    def shown(moment: datetime) -> datetime:
        return moment.astimezone(zone).replace(tzinfo=None)

    first = wall.replace(tzinfo=zone, fold=0).astimezone(UTC)
    if shown(first) == wall:
        return first
    # The clock jumps over it. Read with the offset of before the jump it lies behind it, with that of after, before it.
    before = wall.replace(tzinfo=zone, fold=1).astimezone(UTC)
    span = range(int((first - before).total_seconds()) + 1)
    jump = bisect_left(span, True, key=lambda seconds: shown(before + timedelta(seconds=seconds)) >= wall)
    return before + timedelta(seconds=jump)


def _day_and_time(moment: datetime) -> str:
    return f"{DAYS[moment.weekday()].capitalize()} {moment:%Y-%m-%d} {_time(moment)}"


def _time(moment: datetime) -> str:
    return f"{moment:%H:%M:%S}" if moment.second else f"{moment:%H:%M}"
