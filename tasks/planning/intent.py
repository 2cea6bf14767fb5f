"""The user's intent: a spec with every name resolved against the catalog of its database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tasks.planning.catalog import Catalog, Table
from tasks.planning.checks.suites import BusinessRule
from tasks.planning.errors import SpecError
from tasks.planning.names import TableName, display
from tasks.planning.parser import column_references
from tasks.planning.plan import Severity
from tasks.planning.spec import LoadedSpec, table_name
from tasks.planning.statements import Rebuild, Statement, find_table, search_path_of, using_expressions
from tasks.planning.strategies.expand_contract.mapping import Wanted
from tasks.planning.throttle import Limits
from tasks.planning.windows import Window


@dataclass(frozen=True)
class Intent:
    """What the user wants of one database. ``personal`` holds ``schema.table.column``."""

    name: str
    database: str
    change: str
    change_hash: str
    wanted: Mapping[TableName, Mapping[str, Wanted]]
    """The spec's mapping, by table and (new, or plainly dropped) column."""
    using: Mapping[TableName, Mapping[str, str]]
    """USING expressions of the change, by table and old column."""
    personal: frozenset[str]
    rules: tuple[BusinessRule, ...]
    user_suites: tuple[str, ...]
    approvals: frozenset[str]
    soak_seconds: int
    window: Window | None
    settings: tuple[tuple[str, str], ...]
    throttle: Limits
    queries: tuple[str, ...] = ()
    reindexed: Mapping[TableName, tuple[str, ...]] = field(default_factory=dict)
    """Indexes to rebuild, by table: statements of which no catalog tells."""

    @property
    def words(self) -> Mapping[TableName, frozenset[str]]:
        """By table, the columns of which the author says that the old version copes with their new type."""
        return {
            table: frozenset(name for name, wanted in columns.items() if wanted.old_version_reads)
            for table, columns in self.wanted.items()
        }


def intent_of(loaded: LoadedSpec, database: str, before: Catalog, settings: tuple[tuple[str, str], ...]) -> Intent:
    """Resolve a spec's names by the pinned search_path. Raises `SpecError` for a table or column that is not there."""
    spec = loaded.spec
    names = _Names(before, settings)
    wanted: dict[TableName, dict[str, Wanted]] = {}
    for (written, column), mapping in spec.mappings().items():
        table = names.table(written, f"mapping {written.name}.{column}")
        wanted.setdefault(table.name, {})[column] = Wanted(
            mapping.up, mapping.down_columns(), mapping.old_version_reads
        )
    using: dict[TableName, dict[str, str]] = {}
    for item in using_expressions(loaded.statements()):
        found = find_table(before, item.table, names.path)
        if found is not None:
            using.setdefault(found.name, {})[item.column] = item.expression
    return Intent(
        name=spec.name,
        database=database,
        change=loaded.change,
        change_hash=loaded.change_hash,
        wanted=wanted,
        using=using,
        personal=frozenset(names.personal(written, column) for written, column in spec.personal_columns()),
        rules=tuple(
            _rule(names, name, rule.table, rule.where, rule.severity) for name, rule in spec.gates.rules.items()
        ),
        user_suites=spec.gates.suites,
        approvals=frozenset(spec.approvals),
        soak_seconds=int(spec.soak.total_seconds()),
        window=spec.window,
        settings=settings,
        throttle=spec.throttle,
        queries=spec.queries,
        reindexed=_reindexed(loaded.statements(), names),
    )


def _reindexed(statements: Sequence[Statement], names: _Names) -> dict[TableName, tuple[str, ...]]:
    found: dict[TableName, dict[str, None]] = {}
    for statement in statements:
        match statement.rebuild:
            case Rebuild(kind="table", name=written):
                table = names.table(written, "REINDEX TABLE")
                found.setdefault(table.name, {}).update(dict.fromkeys(index.name for index in table.indexes))
            case Rebuild(kind="index", name=written):
                table = names.table_of_index(written)
                found.setdefault(table.name, {})[written.name] = None
            case None:
                pass
    return {table: tuple(indexes) for table, indexes in found.items()}


class _Names:
    """Resolves written names in a catalog."""

    def __init__(self, catalog: Catalog, settings: Sequence[tuple[str, str]]) -> None:
        self._catalog = catalog
        self.path = search_path_of(settings)

    def table(self, written: TableName, where: str) -> Table:
        found = find_table(self._catalog, written, self.path)
        if found is None:
            known = ", ".join(str(table.name) for table in self._catalog.tables[:12])
            name = f"{written.schema}.{written.name}" if written.schema else written.name
            raise SpecError(f"{where}: there is no table {name}.", remedy=f"There are: {known}.")
        return found

    def table_of_index(self, written: TableName) -> Table:
        for schema in (written.schema,) if written.schema else self.path:
            for table in self._catalog.tables:
                if table.name.schema == schema and any(index.name == written.name for index in table.indexes):
                    return table
        raise SpecError(
            f"REINDEX INDEX: no table has the index {display(written.name)} before the change.",
            remedy="Name it as it is called now; an index that this change makes is fresh.",
        )

    def personal(self, written: TableName, column: str) -> str:
        table = self.table(written, f"personal {written.name}.{column}")
        if table.column(column) is None:
            known = ", ".join(item.name for item in table.columns)
            raise SpecError(f"personal: {table.name} has no column {display(column)}.", remedy=f"It has: {known}.")
        return f"{table.name.schema}.{table.name.name}.{column}"


def _rule(names: _Names, name: str, written: str, where: str, severity: Severity) -> BusinessRule:
    table = names.table(table_name(written), f"gates: rules: {name}")
    read = column_references(where)
    unknown = sorted(read - {column.name for column in table.columns})
    if unknown:
        raise SpecError(
            f"gates: rules: {name}: {table.name} has no column {', '.join(unknown)}.",
            remedy=f"It has: {', '.join(column.name for column in table.columns)}.",
        )
    return BusinessRule(name=name, table=table.name, where=where, columns=frozenset(read), severity=severity)
