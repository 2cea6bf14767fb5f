"""Definitions as servers print them: what compares equal, and that nothing else does."""

from __future__ import annotations

import pytest

from tasks.planning import definitions, parser
from tasks.planning.catalog import Constraint
from tasks.planning.parse_tree import form
from tasks.planning.schema_hash import schema_text
from tests.unit.generated_expressions import generated
from tests.unit.test_schema_hash import T, catalog, table


def test_shapes_ignore_names_that_followed_and_casts() -> None:
    before = "ALTER TABLE t ADD CONSTRAINT c CHECK ((volume > 0))"
    after = "ALTER TABLE t ADD CONSTRAINT c CHECK ((amount > (0)::numeric))"
    assert definitions.shape(before, {"volume": "amount"}) == definitions.shape(after, {})
    assert definitions.renamed(before, {"volume": "amount"}) != definitions.renamed(after, {})
    assert definitions.shape(before, {}) != definitions.shape(after, {})
    assert definitions.shape(before.replace("> 0", "> 1"), {"volume": "amount"}) != definitions.shape(after, {})


def test_renames_are_followed_in_views_and_foreign_keys() -> None:
    view = "CREATE VIEW v AS SELECT t.a, t.b FROM t"
    assert definitions.renamed(view, {"a": "x"}) == definitions.renamed(
        "CREATE VIEW v AS SELECT t.x AS a, t.b FROM t", {}
    )
    key = "ALTER TABLE t ADD CONSTRAINT c FOREIGN KEY (a) REFERENCES s.u(id)"
    followed = "ALTER TABLE t ADD CONSTRAINT c FOREIGN KEY (b) REFERENCES s.w(key)"
    tables = {("s", "u"): ("s", "w")}
    assert definitions.renamed(key, {"a": "b"}, referenced={"id": "key"}, tables=tables) == definitions.renamed(
        followed, {}
    )


SAME = {
    "before 16": (
        "CREATE VIEW s.v AS SELECT t.a,\n    t.b\n   FROM s.t\n  WHERE (t.a > 1)",
        "CREATE VIEW s.v AS SELECT a, b FROM s.t WHERE a > 1",
    ),
    "before 16, ordered": (
        "CREATE VIEW v AS SELECT x.a AS z FROM t x GROUP BY x.a ORDER BY x.a",
        "CREATE VIEW v AS SELECT a AS z FROM t x GROUP BY a ORDER BY a",
    ),
    "before 16, over a query": (
        "CREATE VIEW v AS SELECT q.a FROM (SELECT t.a FROM t) q WHERE q.a IN (SELECT u.b FROM u WHERE u.c = q.a)",
        "CREATE VIEW v AS SELECT a FROM (SELECT t.a FROM t) q WHERE a IN (SELECT u.b FROM u WHERE u.c = q.a)",
    ),
    "casts of an array": (
        "CREATE VIEW v AS SELECT a = ANY ((ARRAY[b, c])::text[]) AS z FROM t",
        "CREATE VIEW v AS SELECT a = ANY (ARRAY[b::text, c::text]) AS z FROM t",
    ),
}


@pytest.mark.parametrize("case", SAME)
def test_what_servers_print_differently_becomes_the_same(case: str) -> None:
    one, other = SAME[case]
    assert definitions.version_free(one) == definitions.version_free(other)


