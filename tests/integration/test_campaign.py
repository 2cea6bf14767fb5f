"""The short form of the randomised campaign: a few seeds; ``LOCKSTEP_CAMPAIGN_SEED`` chooses the first of others."""

from __future__ import annotations

import os

import pytest

from tasks.database.connection import Target
from tests.campaign.__main__ import line
from tests.campaign.run import one_run

FIRST = int(os.environ.get("LOCKSTEP_CAMPAIGN_SEED", "1"))
RUNS = 6


@pytest.mark.parametrize("seed", range(FIRST, FIRST + RUNS))
def test_a_random_change_under_random_load_and_trouble_loses_nothing(database: Target, seed: int) -> None:
    report = one_run(database, seed)
    print(line(report))  # noqa: T201
    assert not report.fault, line(report)
    # A campaign of refusals would show nothing: the seeds are chosen so that each is carried out.
    assert report.outcome.startswith(("completed", "rolled back")) or "LOCKSTEP_CAMPAIGN_SEED" in os.environ
    assert report.statements > 0 or report.outcome.startswith("refused")
    assert report.in_new_shape > 0 or not report.outcome.startswith("completed")
