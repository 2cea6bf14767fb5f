"""Which of the spec's own queries are told as slower than before."""

from __future__ import annotations

import pytest

from tasks.planning.timings import Timing, Timings, regressions, rows


def taken(*timings: Timing) -> Timings:
    return Timings(when="before", timings=timings)


def seen(milliseconds: float, *nodes: str) -> Timing:
    return Timing(query="SELECT\n 1;", median_ms=milliseconds, longest_ms=milliseconds, nodes=nodes)


@pytest.mark.parametrize(("before", "after"), [(1, 5.9), (1, 1), (100, 149), (100, 20)])
def test_what_caches_and_neighbours_do_is_not_told(before: float, after: float) -> None:
    assert regressions(taken(seen(before)), taken(seen(after))) == ()


@pytest.mark.parametrize(("before", "after"), [(1, 6.1), (100, 151)])
def test_what_takes_much_longer_is_told(before: float, after: float) -> None:
    (told,) = regressions(taken(seen(before, "Index Scan of a by b")), taken(seen(after, "Seq Scan of a")))
    assert told == (
        f"SELECT 1 takes {after:.1f} ms instead of {before:.1f} ms. It was Index Scan of a by b and is Seq Scan of a."
    )


def test_what_does_not_run_any_more_is_told_and_what_never_did_is_not() -> None:
    broken = Timing(query="SELECT\n 1;", error="is not there")
    (told,) = regressions(taken(seen(3)), taken(broken))
    assert told == "SELECT 1 does not run any more: is not there. Before: 3.0 ms."
    assert regressions(taken(broken), taken(broken)) == regressions(taken(broken), taken(seen(3))) == ()


def test_a_row_has_each_moment() -> None:
    assert rows((taken(seen(1)), taken(Timing(query="SELECT 1", error="gone")))) == (
        ("SELECT 1", "1.0 ms (longest 1.0): nothing to read", "gone"),
    )
