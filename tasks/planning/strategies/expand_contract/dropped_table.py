"""Tables that go: from the switch on the sessions that write them are counted, at contract they are dropped.

The foreign keys of such a table are dropped before it, each by itself: dropping one locks both of its tables.
"""

from __future__ import annotations

from psycopg import sql

from tasks.planning.catalog import Constraint, Table
from tasks.planning.names import LOCKSTEP_SCHEMA, own_name, verbatim
from tasks.planning.plan import LockUse, Step, Transaction
from tasks.planning.strategies.expand_contract.apart import Apart, lone_step
from tasks.planning.strategies.expand_contract.contribution import LONG_STATEMENT_TIMEOUT_MS
from tasks.planning.strategies.expand_contract.sync import recorded_write

_TRIGGER = "lockstep_use"


def retire(migration: str, table: Table, drop: Step) -> Apart:
    """Return the steps around ``drop``, which drops the table."""
    keys = [c for c in table.constraints if c.kind == "foreign_key" and c.references != table.name and not c.inherited]
    function = sql.Identifier(LOCKSTEP_SCHEMA, own_name("use", migration, *table.name))
    forget = sql.SQL("DROP FUNCTION {}()").format(function).as_string()
    without = _untrigger(table)
    if isinstance(drop.action, Transaction):
        drop = drop.model_copy(update={"action": Transaction(statements=(*without, *drop.action.statements, forget))})
    return Apart(
        switch=(_count(migration, table, function, (*without, forget)),),
        contract_after=(*(_drop_key(table, key) for key in keys), drop),
        counted=(table.name,),
    )


def _count(migration: str, table: Table, function: sql.Identifier, undo: tuple[str, ...]) -> Step:
    """Statement triggers: what they cost does not depend on the rows; ALWAYS, as a replica role writes too."""
    literals = (sql.Literal(migration).as_string(), sql.Literal(str(table.name)).as_string())
    body = "\n".join(["", "BEGIN", *(f"  {line}" for line in recorded_write(*literals)), "  RETURN NULL;", "END", ""])
    create = sql.SQL(
        "CREATE OR REPLACE FUNCTION {}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER"
        " SET search_path TO pg_catalog, pg_temp AS {}"
    ).format(function, sql.Literal(body))
    name = sql.Identifier(_TRIGGER)
    events = "INSERT OR UPDATE OR DELETE" + ("" if table.kind == "f" else " OR TRUNCATE")
    trigger = sql.SQL("CREATE TRIGGER {} AFTER {} ON {} FOR EACH STATEMENT EXECUTE FUNCTION {}()").format(
        name, verbatim(events), table.name.identifier, function
    )
    always = sql.SQL("ALTER TABLE {} ENABLE ALWAYS TRIGGER {}").format(table.name.identifier, name)
    return lone_step(
        f"switch/count/{table.name}",
        f"Count the sessions that still write {table.name}, which goes",
        tuple(statement.as_string() for statement in (create, trigger, always)),
        undo=undo,
        locks=(LockUse(table=table.name, mode="SHARE ROW EXCLUSIVE"),),
    )


def _untrigger(table: Table) -> tuple[str, ...]:
    drop = sql.SQL("DROP TRIGGER {} ON {}").format(sql.Identifier(_TRIGGER), table.name.identifier)
    return (drop.as_string(),)


def _drop_key(table: Table, key: Constraint) -> Step:
    name, definition = sql.Identifier(key.name), key.definition.removesuffix(" NOT VALID")
    alter = sql.SQL("ALTER TABLE {} ").format(table.name.identifier)
    undo = [
        Transaction(
            statements=(
                (alter + sql.SQL("ADD CONSTRAINT {} {} NOT VALID").format(name, verbatim(definition))).as_string(),
            )
        )
    ]
    if key.validated:
        validate = (alter + sql.SQL("VALIDATE CONSTRAINT {}").format(name)).as_string()
        undo.append(Transaction(statements=(validate,), statement_timeout_ms=LONG_STATEMENT_TIMEOUT_MS))
    step = lone_step(
        f"contract/drop-foreign-key/{table.name}.{key.name}",
        f"Drop the foreign key {key.name} of {table.name}, which goes",
        ((alter + sql.SQL("DROP CONSTRAINT {}").format(name)).as_string(),),
        undo=(),
        locks=(
            LockUse(table=table.name, mode="ACCESS EXCLUSIVE"),
            LockUse(table=key.references or table.name, mode="ACCESS EXCLUSIVE"),
        ),
    )
    return step.model_copy(update={"undo": tuple(undo)})
