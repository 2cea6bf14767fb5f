"""The shape of transactions: what is done while an earlier statement's lock is held, and how long one waits for one."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tasks.planning import parser
from tasks.planning.change import ConstraintAdded, ConstraintChanged
from tasks.planning.findings.moment import Moment
from tasks.planning.findings.rows import unbatched
from tasks.planning.findings.rule import Hit, Rule
from tasks.planning.names import display
from tasks.planning.parse_tree import Node, choice

DATA_KINDS = frozenset({"update", "delete", "insert", "merge", "copy", "create_table_as"})
_IN_TRANSACTION = "25001"
_ZERO = re.compile(r"\s*0+\s*[a-z]*\s*", re.IGNORECASE)


def _validated(moment: Moment) -> Iterator[Hit]:
    for change in moment.did(ConstraintChanged):
        if change.became_valid and moment.works_while_blocking and change.after.name in _not_valid(moment):
            yield Hit(
                f"{display(change.after.name)} of {change.table} is validated in the transaction that added it, under "
                f"{moment.lock_of(change.table)}.",
                change.table,
            )


def _not_valid(moment: Moment) -> Iterator[str]:
    """Yield the constraints that its transaction has added NOT VALID."""
    for facts in moment.earlier:
        for change in facts.changes:
            if isinstance(change, ConstraintAdded) and not change.after.validated:
                yield change.after.name


def _data_after_lock(moment: Moment) -> Iterator[Hit]:
    if moment.kind in DATA_KINDS and moment.blocked_before and (moment.works or unbatched(moment)):
        on = next(iter(moment.now.rewrites or moment.now.scans), next(iter(moment.blocked_before)))
        yield Hit(f"{moment.kind.upper().replace('_', ' ')} works on rows under {moment.lock_of(on)}.", on)


def _work_after_lock(moment: Moment) -> Iterator[Hit]:
    before = set(moment.blocked_before)
    if moment.works and before and (moment.kind in DATA_KINDS or not moment.blocked_by_itself.keys() - before):
        now = moment.now
        on = next(iter((*now.rewrites, *(table for _, table in now.index_builds), *now.scans)))
        if on in moment.blocked_by_itself and len(before) == 1:
            return  # its own lock is the reason, which a rule of its own says
        yield Hit(f"{on} is worked on under {moment.lock_of(on)}.", on)


def _two_tables(moment: Moment) -> Iterator[Hit]:
    before = moment.blocked_before
    more = [table for table in moment.originals(moment.blocked_by_itself) if table not in before]
    if before and more:
        held = ", ".join(str(table) for table in before)
        yield Hit(f"{more[0]} is locked ({moment.blocked_by_itself[more[0]]}) while {held} is locked already.", more[0])


def _mixed(moment: Moment) -> Iterator[Hit]:
    if moment.now.refused is not None:
        if moment.now.refused.sqlstate == _IN_TRANSACTION:
            yield Hit(f"PostgreSQL refuses it: {moment.now.refused.message}.")
    elif moment.now.beside is not None:
        yield Hit(f"It cannot run inside a transaction, and line {moment.now.beside} of its file belongs into one.")


def _sets(moment: Moment, setting: str) -> bool:
    """Whether a limit holds by what the file has set before; 0 is none. The last word counts."""
    for facts in reversed(moment.before):
        if facts.statement.kind == "set":
            node = parser.parse(facts.statement.sql)[0].node
            kind = choice(node, "kind")
            # SET LOCAL ends with its transaction.
            if kind == "VAR_RESET_ALL" or (node.name == setting and (not node.is_local or facts in moment.earlier)):
                return kind == "VAR_SET_VALUE" and not _is_none(node.args[0].a_const)
    return False


def _is_none(value: Node) -> bool:
    """Whether the value of a timeout is 0, in any unit."""
    return value.ival.ival == 0 if value.HasField("ival") else bool(_ZERO.fullmatch(value.sval.sval))


def _no_lock_timeout(moment: Moment) -> Iterator[Hit]:
    # What is quick to see comes first: a file may have thousands of statements.
    if not moment.blocked_by_itself or any(Moment(facts, moment.file).blocked_by_itself for facts in moment.before):
        return
    if not _sets(moment, "lock_timeout"):
        table, mode = next(iter(moment.blocked_by_itself.items()))
        yield Hit(f"{mode} on {table} is waited for without end.", table)


def _no_statement_timeout(moment: Moment) -> Iterator[Hit]:
    if not moment.works_while_blocking or any(
        Moment(facts, moment.file).works_while_blocking for facts in moment.before
    ):
        return
    if not _sets(moment, "statement_timeout"):
        yield Hit("It may block for as long as it takes: nothing ends it.")


def _locked(moment: Moment) -> Iterator[Hit]:
    if moment.kind == "lock":
        for table, mode in moment.blocked_by_itself.items():
            yield Hit(f"LOCK TABLE holds {mode} on {table} until the transaction ends.", table)


RULES = (
    Rule(
        id="validated-in-same-transaction",
        severity="CRITICAL",
        dangerous=True,
        condition="A constraint is added NOT VALID and validated in one transaction.",
        effect="The rows are read while the lock of ADD CONSTRAINT is still held: NOT VALID gains nothing.",
        why=(
            "Locks are held to the end of the transaction. VALIDATE CONSTRAINT blocks nobody only in a transaction "
            "of its own."
        ),
        safe="contract: two steps, each committed by itself. In Flyway: two files.",
        bad=(
            "ALTER TABLE purchase ADD CONSTRAINT amount_positive CHECK (amount > 0) NOT VALID;\n"
            "ALTER TABLE purchase VALIDATE CONSTRAINT amount_positive;"
        ),
        good=(
            "ALTER TABLE purchase ADD CONSTRAINT amount_positive CHECK (amount > 0) NOT VALID;",
            "ALTER TABLE purchase VALIDATE CONSTRAINT amount_positive;",
        ),
        finds=_validated,
    ),
    Rule(
        id="data-change-after-lock",
        severity="CRITICAL",
        dangerous=True,
        condition="Rows are changed in a transaction that locked a table before.",
        effect="Nobody can use the locked table until all rows are written.",
        why="A schema change that takes milliseconds holds its lock for the minutes of the data change behind it.",
        safe="expand: the schema change alone; backfill: rows in batches, each committed by itself.",
        bad="ALTER TABLE customer ADD COLUMN region text;\nUPDATE customer SET region = 'EU';",
        good=("ALTER TABLE customer ADD COLUMN region text;", "UPDATE customer SET region = 'EU' WHERE id = 1;"),
        finds=_data_after_lock,
    ),
    Rule(
        id="work-after-lock",
        severity="CRITICAL",
        dangerous=True,
        condition="A long statement in a transaction in which an earlier one locked a table.",
        effect="Nobody can use the locked table until the long statement is done.",
        why="Locks are held to the end of the transaction, also those of statements that were done at once.",
        safe="Each step in a transaction of its own, the long ones under locks that block nobody.",
        bad=(
            "ALTER TABLE customer ADD COLUMN region text;\nALTER TABLE address VALIDATE CONSTRAINT address_city_there;"
        ),
        good=(
            "ALTER TABLE customer ADD COLUMN region text;",
            "ALTER TABLE address VALIDATE CONSTRAINT address_city_there;",
        ),
        finds=_work_after_lock,
        yields_to=("validated-in-same-transaction", "data-change-after-lock"),
        setup="ALTER TABLE address ADD CONSTRAINT address_city_there CHECK (city IS NOT NULL) NOT VALID;",
    ),
    Rule(
        id="several-tables-locked",
        severity="WARNING",
        condition="One transaction takes blocking locks on several tables, one after the other.",
        effect=(
            "The first table stays locked while the second lock is waited for, and an application that uses them in "
            "the other order deadlocks with it: one of the two is ended."
        ),
        why=(
            "The wait for a lock has no upper bound that you choose for the first table, and PostgreSQL ends "
            "whichever transaction it finds in a deadlock, the application's too."
        ),
        safe="One table at a time, each in a transaction of its own with a lock_timeout.",
        bad=("ALTER TABLE customer ADD COLUMN region text;\nALTER TABLE purchase ADD COLUMN region text;"),
        good=("ALTER TABLE customer ADD COLUMN region text;", "ALTER TABLE purchase ADD COLUMN region text;"),
        finds=_two_tables,
    ),
    Rule(
        id="concurrently-in-transaction",
        severity="CRITICAL",
        fails=True,
        condition="A file has statements that cannot run in a transaction (CONCURRENTLY, VACUUM …) beside others.",
        effect="PostgreSQL refuses it inside a transaction, and Flyway refuses the file.",
        why=(
            "CREATE INDEX CONCURRENTLY commits several times on its way; what stands beside it would be half done if "
            "it fails."
        ),
        safe="A file for each such statement. Lockstep builds concurrently whatever is written, in steps of their own.",
        bad=(
            "ALTER TABLE purchase ADD COLUMN region text;\nCREATE INDEX CONCURRENTLY purchase_note ON purchase (note);"
        ),
        good=(
            "ALTER TABLE purchase ADD COLUMN region text;",
            "CREATE INDEX CONCURRENTLY purchase_note ON purchase (note);",
        ),
        finds=_mixed,
    ),
    Rule(
        id="lock-timeout-missing",
        severity="WARNING",
        condition="The first statement of a file that takes a blocking lock, without SET lock_timeout before it.",
        effect=(
            "While it waits for a long transaction, everybody else waits behind it: the table stands still although "
            "nothing is done."
        ),
        why=(
            "A lock that is waited for already blocks the weaker ones that come later. A timeout gives way, and one "
            "tries again."
        ),
        safe=(
            "Every statement has a lock_timeout, and gives way and tries again. In a file: SET LOCAL lock_timeout = "
            "'2s' first."
        ),
        bad="ALTER TABLE purchase ADD COLUMN region text;",
        good=("SET LOCAL lock_timeout = '2s';\nALTER TABLE purchase ADD COLUMN region text;",),
        finds=_no_lock_timeout,
    ),
    Rule(
        id="statement-timeout-missing",
        severity="INFO",
        condition="A long statement that blocks, without SET statement_timeout before it.",
        effect="It goes on blocking although it takes longer than anybody meant.",
        why="The time grows with the table; on a copy with few rows it is not seen.",
        safe="Every long statement has a statement_timeout of its own.",
        bad="CREATE INDEX purchase_note ON purchase (note);",
        good=("SET LOCAL statement_timeout = '30s';\nCREATE INDEX purchase_note ON purchase (note);",),
        finds=_no_statement_timeout,
    ),
    Rule(
        id="explicit-lock",
        severity="WARNING",
        condition="LOCK TABLE in a mode that keeps writes waiting.",
        effect="Nobody writes the table until the transaction ends.",
        why=(
            "A migration that needs a table to stand still blocks the application for as long as its other "
            "statements take."
        ),
        safe="Leave it out: triggers keep both shapes in step while the application writes.",
        bad="LOCK TABLE purchase IN SHARE MODE;",
        good=("LOCK TABLE purchase IN ROW SHARE MODE;",),
        finds=_locked,
    ),
)
