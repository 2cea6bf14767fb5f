"""UPDATE and DELETE of a change as they are read, and what becomes of an UPDATE of new columns."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tasks.planning.catalog import Catalog, Column, Constraint, Table
from tasks.planning.data_changes import DataChanges, data_changes, with_populated
from tasks.planning.data_statements import Written
from tasks.planning.errors import SpecError, Unsupported
from tasks.planning.names import TableName
from tasks.planning.statements import parse_change
from tasks.planning.strategies.expand_contract.mapping import Wanted

T = TableName("public", "t")


def table(*columns: tuple[str, int, str | None]) -> Table:
    """A table ``t`` with the key ``id`` and the given columns: name, number, default."""
    return Table(
        name=T, oid=1, kind="r", persistence="p", owner="o",
        columns=(
            Column(name="id", attnum=1, type="integer", not_null=True),
            *(Column(name=name, attnum=n, type="integer", not_null=False, default=d) for name, n, d in columns),
        ),
        constraints=(Constraint(name="t_pkey", oid=2, kind="primary_key", definition="", columns=("id",)),),
    )  # fmt: skip


def read(
    change: str, before: Sequence[tuple[str, int, str | None]], after: Sequence[tuple[str, int, str | None]]
) -> DataChanges:
    catalogs = [Catalog(server_version=160000, database="d", tables=(table(*columns),)) for columns in (before, after)]
    return data_changes(parse_change(change, source="change"), catalogs[0], catalogs[1], ("public",))


def written(text: str) -> Written:
    (statement,) = parse_change(text, source="change")
    assert statement.data is not None
    return statement.data


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("UPDATE t SET a = 1", Written(verb="update", table=TableName("", "t"), alias="t", assignments=(("a", "1"),))),
        (
            """update "S".t as "x y" set a=b+ 1 , "c,d" = CASE WHEN e IS DISTINCT FROM 'SET a, b' THEN f(1, 2) END
            where (a = 1 and b <> ' WHERE ') -- so it is""",
            Written(
                verb="update", table=TableName("S", "t"), alias="x y",
                assignments=(("a", "b+ 1"), ("c,d", "CASE WHEN e IS DISTINCT FROM 'SET a, b' THEN f(1, 2) END")),
                where="(a = 1 and b <> ' WHERE ')",
            ),
        ),
        (
            "DELETE FROM ONLY t WHERE a IN (SELECT b FROM u WHERE c) AND \"WHERE\"",
            Written(
                verb="delete", table=TableName("", "t"), alias="t",
                where="a IN (SELECT b FROM u WHERE c) AND \"WHERE\"",
            ),
        ),
    ],
)  # fmt: skip
def test_a_statement_is_read_as_it_is_written(text: str, expected: Written) -> None:
    assert written(text) == expected


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("UPDATE t SET x = a", "a"),
        ("UPDATE t SET x = a + 1 WHERE x IS NULL", "a + 1"),
        ("UPDATE t SET x = a WHERE a > 1", "CASE WHEN (a > 1) THEN (a) END"),
        (
            "UPDATE t SET x = a WHERE a > 1; UPDATE t SET x = 0 WHERE x IS NULL",
            "CASE WHEN ((CASE WHEN (a > 1) THEN (a) END) IS NULL) THEN (0) ELSE (CASE WHEN (a > 1) THEN (a) END) END",
        ),
        ("UPDATE t SET x = a; UPDATE t SET x = x * 2", "a * 2"),
    ],
)
def test_updates_of_a_new_column_compose_to_its_up(change: str, expected: str) -> None:
    found = read(f"ALTER TABLE t ADD x int; {change}", [("a", 2, None)], [("a", 2, None), ("x", 3, None)])
    assert found.populated == {T: {"x": expected}}
    assert found.statements == ()


def test_a_new_column_with_a_default_is_no_mapping_but_an_update_of_rows() -> None:
    found = read(
        "ALTER TABLE t ADD x int DEFAULT 5, ADD y int; UPDATE t SET x = a WHERE a > 1;"
        "ALTER TABLE t ALTER y SET DEFAULT 6",
        [("a", 2, None)],
        [("a", 2, None), ("x", 3, "5"), ("y", 4, "6")],
    )
    (statement,) = found.statements
    assert (statement.number, statement.columns, statement.where) == (2, ("x",), "a > 1")
    assert found.late == {(T, "y")}, "a default of its own statement is for later rows"


def test_names_are_those_of_the_table_with_both_shapes() -> None:
    found = read(
        "ALTER TABLE t RENAME a TO b; ALTER TABLE t ADD x int DEFAULT 5; UPDATE t SET b = b + 1 WHERE b > x;"
        "ALTER TABLE t RENAME x TO y",
        [("a", 2, None)],
        [("b", 2, None), ("y", 3, "5")],
    )
    (statement,) = found.statements
    assert statement.columns == ("a",)
    assert statement.assignments[0].expression == '"a" + 1'
    assert statement.where == '"a" > "y"'


def test_one_name_for_two_columns_is_refused() -> None:
    with pytest.raises(Unsupported, match="the name of two columns"):
        read(
            "ALTER TABLE t RENAME a TO b; ALTER TABLE t ADD a int DEFAULT 1; UPDATE t SET a = 2",
            [("a", 2, None)],
            [("b", 2, None), ("a", 3, "1")],
        )


def test_the_spec_and_the_update_must_not_say_two_things() -> None:
    populated = {T: {"x": "a + 1"}}
    assert with_populated({T: {"x": Wanted(None, "x - 1")}}, populated) == {T: {"x": Wanted("a + 1", "x - 1")}}
    assert with_populated({T: {"x": Wanted("a+1")}}, populated) == {T: {"x": Wanted("a + 1")}}
    with pytest.raises(SpecError, match="own UPDATE"):
        with_populated({T: {"x": Wanted("a + 2")}}, populated)
