"""Statements that the server refuses, with what to do where the message alone does not say it."""

from __future__ import annotations

from collections.abc import Iterator

from tasks.planning import parser
from tasks.planning.findings.moment import Moment
from tasks.planning.findings.rule import Hit, Rule

_BEFORE_A_STATEMENT = frozenset({";", "BEGIN", "THEN", "ELSE", "LOOP"})
_UNSAFE_ENUM, _INVALID_OBJECT = "55P04", "42P17"


def _refused(moment: Moment) -> Iterator[str]:
    if moment.now.refused is not None:
        yield moment.now.refused.sqlstate or ""


def _label_too_early(moment: Moment) -> Iterator[Hit]:
    for state in _refused(moment):
        if state == _UNSAFE_ENUM:
            yield Hit(f"PostgreSQL refuses it: {_message(moment)}.")


def _not_immutable(moment: Moment) -> Iterator[Hit]:
    for state in _refused(moment):
        if state == _INVALID_OBJECT and moment.kind == "create_index":
            yield Hit(f"PostgreSQL refuses it: {_message(moment)}.")


def _commits_inside(moment: Moment) -> Iterator[Hit]:
    """An empty copy does not show it: a loop over rows ends there before its COMMIT."""
    if moment.kind != "do" or not moment.now.in_transaction:
        return
    for argument in moment.node.args:
        words = [token.word for token in _words(argument.def_elem.arg.string.sval)]
        for before, word in zip([";", *words], words, strict=False):
            if word in ("COMMIT", "ROLLBACK") and before in _BEFORE_A_STATEMENT:
                yield Hit(f"{word} in a block that runs inside the transaction of its file.")
                return


def _words(body: str) -> tuple[parser.Token, ...]:
    try:
        return parser.tokens(body)
    except parser.SyntaxFault:
        return ()  # not PL/pgSQL


def _fails(moment: Moment) -> Iterator[Hit]:
    for state in _refused(moment):
        yield Hit(f"PostgreSQL refuses it: {_message(moment)} [{state or 'no SQLSTATE'}].")


def _message(moment: Moment) -> str:
    return moment.now.refused.message.rstrip(".") if moment.now.refused else ""


RULES = (
    Rule(
        id="enum-label-used-too-early",
        severity="CRITICAL",
        fails=True,
        condition="A label of ALTER TYPE … ADD VALUE is used in the transaction that added it.",
        effect="The statement fails, and the file with it.",
        why="A new label is not safe to be stored before the transaction that adds it has committed.",
        safe="expand: ADD VALUE, committed by itself; what uses the label comes later. In Flyway: two files.",
        bad=("ALTER TYPE purchase_state ADD VALUE 'settled';\nUPDATE purchase SET state = 'settled' WHERE id = 1;"),
        good=("ALTER TYPE purchase_state ADD VALUE 'settled';", "UPDATE purchase SET state = 'settled' WHERE id = 1;"),
        finds=_label_too_early,
    ),
    Rule(
        id="index-not-immutable",
        severity="CRITICAL",
        fails=True,
        condition="An index on an expression, or WHERE one, that is not IMMUTABLE, e.g. with CURRENT_DATE or now().",
        effect="The statement fails, and the file with it.",
        why=(
            "An index keeps for every row what the expression gave when the row was written; one that depends on the "
            "clock or the session would become wrong by itself."
        ),
        safe=(
            "A fixed date in WHERE, and a new index from time to time (CREATE INDEX CONCURRENTLY, then DROP INDEX "
            "CONCURRENTLY of the old one); or an index on the whole column, which a condition on the last days can "
            "use; or partitions by time."
        ),
        bad="CREATE INDEX event_recent ON event_2024 (day) WHERE day >= CURRENT_DATE - INTERVAL '90 days';",
        good=("CREATE INDEX CONCURRENTLY event_recent ON event_2024 (day) WHERE day >= DATE '2024-10-01';",),
        finds=_not_immutable,
    ),
    Rule(
        id="block-commits-in-transaction",
        severity="CRITICAL",
        fails=True,
        condition="A DO block with COMMIT or ROLLBACK in it, in a file that is one transaction, as Flyway runs it.",
        effect="It fails with 2D000 (invalid transaction termination) at the first COMMIT, and the batch is undone.",
        why="A block may end transactions only outside of one; on a copy without rows it never gets to that.",
        safe=(
            "backfill: the UPDATE alone; Lockstep divides it into batches by key. In Flyway: a file of its own with "
            "executeInTransaction=false in its .conf."
        ),
        bad=(
            "BEGIN;\nDO $$ BEGIN LOOP UPDATE purchase SET note = '' WHERE id = 1 AND note IS NULL; "
            "EXIT WHEN NOT FOUND; COMMIT; END LOOP; END $$;\nCOMMIT;"
        ),
        good=("UPDATE purchase SET note = '' WHERE id = 1 AND note IS NULL;",),
        finds=_commits_inside,
    ),
    Rule(
        id="statement-fails",
        severity="CRITICAL",
        fails=True,
        condition="Any other statement that the server refuses on a copy of the schema.",
        effect="The file stops there; what follows was not looked at.",
        why="It was run on the schema as it is.",
        safe="Correct the statement.",
        bad="ALTER TABLE purchase ADD COLUMN id text;",
        good=("ALTER TABLE purchase ADD COLUMN number text;",),
        finds=_fails,
        yields_to=(
            "enum-label-used-too-early",
            "index-not-immutable",
            "concurrently-in-transaction",
            "block-commits-in-transaction",
        ),
    ),
)
