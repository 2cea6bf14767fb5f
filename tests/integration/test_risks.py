"""The risk of real changes, as the plan tells it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.database.connection import Target
from tasks.planning.plan import RiskLevel
from tasks.planning.risks import RULES, worst
from tests.integration.staging import planned, written

SCHEMA = """
CREATE TABLE users (id int PRIMARY KEY, email text NOT NULL, password_hash text NOT NULL, active boolean);
CREATE TABLE water_intake (id int PRIMARY KEY, user_id int NOT NULL REFERENCES users, volume int NOT NULL, note text);
CREATE TABLE person (id int PRIMARY KEY, phone text, boss int);
CREATE TABLE leaflet (id int PRIMARY KEY, text text);
CREATE TABLE fact (id int PRIMARY KEY, n int);
CREATE INDEX users_active ON users (active);
ALTER TABLE water_intake ADD CONSTRAINT small CHECK (volume < 10000);
CREATE VIEW loud AS SELECT id FROM water_intake WHERE volume > 1000;
GRANT SELECT ON water_intake TO PUBLIC;
INSERT INTO users VALUES (1, 'a', 'b', true);
INSERT INTO water_intake VALUES (1, 1, 300, NULL);
"""
SCENARIOS: dict[str, tuple[str, RiskLevel, str]] = {
    "a user table with personal data and credentials": (
        "ALTER TABLE users RENAME COLUMN email TO mail;", "CRITICAL", "personal-data-and-login",
    ),
    "another shape of the intakes": (
        "ALTER TABLE water_intake RENAME COLUMN volume TO volume_ml;", "HIGH", "another-shape",
    ),
    "a constraint": ("ALTER TABLE water_intake ADD CONSTRAINT positive CHECK (volume > 0);", "HIGH", "new-demand"),
    "a foreign key": (
        "ALTER TABLE person ADD CONSTRAINT boss FOREIGN KEY (boss) REFERENCES person (id);", "MEDIUM", "foreign-key",
    ),
    "personal data raises a level": ("ALTER TABLE person DROP COLUMN phone;", "CRITICAL", "column-dropped"),
    "an addition": ("ALTER TABLE water_intake ADD COLUMN place text;", "LOW", "addition"),
}  # fmt: skip
REST = """
ALTER TABLE water_intake DROP COLUMN note;
ALTER TABLE water_intake ADD COLUMN glasses int NOT NULL DEFAULT 1;
ALTER TABLE water_intake DROP CONSTRAINT small;
ALTER TABLE users ALTER COLUMN active SET DEFAULT true;
CREATE OR REPLACE VIEW loud AS SELECT id FROM water_intake WHERE volume > 2000;
REVOKE SELECT ON water_intake FROM PUBLIC;
DROP TABLE leaflet;
UPDATE fact SET n = 1 WHERE n = 0;
DROP INDEX users_active;
ALTER TABLE person RENAME TO human;
"""
UNMET = {"big-index"}
"""A table of a million rows is no test's."""


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_level_of_a_scenario(database: Target, tmp_path: Path, name: str) -> None:
    change, level, rule = SCENARIOS[name]
    plan = planned(database, SCHEMA, written(tmp_path, "risk", change))
    assert [(risk.level, risk.rule) for risk in plan.risks] == [(level, rule)]
    assert worst(plan.risks) == level


def test_every_rule_is_met_by_some_change(database: Target, tmp_path: Path) -> None:
    plan = planned(database, SCHEMA, written(tmp_path, "rest", REST))
    met = {risk.rule for risk in plan.risks} | {rule for _, _, rule in SCENARIOS.values()}
    assert met == {rule.id for rule in RULES} - UNMET
    levels = {risk.rule: risk.level for risk in plan.risks}
    assert levels["table-dropped"] == "HIGH"
    assert levels["table-renamed"] == "CRITICAL", "people's phone numbers are in it"
    assert levels["constraint-dropped"] == "MEDIUM"
    assert [risk.level for risk in plan.risks] == sorted(
        (risk.level for risk in plan.risks), key=["CRITICAL", "HIGH", "MEDIUM", "LOW"].index
    )
