"""What a benchmark says of stalls: whose fault they were."""

from __future__ import annotations

import pytest

from tasks.application.latency import Timing
from tests.benchmarks.waits import INTERVAL, UNSEEN, Wait, longest_for_a_lock, reasons


def test_a_wait_for_a_lock_lasts_as_long_as_every_look_sees_it() -> None:
    seen = [
        Wait(1, 0.00, 7, "Lock:tuple"),
        Wait(2, 0.01, 7, "Lock:relation"),
        Wait(2, 0.01, 8, "Lock:tuple"),
        Wait(3, 0.02, 7, "IO:WALSync"),
        Wait(4, 0.03, 7, "Lock:tuple"),
        Wait(6, 0.06, 7, "Lock:tuple"),
    ]
    assert longest_for_a_lock(seen) == pytest.approx((0.01 + INTERVAL) * 1000)
    assert longest_for_a_lock([]) == 0


def test_a_stall_is_put_down_to_what_was_waited_for_most_in_its_time() -> None:
    seen = [
        Wait(1, 1.01, 7, "IO:WALSync"),
        Wait(2, 1.02, 7, "IO:WALSync"),
        Wait(2, 1.02, 8, "Lock:tuple"),
        Wait(9, 3.00, 7, "Lock:tuple"),
    ]
    stalls = [Timing("a", 1.0, 60.0), Timing("b", 2.0, 70.0), Timing("c", 1.005, 90.0)]
    assert reasons(stalls, seen) == {"IO:WALSync": [90.0, 60.0], UNSEEN: [70.0]}
