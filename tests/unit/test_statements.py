"""Splitting and classifying the user's SQL, and what the parser can prove about expressions."""

from __future__ import annotations

import pytest

from tasks.planning import expression_tree, parser
from tasks.planning.errors import SpecError, Unsupported
from tasks.planning.names import TableName
from tasks.planning.parse_tree import form, walk
from tasks.planning.statements import Rebuild, Statement, parse_change, using_expressions
from tests.unit.generated_expressions import generated


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


@pytest.mark.parametrize(
    ("text", "kind", "name", "in_transaction"),
    [
        ("REINDEX TABLE CONCURRENTLY s.t", "table", TableName("s", "t"), 'REINDEX TABLE "s"."t"'),
        ("reindex (verbose, concurrently) index i", "index", TableName("", "i"), 'REINDEX INDEX "i"'),
        ('REINDEX INDEX "Größe"', "index", TableName("", "Größe"), 'REINDEX INDEX "Größe"'),
    ],
)
def test_reindex_names_what_is_rebuilt_and_runs_on_a_clone_without_concurrently(
    text: str, kind: str, name: TableName, in_transaction: str
) -> None:
    statement = one(text)
    assert statement.kind == "reindex"
    assert statement.rebuild == Rebuild.model_validate({"kind": kind, "name": name})
    assert statement.transactional_sql == in_transaction


@pytest.mark.parametrize(
    "text",
    ["REINDEX SCHEMA s", "REINDEX DATABASE d", "REINDEX SYSTEM d", "REINDEX (TABLESPACE x) INDEX i",
     "CREATE INDEX ON t (a) TABLESPACE x", "CLUSTER t USING i", "VACUUM FULL t"],
)  # fmt: skip
def test_what_has_no_concurrent_way_is_refused_by_name(text: str) -> None:
    with pytest.raises(Unsupported, match=text.split()[0]) as refused:
        one(text)
    assert refused.value.remedy


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
    assert [(item.table, item.column, item.expression) for item in found] == [(TableName("", "t"), "a", '"a" || d')]


USINGS = (
    "(NOT b) IS NULL",
    "CASE WHEN (a, b) = (1, 2) THEN arr[1:2] ELSE 'x, USING y' END",
    "a -- why, not\n  /* USING */ + 1",
    '"USING" || "größe" || U&"d\\0061t" || $$a, b$$ || E\'\\\',\'',
    "f(a, (SELECT 1)) OPERATOR(pg_catalog.+) array_agg(a ORDER BY a USING >)",
    '(a || b) COLLATE "C"',
    "- (- a)",
)


@pytest.mark.parametrize("expression", USINGS)
def test_using_is_the_users_own_text(expression: str) -> None:
    statement = one(
        "ALTER TABLE ONLY s.t ADD x numeric(8, 2) DEFAULT 1,"
        f" ALTER COLUMN a SET DATA TYPE numeric(8, 2) USING {expression}"
        f'\n-- a remark, and more\n, DROP y, ALTER b TYPE text COLLATE "C" USING {expression} /* end */'
    )
    table = TableName("s", "t")
    assert statement.using == {(table, "a"): expression, (table, "b"): expression}


def test_using_survives_renames_of_its_columns_by_tree() -> None:
    """Also where libpg_query's own printer would lose parentheses."""
    back = {"p": "a", "q": "b", "r": 'we"ird'}
    for expression in generated(150):
        now = expression_tree.renamed(expression, {"a": "p", "b": "q", "c": "r"})
        text = 'ALTER TABLE t RENAME a TO p; ALTER TABLE t RENAME b TO q; ALTER TABLE t RENAME "we""ird" TO r;'
        (found,) = using_expressions(parse_change(f"{text} ALTER TABLE t ALTER p TYPE text USING {now}", source="x"))
        assert found.column == "a"
        assert expression_tree.form(found.expression, {}) == expression_tree.form(now, back)
        assert expression_tree.form(found.expression, {'we"ird': "c"}) == expression_tree.form(expression, {})


@pytest.mark.parametrize(
    ("expression", "renamed"),
    [
        ("t.b || s.t . b || x", 't."a" || s.t . "a" || x'),
        ("b || b(b)", '"a" || b("a")'),
        ("'b' || bb", "'b' || bb"),
        ("(b).b", '("a").b'),
        ("f(t.*)", "f(t.*)"),
        ('"b" -- b', '"a" -- b'),
    ],
)
def test_renaming_touches_the_columns_own_words_only(expression: str, renamed: str) -> None:
    assert expression_tree.renamed(expression, {"b": "a"}) == renamed


def test_what_cannot_be_renamed_safely_is_refused() -> None:
    with pytest.raises(Unsupported, match="renamed safely"):
        expression_tree.renamed('U&"\\0062" + 1', {"b": "a"})


def test_a_name_that_is_a_keyword_is_quoted() -> None:
    assert expression_tree.renamed("b + 1", {"b": "user"}) == '"user" + 1'


@pytest.mark.parametrize("text", [" + ".join(["a"] * 400), " ".join(["NOT"] * 400) + " a"])
def test_long_expressions_are_read(text: str) -> None:
    assert parser.column_references(text) == {"a"}
    assert one(f"ALTER TABLE t ALTER a TYPE int USING {text}").using == {(TableName("", "t"), "a"): text}


@pytest.mark.parametrize(
    ("text", "transactional"),
    [
        ("CREATE INDEX CONCURRENTLY i ON t (a)", "CREATE INDEX i ON t (a)"),
        (
            "create unique index /* x */ concurrently-- y\ni on t ((NOT b) , c)",
            "create unique index /* x */ -- y\ni on t ((NOT b) , c)",
        ),
        (
            'CREATE INDEX CONCURRENTLY"é" ON t ("concurrently", concurrently(a)) WHERE (NOT b) IS NULL',
            'CREATE INDEX "é" ON t ("concurrently", concurrently(a)) WHERE (NOT b) IS NULL',
        ),
        ("CREATE INDEX CONCURRENTLY ON t (concurrently(a))", "CREATE INDEX ON t (concurrently(a))"),
        ("DROP INDEX CONCURRENTLY i", "DROP INDEX i"),
        ("ALTER TABLE t DETACH PARTITION p CONCURRENTLY", "ALTER TABLE t DETACH PARTITION p"),
    ],
)
def test_concurrently_is_left_out_for_the_clone(text: str, transactional: str) -> None:
    statement = one(text)
    assert statement.concurrent
    assert statement.sql == text
    assert statement.transactional_sql == transactional


def test_removing_concurrently_keeps_all_of_the_tree_but_the_flag() -> None:
    for expression in generated(60):
        text = f"CREATE INDEX CONCURRENTLY i ON t ((concurrently({expression}))) WHERE {expression}"
        wanted = parser.tree_of(text)
        (flag,) = (node for node in walk(wanted) if type(node).__name__ == "IndexStmt")
        flag.concurrent = False
        assert form(parser.tree_of(one(text).transactional_sql)) == form(wanted)


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
        ("INSERT INTO t VALUES (1)", "INSERT", "by itself"),
        ("MERGE INTO t USING u ON true WHEN MATCHED THEN DELETE", "MERGE", "by itself"),
        ("COPY t FROM '/x'", "COPY", "by itself"),
        ("TRUNCATE t", "TRUNCATE", "by itself"),
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
