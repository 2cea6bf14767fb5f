"""How far a long step is, in a sentence."""

from __future__ import annotations

import time

import pytest

from tasks.database.progress import Meter, Progress


def test_the_rest_is_told_at_the_rate_of_this_run(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    told: list[Progress] = []
    meter = Meter(told.append, step="fill", title="Fill", table="t", rows_done=1_000, rows_total=9_000)
    assert meter.rest() == "1,000 of 9,000 rows are done. "
    clock[0] += 10
    meter.add(2_000)
    assert meter.rest() == "3,000 of 9,000 rows are done; the rest takes about 30 s. "
    meter.add(6_500)
    assert meter.rest() == "9,500 rows are done. ", "the total was an estimate"
    assert [progress.rows_done for progress in told] == [3_000]
