"""The benchmark program still runs. What it measures is nobody's condition here: tests assert no times."""

import pytest

from tests.benchmarks import backfill


def test_the_fills_are_measured_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    backfill.main(["--parts", "fills", "--rows", "3000", "--repeats", "1"])
    out = capsys.readouterr().out
    for name in (backfill.UPDATE, backfill.LOCKSTEP, backfill.UNKNOWN):
        assert f"| {name} | " in out
    assert "3,000 rows, median of 1" in out
