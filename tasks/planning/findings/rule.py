"""A rule as data, and what it finds."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tasks.planning.findings.moment import Moment
from tasks.planning.names import TableName
from tasks.planning.plan import Severity


@dataclass(frozen=True, slots=True)
class Hit:
    """Something that a rule found: ``what`` begins a message, in the words of this statement and this schema."""

    what: str
    on: TableName | None = None
    """The table it happens to, so that its size can be told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What to look for, what it does, and the better way. Its examples are run by the tests on `SCHEMA`."""

    id: str
    severity: Severity
    dangerous: bool = False
    """Whether it is long work while writes are blocked, or a break of the running application."""
    fails: bool = False
    """Whether the file cannot be run at all."""
    condition: str
    """When it is found, for people; what is run is ``finds``."""
    effect: str
    why: str
    safe: str
    """What Lockstep runs instead, phase by phase, or what to do."""
    bad: str
    """A file."""
    good: tuple[str, ...]
    """Files, run one after the other."""
    finds: Callable[[Moment], Iterable[Hit]]
    yields_to: tuple[str, ...] = ()
    """Rules that say the same more precisely: where one of them found something, this one is silent."""
    setup: str = ""
    """What its examples need in the live database beside `SCHEMA`."""
    server_version: int | None = None
    """The ``server_version_num`` on which the bad example is bad, where it is not any."""


SCHEMA = """
CREATE TYPE purchase_state AS ENUM ('open', 'paid');
CREATE DOMAIN quantity AS integer;

CREATE TABLE customer (
    id bigint PRIMARY KEY,
    email text NOT NULL,
    name varchar(100),
    tier text DEFAULT 'basic',
    visits integer,
    joined timestamp
);

CREATE TABLE purchase (
    id bigint PRIMARY KEY,
    customer_id bigint NOT NULL,
    state purchase_state NOT NULL DEFAULT 'open',
    amount integer,
    pieces quantity,
    note text
);
CREATE INDEX purchase_customer ON purchase (customer_id);
CREATE INDEX purchase_customer_state ON purchase (customer_id, state);

CREATE TABLE address (id bigint PRIMARY KEY, customer_id bigint REFERENCES customer, city text);
CREATE INDEX address_customer ON address (customer_id);

CREATE TABLE event (day date NOT NULL, what text) PARTITION BY RANGE (day);
CREATE TABLE event_2024 PARTITION OF event FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
CREATE TABLE event_rest PARTITION OF event DEFAULT;
CREATE TABLE event_2025 (day date NOT NULL, what text);

CREATE SCHEMA archive;
CREATE TABLE archive.purchase (id bigint, amount integer);

CREATE VIEW open_purchase AS SELECT id, amount FROM purchase WHERE state = 'open';
CREATE MATERIALIZED VIEW customer_total AS SELECT customer_id, sum(amount) AS total FROM purchase GROUP BY customer_id;
CREATE UNIQUE INDEX customer_total_key ON customer_total (customer_id);

CREATE FUNCTION euro(cents integer) RETURNS numeric LANGUAGE sql IMMUTABLE AS 'SELECT cents / 100.0';
""".strip()
"""The schema of all examples."""
