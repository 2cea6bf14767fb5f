"""The findings of a call as text for a person and as a document for programs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tasks.planning import wording
from tasks.planning.facts import Refusal
from tasks.planning.findings import telling
from tasks.planning.findings.allowances import Allowance
from tasks.planning.findings.judging import judge
from tasks.planning.findings.telling import Sizes
from tasks.planning.live import Unseen
from tasks.planning.paces import BUILT_IN, Paces, foretold, paces
from tests.unit.judged import T, U, catalog, column, file, step, table
from tests.unit.test_paces import build, calibration, run


def today(known: Paces | None = None, **fields: Any) -> Sizes:
    return Sizes(catalog(table(**fields)), known or Paces())


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
        "seconds": [], "source": "measured", "not_run": None, "error": None, "dangerous": True,
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
    known = telling.text(verdicts, today(rows=80_000_000, bytes=8_000_000_000))
    assert "builds index i on public.t (7.45 GiB, about 80,000,000 rows): 67 s to 6.67 min, roughly\n" in known
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
    told = telling.text(judge(facts), today(rows=80_000_000, bytes=8_000_000_000))
    expected = foretold("scan", 80_000_000, BUILT_IN["scan"])
    assert f"reads all of public.t (7.45 GiB, about 80,000,000 rows): {wording.forecast(expected)}, roughly\n" in told
    assert "\nRoughly: what two shared cores did at best" in told
    assert ";." not in told
    never_analyzed = telling.text(judge(facts), today(rows=0, bytes=9_000_000_000))
    assert "(8.38 GiB): 22 s to 3 min, roughly\n" in never_analyzed


def test_what_is_known_of_the_database_counts_and_is_named() -> None:
    facts = file(
        catalog(table()),
        step("CREATE INDEX i ON t (a)", own={T: "SHARE"}, index_builds=(("i", T),)),
        step("ALTER TABLE t CLUSTER ON i", own={T: "SHARE"}, scans=(T,)),
        step("ALTER TABLE t ALTER a TYPE bigint", own={T: "ACCESS EXCLUSIVE"}, rewrites=(T,)),
    )
    verdicts = judge(facts)
    why = Unseen(what="earlier runs", why="the role may not read Lockstep's ledger", remedy="GRANT it")
    made = calibration().model_copy(update={"speeds": (("scan", 1e6, 1e6),)})
    known = paces([run(build(T), 100_000, 100.0)], [made], (why,))
    told = telling.text(verdicts, today(known, rows=80_000_000, bytes=8_000_000_000))
    built = wording.forecast(foretold("build", 80_000_000, known.of(T, "build")))
    size = "(7.45 GiB, about 80,000,000 rows)"
    assert f"builds index i on public.t {size}: {built}, as in earlier runs\n" in told
    assert f"reads all of public.t {size}: 64 s to 10.7 min, by a calibration\n" in told
    assert "min, roughly\n" in told
    assert "\nAs in earlier runs: 1 step over 100,000 rows in earlier runs here (m).\n" in told
    assert (
        "\nBy a calibration that a plan has made: 50,000 generated rows of 80 bytes in the scratch database.\n" in told
    )
    assert "\nDurations are told without earlier runs: the role may not read Lockstep's ledger (GRANT it).\n" in told
    document = telling.document(verdicts, today(known, rows=80_000_000, bytes=8_000_000_000))
    first, scanned, rewritten = (statement["seconds"][0] for statement in document["statements"])
    assert [entry["pace"] for entry in (first, scanned, rewritten)] == ["ledger", "calibration", "built-in"]
    assert (first["table"], first["work"]) == ("public.t", "build")
    assert (scanned["best"], scanned["worst"]) == (64, 640)


def test_wide_rows_take_longer_and_their_toast_only_where_it_is_moved() -> None:
    facts = file(
        catalog(table()),
        step("ALTER TABLE t CLUSTER ON i", own={T: "SHARE"}, scans=(T,)),
        step("ALTER TABLE t ALTER a TYPE bigint", own={T: "ACCESS EXCLUSIVE"}, rewrites=(T,)),
    )

    def worst(**fields: Any) -> list[float]:
        document = telling.document(judge(facts), today(rows=1_000_000, **fields))
        return [statement["seconds"][0]["worst"] for statement in document["statements"]]

    assert worst(bytes=100_000_000) == [2, 12.5]
    assert worst(bytes=4_100_000_000) == [42, 212.5]
    assert worst(bytes=4_100_000_000, toast_bytes=4_000_000_000) == [2, 812.5]
