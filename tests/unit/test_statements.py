"""Splitting and classifying the user's SQL, and what the parser can prove about expressions."""

from __future__ import annotations

import pytest

from tasks.planning import parser
from tasks.planning.errors import SpecError, Unsupported
from tasks.planning.names import TableName
from tasks.planning.statements import Statement, parse_change, using_expressions


def one(text: str) -> Statement:
    (statement,) = parse_change(text, source="change")
    return statement


def test_each_statement_keeps_the_users_text_and_line() -> None:
    text = (
        "-- größe\n"
        '/* why */ ALTER TABLE "Wé".t ADD é int; -- after\n'
        "\n"
        "  DROP TABLE a.b, c\n"
        "  ;;\n"
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT 1; SELECT 2; END;\n"
    )
    found = parse_change(text, source="change")
    assert [(item.sql, item.line, item.kind) for item in found] == [
        ('ALTER TABLE "Wé".t ADD é int', 2, "alter_table"),
        ("DROP TABLE a.b, c", 4, "drop_table"),
        ("CREATE FUNCTION f() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT 1; SELECT 2; END", 6, "create_function"),
    ]
    assert found[0].tables == (TableName("Wé", "t"),)
    assert found[1].tables == (TableName("a", "b"), TableName("", "c"))


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("CREATE INDEX i ON t (a)", "create_index"),
        ("ALTER TABLE t RENAME a TO b", "rename_column"),
        ("ALTER TABLE t RENAME TO u", "rename_table"),
        ("ALTER VIEW v RENAME TO w", "rename_view"),
        ("CREATE TABLE t (a int)", "create_table"),
        ("DROP INDEX i", "drop_index"),
        ("CREATE TYPE m AS ENUM ('a')", "create_type"),
        ("CREATE DOMAIN d AS int", "create_domain"),
        ("COMMENT ON TABLE t IS 'x'", "comment"),
        ("CREATE TRIGGER g BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()", "create_trigger"),
        ("GRANT SELECT ON t TO x", "grant"),
        ("ALTER INDEX i RENAME TO j", "rename_index"),
    ],
)
def test_kinds_are_what_people_call_them(text: str, kind: str) -> None:
    assert one(text).kind == kind


def test_using_expressions_are_taken_out() -> None:
    statement = one("ALTER TABLE s.t ALTER a TYPE timestamptz USING a AT TIME ZONE 'UTC', ALTER b TYPE text")
    assert statement.using == {(TableName("s", "t"), "a"): "a AT TIME ZONE 'UTC'"}


def test_using_is_told_in_the_names_from_before_the_change() -> None:
    found = using_expressions(
        parse_change(
            "ALTER TABLE t RENAME a TO b; ALTER TABLE t RENAME TO u; ALTER TABLE u RENAME b TO c;"
            "ALTER TABLE u ALTER c TYPE text USING c || d",
            source="change",
        )
    )
    assert [(item.table, item.column, item.expression) for item in found] == [(TableName("", "t"), "a", "a || d")]


@pytest.mark.parametrize(
    ("text", "transactional"),
    [
        ("CREATE INDEX CONCURRENTLY i ON t (a)", "CREATE INDEX i ON t USING btree (a)"),
        ("DROP INDEX CONCURRENTLY i", "DROP INDEX i"),
        ("ALTER TABLE t DETACH PARTITION p CONCURRENTLY", "ALTER TABLE t DETACH PARTITION p"),
    ],
)
def test_concurrently_is_left_out_for_the_clone(text: str, transactional: str) -> None:
    statement = one(text)
    assert statement.concurrent
    assert statement.sql == text
    assert statement.transactional_sql == transactional


def test_without_concurrently_the_clone_runs_the_users_text() -> None:
    statement = one("create  index i on t(a)")
    assert not statement.concurrent
    assert statement.transactional_sql == "create  index i on t(a)"


def test_a_syntax_error_points_at_its_place() -> None:
    with pytest.raises(SpecError) as caught:
        parse_change("SELECT 1;\nALTER TABLE größe\n\tADD COLUMN;\n", source="v2.sql", first_line=10)
    assert caught.value.what == (
        'v2.sql, line 12, column 12: syntax error at or near ";"\n  \tADD COLUMN;\n  \t          ^'
    )


@pytest.mark.parametrize("text", ["", " \n", "-- only a comment\n", ";"])
def test_an_empty_change_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="empty"):
        parse_change(text, source="change")


