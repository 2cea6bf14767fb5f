"""Create and fill the drink-water database, fast and always alike."""

from __future__ import annotations

from pathlib import Path

import psycopg

EXAMPLE = Path(__file__).parents[2] / "examples" / "drink-water"
"""The example's schema and spec, in the project's folder."""

# Times of one user are an hour and some seconds apart, so the unique key holds by construction; every eighth intake
# is in ounces. A multiplication by a large prime scatters the values without random().
_FILL = """
INSERT INTO users (email, password_hash, full_name, birth_date)
SELECT 'person-' || n || '@example.com', 'none', 'Person ' || n, date '1960-01-01' + (n * 7919 %% 16000)::int
FROM generate_series(1, %(users)s::bigint) AS n;
"""
_FILL_INTAKES = """
INSERT INTO water_intake (user_id, date_time_utc, volume, volume_unit)
SELECT 1 + n %% %(users)s,
       timestamp '2025-01-01' + (n / %(users)s) * interval '1 hour' + (n * 7919 %% 3500) * interval '1 second',
       CASE WHEN n %% 8 = 0 THEN 8 ELSE 50 + (n * 104729 %% 900)::int END,
       CASE WHEN n %% 8 = 0 THEN 'OZ' ELSE 'ML' END
FROM generate_series(0, %(intakes)s::bigint - 1) AS n
"""


def fill(conninfo: str, *, intakes: int, users: int) -> None:
    """Create the schema of drink-water in an empty database and load seeded rows; 200,000 take about two seconds."""
    schema = (EXAMPLE / "schema.sql").read_bytes()
    with psycopg.connect(conninfo) as connection:
        connection.execute(schema)
        connection.execute(_FILL.encode(), {"users": users})
        connection.execute(_FILL_INTAKES.encode(), {"users": users, "intakes": intakes})
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")
