"""A hot standby of an embedded server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from psycopg.conninfo import make_conninfo

from tasks.database.connection import Target
from tasks.database.installation import give_to_server, run_as_server
from tasks.database.server import EmbeddedServer, free_port, program


@contextmanager
def standby_of(primary: EmbeddedServer) -> Iterator[Target]:
    """A hot standby of a server, made by pg_basebackup."""
    folder = primary.data.parent / f"{primary.data.name}-standby"
    folder.mkdir()
    give_to_server(folder, 0o700)
    copied = run_as_server(
        [
            program("pg_basebackup"),
            "--dbname",
            primary.url("postgres"),
            "--pgdata",
            folder,
            "--write-recovery-conf",
            "--checkpoint=fast",
        ]
    )
    assert copied.returncode == 0, copied.stderr
    control: list[str | Path] = [program("pg_ctl"), "--pgdata", folder, "--silent", "--wait"]
    port = free_port()
    started = run_as_server([*control, "start", "--log", folder / "standby.log", "-o", f"-c port={port}"])
    assert started.returncode == 0, started.stderr
    try:
        yield Target("acceptance", make_conninfo(primary.url("postgres"), port=port))
    finally:
        run_as_server([*control, "stop", "--mode", "immediate"])
