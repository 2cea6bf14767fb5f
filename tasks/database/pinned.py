"""The settings that decide what an expression means: the same on clones, in the executor and in the sync functions."""

from __future__ import annotations

from importlib.resources import files

import psycopg
from psycopg.rows import TupleRow

PINNED = (("TimeZone", "UTC"), ("DateStyle", "ISO, MDY"), ("IntervalStyle", "postgres"), ("extra_float_digits", "1"))
"""search_path is added from the database itself."""

SEARCH_PATH = (files("tasks.database") / "sql" / "search_path.sql").read_bytes()


def search_path(live: psycopg.Connection[TupleRow]) -> str:
    """Return the schemas that names are looked up in, as the server resolved them for this role.

    Without "$user", which is another schema for another role, and with pg_catalog first, as where it is not named: an
    operator or a function of that name in another schema must not change what Lockstep's own statements mean.
    """
    row = live.execute(SEARCH_PATH).fetchone()
    return str(row[0]) if row else "public"
