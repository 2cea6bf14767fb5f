"""Judging statements by facts made by hand. What the server says of every example is tried in integration."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.planning import parser
from tasks.planning.catalog import Catalog, Constraint, Dependent, Index, SchemaObject, Trigger
from tasks.planning.facts import Refusal
from tasks.planning.findings.allowances import Allowance
from tasks.planning.findings.catalogue import BY_ID, RULES
from tasks.planning.findings.judging import Verdict, judge
from tasks.planning.findings.page import page
from tasks.planning.names import TableName
from tasks.planning.plan import LockMode
from tests.unit.judged import T, U, catalog, column, file, ids, step, table

FINDINGS = Path(__file__).parents[2] / "docs" / "findings.md"


def test_the_page_is_what_the_rules_say() -> None:
    assert FINDINGS.read_text(encoding="utf-8") == page(), "python -m tasks.planning.findings.page > docs/findings.md"


def test_rules_are_told_apart_and_say_all_that_they_must() -> None:
    assert len({rule.id for rule in RULES}) == len(RULES) >= 50
    for rule in RULES:
        for said in (rule.condition, rule.effect, rule.why):
            assert said[0].isupper(), rule.id
            assert said.endswith((".", "…")), rule.id
        assert rule.severity == "CRITICAL" or not (rule.dangerous or rule.fails), rule.id
        assert not (rule.dangerous and rule.fails), rule.id
        assert set(rule.yields_to) <= BY_ID.keys() - {rule.id}, rule.id


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_the_examples_are_sql(rule: Any) -> None:
    for example in (rule.bad, *rule.good, *filter(None, [rule.setup])):
        assert parser.parse(example)


@pytest.mark.parametrize(
    ("mode", "dangerous"),
    [("ROW EXCLUSIVE", False), ("SHARE UPDATE EXCLUSIVE", False), ("SHARE", True), ("SHARE ROW EXCLUSIVE", True),
     ("EXCLUSIVE", True), ("ACCESS EXCLUSIVE", True)],
)  # fmt: skip
@pytest.mark.parametrize("work", [{"scans": (T,)}, {"rewrites": (T,)}, {"index_builds": (("i", T),)}])
def test_work_is_dangerous_under_a_lock_that_blocks_writes(mode: LockMode, dangerous: bool, work: Any) -> None:
    (verdict,) = judge(file(catalog(table()), step("ALTER TABLE t CLUSTER ON i", own={T: mode}, **work)))
    assert verdict.dangerous is verdict.stops is dangerous
    assert bool(ids(verdict)) is dangerous, "what is dangerous is also explained"


def test_a_lock_without_work_is_not_dangerous() -> None:
    (verdict,) = judge(file(catalog(table()), step("ALTER TABLE t CLUSTER ON i", own={T: "ACCESS EXCLUSIVE"})))
    assert not verdict.dangerous
    assert {item.rule.id for item in verdict.findings} == {"lock-timeout-missing"}


def test_work_under_a_lock_that_an_earlier_statement_took() -> None:
    steps = (
        step("ALTER TABLE u ADD c int", own={U: "ACCESS EXCLUSIVE"}),
        step("ALTER TABLE t VALIDATE CONSTRAINT k", own={T: "SHARE UPDATE EXCLUSIVE"}, scans=(T,)),
    )
    facts = file(catalog(table(), table(U, 2)), *steps)
    first, second = judge(facts)
    assert not first.dangerous
    assert second.dangerous
    assert ids(second) == {"work-after-lock"}
    (message,) = (item.message for item in second.findings if item.rule.id == "work-after-lock")
    assert "ACCESS EXCLUSIVE on public.u, held since line 1" in message
    alone = file(catalog(table(), table(U, 2)), steps[1])
    assert not judge(alone)[0].dangerous


def test_a_timeout_is_asked_for_once_and_only_where_something_is_blocked() -> None:
    def missing(*sql: str) -> list[int]:
        steps = [step(text, own={} if "SET" in text else {T: "ACCESS EXCLUSIVE"}) for text in sql]
        verdicts = judge(file(catalog(table()), *steps))
        return [v.facts.index for v in verdicts if "lock-timeout-missing" in {item.rule.id for item in v.findings}]

    add = "ALTER TABLE t ADD c int"
    assert missing(add, add) == [1]
    for setting in ("SET lock_timeout = '2s'", "SET LOCAL lock_timeout TO 2000", "SET SESSION lock_timeout='2s'"):
        assert missing(setting, add) == []
    for setting in ("SET lock_timeout = 0", "SET lock_timeout TO DEFAULT", "SET statement_timeout = '2s'"):
        assert missing(setting, add) == [2]
    # The last word counts.
    for ended in ("SET lock_timeout = 0", "SET lock_timeout TO '0ms'", "RESET lock_timeout", "RESET ALL"):
        assert missing("SET lock_timeout = '2s'", ended, add) == [3]
    assert missing("SET lock_timeout = 0", "SET lock_timeout = '2s'", add) == []


RENAMED = catalog(table(columns=(column("z", 1), column("b", 2))))


def test_what_the_file_itself_made_is_nobodys_yet() -> None:
    new = catalog(table(), table(U, 2))
    dropped = catalog(table(), table(U, 2, columns=(column("a", 1),)))
    verdicts = judge(
        file(catalog(table()), step("CREATE TABLE u (a int, b int)", new), step("ALTER TABLE u DROP b", dropped))
    )
    assert not any(verdict.dangerous for verdict in verdicts)
    (alone,) = judge(file(new, step("ALTER TABLE u DROP b", dropped)))
    assert ids(alone) == {"column-dropped"}


def test_a_name_that_is_given_back_in_the_same_file_was_never_gone() -> None:
    viewed = catalog(
        table(U),
        objects=(
            SchemaObject(kind="view", name="public.t", oid=9, definition="…", columns=("a\tinteger", "b\tinteger")),
        ),
    )
    renamed = judge(
        file(catalog(table()), step("ALTER TABLE t RENAME TO u", catalog(table(U))),
             step("CREATE VIEW t AS SELECT * FROM u", viewed))
    )  # fmt: skip
    assert not any("table-renamed" in ids(verdict) for verdict in renamed)
    other = catalog(table(U), table(T, 2, columns=(column("a", 1), column("b", 2, type="bigint"))))
    (first, _) = judge(
        file(catalog(table()), step("ALTER TABLE t RENAME TO u", catalog(table(U))), step("CREATE TABLE t ()", other))
    )
    assert any("what takes its name has not b as it had" in item.message for item in first.findings)
    (alone,) = judge(file(catalog(table()), step("ALTER TABLE t RENAME TO u", catalog(table(U)))))
    assert ids(alone) == {"table-renamed"}
    swapped = catalog(table(columns=(column("z", 1), column("b", 2), column("a", 3))))
    columns = judge(
        file(catalog(table()), step("ALTER TABLE t RENAME a TO z", RENAMED), step("ALTER TABLE t ADD a int", swapped))
    )
    assert not any("column-renamed" in ids(verdict) for verdict in columns)


@pytest.mark.parametrize(
    ("sql", "unbatched"),
    [
        ("UPDATE t SET b = 1", True),
        ("UPDATE t SET b = 1 WHERE a > 5", True),
        ("UPDATE t SET b = 1 WHERE b = 5", True),
        ("UPDATE t SET b = 1 WHERE a = 5 OR b = 2", True),
        ("UPDATE t SET b = 1 WHERE a = (SELECT 1)", True),
        ("UPDATE t SET b = 1 WHERE a IS DISTINCT FROM 5", True),
        ("UPDATE t SET b = 1 FROM u WHERE u.a = 5", True),
        ("DELETE FROM public.t USING u WHERE u.a = 5 AND t.b = u.b", True),
        ("DELETE FROM public.t", True),
        ("UPDATE t SET b = 1 WHERE a = 5", False),
        ("UPDATE t SET b = 1 WHERE t.a IN (5, 6) AND b > 3", False),
        ("DELETE FROM t WHERE a = '5'::int", False),
        ("DELETE FROM t WHERE public.t.a = 5", False),
        ("MERGE INTO t USING u ON t.a = u.a WHEN MATCHED THEN UPDATE SET b = 1", True),
        ("MERGE INTO t USING u ON t.a = u.a WHEN MATCHED THEN DELETE", True),
        ("MERGE INTO t USING u ON t.a = u.a WHEN NOT MATCHED THEN INSERT VALUES (1)", False),
        ("MERGE INTO t USING u ON t.a = 5 WHEN MATCHED THEN UPDATE SET b = 1", False),
        ("WITH gone AS (DELETE FROM t RETURNING *) SELECT count(*) FROM gone", True),
        ("WITH gone AS (DELETE FROM t WHERE a = 5 RETURNING *) SELECT count(*) FROM gone", False),
        ("WITH one AS (SELECT 5) DELETE FROM t", True),
        ("UPDATE t AS x SET b = 1 FROM u WHERE x.a = 5 AND x.b = u.b", False),
    ],
)
def test_a_data_change_is_batched_when_a_key_says_which_rows(sql: str, unbatched: bool) -> None:
    key = Constraint(name="t_pkey", oid=5, kind="primary_key", definition="PRIMARY KEY (a)", columns=("a",))
    (verdict,) = judge(file(catalog(table(constraints=(key,))), step(sql, own={T: "ROW EXCLUSIVE"}, scans=(T,))))
    assert ("data-change-unbatched" in ids(verdict)) is unbatched
    assert not verdict.dangerous


def index(name: str, definition: str, **more: Any) -> Index:
    return Index(name=name, oid=sum(map(ord, name)), definition=f"CREATE {definition}", columns=(), **more)


@pytest.mark.parametrize(
    ("known", "new", "redundant"),
    [
        ("INDEX i ON public.t USING btree (a, b)", "INDEX n ON public.t USING btree (a)", True),
        ("UNIQUE INDEX i ON public.t USING btree (a)", "INDEX n ON public.t USING btree (a)", True),
        ("INDEX i ON public.t USING btree (a, b)", "INDEX n ON public.t USING btree (b)", False),
        ("INDEX i ON public.t USING btree (a, b)", "INDEX n ON public.t USING btree (a DESC)", False),
        ("INDEX i ON public.t USING btree (a, b)", "INDEX n ON public.t USING btree (a) INCLUDE (b)", False),
        ("INDEX i ON public.t USING btree (a)", "UNIQUE INDEX n ON public.t USING btree (a)", False),
        ("INDEX i ON public.t USING btree (a) WHERE b > 1", "INDEX n ON public.t USING btree (a)", False),
        ("INDEX i ON public.t USING hash (a)", "INDEX n ON public.t USING hash (a)", False),
        ("INDEX i ON public.t USING btree (lower(a))", "INDEX n ON public.t USING btree (lower(a))", False),
    ],
)
def test_an_index_is_redundant_when_another_begins_with_it(known: str, new: str, redundant: bool) -> None:
    old = index("i", known)
    after = catalog(table(indexes=(old, index("n", new, unique=new.startswith("UNIQUE")))))
    (verdict,) = judge(file(catalog(table(indexes=(old,))), step("CREATE INDEX CONCURRENTLY n ON t (a)", after)))
    assert ("index-redundant" in ids(verdict)) is redundant


@pytest.mark.parametrize(
    ("indexes", "found"),
    [
        ((), True),
        (("INDEX i ON public.t USING btree (a, b)",), False),
        (("INDEX i ON public.t USING btree (b, a)",), True),
        (("INDEX i ON public.t USING btree (a) WHERE b > 1",), True),
    ],
)
def test_a_foreign_key_needs_an_index_that_begins_with_it(indexes: tuple[str, ...], found: bool) -> None:
    key = Constraint(
        name="k", oid=5, kind="foreign_key", definition="FOREIGN KEY (a) REFERENCES public.u(a) NOT VALID",
        columns=("a",), references=U, referenced_columns=("a",), validated=False,
    )  # fmt: skip
    made = tuple(index(f"i{number}", text) for number, text in enumerate(indexes))
    parent = table(U, 2, columns=(column("a", 1, type="bigint"),))
    before = catalog(table(indexes=made), parent)
    after = catalog(table(indexes=made, constraints=(key,)), parent)
    (verdict,) = judge(
        file(before, step("ALTER TABLE t ADD CONSTRAINT k FOREIGN KEY (a) REFERENCES u NOT VALID", after))
    )
    assert ("foreign-key-without-index" in ids(verdict)) is found
    assert ids(verdict) >= {"foreign-key-types-differ", "new-demand"}
    assert not verdict.dangerous


def test_the_live_database_knows_what_a_copy_does_not() -> None:
    key = Constraint(name="t_pkey", oid=5, kind="primary_key", definition="PRIMARY KEY (a)", columns=("a",))
    facts = file(catalog(table(constraints=(key,))), step("ALTER TABLE t DROP CONSTRAINT t_pkey", catalog(table())))
    published = table(dependents=(Dependent(kind="publication", name="changes", columns=()),))
    assert "replica-identity-lost" not in ids(judge(facts)[0])
    (verdict,) = judge(facts, live=catalog(published))
    assert "replica-identity-lost" in ids(verdict)
    assert verdict.dangerous
    build = file(catalog(table()), step("CREATE INDEX CONCURRENTLY i ON t (a)"))
    old = catalog(table()).model_copy(update={"server_version": 140003})
    assert "concurrent-index-corrupts" in ids(judge(build, live=old)[0])
    fixed = old.model_copy(update={"server_version": 140004})
    assert "concurrent-index-corrupts" not in ids(judge(build, live=fixed)[0])


def test_what_is_allowed_is_still_dangerous_but_stops_nobody() -> None:
    facts = file(catalog(table()), step("ALTER TABLE t RENAME a TO z", RENAMED))

    def judged(*noted: Allowance) -> Verdict:
        return judge(facts, {("v1.sql", 0): noted})[0]

    allowed = judged(Allowance(0, 1, ("column-renamed", "lock-timeout-missing"), "nobody reads it"))
    assert allowed.dangerous
    assert not allowed.stops
    assert [item.allowed for item in allowed.findings] == ["nobody reads it"]
    silent = judged(Allowance(0, 1, ("column-renamed",), ""))
    assert silent.stops
    assert ids(silent) == {"column-renamed", "allowance-without-reason"}
    misspelt = judged(Allowance(0, 1, ("column-renameed",), "nobody reads it"))
    assert misspelt.stops
    assert ids(misspelt) == {"column-renamed", "allowance-unknown"}
    assert ids(judged(Allowance(0, 1, (), ""))) == {"column-renamed", "allowance-unknown"}


def test_what_is_held_ends_with_its_transaction() -> None:
    steps = (
        step("BEGIN"),
        step("ALTER TABLE u ADD c int", own={U: "ACCESS EXCLUSIVE"}),
        step("COMMIT"),
        step("UPDATE t SET a = 1", own={T: "ROW EXCLUSIVE"}, scans=(T,)),
    )
    facts = file(catalog(table(), table(U, 2)), *steps)
    apart = (*facts[:3], replace(facts[3], held=facts[3].own))
    assert ids(judge(apart)[3]) == {"data-change-unbatched"}
    together = (*facts[:2], replace(facts[3], index=3))
    assert ids(judge(together)[2]) == {"data-change-unbatched", "data-change-after-lock"}


def test_a_data_change_is_known_by_the_lock_that_its_transaction_has() -> None:
    update = step("UPDATE t SET a = 1", own={}, scans=(T,))
    _, verdict = judge(file(catalog(table()), step("ALTER TABLE t ADD c int", own={T: "ACCESS EXCLUSIVE"}), update))
    assert ids(verdict) == {"data-change-unbatched", "data-change-after-lock"}


def test_a_statement_that_belongs_in_no_transaction_stands_alone_in_its_file() -> None:
    facts = file(catalog(table()), step("ALTER TABLE t ADD c int"), step("CREATE INDEX CONCURRENTLY i ON t (a)"))
    assert not judge(facts)[1].findings
    mixed = judge((facts[0], replace(facts[1], beside=1)))
    assert [item.rule.id for item in mixed[1].findings] == ["concurrently-in-transaction"]
    assert "line 1 of its file" in mixed[1].findings[0].message
    assert mixed[1].fails
    refused = step("CREATE INDEX CONCURRENTLY i ON t (a)", refused=Refusal("cannot run inside …", "25001", 2, 1))
    (_, verdict) = judge(file(catalog(table()), step("BEGIN"), refused))
    assert [item.rule.id for item in verdict.findings] == ["concurrently-in-transaction"]


def test_nobody_writes_a_materialized_view() -> None:
    view = SchemaObject(kind="materialized view", name="public.u", oid=9, definition="…")
    before = catalog(table(), objects=(view,))
    refresh = "REFRESH MATERIALIZED VIEW CONCURRENTLY u"
    (verdict,) = judge(file(before, step(refresh, own={U: "EXCLUSIVE", T: "ACCESS SHARE"}, scans=(T,))))
    assert not verdict.dangerous
    assert not ids(verdict)
    (blocking,) = judge(file(before, step(refresh, own={U: "ACCESS EXCLUSIVE"}, scans=(T,))))
    assert blocking.dangerous


def test_partitions_of_an_emptied_table_are_not_emptied_by_cascade() -> None:
    part, other = TableName("public", "t_1"), TableName("archive", "t")
    before = catalog(table(kind="p"), table(part, 2, partition_of=T), table(other, 3))
    locks = dict.fromkeys((T, part), "ACCESS EXCLUSIVE")
    (plain,) = judge(file(before, step("TRUNCATE t", own=locks)))
    assert ids(plain) == {"table-emptied"}
    (cascade,) = judge(file(before, step("TRUNCATE public.t CASCADE", own={**locks, other: "ACCESS EXCLUSIVE"})))
    (found,) = (item for item in cascade.findings if item.rule.id == "truncate-cascades")
    assert found.hit.what == "CASCADE empties archive.t as well."


def test_a_required_column_fails_on_rows_whatever_the_file_does_next() -> None:
    """The copy has no rows, so the server did not refuse it; the live one will."""

    def after(**more: Any) -> Catalog:
        return catalog(table(columns=(column("a", 1), column("b", 2), column("c", 3, **more))))

    first, _ = judge(
        file(
            catalog(table()),
            step("ALTER TABLE t ADD c integer NOT NULL", after(not_null=True)),
            step("ALTER TABLE t ALTER c SET DEFAULT 1", after(not_null=True, default="1")),
        )
    )
    assert ids(first) == {"required-column-added"}


def test_a_label_or_privilege_of_what_the_file_made_is_nobodys_yet() -> None:
    def mood(label: str) -> Catalog:
        return catalog(table(), objects=(SchemaObject(kind="enum", name="public.mood", oid=9, definition=label),))

    rename = step("ALTER TYPE mood RENAME VALUE 'a' TO 'b'", mood("b"))
    *_, made = judge(file(catalog(table()), step("CREATE TYPE mood AS ENUM ('a')", mood("a")), rename))
    assert not made.findings
    (known,) = judge(file(mood("a"), rename))
    assert ids(known) == {"enum-label-renamed"}
    revoke = step("REVOKE ALL ON u FROM PUBLIC", catalog(table(), table(U, 2)))
    *_, fresh = judge(file(catalog(table()), step("CREATE TABLE u ()", catalog(table(), table(U, 2))), revoke))
    assert "privilege-revoked" not in ids(fresh)
    (old,) = judge(file(catalog(table(), table(U, 2)), revoke))
    assert ids(old) == {"privilege-revoked"}


@pytest.mark.parametrize(("analyze", "missing"), [("ANALYZE", False), ("ANALYZE t", False), ("ANALYZE u", True)])
def test_statistics_are_missing_until_their_table_is_analyzed(analyze: str, missing: bool) -> None:
    update = step("UPDATE t SET a = 1", own={T: "ROW EXCLUSIVE"}, scans=(T,))
    first, _ = judge(file(catalog(table(), table(U, 2)), update, step(analyze)))
    assert ("analyze-missing" in {item.rule.id for item in first.findings}) is missing


def test_what_intercepts_or_narrows_writes_of_the_running_version_is_told() -> None:
    trigger = Trigger(name="g", definition="…", enabled="O", before_row=True, on_update=False)
    rule = Dependent(kind="rule", name="r", columns=(), definition="CREATE RULE …")
    sql, made = (
        "CREATE TRIGGER g BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()",
        catalog(table(triggers=(trigger,))),
    )
    for text, after in (
        (sql, made),
        ("CREATE RULE r AS ON INSERT TO t DO INSTEAD NOTHING", catalog(table(dependents=(rule,)))),
    ):
        (verdict,) = judge(file(catalog(table()), step(text, after)))
        assert ids(verdict) == {"writes-intercepted"}
        assert not verdict.dangerous
    *_, again = judge(file(made, step("DROP TRIGGER g ON t", catalog(table())), step(sql, made)))
    assert not ids(again), "it was there, as it is"
    *_, own = judge(file(catalog(table(U, 2)), step("CREATE TABLE t ()", catalog(table(), table(U, 2))),
                         step(sql, catalog(table(triggers=(trigger,)), table(U, 2)))))  # fmt: skip
    assert not ids(own)


@pytest.mark.parametrize(
    ("sql", "found"),
    [("ALTER DOMAIN d ADD CHECK (VALUE > 0) NOT VALID", True), ("ALTER DOMAIN d SET NOT NULL", True),
     ("ALTER DOMAIN d DROP NOT NULL", False), ("ALTER DOMAIN d SET DEFAULT 5", False)],
)  # fmt: skip
def test_a_domains_new_rule_is_a_demand(sql: str, found: bool) -> None:
    def domain(definition: str) -> Catalog:
        return catalog(table(), objects=(SchemaObject(kind="domain", name="public.d", oid=9, definition=definition),))

    (verdict,) = judge(file(domain("integer"), step(sql, domain("another"))))
    assert ids(verdict) == ({"new-demand"} if found else set())
    made = file(catalog(table()), step("CREATE DOMAIN d AS integer", domain("integer")), step(sql, domain("another")))
    assert not ids(judge(made)[1])


def test_a_partition_that_leaves_takes_its_rows_along() -> None:
    part = TableName("public", "t_1")
    whole, apart = (catalog(table(kind="p"), table(part, 2, partition_of=parent)) for parent in (T, None))
    detach = step("ALTER TABLE t DETACH PARTITION t_1", apart, own=dict.fromkeys((T, part), "ACCESS EXCLUSIVE"))
    (verdict,) = judge(file(whole, detach))
    assert ids(verdict) == {"partition-detached"}
    (told,) = (item.message for item in verdict.findings if item.rule.id == "partition-detached")
    assert told.startswith("public.t_1 is no longer part of public.t. ")
    new = file(catalog(table(kind="p")), step("CREATE TABLE t_1 PARTITION OF t DEFAULT", whole), detach)
    assert "partition-detached" not in ids(judge(new)[1])
    back = file(whole, detach, step("ALTER TABLE t ATTACH PARTITION t_1 DEFAULT", whole))
    assert "partition-detached" not in ids(judge(back)[0])
