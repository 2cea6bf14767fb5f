"""The rows of Flyway's history: the step that writes them once everything is in place for the version that has them.

That version runs its own Flyway when it starts, which would run the files as they are. It may start from the end of the
phase on that has this step: the last one before contract.
"""

from __future__ import annotations

from collections.abc import Iterator

from psycopg import sql

from tasks.planning.flyway.versions import parse_version
from tasks.planning.names import TableName
from tasks.planning.plan import Approval, FlywayHistory, LockUse, Note, Phase, Plan, Step, Transaction

_LOCK_BASE = 77431708279161
_BUSY = "Flyway is migrating this database just now: run this again when it is done"
_STEP = "/flyway"
"""The end of the step's id; the name of its phase stands before it."""


def with_rows(plan: Plan, history: FlywayHistory | None) -> Plan:
    """Return the plan of a Flyway folder with the step that writes its files' rows; any other plan as it is."""
    if history is None or not history.files:
        return plan
    # Files that say nothing, but for comments, are rows only.
    phases = plan.phases or (Phase(name="expand", purpose=_ROWS_ONLY, application="Nothing to do.", steps=()),)
    at = max(number for number, phase in enumerate(phases) if phase.name != "contract" or number == 0)
    phase = phases[at]
    told = f"From the end of this phase, and not before, may the version start that has {_names(history)}"
    written = phase.model_copy(
        update={
            "steps": (*phase.steps, _step(phase, history)),
            "application": f"{phase.application} {told}: its Flyway finds them applied.",
            "approval": phase.approval and _not_yet(phase.approval, phase.name),
        }
    )
    return plan.model_copy(
        update={
            "phases": (*phases[:at], written, *phases[at + 1 :]),
            "notes": (*_notes(history, phase), *plan.notes),
            "flyway": history,
            "reverse": _after_reverse(history) + plan.reverse if plan.reverse else "",
        }
    )


_ROWS_ONLY = "Nothing in the files changes anything"


def _not_yet(approval: Approval, phase: str) -> Approval:
    """Whoever says yes to a new version may start it at once, and its Flyway would be there before the rows."""
    later = f"A version with the files must not start before the phase {phase} is done: its Flyway would run them."
    return approval.model_copy(update={"question": f"{approval.question} {later}"})


def _notes(history: FlywayHistory, phase: Phase) -> Iterator[Note]:
    yield Note(
        severity="WARNING",
        text=f"No version whose folder has {_names(history)} may start before the phase {phase.name} is done: its "
        "Flyway would run the files as they are.",
    )
    repeatable = [file.script for file in history.files if file.version is None]
    if repeatable:
        yield Note(
            severity="WARNING",
            text=f"From the end of {phase.name} on the old version must not start again: its Flyway would run the "
            f"former text of {', '.join(repeatable)}, or refuse to start where it has no such file.",
        )
    if history.above_target:
        yield Note(
            severity="WARNING",
            text=f"Above the target, and no part of this migration: {', '.join(history.above_target)}. The Flyway of a "
            "version that has these files runs them as they are when it starts: deploy one that does not have them, "
            "or give its Flyway the same target.",
        )
    for text in history.passed_over:
        yield Note(severity="WARNING", text=f"Flyway passes over {text}.")


def _after_reverse(history: FlywayHistory) -> str:
    """Return comments for the reverse migration: while it runs, the version that has the files needs their rows."""
    return (
        f"# Flyway's history keeps the rows of {_names(history)} while this runs: the version\n"
        "# that runs then has these files, and may start at any time. When it is over and no such version runs any\n"
        "# more, take the rows out, or Flyway will never run these files again:\n"
        f"#   {_delete(history)};\n"
    )


def is_rows_step(step: str) -> bool:
    """Say whether the step of this id is the one that writes the rows."""
    # Another's last part may be the name of an index or a constraint, which may be called like this too.
    return step.count("/") == 1 and step.endswith(_STEP)


def lock_key(table: TableName) -> int:
    """Return the number of the advisory lock that Flyway holds while it migrates: of Java's hash of the quoted name."""
    quoted = ".".join('"{}"'.format(part.replace('"', '""')) for part in table)
    units = quoted.encode("utf-16-be")
    hashed = 0
    for high, low in zip(units[::2], units[1::2], strict=True):
        hashed = (31 * hashed + (high << 8 | low)) & 0xFFFFFFFF
    return _LOCK_BASE + (hashed - (1 << 32) if hashed >= 1 << 31 else hashed)