DIFFERENT = {
    "old and new": (
        "CREATE RULE r AS ON UPDATE TO t WHERE old.a > 1 DO NOTHING",
        "CREATE RULE r AS ON UPDATE TO t WHERE new.a > 1 DO NOTHING",
    ),
    "the side of a join": (
        "CREATE VIEW v AS SELECT t.a FROM t JOIN u ON t.b = u.b",
        "CREATE VIEW v AS SELECT u.a FROM t JOIN u ON t.b = u.b",
    ),
    "two relations": ("CREATE VIEW v AS SELECT t.a FROM t, u", "CREATE VIEW v AS SELECT u.a FROM t, u"),
    "inside or outside": (
        "CREATE VIEW v AS SELECT a FROM t WHERE EXISTS (SELECT FROM u WHERE u.a = t.a)",
        "CREATE VIEW v AS SELECT a FROM t WHERE EXISTS (SELECT FROM u WHERE u.a = u.a)",
    ),
    "ordered by what comes in or goes out": (
        "CREATE VIEW v AS SELECT - a AS a FROM t ORDER BY t.a",
        "CREATE VIEW v AS SELECT - a AS a FROM t ORDER BY a",
    ),
    "parentheses": ("CREATE VIEW v AS SELECT (NOT b) IS NULL", "CREATE VIEW v AS SELECT NOT b IS NULL"),
    "white space in a literal that is not parsed": ("CREATE POLICY p ('a  b'", "CREATE POLICY p ('a b'"),
    "the type of an empty array": ("CREATE VIEW v AS SELECT ARRAY[]::int[]", "CREATE VIEW v AS SELECT ARRAY[]::text[]"),
    "an array of arrays": (
        "CREATE VIEW v AS SELECT (ARRAY[ARRAY[a]])::text[]",
        "CREATE VIEW v AS SELECT ARRAY[ARRAY[a]::text]",
    ),
}


@pytest.mark.parametrize("case", DIFFERENT)
def test_definitions_that_differ_stay_apart(case: str) -> None:
    one, other = DIFFERENT[case]
    assert definitions.version_free(one) != definitions.version_free(other)
    assert definitions.renamed(one, {}) != definitions.renamed(other, {})


def test_an_array_of_arrays_is_settled_down_to_its_elements() -> None:
    assert definitions.settled_constraint("CHECK (a = (ARRAY[ARRAY[b]])::text[])") == (
        "CHECK (a = ARRAY[ARRAY[b::text]])"
    )


def test_readable_text_stays_as_it_is_where_it_says_what_the_tree_says() -> None:
    assert definitions.settled_constraint("CHECK ((a > 0))") == "CHECK (a > 0)"
    told = definitions.settled_constraint("CHECK (((NOT b) IS NULL)) NOT VALID")
    assert told.startswith("CHECK (NOT b IS NULL) NOT VALID /* tree ")
    assert definitions.settled_constraint("CHECK ((NOT (b IS NULL))) NOT VALID") == "CHECK (NOT b IS NULL) NOT VALID"


def line(definition: str) -> str:
    check = Constraint(name="c", oid=5, kind="check", definition=definition, columns=("a",))
    text = schema_text(catalog(table(constraints=(check,))), [T])
    (found,) = (line for line in text.splitlines() if line.startswith("constraint"))
    return found


def test_checks_that_differ_never_share_a_line() -> None:
    """And those that differ in superfluous parentheses only always do."""
    trees: dict[str, bytes] = {}
    lines: dict[bytes, str] = {}
    for expression in generated(250):
        for variant in (expression, expression.replace("(NOT ", "NOT (", 1), without_some_parentheses(expression)):
            definition = f"CHECK (({variant}))"
            try:
                tree = form(parser.tree_of(f"ALTER TABLE t ADD {definition}"))
            except parser.SyntaxFault:
                continue
            told = line(definition)
            assert trees.setdefault(told, tree) == tree, definition
            assert lines.setdefault(tree, told) == told, definition
    assert len(trees) > 200
    printed_alike = {told.partition(" /* tree")[0] for told in trees}
    assert len(printed_alike) < len(trees) - 5, "the generator makes what the printer confuses"


def without_some_parentheses(expression: str) -> str:
    """Return the expression without its second and third pair: often another one, sometimes none at all."""
    for _ in range(2):
        start = expression.find("(", 1)
        depth = 0
        for position in range(max(start, 0), len(expression)):
            depth += (expression[position] == "(") - (expression[position] == ")")
            if depth == 0 and start > 0:
                expression = (
                    expression[:start] + " " + expression[start + 1 : position] + " " + expression[position + 1 :]
                )
                break
    return expression


def test_a_newline_and_its_escape_are_two_things() -> None:
    assert line("CHECK ((a <> 'x\ny'))") != line("CHECK ((a <> 'x\\ny'))")
