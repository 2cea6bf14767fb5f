"""What a rehearsal's seconds come to on the live rows, and where that is not known."""

from __future__ import annotations

import pytest

from tasks.planning.names import TableName
from tasks.planning.rehearsal import Rehearsal, RehearsedPhase, RehearsedStep, RehearsedTable, greatest, phase_rows

T = TableName("public", "t")


@pytest.mark.parametrize(
    ("rows", "live", "why", "factor"),
    [
        (1_000, 50_000, "", 50.0),
        (1_000, 10, "", 1.0),
        (500, 50_000, "", 100.0),
        (90, 200, "no more", 200 / 90),
        # A statement on two rows tells nothing of a million, and one on none not even of a few.
        (2, 1_000_000, "no more", None),
        (0, 1_000_000, "none fits", None),
        (0, 0, "partitioned", None),
    ],
)
def test_the_factor(rows: int, live: int, why: str, factor: float | None) -> None:
    assert RehearsedTable(table=T, live_rows=live, rows=rows, why=why).factor == factor


def test_what_is_not_known_is_not_told_as_if_it_were() -> None:
    step = RehearsedStep(phase="expand", step="s", title="s", seconds=2.0)
    phases = (
        RehearsedPhase(phase="a", steps=(step, step.model_copy(update={"factor": 3.0})), gates=1.0, undo=1.0),
        RehearsedPhase(
            phase="b",
            steps=(step, step.model_copy(update={"factor": None})),
            gates_factor=None,
            undo=1,
            undo_factor=None,
        ),
    )
    known, unknown = phase_rows(Rehearsal(server="PostgreSQL 16", tables=(), phases=phases, ratio=2.0))
    assert known == ("a", "4.0 s", "4.0 s", "1.0 s", "0.5 s", "1.0 s", "0.5 s")
    assert unknown == ("b", "4.0 s", "not known", "under 0.1 s", "not known", "1.0 s", "not known")
    assert greatest([]) == 1.0
