"""What is told of a forecast beside its seconds."""

from __future__ import annotations

from tasks.planning.forecast import PlanForecast, StepForecast, Volume, forecast
from tasks.planning.live import OpenTransaction, Unseen
from tasks.planning.paces import Paces
from tasks.planning.plan import Forecast
from tasks.planning.today import foretold
from tests.unit.test_live import facts
from tests.unit.test_report import PLAN

GAP = Unseen(what="earlier runs", why="the role may not read them", remedy="GRANT")


def step(name: str, *in_the_way: OpenTransaction) -> StepForecast:
    return StepForecast(phase="p", step=name, title=name, seconds=Forecast(best=0, worst=1), in_the_way=in_the_way)


def test_who_would_be_waited_for_now_is_told_once() -> None:
    shop = OpenTransaction(pid=7, application="shop", role="app", seconds=3.0)
    hidden = OpenTransaction(pid=8)
    expected = PlanForecast(steps=(step("a"), step("b", shop), step("c", shop, hidden)))
    told = [item.seen for item in foretold(expected) if item.about == "in the way now"]
    assert told == [
        "pid 7 (application shop, role app, open for 3 s) would be waited for by b, c",
        "pid 8 (application -, role -) would be waited for by c",
    ]
    assert not [item for item in foretold(PlanForecast(steps=(step("a"),))) if item.about == "in the way now"]


def test_what_the_forecast_does_without_is_told() -> None:
    expected = forecast(PLAN, facts(), Paces(unseen=(GAP,)))
    assert [item.seen for item in foretold(expected) if item.about == "the forecast is made without"] == [str(GAP)]
    assert not [item for item in foretold(forecast(PLAN, facts(), Paces())) if "without" in item.about]


def test_new_log_files_are_told_of_where_the_log_of_the_migration_needs_them() -> None:
    writing = step("a").model_copy(update={"wal": Volume(best=2**30, worst=5 * 2**29)})

    def told(wal_files: int | None) -> list[str]:
        expected = PlanForecast(steps=(writing,), wal_files=wal_files)
        return [item.seen for item in foretold(expected) if item.about == "commits may wait for a new log file"]

    assert told(5 * 2**29) == []
    assert told(None) == []
    assert [text.split(":")[0] for text in told(2**30)] == [
        "the server keeps 1 GiB of them, and the migration writes more"
    ]
    assert "min_wal_size = 3GB" in told(80 * 2**20)[0]
    little = PlanForecast(steps=(step("a").model_copy(update={"wal": Volume(worst=2**20)}),), wal_files=0)
    assert not [item for item in foretold(little) if "log file" in item.about]
