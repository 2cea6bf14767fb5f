"""The spec's own queries: timed before a migration, after its switch and at its end, and told where they are slower."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from tasks.database.connection import Target
from tasks.database.progress import Progress
from tasks.database.runner import open_runner
from tasks.database.timing import take
from tasks.narration import listening
from tasks.planning.errors import SpecError
from tasks.queries import timings_of, warnings
from tasks.standing import standing_of
from tests.integration.notes import CANARY, NAME, approve, execute, make_plan, register, run
from tests.integration.staging import written
from tests.integration.synthetic import ignore

QUICK = "CREATE OR REPLACE FUNCTION pace() RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN 1; END'"
SLOW = QUICK.replace("RETURN 1", "PERFORM pg_sleep(0.02); RETURN 1")
QUERIES = ("SELECT pace();", "SELECT sum(words) FROM note", "SELECT text FROM note WHERE id = 7")


class Ear:
    def __init__(self) -> None:
        self.heard: list[str] = []

    def say(self, sentence: str) -> None:
        if "queries" in sentence:
            self.heard.append(sentence)

    def progress(self, progress: Progress) -> None:
        pass


@pytest.mark.usefixtures("prefect_here")
def test_they_are_timed_before_after_the_switch_and_at_the_end(notes: Target) -> None:
    execute(notes, QUICK)
    register(notes, make_plan(notes, queries=QUERIES))
    ear = Ear()
    with listening(ear):
        run(until="expand")
        run()  # as far as the approval: nothing is timed twice
        assert [sentence.split(":")[0] for sentence in ear.heard] == ["queries, before"]
        execute(notes, SLOW)
        approve(notes, "switch")
        run()
        (_, slower) = ear.heard
        assert slower.startswith("WARNING, queries after switch: SELECT pace() takes 2")
        execute(notes, QUICK)
        approve(notes, "contract")
        assert run().kind == "finished"
    assert ear.heard[2:] == [
        "WARNING, queries at the end: SELECT sum(words) FROM note does not run any more: a column or table that it "
        f"names is not there (SQLSTATE 42703). Before: {before(notes, 1):.1f} ms."
    ]
    taken = timings_of(standing_of(notes, NAME).events)
    assert [moment.when for moment in taken] == ["before", "after switch", "at the end"]
    assert len(warnings(taken)) == 1
    assert taken[0].timings[2].nodes in (("Seq Scan of note",), ("Index Scan of note by note_pkey",))
    assert CANARY not in str(taken)


def before(target: Target, number: int) -> float:
    return timings_of(standing_of(target, NAME).events)[0].timings[number].median_ms or 0


@pytest.mark.usefixtures("prefect_here")
def test_a_baseline_is_not_taken_when_something_is_done_already(notes: Target) -> None:
    register(notes, make_plan(notes, queries=QUERIES))
    with open_runner(notes, NAME) as runner:
        runner.run_phase("expand", ignore)
    run()
    approve(notes, "switch")
    run()
    assert [moment.when for moment in timings_of(standing_of(notes, NAME).events)] == ["after switch"]


@pytest.mark.usefixtures("prefect_here")
def test_a_run_goes_on_where_they_cannot_be_kept(notes: Target) -> None:
    register(notes, make_plan(notes, queries=QUERIES))
    execute(notes, "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE disk_full; END'")
    execute(
        notes,
        "CREATE TRIGGER refuse BEFORE INSERT ON lockstep.event FOR EACH ROW WHEN (NEW.kind = 'queries') "
        "EXECUTE FUNCTION refuse()",
    )
    ear = Ear()
    with listening(ear):
        assert run(approved_by="me (--yes)").kind == "finished"
    why = "not timed. The database refused a statement: DiskFull (SQLSTATE 53100)."
    assert ear.heard == [f"queries, {when}: {why}" for when in ("before", "after switch", "at the end")]


def test_a_query_writes_nothing_and_ends_in_time(database: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.database.timing.STATEMENT_TIMEOUT_MS", 200)
    execute(database, "CREATE TABLE t (a int); CREATE SEQUENCE s")
    execute(database, "CREATE FUNCTION w() RETURNS int LANGUAGE sql AS 'INSERT INTO t VALUES (1) RETURNING a'")
    with psycopg.connect(database.conninfo, autocommit=True) as connection:
        found = take(connection, ("SELECT w()", "SELECT nextval('s')", "SELECT pg_sleep(60)", "SELECT 1"), "before")
        assert [timing.error for timing in found.timings] == [
            "fails (SQLSTATE 25006)",
            "fails (SQLSTATE 25006)",
            "takes longer than 0.2 s",
            None,
        ]
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (0,)


@pytest.mark.parametrize("query", ["DELETE FROM t", "SELECT 1; SELECT 2", "SELEC 1", ""])
def test_only_one_select_is_a_query(tmp_path: Path, query: str) -> None:
    with pytest.raises(SpecError, match="queries"):
        written(tmp_path, "q", "SELECT 1;", f"queries: ['{query}']")
