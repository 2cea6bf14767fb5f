"""The schema hash: what makes two schemas the same, and what does not."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.planning.catalog import Catalog, Column, Constraint, Dependent, Index, SchemaObject, Table, Trigger
from tasks.planning.names import TableName
from tasks.planning.schema_hash import catalog_text, describe_difference, schema_hash, schema_text

T = TableName("public", "t")


def column(name: str, number: int = 1, **more: Any) -> Column:
    return Column(name=name, attnum=number, **{"type": "integer", "not_null": False, **more})


CHECK = Constraint(name="c", oid=5, kind="check", definition="CHECK ((a > 0))", columns=("a",))
INDEX = Index(name="i", oid=6, definition="CREATE INDEX i ON public.t USING btree (a)", columns=("a",))
TRIGGER = Trigger(
    name="g",
    definition="CREATE TRIGGER g BEFORE INSERT ON public.t FOR EACH ROW EXECUTE FUNCTION public.f()",
    enabled="O",
    before_row=True,
    on_update=False,
)
VIEW = Dependent(
    kind="view", name="public.v", columns=("a",), definition="CREATE VIEW public.v AS\n SELECT t.a FROM public.t"
)
FUNCTION = SchemaObject(
    kind="function", name="public.f()", oid=7, definition="CREATE FUNCTION public.f() RETURNS trigger"
)
MOOD = SchemaObject(kind="enum", name="public.mood", oid=8, definition="CREATE TYPE public.mood AS ENUM ('a')")


def table(**more: Any) -> Table:
    base: dict[str, Any] = {
        "name": T,
        "oid": 1,
        "kind": "r",
        "persistence": "p",
        "owner": "app",
        "columns": (column("a"), column("m", 2, type="public.mood")),
        "constraints": (CHECK,),
        "indexes": (INDEX,),
        "triggers": (TRIGGER,),
        "dependents": (VIEW,),
    }
    return Table(**{**base, **more})


def catalog(*tables: Table, objects: tuple[SchemaObject, ...] = (FUNCTION, MOOD), version: int = 160004) -> Catalog:
    return Catalog(server_version=version, database="d", tables=tables, objects=objects)


def digest(changed: Table, **more: Any) -> str:
    return schema_hash(catalog(changed, **more), [T])


SAME: dict[str, Table] = {
    "oid": table(oid=99, constraints=(CHECK.model_copy(update={"oid": 98}),)),
    "column order": table(columns=(column("m", 1, type="public.mood"), column("a", 7))),
    "estimates": table(rows=5, bytes=5, indexes=(INDEX.model_copy(update={"bytes": 8192}),)),
    "what a clone has not": table(
        owner="bob", grants=("GRANT SELECT ON TABLE public.t TO x",), options=("tablespace=x",)
    ),
    "publications": table(dependents=(VIEW, Dependent(kind="publication", name="p", columns=()))),
    "the marker": table(
        columns=(*table().columns, column("lockstep_pending", 3, type="boolean", not_null=True, default="true"))
    ),
    "own constraint": table(constraints=(CHECK, CHECK.model_copy(update={"name": "lockstep_ck_1"}))),
    "own index": table(indexes=(INDEX, INDEX.model_copy(update={"name": "lockstep_ix_1"}))),
    "own trigger": table(triggers=(TRIGGER, TRIGGER.model_copy(update={"name": "lockstep_zz_1"}))),
    "how a version prints": table(
        dependents=(VIEW.model_copy(update={"definition": "CREATE VIEW public.v AS SELECT a FROM public.t"}),)
    ),
}

DIFFERENT: dict[str, Table] = {
    "column added": table(columns=(*table().columns, column("b", 3))),
    "column renamed": table(columns=(column("b"), table().columns[1])),
    "type": table(columns=(column("a", type="bigint"), table().columns[1])),
    "not null": table(columns=(column("a", not_null=True), table().columns[1])),
    "default": table(columns=(column("a", default="1"), table().columns[1])),
    "identity": table(columns=(column("a", identity="d"), table().columns[1])),
    "generated": table(columns=(column("a", default="1", generated="s"), table().columns[1])),
    "collation": table(columns=(column("a", collation='pg_catalog."C"'), table().columns[1])),
    "column option": table(columns=(column("a", options=("n_distinct=5",)), table().columns[1])),
    "column comment": table(columns=(column("a", comment="x"), table().columns[1])),
    "constraint gone": table(constraints=()),
    "constraint not valid": table(constraints=(CHECK.model_copy(update={"validated": False}),)),
    "constraint otherwise": table(constraints=(CHECK.model_copy(update={"definition": "CHECK ((a > 1))"}),)),
    "index invalid": table(indexes=(INDEX.model_copy(update={"valid": False}),)),
    "index gone": table(indexes=()),
    "trigger disabled": table(triggers=(TRIGGER.model_copy(update={"enabled": "D"}),)),
    "view otherwise": table(
        dependents=(VIEW.model_copy(update={"definition": "CREATE VIEW public.v AS SELECT m FROM public.t"}),)
    ),
    "table option": table(options=("fillfactor=50",)),
    "row security": table(row_security=True),
    "replica identity": table(replica_identity="f"),
    "unlogged": table(persistence="u"),
    "table comment": table(comment="x"),
}


@pytest.mark.parametrize("case", SAME)
def test_what_makes_no_difference(case: str) -> None:
    assert SAME[case] != table()
    assert digest(SAME[case]) == digest(table())


@pytest.mark.parametrize("case", DIFFERENT)
def test_what_makes_a_difference(case: str) -> None:
    assert digest(DIFFERENT[case]) != digest(table())


def test_the_server_version_makes_no_difference() -> None:
    assert digest(table(), version=150001) == digest(table())


def test_objects_that_the_tables_name_belong_to_it() -> None:
    changed = FUNCTION.model_copy(update={"definition": FUNCTION.definition + " COST 5"})
    assert digest(table(), objects=(changed, MOOD)) != digest(table())
    assert digest(table(), objects=(MOOD,)) != digest(table())
    assert digest(table(), objects=(FUNCTION,)) != digest(table())


def test_values_of_an_enum_come_and_stay_so_they_are_only_in_the_whole_catalog() -> None:
    more = MOOD.model_copy(update={"definition": "CREATE TYPE public.mood AS ENUM ('a', 'b')"})
    assert digest(table(), objects=(FUNCTION, more)) == digest(table())
    both = [catalog_text(catalog(table(), objects=(FUNCTION, mood))) for mood in (MOOD, more)]
    assert both[0] != both[1]


def test_a_name_that_is_no_table_is_followed_to_the_object_of_that_name() -> None:
    scope = [TableName("public", "f"), TableName("public", "nothing")]
    text = schema_text(catalog(table(), objects=(FUNCTION, MOOD)), scope)
    assert "public.nothing: no table" in text
    assert FUNCTION.definition in text


def test_objects_that_named_objects_name_belong_to_it() -> None:
    domain = SchemaObject(
        kind="domain", name="public.mood", oid=8, definition="CREATE DOMAIN public.mood AS public.base"
    )
    base = SchemaObject(kind="domain", name="public.base", oid=9, definition="CREATE DOMAIN public.base AS text")
    other = base.model_copy(update={"definition": "CREATE DOMAIN public.base AS text NOT NULL"})
    assert digest(table(), objects=(domain, base)) != digest(table(), objects=(domain, other))


def test_objects_that_nothing_names_are_only_in_the_whole_catalog() -> None:
    stranger = SchemaObject(kind="enum", name="public.moody", oid=9, definition="CREATE TYPE public.moody AS ENUM ()")
    assert digest(table(), objects=(FUNCTION, MOOD, stranger)) == digest(table())
    assert catalog_text(catalog(table(), objects=(FUNCTION, MOOD, stranger))) != catalog_text(catalog(table()))


def test_foreign_keys_from_elsewhere_belong_to_it() -> None:
    key = Constraint(
        name="fk",
        oid=11,
        kind="foreign_key",
        definition="FOREIGN KEY (t_id) REFERENCES public.t(a)",
        columns=("t_id",),
        references=T,
    )
    name = TableName("public", "u")
    referring = table(
        name=name, oid=2, columns=(column("t_id"),), constraints=(key,), indexes=(), triggers=(), dependents=()
    )
    alone = referring.model_copy(update={"constraints": ()})
    assert schema_hash(catalog(table(), referring), [T]) != schema_hash(catalog(table(), alone), [T])
    assert schema_hash(catalog(table(), alone), [T]) == digest(table())


def test_a_missing_table_is_a_difference_and_the_scope_has_no_order() -> None:
    other = TableName("public", "gone")
    assert schema_hash(catalog(table()), [T, other]) != digest(table())
    assert schema_hash(catalog(table()), [T, other]) == schema_hash(catalog(table()), [other, T, T])


def test_a_line_is_a_fact() -> None:
    text = schema_text(catalog(table(comment="two\nlines")), [T])
    facts = ("table", "column", "constraint", "index", "trigger", "dependent", "enum", "function")
    assert all(line.split(" ")[0] in facts for line in text.splitlines())


def test_differences_are_told_in_short_lines() -> None:
    before, after = schema_text(catalog(table()), [T]), schema_text(catalog(DIFFERENT["type"]), [T])
    assert describe_difference(before, after) == (
        "missing: column public.t 'a' integer",
        "unexpected: column public.t 'a' bigint",
    )
    assert describe_difference(before, before) == ()
    many = describe_difference("", "\n".join(f"line {number}" for number in range(100)))
    assert len(many) == 20
    assert many[-1] == "… and 81 more"
