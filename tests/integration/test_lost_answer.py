"""A COMMIT whose answer is lost: the ledger alone says whether it happened, and nothing is done twice or not at all."""

import pytest

from tasks.database.connection import Target
from tasks.database.runner import open_runner
from tests.integration.filling import WRONG
from tests.integration.lossy_proxy import lossy
from tests.integration.synthetic import NAME, ask, create_readings, ignore, phase, plan, register, transaction


# Taking up the lease again needs commits of its own: fewer than these in between, and nothing could ever succeed.
@pytest.mark.parametrize("every", [11, 13, 17])
def test_the_migration_is_the_same_when_answers_of_commits_are_lost(
    database: Target, every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCKSTEP_LEASE_SECONDS", "2")
    create_readings(database, 3_000)
    wanted = plan()
    register(database, wanted)
    with lossy(database, every=every) as (through, proxy):
        for one in wanted.phases:
            with open_runner(through, NAME) as runner:
                runner.run_phase(one.name, ignore)
                runner.finish_phase(one.name)
        assert proxy.lost > 0
    assert ask(database, WRONG) == [(0,)]
    assert ask(database, "SELECT DISTINCT state FROM lockstep.step") == [("done",)]
    assert ask(database, "SELECT rows_done FROM lockstep.progress") == [(3_000,)]


def test_a_step_whose_commit_was_not_heard_is_not_repeated(database: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second INSERT would show: the step is not idempotent."""
    monkeypatch.setenv("LOCKSTEP_LEASE_SECONDS", "2")
    create_readings(database, 10)
    inserts = [transaction(f"one/{n}", f"INSERT INTO public.readings VALUES ({1000 + n}, 1)") for n in range(6)]
    counted = transaction("one/count", "CREATE TABLE public.counted AS SELECT count(*) AS n FROM public.readings")
    register(database, plan(phase("one", *inserts, counted)))
    with lossy(database, every=7) as (through, proxy), open_runner(through, NAME) as runner:
        runner.run_phase("one", ignore)
        assert proxy.lost > 1
    assert ask(database, "SELECT n FROM public.counted") == [(16,)]
