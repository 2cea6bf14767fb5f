"""The findings of a call as text for a person and as a document for programs."""

from __future__ import annotations

from dataclasses import replace

from tasks.planning import wording
from tasks.planning.facts import Refusal
from tasks.planning.findings import telling
from tasks.planning.findings.allowances import Allowance
from tasks.planning.findings.judging import judge
from tasks.planning.paces import BUILT_IN, foretold
from tests.unit.judged import T, U, catalog, column, file, step, table


def test_a_statement_that_fails_cannot_be_allowed() -> None:
    refused = Refusal('column "q" does not exist', "42703", 1, 18, "Perhaps you meant b.")
    facts = file(catalog(table()), step("ALTER TABLE t DROP q", refused=refused))
    (verdict,) = judge(facts, {("v1.sql", 0): (Allowance(0, 1, ("statement-fails",), "it works for me"),)})
    assert verdict.fails
    assert not verdict.dangerous
    assert [(item.rule.id, item.allowed) for item in verdict.findings] == [("statement-fails", None)]
    shown = telling.text([verdict], None)
    assert "     1 | ALTER TABLE t DROP q\n       |                  ^\n       Perhaps you meant b.\n" in shown
    assert telling.document([verdict])["statements"][0]["error"] == 'column "q" does not exist [42703]'


def test_the_document_is_that_of_the_contract() -> None:
    wide = catalog(table(columns=(column("a", 1, type="bigint"), column("b", 2))))
    facts = file(
        catalog(table()),
        step("ALTER TABLE t ALTER a TYPE bigint", wide, own={T: "ACCESS EXCLUSIVE", U: "ACCESS SHARE"}, rewrites=(T,),
             index_builds=(("t_pkey", T),), scans=(T,)),
    )  # fmt: skip
    (statement,) = telling.document(judge(facts))["statements"]
    findings = statement.pop("findings")
    assert statement == {
        "index": 1, "file": "v1.sql", "line": 1, "sql": "ALTER TABLE t ALTER a TYPE bigint", "in_transaction": True,
        "locks": {"public.t": "AccessExclusiveLock"}, "held": {"public.t": "AccessExclusiveLock"},
        "index_locks": {},
        "rewrites": ["public.t"], "index_builds": ["public.t_pkey"], "scans": ["public.t"], "validations": [],
        "source": "measured", "not_run": None, "error": None, "dangerous": True,
    }  # fmt: skip
    assert findings[0]["id"] == "type-change-rewrites"
    assert set(findings[0]) == {"id", "severity", "message", "safe", "allowed"}


def test_the_text_says_how_long_it_takes_where_the_size_is_known() -> None:
    facts = file(catalog(table()), step("CREATE INDEX i ON t (a)", own={T: "SHARE"}, index_builds=(("i", T),)))
    verdicts = judge(facts)
    unknown = telling.text(verdicts, None)
    assert (
        "v1.sql:1  DANGEROUS\n     1 | CREATE INDEX i ON t (a)\n  lock  SHARE on public.t: blocks writes\n" in unknown
    )
    assert "builds index i on public.t\n" in unknown
    assert "known only with --database" in unknown
    assert "Instead: constrain: CREATE INDEX CONCURRENTLY" in unknown
    known = telling.text(verdicts, catalog(table(rows=80_000_000, bytes=9_000_000_000)))
    assert "builds index i on public.t (8.38 GiB, about 80,000,000 rows): 67 s to 6.67 min\n" in known
    assert "known only with --database" not in known


def test_statements_with_nothing_to_tell_are_only_counted() -> None:
    silent = file(catalog(table()), step("SET search_path = x"), step("SELECT 1", own={T: "ACCESS SHARE"}))
    assert telling.text(judge(silent), None).startswith("2 statements, 0 dangerous; findings: 0 CRITICAL")
    not_run = (replace(silent[1], not_run="It concerns the whole server."),)
    assert "v1.sql:2\n     2 | SELECT 1\n  It concerns the whole server.\n" in telling.text(judge(not_run), None)


def test_what_was_not_measured_says_so() -> None:
    (facts,) = file(catalog(table()), step("CREATE INDEX i ON t (a)", own={T: "SHARE"}, index_builds=(("i", T),)))
    told = telling.text(judge((replace(facts, source="guessed"),)), None)
    assert "Told by rules from the statements alone" in told
    assert "Measured on" not in told
    assert "Measured on PostgreSQL 16" in telling.text(judge((facts,)), None)


def test_durations_are_those_of_the_plan() -> None:
    """One place of truth: the paces by which a plan is foretold."""
    facts = file(catalog(table()), step("ALTER TABLE t CLUSTER ON i", own={T: "SHARE"}, scans=(T,)))
    told = telling.text(judge(facts), catalog(table(rows=80_000_000, bytes=9_000_000_000)))
    expected = foretold("scan", 80_000_000, BUILT_IN["scan"])
    assert f"reads all of public.t (8.38 GiB, about 80,000,000 rows): {wording.forecast(expected)}\n" in told
    assert "Durations are rough" in told
    assert ";." not in told
    never_analyzed = telling.text(judge(facts), catalog(table(rows=0, bytes=9_000_000_000)))
    assert "(8.38 GiB): 22 s to 3 min\n" in never_analyzed
