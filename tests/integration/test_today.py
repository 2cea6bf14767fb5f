"""What a plan tells of the database as it is: each sentence for something that was really there."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from tasks.database.connection import Target
from tasks.database.foresight import survey
from tasks.planning.report import render
from tasks.planning.today import Survey, observations
from tasks.survey import surveyed
from tests.integration.staging import planned, written

SCHEMA = """
CREATE TABLE owner (id int PRIMARY KEY);
CREATE TABLE item (id int PRIMARY KEY, owner int REFERENCES owner, n int, kind text);
CREATE INDEX item_n ON item (n);
CREATE TABLE loose (n int);
CREATE INDEX item_n_kind ON item (n, kind);
ALTER TABLE item ADD CONSTRAINT known CHECK (kind <> '') NOT VALID;
INSERT INTO owner SELECT generate_series(1, 10);
INSERT INTO item SELECT n, 1 + n % 10, n, 'k' FROM generate_series(1, 2000) AS n;
"""


@contextmanager
def writing(target: Target) -> Iterator[None]:
    end = threading.Event()

    def work() -> None:
        with psycopg.connect(target.conninfo, autocommit=True) as connection:
            while not end.is_set():
                connection.execute("UPDATE item SET kind = 'x' WHERE id = 7")
                time.sleep(0.01)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


def test_it_tells_what_is_there(database: Target, tmp_path: Path) -> None:
    plan = planned(
        database,
        SCHEMA,
        written(tmp_path, "today", "ALTER TABLE item ADD COLUMN more int; ALTER TABLE loose ADD COLUMN more int;"),
    )
    with writing(database):
        found = Survey(*survey(database, plan, sample_seconds=3))
    seen = {(item.about, item.seen) for item in observations(found.facts, plan.tables)}
    told = "\n".join(sentence for _, sentence in seen)
    assert "public.item: 0 rows inserted" in told
    assert "no index of public.item begins with owner (item_owner_fkey): each DELETE on public.owner" in told
    assert "index item_n of public.item" in told
    assert "serves nothing that item_n_kind does not" in told
    assert "constraint known of public.item was never checked" in told
    assert any(about == "could not be seen" and "free disk space" in sentence for about, sentence in seen)
    assert ("weak already", "public.loose has no primary key") in seen
    assert ("weak already", "public.item has no primary key") not in seen
    document = render(plan, found)
    assert "risk factor" not in document, "it is told already"
    assert "| risk factor | constraint known was never validated |" in render(plan)
    assert "### As it is today" in document
    assert "Free disk that it needs at its highest: " in document
    assert "### As it is today" not in render(plan)


def test_a_database_that_is_lost_leaves_the_plan_without_a_survey(database: Target, tmp_path: Path) -> None:
    spec = written(tmp_path, "lost", "ALTER TABLE item ADD COLUMN more int;")
    plan = planned(database, SCHEMA, spec)
    said: list[str] = []
    assert surveyed(spec, Target("lost", "postgresql://nobody@127.0.0.1:1/none"), plan, None, said.append) is None
    assert said[-1].startswith("The plan is without what is seen and foretold: ")
    assert surveyed(spec, database, plan, None, said.append) is not None
