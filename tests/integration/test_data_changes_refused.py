"""UPDATE, DELETE and USING that batches beside a writing application could not do alike: refused by name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.database import oracle
from tasks.database.connection import Target
from tasks.planning.errors import SpecError, Unsupported
from tests.conftest import AnyServer, _new_database
from tests.integration.staging import written
from tests.integration.synthetic import ask
from tests.integration.test_data_changes import REST, SCHEMA, plan_of

REFUSED = {
    "FROM": "UPDATE item SET n = s.id FROM shop AS s WHERE s.id = shop_id",
    "USING": "DELETE FROM pair USING shop WHERE v = name",
    "WITH": "WITH q AS (SELECT 1 AS a) UPDATE item SET n = (SELECT a FROM q)",
    "RETURNING": "DELETE FROM pair RETURNING v",
    "DEFAULT": "UPDATE item SET n = DEFAULT",
    r"several columns at once|\(a, b\)": "UPDATE item SET (n, label) = (1, 'a')",
    "the table's key": "UPDATE item SET id = id + 1",
    "ON DELETE CASCADE": "DELETE FROM item WHERE n = 1",
    "forgetter lose their reference .* ON UPDATE SET NULL": "UPDATE code SET code = upper(code)",
    "place under the DEFERRABLE constraint code_place_key": "UPDATE code SET place = 99 - place",
    "refer to each other by parent": "DELETE FROM tree WHERE id > 10",
    "reads the table itself": "DELETE FROM pair WHERE v IN (SELECT min(p.v) FROM pair AS p)",
    "order of the batches": "UPDATE item SET n = (SELECT max(i.n) FROM item AS i) + 1",
    "random": "UPDATE item SET n = 1 WHERE random() < 0.5",
    "no primary key": "UPDATE keyless SET a = 1",
    "together with others": "ALTER TABLE item ADD COLUMN x int; UPDATE item SET x = 1, n = 2",
    "while its type changes": "ALTER TABLE item ALTER price TYPE int; ALTER TABLE item RENAME price TO m;"
    " UPDATE item SET m = 1 WHERE m > 1",
    "let it follow": "ALTER TABLE item ADD COLUMN x int; UPDATE item SET x = n; UPDATE item SET n = 5",
    "NOT NULL column from other rows": "ALTER TABLE item ADD COLUMN x text;"
    " UPDATE item SET x = (SELECT name FROM shop WHERE id = shop_id); ALTER TABLE item ALTER x SET NOT NULL",
    "dropping NOT NULL": "ALTER TABLE item ALTER n DROP NOT NULL; UPDATE item SET n = NULL WHERE n = 0",
    "for later rows only": "ALTER TABLE item ADD x int; ALTER TABLE item ALTER x SET DEFAULT 5, ALTER x SET NOT NULL",
    "cost twice in one change": "ALTER TABLE item ALTER price TYPE int; ALTER TABLE item RENAME price TO cost;"
    " ALTER TABLE item ALTER cost TYPE text",
    "INSERT in a change": "INSERT INTO shop VALUES (99, 'x')",
}


@pytest.fixture(scope="module")
def still(server: AnyServer) -> Iterator[Target]:
    with _new_database(server, "template1") as database:
        ask(database, SCHEMA)
        yield database


@pytest.mark.parametrize("reason", REFUSED)
def test_what_a_batch_cannot_do_alike_is_refused_by_name(still: Target, tmp_path: Path, reason: str) -> None:
    with pytest.raises((Unsupported, SpecError), match=reason) as caught:
        oracle.plan(written(tmp_path, "refused", REFUSED[reason]), still)
    assert caught.value.remedy
    assert ask(still, "SELECT to_regnamespace('lockstep')") == [(None,)]


# ------------------------------------------------------------------------------------------------ beside USING


TAG = "mapping: {item.tag: {down: 'tag::text'}}\n"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("ALTER TABLE item ALTER label TYPE text USING upper(label)", "leaves its name and its type text as they are"),
        (
            "ALTER TABLE item ALTER label TYPE text USING upper(label); ALTER TABLE item RENAME label TO tag; "
            "UPDATE item SET tag = 'x' WHERE n = 2",
            "after a new type has computed label",
        ),
        (
            "ALTER TABLE item ALTER label TYPE int USING n + 1; ALTER TABLE item RENAME label TO tag; "
            "UPDATE item SET n = 0 WHERE n = 2",
            "after a new type has computed label",
        ),
        (
            "ALTER TABLE item ALTER label TYPE int USING length(label); ALTER TABLE item ALTER label TYPE bigint USING "
            "label * 2; ALTER TABLE item RENAME label TO tag",
            "label twice in one change",
        ),
        (
            "ALTER TABLE item ALTER label TYPE int USING length(label); ALTER TABLE item ALTER price TYPE int USING "
            "label * 2; ALTER TABLE item RENAME label TO tag",
            "after another one has computed label",
        ),
        (
            "ALTER TABLE item ALTER price TYPE int; UPDATE item SET n = price * 2; ALTER TABLE item DROP price",
            "after a new type has computed price",
        ),
        (
            "ALTER TABLE item ALTER price TYPE int; ALTER TABLE item ALTER label TYPE int USING price * 2; "
            "ALTER TABLE item RENAME label TO tag; ALTER TABLE item DROP price",
            "after another one has computed price",
        ),
        (
            "ALTER TABLE item ADD more int DEFAULT 3; ALTER TABLE item ALTER more TYPE int USING more + 1",
            "more, which the change itself adds",
        ),
        (
            "ALTER TABLE item ADD more int; UPDATE item SET more = n / 2.0; ALTER TABLE item ALTER more TYPE numeric",
            "more, which the change itself adds",
        ),
    ],
)
def test_a_using_whose_result_would_be_another_one_is_refused_by_name(
    change: str, reason: str, still: Target, tmp_path: Path
) -> None:
    with pytest.raises(Unsupported, match=reason):
        plan_of(still, tmp_path, change, REST + (TAG if "tag" in change else ""))


def test_rows_cleaned_in_the_same_change_come_too_late_for_a_using_and_the_error_says_so(
    still: Target, tmp_path: Path
) -> None:
    change = """
        UPDATE item SET label = '0' WHERE label <> '0';
        ALTER TABLE item ALTER label TYPE int USING label::int;
        ALTER TABLE item RENAME label TO tag;
    """
    with pytest.raises(SpecError, match="in a migration of its own"):
        plan_of(still, tmp_path, change, REST + TAG)
