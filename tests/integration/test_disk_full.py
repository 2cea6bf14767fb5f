"""The disk is full in mid-backfill: a tablespace on a file system of a few megabytes, filled to the last byte."""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from tasks.database.connection import Target
from tasks.database.installation import give_to_server
from tasks.database.server import EmbeddedServer
from tasks.planning.errors import StepFailed
from tests.conftest import AnyServer, require
from tests.integration.filling import expanded, fill
from tests.integration.journey import execute
from tests.integration.synthetic import (
    ask,
    create_readings,
)

ROWS = 20_000
LEFT = 40_000
"""Bytes: for some batches, not for all."""


@pytest.fixture
def small_disk(server: AnyServer) -> Iterator[Path]:
    """A mounted file system of 8 MB that the server may write to."""
    if not isinstance(server, EmbeddedServer):
        pytest.skip("a tablespace needs a folder on the server's machine")
    folder = server.folder / f"disk-{secrets.token_hex(4)}"
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", "size=8m,mode=755", "none"]
    mounted = subprocess.run([require("mount"), *options, str(folder)], capture_output=True, check=False)
    if mounted.returncode != 0:
        folder.rmdir()
        # Not a component that could be installed: a user, or a container, may do it or not.
        pytest.skip("mounting a small file system takes a privilege that is missing here")
    try:
        yield folder
    finally:
        subprocess.run([require("umount"), str(folder)], check=True)
        folder.rmdir()


@pytest.fixture
def tablespace(server: AnyServer, small_disk: Path) -> str:
    place = small_disk / "tablespace"
    place.mkdir()
    give_to_server(place, 0o700)
    name = f"small_{secrets.token_hex(4)}"
    with psycopg.connect(server.url("postgres"), autocommit=True) as admin:
        location = sql.Literal(str(place))
        admin.execute(sql.SQL("CREATE TABLESPACE {} LOCATION {}").format(sql.Identifier(name), location))
    return name


@pytest.fixture
def crowded(tablespace: str, database: Target, server: AnyServer) -> Iterator[Target]:
    """`readings` on the small disk; the table is gone before its tablespace goes."""
    create_readings(database, ROWS)
    execute(database, f"ALTER TABLE readings SET TABLESPACE {tablespace}")
    yield database
    execute(database, "DROP TABLE readings")
    with psycopg.connect(server.url("postgres"), autocommit=True) as admin:
        admin.execute("CHECKPOINT")
        admin.execute(sql.SQL("DROP TABLESPACE {}").format(sql.Identifier(tablespace)))


def fill_up(disk: Path, *, leaving: int) -> Path:
    """Write a file that takes all the space but some bytes."""
    filler = disk / "filler"
    free = os.statvfs(disk)
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize - leaving)
    return filler


def test_a_backfill_that_fills_the_disk_stops_safely_and_goes_on_when_there_is_space(
    small_disk: Path, crowded: Target
) -> None:
    expanded(crowded)
    filler = fill_up(small_disk, leaving=LEFT)
    with pytest.raises(StepFailed, match="53100") as full:
        fill(crowded)
    assert full.value.sqlstate == "53100"
    assert "disk is full" in str(full.value)
    assert "run again: it goes on where it stopped" in str(full.value)
    wrong = "lockstep_pending = 0 AND millilitres IS DISTINCT FROM litres * 1000"
    assert ask(crowded, f"SELECT count(*), count(*) FILTER (WHERE {wrong}) FROM readings") == [(ROWS, 0)]
    (filled,) = ask(crowded, "SELECT count(millilitres) FROM readings")[0]
    assert 0 < int(str(filled)) < ROWS
    assert ask(crowded, "SELECT state, error LIKE '%53100%' FROM lockstep.phase WHERE phase = 'backfill'") == [
        ("failed", True)
    ]
    filler.unlink()
    fill(crowded)
    assert ask(crowded, "SELECT count(*), count(*) FILTER (WHERE millilitres = litres * 1000) FROM readings") == [
        (ROWS, ROWS)
    ]
