"""The throttle's limits: how they are written, and what exceeds them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tasks.planning import throttle
from tasks.planning.errors import SpecError, UsageError
from tasks.planning.plan import Plan
from tasks.planning.spec import json_schema, load
from tasks.planning.throttle import Limits, Load, Replica, Slot, Snapshot, blind, reasons

GB = 2**30


def test_what_is_written_is_what_is_stored_and_read_back() -> None:
    written = {
        "replication_lag": "1500ms", "replication_bytes": "256MB", "slot_lag": "16GB", "lock_waiters": 3,
        "active_sessions": 40, "wal_rate": "50MB/s", "rows_per_second": 5000, "dead_rows": "25%", "ignore": ["delayed"],
        "sql": ["SELECT count(*) < 10 FROM jobs"],
    }  # fmt: skip
    limits = Limits.model_validate(written)
    assert limits.model_dump(mode="json") == written
    assert Limits.model_validate_json(limits.model_dump_json()) == limits
    assert (limits.replication_lag, limits.slot_lag, limits.wal_rate) == (1.5, 16 * GB, 50 * 2**20)


def test_the_defaults_go_through_json_too_and_the_schema_has_them() -> None:
    assert Limits.model_validate_json(Limits().model_dump_json()) == Limits()
    described = json.loads(json_schema())["$defs"]["Limits"]["properties"]
    given = {
        name: Limits.model_validate({name: part["default"]}) for name, part in described.items() if "default" in part
    }
    assert set(given) >= {"replication_lag", "slot_lag", "dead_rows", "lock_waiters"}
    assert all(limits == Limits() for limits in given.values())


@pytest.mark.parametrize("off", ["off", False, None])
@pytest.mark.parametrize("name", ["replication_lag", "slot_lag", "lock_waiters", "wal_rate", "dead_rows"])
def test_off_is_no_limit(name: str, off: object) -> None:
    assert getattr(Limits.model_validate({name: off}), name) is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"replication_lag": 10}, "replication_lag: write a number and a unit"),
        ({"replication_lag": "10 parsecs"}, "replication_lag: write a number and a unit"),
        ({"slot_lag": "-1GB"}, "slot_lag: write a number and a unit"),
        ({"wal_rate": "5MB"}, "wal_rate: write a size a second"),
        ({"dead_rows": "0%"}, "dead_rows: write a percentage above 0"),
        ({"rows_per_second": "0"}, "rows_per_second: "),
        ({"lock_waiters": "many"}, "lock_waiters: write a whole number"),
        ({"lock_waiters": True}, "lock_waiters: write a whole number"),
        ({"active_sessions": 1.5}, "active_sessions: write a whole number"),
        ({"sql": ["DELETE FROM t"]}, "one SELECT"),
        ({"sql": ["SELECT true; SELECT true"]}, "one SELECT"),
        ({"sql": ["SELEC"]}, "is not SQL"),
        ({"lag": "1s"}, "lag: "),
    ],
)
def test_a_wrong_limit_is_named(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as refused:
        Limits().changed(changes)
    assert words in refused.value.what


def test_a_changed_limit_leaves_the_others() -> None:
    limits = Limits(wal_rate="50MB/s", ignore=("r2",)).changed({"replication_lag": "30s"})
    assert (limits.replication_lag, limits.wal_rate, limits.ignore) == (30.0, 50 * 2**20, ("r2",))
    assert limits.changed({}) == limits


def test_a_spec_has_a_throttle_that_its_hash_does_not(tmp_path: Any) -> None:
    path = tmp_path / "one.yaml"
    path.write_text("name: one\nchange: ALTER TABLE t ADD COLUMN c int\n")
    plain = load(path)
    path.write_text(path.read_text() + "throttle: {replication_lag: 5s, lock_waiters: off}\n")
    limited = load(path)
    assert (limited.spec.throttle.replication_lag, limited.spec.throttle.lock_waiters) == (5.0, None)
    assert limited.change_hash == plain.change_hash
    path.write_text(path.read_text().replace("5s", "5"))
    with pytest.raises(SpecError, match=r"one\.yaml, line 3: throttle\.replication_lag: write a number and a unit"):
        load(path)


def test_a_plan_that_was_stored_without_a_throttle_has_the_defaults() -> None:
    plan = Plan(
        name="p", database="d", strategy="direct", why="", change="", change_hash="", server_version=160000, phases=()
    )
    stored = plan.model_dump(mode="json")
    del stored["throttle"]
    assert Plan.model_validate(stored) == plan


EXCEEDED: dict[str, tuple[Limits, Load, str]] = {
    "replica by time": (
        Limits(), Load(replicas=(Replica(name="r1", seconds=12.3, bytes=5),)),
        "the replica r1 is 12 s behind, limit 10 s",
    ),
    "replica by bytes": (
        Limits(replication_bytes="1MB"), Load(replicas=(Replica(name="r1", seconds=1, bytes=3 * 2**20),)),
        "the replica r1 is 3 MB behind, limit 1 MB",
    ),
    "inactive slot": (
        Limits(), Load(slots=(Slot(name="s", bytes=20 * GB, active=False),)),
        "the inactive replication slot s holds back 20 GB of WAL, limit 16 GB",
    ),
    "lock waiters": (Limits(), Load(lock_waiters=11), "11 sessions wait for locks, limit 10"),
    "sessions": (Limits(active_sessions=4), Load(active_sessions=5), "5 sessions are active, limit 4"),
    "WAL": (
        Limits(wal_rate="1MB/s"), Load(wal_rate=2.5 * 2**20), "the server writes 2.5 MB/s of WAL, limit 1 MB/s",
    ),
    "held rows": (
        Limits(),
        Load(held_rows=400_000, table="public.t", table_rows=1_000_000, oldest=Snapshot(who="pid 7 (…)", seconds=7200)),
        "400,000 dead rows of public.t cannot be removed, limit 300,000: pid 7 (…) holds an old snapshot for 2 h",
    ),
    "VACUUM": (
        Limits(), Load(unvacuumed_rows=400_000, table="public.t", table_rows=1_000_000),
        "VACUUM of public.t is 400,000 rows behind, limit 300,000",
    ),
    "own SQL": (Limits(), Load(objections=("own SQL 1 says no",)), "own SQL 1 says no"),
    "no look": (Limits(), Load(failures=("the server could not be looked at",)), "the server could not be looked at"),
}  # fmt: skip


@pytest.mark.parametrize("name", EXCEEDED)
def test_a_limit_that_is_exceeded_is_told_with_its_value(name: str) -> None:
    limits, load, told = EXCEEDED[name]
    assert reasons(limits, load) == (told,)


def test_nothing_is_exceeded_where_all_is_at_its_limit_or_ignored_or_off() -> None:
    replica, slot = Replica(name="r1", seconds=10, bytes=9 * GB), Slot(name="s", bytes=16 * GB, active=True)
    at_limit = Load(replicas=(replica,), slots=(slot,), lock_waiters=10, held_rows=throttle.LEAST_DEAD_ROWS)
    assert reasons(Limits(), at_limit) == ()
    above = Load(
        replicas=(Replica(name="delayed", seconds=3_600, bytes=9 * GB),),
        slots=(Slot(name="old", bytes=99 * GB, active=False),),
        lock_waiters=99, active_sessions=99, wal_rate=1e9,
        held_rows=10**9, unvacuumed_rows=10**9, oldest=Snapshot(who="x", seconds=None),
    )  # fmt: skip
    assert reasons(Limits(ignore=("delayed", "old"), lock_waiters="off", dead_rows="off"), above) == ()


def test_what_a_role_cannot_watch_is_named() -> None:
    assert blind(Limits()) == ("replication_lag", "dead_rows")
    told = Load(sees_all=False, lock_waiters=2).lines(Limits())
    assert "sessions that wait for a lock: 2" in told
    assert any("not watched: replication_lag, dead_rows" in line for line in told)