@pytest.mark.parametrize("word", ["BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT a", "START TRANSACTION", "END"])
def test_transaction_commands_are_refused_by_name(word: str) -> None:
    with pytest.raises(SpecError, match=f"line 2: {word.split()[0]}") as caught:
        parse_change(f"ALTER TABLE t ADD a int;\n{word};", source="change")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("text", "name", "instead"),
    [
        ("UPDATE t SET a = 1", "UPDATE", "mapping"),
        ("INSERT INTO t VALUES (1)", "INSERT", "mapping"),
        ("DELETE FROM t", "DELETE", "mapping"),
        ("MERGE INTO t USING u ON true WHEN MATCHED THEN DELETE", "MERGE", "mapping"),
        ("COPY t FROM '/x'", "COPY", "mapping"),
        ("TRUNCATE t", "TRUNCATE", "mapping"),
        ("SELECT 1", "SELECT", "Remove it"),
        ("DO $$ BEGIN END $$", "DO", "schema statements"),
        ("CALL p()", "CALL", "schema statements"),
        ("SET search_path = x", "SET", "schema-qualified"),
        ("CREATE TABLE t AS SELECT 1", "CREATE TABLE AS", "fill it apart"),
        ("VACUUM t", "VACUUM", "maintenance"),
        ("CREATE ROLE r", "CREATE ROLE", "whole server"),
    ],
)
def test_what_is_no_schema_change_is_refused_by_name(text: str, name: str, instead: str) -> None:
    with pytest.raises(Unsupported, match=rf"{name} in a change \(change, line 1\)") as caught:
        parse_change(text, source="change")
    assert instead in str(caught.value.remedy)


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("\\d t", "psql's own"),
        ("ALTER TABLE t ADD a int;\n\\echo hi\n", "psql's own"),
        ("COPY t FROM stdin;\n1\tx\n\\.\n", "psql's"),
        ("ALTER TABLE ${schema}.t ADD a int", "Placeholders"),
    ],
)
def test_what_other_tools_understand_is_explained(text: str, remedy: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_change(text, source="change")
    assert remedy in str(caught.value.remedy)


def test_nothing_after_a_nul_character_is_lost_silently() -> None:
    with pytest.raises(SpecError, match="NUL"):
        parse_change("ALTER TABLE t ADD a int;\0 DROP TABLE t", source="change")


# ------------------------------------------------------------------------------------------------ expressions


@pytest.mark.parametrize(
    "text",
    ["", "a, b", "1; DROP TABLE t", "a FROM t", "a b", "*", "t.*", "DISTINCT a", "a WHERE b", "a UNION SELECT 1",
     "a ORDER BY 1", "a LIMIT 1", "a INTO t", "a) + (b", "a +", "1\0"],
)  # fmt: skip
def test_only_one_expression_is_an_expression(text: str) -> None:
    with pytest.raises(SpecError):
        parser.parse_expression(text)


def test_what_an_expression_reads_and_calls() -> None:
    expression = parser.parse_expression("lower(a) || t.\"B\" || (c AT TIME ZONE 'UTC')::text || current_user -- end")
    assert parser.column_references(expression) == {"a", "B", "c"}
    assert parser.qualified_references(expression) == {("a",), ("t", "B"), ("c",)}
    assert parser.function_names(expression) == {"lower", "pg_catalog.timezone", "current_user"}
    assert not parser.has_subquery(expression)
    assert not parser.has_window(expression)


@pytest.mark.parametrize("text", ["(SELECT 1)", "a IN (SELECT b FROM t)", "EXISTS (SELECT)", "ARRAY(SELECT 1)"])
def test_subqueries_are_seen(text: str) -> None:
    assert parser.has_subquery(text)


@pytest.mark.parametrize("text", ["sum(a) OVER ()", "count(*)", "count(DISTINCT a)", "max(a) FILTER (WHERE b)"])
def test_what_is_not_about_one_row_is_seen(text: str) -> None:
    assert parser.has_window(text)


def test_normal_forms_are_equal_up_to_renaming() -> None:
    assert parser.normal_form("a+b * 2", {"a": "b", "b": "a"}) == parser.normal_form(" b +  (a*2)")
    assert parser.normal_form("a", {"a": "User"}) == '"User"'
    assert parser.normal_form("a - b") != parser.normal_form("b - a")
    assert parser.normal_form("'a'", {"a": "b"}) == "'a'"


def test_shapes_ignore_names_that_followed_and_casts() -> None:
    before = "ALTER TABLE t ADD CONSTRAINT c CHECK ((volume > 0))"
    after = "ALTER TABLE t ADD CONSTRAINT c CHECK ((amount > (0)::numeric))"
    assert parser.shape(before, {"volume": "amount"}) == parser.shape(after, {})
    assert parser.shape(before, {}) != parser.shape(after, {})
    assert parser.shape(before.replace("> 0", "> 1"), {"volume": "amount"}) != parser.shape(after, {})
    view = "CREATE VIEW v AS SELECT t.a, t.b FROM t"
    assert parser.shape(view, {"a": "x"}) == parser.shape("CREATE VIEW v AS SELECT t.x AS a, t.b FROM t", {})
    key = "ALTER TABLE t ADD CONSTRAINT c FOREIGN KEY (a) REFERENCES s.u(id)"
    followed = "ALTER TABLE t ADD CONSTRAINT c FOREIGN KEY (b) REFERENCES s.w(key)"
    tables = {("s", "u"): ("s", "w")}
    assert parser.shape(key, {"a": "b"}, referenced={"id": "key"}, tables=tables) == parser.shape(followed, {})


def test_what_servers_print_differently_becomes_the_same() -> None:
    old = "CREATE VIEW s.v AS SELECT t.a,\n    t.b\n   FROM s.t\n  WHERE (t.a > 1)"
    assert parser.version_free(old) == parser.version_free("CREATE VIEW s.v AS SELECT a, b FROM s.t WHERE a > 1")
    assert parser.version_free("CREATE RULE r AS ON UPDATE TO t WHERE old.a > 1 DO NOTHING") != parser.version_free(
        "CREATE RULE r AS ON UPDATE TO t WHERE new.a > 1 DO NOTHING"
    )
