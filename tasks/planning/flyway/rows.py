"""The rows of Flyway's history: the step that writes them once everything is in place for the version that has them.

That version runs its own Flyway when it starts, which would run the files as they are. It may start from the end of the
phase on that has this step: the last one before contract.
"""

from __future__ import annotations

from psycopg import sql

from tasks.planning.names import TableName
from tasks.planning.plan import FlywayHistory, LockUse, Note, Phase, Plan, Step, Transaction

_LOCK_BASE = 77431708279161
_BUSY = "Flyway is migrating this database just now: run this again when it is done"


def with_rows(plan: Plan, history: FlywayHistory | None) -> Plan:
    """Return the plan of a Flyway folder with the step that writes its files' rows; any other plan as it is."""
    if history is None or plan.is_empty:
        return plan
    at = max(number for number, phase in enumerate(plan.phases) if phase.name != "contract" or number == 0)
    phase = plan.phases[at]
    told = f"From the end of this phase, and not before, may the version start that has {_names(history)}"
    written = phase.model_copy(
        update={
            "steps": (*phase.steps, _step(phase, history)),
            "application": f"{phase.application} {told}: its Flyway finds them applied.",
        }
    )
    text = (
        f"No version whose folder has {_names(history)} may start before the phase {phase.name} is done: its Flyway "
        "would run the files as they are."
    )
    return plan.model_copy(
        update={
            "phases": (*plan.phases[:at], written, *plan.phases[at + 1 :]),
            "notes": (Note(severity="WARNING", text=text), *plan.notes),
            "flyway": history,
        }
    )


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
        id=f"{phase.name}/flyway",
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
    """Refuse to go on where Flyway has run versions meanwhile: one of these, or one that the rows would come after.

    The old application version has the file of such another one, and its Flyway does not forgive rows below it.
    """
    message = (
        f"{history.table} has versions that Flyway has run since the plan was made. Where one of them is among "
        f"{_names(history)}, a version of the application that has these files was started too early. Else go back, "
        "and give the files versions above those"
    )
    return _do(
        f"IF EXISTS (SELECT FROM {_table(history)} WHERE installed_rank > {history.last_rank} AND type <> 'DELETE' "
        "AND version IS NOT NULL) "
        f"THEN RAISE object_not_in_prerequisite_state USING MESSAGE = {_literal(message)}; END IF;"
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
    rows = ", ".join(f"({_literal(file.version)}, {_literal(file.script)}, {file.checksum})" for file in history.files)
    return (
        f"DELETE FROM {_table(history)} WHERE installed_rank > {history.last_rank} AND type = 'SQL' AND success "
        f"AND (version, script, checksum) IN ({rows})"
    )


def _do(body: str) -> str:
    return f"DO {_literal(f'BEGIN {body} END')}"


def _table(history: FlywayHistory) -> str:
    return history.table.identifier.as_string()


def _literal(text: str) -> str:
    return sql.Literal(text).as_string()