def _step(phase: Phase, history: FlywayHistory) -> Step:
    return Step(
        id=f"{phase.name}{_STEP}",
        title=f"Tell Flyway that {_names(history)} {'are' if len(history.files) > 1 else 'is'} applied",
        action=Transaction(statements=(_alone(history), _refuse_later(history), _insert(history))),
        locks=(LockUse(table=history.table, mode="ROW EXCLUSIVE"),),
        undo=(Transaction(statements=(_alone(history), _delete(history))),),
    )


def _names(history: FlywayHistory) -> str:
    names = [file.script for file in history.files]
    return ", ".join(names) if len(names) < 4 else f"{names[0]} to {names[-1]} ({len(names)} files)"


def _alone(history: FlywayHistory) -> str:
    """Take Flyway's lock for the transaction. By try: who waits for it would hold up CREATE INDEX CONCURRENTLY."""
    taken = f"pg_try_advisory_xact_lock({lock_key(history.table)})"
    return _do(f"IF NOT {taken} THEN RAISE lock_not_available USING MESSAGE = {_literal(_BUSY)}; END IF;")


def _refuse_later(history: FlywayHistory) -> str:
    """Refuse to go on where Flyway has run a version meanwhile that is one of these, or one above any of them."""
    message = (
        f"Flyway has run versions that are in {history.table} since the plan was made. Where one of them is among "
        f"{_names(history)}, a version of the application that has these files was started too early. Go back, and "
        "plan again"
    )
    return _do(
        f"IF EXISTS ({later_rows(history)}) "
        f"THEN RAISE object_not_in_prerequisite_state USING MESSAGE = {_literal(message)}; END IF;"
    )


def later_rows(history: FlywayHistory) -> str:
    """Return the query for the rows of versions that Flyway has run since the plan, and that it should not have.

    A version below all of the plan's, such as a repair of the running release, comes before them as if it had been
    there from the start. One that failed does not: Flyway starts nowhere until it is repaired.
    """
    parsed = [version for file in history.files if file.version and (version := parse_version(file.version))]
    repeatable = [_literal(file.description) for file in history.files if file.version is None]
    below = "true"  # of versions: none is among the files, and repeatable ones come last whatever was run before them
    if parsed:
        # As Flyway compares: number by number. What it does not take for a version cannot be said to be below.
        numbers = r"version ~ '^[+-]?[0-9]+([._][+-]?[0-9]+)*$'"
        below = (
            f"CASE WHEN {numbers} THEN string_to_array(replace(version, '_', '.'), '.')::numeric[] "
            f"< ARRAY[{', '.join(map(str, min(parsed).parts))}]::numeric[] ELSE false END"
        )
    same = f" OR version IS NULL AND description IN ({', '.join(repeatable)})" if repeatable else ""
    return (
        f"SELECT installed_rank, version, script, success FROM {_table(history)} "
        f"WHERE installed_rank > {history.last_rank} AND type <> 'DELETE' "
        f"AND (version IS NOT NULL AND NOT (success AND {below}){same})"
    )


def _insert(history: FlywayHistory) -> str:
    rows = ", ".join(
        f"({number}, {_literal(file.version)}, {_literal(file.description)}, {_literal(file.script)}, {file.checksum})"
        for number, file in enumerate(history.files, start=1)
    )
    return (
        f"INSERT INTO {_table(history)} (installed_rank, version, description, type, script, checksum, installed_by, "
        "execution_time, success) "
        f"SELECT (SELECT coalesce(max(installed_rank), 0) FROM {_table(history)}) + file.number, file.version, "
        "file.description, 'SQL', file.script, file.checksum, current_user, 0, true "
        f"FROM (VALUES {rows}) AS file (number, version, description, script, checksum)"
    )


def _delete(history: FlywayHistory) -> str:
    """Delete exactly the rows that were written. By what Flyway's repair leaves as it is: not by the checksum."""
    versioned = [f"({_literal(each.version)}, {_literal(each.script)})" for each in history.files if each.version]
    # A Flyway that has run its own text of a repeatable one has written its own row.
    repeatable = [f"({_literal(each.script)}, {each.checksum})" for each in history.files if each.version is None]
    which = [f"(version, script) IN ({', '.join(versioned)})"] if versioned else []
    which += [f"version IS NULL AND (script, checksum) IN ({', '.join(repeatable)})"] if repeatable else []
    return (
        f"DELETE FROM {_table(history)} WHERE installed_rank > {history.last_rank} AND type = 'SQL' AND success "
        f"AND ({' OR '.join(which)})"
    )


def _do(body: str) -> str:
    return f"DO {_literal(f'BEGIN {body} END')}"


def _table(history: FlywayHistory) -> str:
    return history.table.identifier.as_string()


def _literal(text: str | None) -> str:
    return sql.Literal(text).as_string()
