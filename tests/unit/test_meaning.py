"""The meaning of a change as the difference of two catalogs. Real DDL is tried in integration/test_catalog.py."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.planning.catalog import Catalog, Column, Constraint, Dependent, Index, SchemaObject, Table, Trigger
from tasks.planning.meaning import (
    ColumnChanged,
    ConstraintChanged,
    IndexChanged,
    Other,
    TableOptionChanged,
    changes,
)
from tasks.planning.names import TableName

T = TableName("public", "t")


def column(name: str, number: int, **more: Any) -> Column:
    return Column(name=name, attnum=number, **{"type": "integer", "not_null": False, **more})


def table(**more: Any) -> Table:
    base: dict[str, Any] = {
        "name": T, "oid": 1, "kind": "r", "persistence": "p", "owner": "app",
        "columns": (column("a", 1), column("b", 2)),
    }  # fmt: skip
    return Table(**{**base, **more})


def catalog(*tables: Table, objects: tuple[SchemaObject, ...] = ()) -> Catalog:
    return Catalog(server_version=160004, database="d", tables=tables, objects=objects)


def kinds(before: Table, after: Table) -> list[str]:
    return [change.kind for change in changes(catalog(before), catalog(after))]


def test_nothing_changes_between_equal_catalogs() -> None:
    assert changes(catalog(table()), catalog(table(rows=5, bytes=8192))) == ()


def test_a_rename_is_told_from_drop_and_add() -> None:
    renamed = table(columns=(column("z", 1), column("b", 2)))
    replaced = table(columns=(column("b", 2), column("a", 3)))
    (change,) = changes(catalog(table()), catalog(renamed))
    assert isinstance(change, ColumnChanged)
    assert change.renamed
    assert not change.retyped
    assert kinds(table(), replaced) == ["column_dropped", "column_added"]


def test_a_swap_of_names_is_two_renames() -> None:
    assert kinds(table(), table(columns=(column("b", 1), column("a", 2)))) == ["column_changed", "column_changed"]


def test_tables_keep_their_identity_through_a_rename() -> None:
    other = TableName("public", "u")
    assert kinds(table(), table(name=other)) == ["table_renamed"]
    assert kinds(table(), table(oid=2)) == ["table_dropped", "table_added"]


# For every field of a column, a value that differs from the one in `table()`: the test fails for a field without one.
COLUMN_FIELDS: dict[str, Any] = {
    "name": "z", "type": "text", "not_null": True, "default": "1", "generated": "s", "identity": "a",
    "collation": "x", "deterministic": False, "has_equality": False, "storage": "e", "statistics_target": 5,
    "options": ("n_distinct=1",), "comment": "c",
}  # fmt: skip


@pytest.mark.parametrize("field", sorted(set(Column.model_fields) - {"attnum"}))
def test_no_property_of_a_column_escapes(field: str) -> None:
    changed = column("a", 1).model_copy(update={field: COLUMN_FIELDS[field]})
    assert kinds(table(), table(columns=(changed, column("b", 2)))) == ["column_changed"]


TABLE_FIELDS: dict[str, Any] = {
    "name": TableName("public", "u"), "kind": "p", "persistence": "u", "owner": "bob",
    "columns": (column("a", 1),),
    "constraints": (Constraint(name="c", oid=5, kind="check", definition="CHECK ((a > 0))", columns=("a",)),),
    "indexes": (Index(name="i", oid=5, definition="CREATE INDEX i ON public.t USING btree (a)", columns=("a",)),),
    "triggers": (Trigger(name="g", definition="x", enabled="O", before_row=True, on_update=True),),
    "dependents": (Dependent(kind="view", name="public.v", columns=("a",), definition="x"),),
    "grants": ("GRANT SELECT ON TABLE public.t TO x",), "row_security": True, "replica_identity": "f",
    "options": ("fillfactor=50",), "partition_of": TableName("public", "p"),
    "inherits": (TableName("public", "p"),), "comment": "c",
}  # fmt: skip


@pytest.mark.parametrize(
    "field", sorted(set(Table.model_fields) - {"oid", "rows", "bytes", "toast_bytes", "attributes"})
)
def test_no_property_of_a_table_escapes(field: str) -> None:
    assert len(kinds(table(), table(**{field: TABLE_FIELDS[field]}))) == 1
    assert len(kinds(table(**{field: TABLE_FIELDS[field]}), table())) == 1


def test_a_view_that_no_object_stands_for_is_caught_by_the_last_net() -> None:
    (change,) = changes(catalog(table()), catalog(table(dependents=TABLE_FIELDS["dependents"])))
    assert isinstance(change, Other)
    assert "public.v" in change.describe()


def test_options_are_told_one_by_one() -> None:
    found = changes(catalog(table(options=("a=1", "b=2"))), catalog(table(options=("b=3", "c=4"))))
    assert [
        (change.option, change.before, change.after) for change in found if isinstance(change, TableOptionChanged)
    ] == [("a", "1", None), ("b", "2", "3"), ("c", None, "4")]


def check(definition: str, oid: int = 5, *columns: str) -> Constraint:
    return Constraint(name="c", oid=oid, kind="check", definition=definition, columns=columns or ("a",))


def test_a_constraint_that_only_followed_its_column_is_a_consequence() -> None:
    before = table(constraints=(check("CHECK ((a > 0))"),))
    retyped = (column("z", 1, type="numeric"), column("b", 2))
    followed = table(columns=retyped, constraints=(check("CHECK ((z > (0)::numeric))", 77, "z"),))
    rewritten = table(columns=retyped, constraints=(check("CHECK ((z > (1)::numeric))", 77, "z"),))
    for after, consequence in ((followed, True), (rewritten, False)):
        (found,) = (item for item in changes(catalog(before), catalog(after)) if isinstance(item, ConstraintChanged))
        assert found.consequence is consequence


def test_validating_is_never_a_consequence() -> None:
    not_valid = check("CHECK ((a > 0)) NOT VALID").model_copy(update={"validated": False})
    (found,) = changes(
        catalog(table(constraints=(not_valid,))), catalog(table(constraints=(check("CHECK ((a > 0))"),)))
    )
    assert isinstance(found, ConstraintChanged)
    assert found.became_valid
    assert not found.consequence


def test_an_index_that_was_rebuilt_alike_is_no_change_and_an_invalid_one_is() -> None:
    (index,) = TABLE_FIELDS["indexes"]
    rebuilt = index.model_copy(update={"oid": 99, "bytes": 1})
    assert kinds(table(indexes=(index,)), table(indexes=(rebuilt,))) == []
    invalid = rebuilt.model_copy(update={"valid": False})
    (found,) = changes(catalog(table(indexes=(index,))), catalog(table(indexes=(invalid,))))
    assert isinstance(found, IndexChanged)
    assert not found.consequence


def test_what_falls_with_its_column_is_a_consequence() -> None:
    before = table(constraints=TABLE_FIELDS["constraints"], indexes=TABLE_FIELDS["indexes"])
    found = changes(catalog(before), catalog(table(columns=(column("b", 2),))))
    assert [(item.kind, getattr(item, "consequence", None)) for item in found] == [
        ("column_dropped", None),
        ("constraint_dropped", True),
        ("index_dropped", True),
    ]
    explicit = changes(catalog(before), catalog(table()))
    assert [getattr(item, "consequence", None) for item in explicit] == [False, False]


def test_objects_are_matched_by_name_and_then_by_oid() -> None:
    view = SchemaObject(kind="view", name="public.v", oid=7, definition="CREATE VIEW public.v AS SELECT 1")
    replaced = view.model_copy(update={"oid": 8})
    renamed = view.model_copy(update={"name": "public.w", "definition": "CREATE VIEW public.w AS SELECT 1"})
    assert changes(catalog(objects=(view,)), catalog(objects=(replaced,))) == ()
    (change,) = changes(catalog(objects=(view,)), catalog(objects=(renamed,)))
    assert change.describe() == "view public.v is changed"


def test_the_order_does_not_hang_on_oids() -> None:
    def constrained(first: int, second: int) -> Table:
        names = (("x", first), ("y", second))
        return table(
            constraints=tuple(check("CHECK ((a > 0))", oid).model_copy(update={"name": n}) for n, oid in names)
        )

    def told(before: Table) -> list[str]:
        return [change.describe() for change in changes(catalog(before), catalog(table()))]

    assert told(constrained(2, 10)) == told(constrained(10, 2))
