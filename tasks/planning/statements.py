"""The user's SQL: split, classified, and refused by name where this version cannot carry it out.

What a statement *means* is not read from its text (`meaning.py` compares catalogs for that); the text gives what
catalogs cannot: the USING expressions, CONCURRENTLY, and the line to point at when something is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Literal

from psycopg import sql
from pydantic import BaseModel, ConfigDict

from tasks.planning import data_statements, expression_tree, parser
from tasks.planning.catalog import Catalog, Table
from tasks.planning.errors import SpecError, Unsupported
from tasks.planning.names import TableName
from tasks.planning.parse_tree import Node, choice, form
from tasks.planning.refused import REFUSED


class Using(BaseModel):
    """The USING of one ALTER COLUMN … TYPE, in the column names that were valid before the whole change."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    table: TableName
    """As written, ``schema`` empty when the user wrote none; before any rename by the change."""
    column: str
    expression: str


class Rename(BaseModel):
    """A rename of a column, or of a table where ``column`` is None."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    table: TableName
    column: str | None
    to: str


class Rebuild(BaseModel):
    """What a REINDEX names, as written: a table, whose indexes are all meant, or one index."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["index", "table"]
    name: TableName


class Statement(BaseModel):
    """One statement of the change. Table names are as written: ``schema`` is empty when the user wrote none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sql: str
    """The user's own text, without the comments around it and without its semicolon."""
    kind: str
    """e.g. ``alter_table``, ``rename_column``, ``create_index``, ``drop_table``."""
    line: int
    """1-based, in the change's source."""
    file: str = ""
    """The source's name, where the change has several."""
    column: int = 1
    """Where it begins in its line, 1-based; told of statements that are only looked at."""
    tables: tuple[TableName, ...] = ()
    using: dict[tuple[TableName, str], str] = {}
    """Per ALTER COLUMN … TYPE … USING: the expression as written, in the names valid at this statement."""
    retyped: tuple[tuple[TableName, str], ...] = ()
    """Every ALTER COLUMN … TYPE, with USING and without."""
    renames: tuple[Rename, ...] = ()
    rebuild: Rebuild | None = None
    data: data_statements.Written | None = None
    """What an UPDATE or DELETE says."""
    defaulted: tuple[tuple[TableName, str], ...] = ()
    """Columns that ADD COLUMN gives a DEFAULT, so that existing rows get it too."""
    concurrent: bool = False
    transactional_sql: str = ""
    """What runs inside a transaction: ``sql``, or its form without CONCURRENTLY, or with IF NOT EXISTS.

    A value of an enum stays when a migration is rolled back, and the next run must not stumble over it.
    """

    def place(self, below: int = 0) -> str:
        """Return ``line 3``, or ``V2__x.sql, line 3``: of the line so far ``below`` the statement's first."""
        return f"{self.file}, line {self.line + below}" if self.file else f"line {self.line + below}"


def parse_change(text: str, *, source: str, first_line: int = 1) -> tuple[Statement, ...]:
    """Split and classify the user's SQL.

    ``source`` is what to call it in messages (a path, or ``change``) and ``first_line`` the line of it on which the
    text starts. Raises `SpecError` for what is not SQL, for an
    empty change and for transaction commands, and `Unsupported` for statements that this version does not carry out.
    """
    parsed = _parsed(text, source, first_line)
    return tuple(_statement(item, text, source, first_line) for item in parsed)


def has_statements(text: str) -> bool:
    """Say whether there is anything in a text but comments; True for what is not SQL, which `parse_change` refuses."""
    try:
        return bool(parser.parse(text))
    except parser.SyntaxFault:
        return True


def read_statements(text: str, *, source: str) -> tuple[Statement, ...]:
    """Split and classify SQL that is looked at and not carried out: every kind of statement may be in it.

    Their ``transactional_sql`` is what is written. Raises `SpecError` for what is not SQL, and for an empty text.
    """
    return tuple(_read(item, text) for item in _parsed(text, source, first_line=1))


def _parsed(text: str, source: str, first_line: int) -> tuple[parser.Parsed, ...]:
    try:
        parsed = parser.parse(text)
    except parser.SyntaxFault as fault:
        raise SpecError(_syntax_message(text, source, first_line, fault), remedy=_syntax_remedy(text, fault)) from None
    if not parsed:
        raise SpecError(f"{source}: the change is empty.", remedy="Write the SQL that should have been run.")
    return parsed


def using_expressions(statements: Sequence[Statement]) -> tuple[Using, ...]:
    """Return every USING of the change in the names from before it, so that it fits the catalog before the change."""
    names = NamesBefore()
    found: list[Using] = []
    for statement in statements:
        for (table, column), expression in statement.using.items():
            found.append(
                Using(
                    table=names.table(table),
                    column=names.column(table, column),
                    expression=expression_tree.renamed(expression, names.columns(table)),
                )
            )
        names.follow(statement)
    return tuple(found)


class NamesBefore:
    """What the names that are valid at a statement were before the change, by following its renames."""

    def __init__(self) -> None:
        self._tables: dict[TableName, TableName] = {}
        self._columns: dict[TableName, dict[str, str]] = {}

    def table(self, name: TableName) -> TableName:
        return self._tables.get(name, name)

    def column(self, table: TableName, name: str) -> str:
        """Return the column's name before the change; its first name, where the change adds it."""
        return self.columns(table).get(name, name)

    def columns(self, table: TableName) -> dict[str, str]:
        """Return the table's renamed columns: name now → name before."""
        return self._columns.get(self.table(table), {})

    def follow(self, statement: Statement) -> None:
        for rename in statement.renames:
            first = self.table(rename.table)
            if rename.column is None:
                self._tables[TableName(rename.table.schema, rename.to)] = first
            else:
                names = self._columns.setdefault(first, {})
                names[rename.to] = names.pop(rename.column, rename.column)


def find_table(catalog: Catalog, written: TableName, search_path: Sequence[str] = ("public",)) -> Table | None:
    """Return the table that a written name means: the first of ``search_path`` where no schema was written."""
    schemas = (written.schema,) if written.schema else search_path
    return next((table for s in schemas if (table := catalog.table(TableName(s, written.name)))), None)


def search_path_of(settings: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """Return the schemas of the pinned search_path, in order, without those that depend on the role."""
    path = dict(settings).get("search_path", "public")
    return tuple(quoted.replace('""', '"') or plain for quoted, plain in _SCHEMA.findall(path) if quoted != "$user")


_SCHEMA = re.compile(r'"((?:[^"]|"")+)"|([^\s,"]+)')
"""One schema of a search_path, quoted or plain."""


# ------------------------------------------------------------------------------------------------ classification

# The parse tree's names where they are not what a person calls the statement.
_KINDS = {
    "index": "create_index",
    "create": "create_table",
    "create_trig": "create_trigger",
    "create_seq": "create_sequence",
    "alter_seq": "alter_sequence",
    "view": "create_view",
    "rule": "create_rule",
    "composite_type": "create_type",
    "create_enum": "create_type",
    "create_range": "create_type",
    "variable_set": "set",
    "variable_show": "show",
    "refresh_mat_view": "refresh_materialized_view",
    "check_point": "checkpoint",
    "constraints_set": "set_constraints",
    "createdb": "create_database",
    "dropdb": "drop_database",
    "create_event_trig": "create_event_trigger",
    "alter_event_trig": "alter_event_trigger",
    "create_plang": "create_language",
}


def _read(item: parser.Parsed, text: str) -> Statement:
    return Statement(
        sql=item.text,
        kind=_kind(item),
        line=text.count("\n", 0, item.offset) + 1,
        column=item.offset - text.rfind("\n", 0, item.offset),
        tables=tuple(dict.fromkeys(_tables(item))),
        retyped=tuple((table, alter.name) for table, _, alter in _type_commands(item)),
        renames=tuple(_renames(item, _kind(item))),
        defaulted=tuple(_defaulted(item)),
        concurrent=parser.is_concurrent(item.node),
        transactional_sql=item.text,
    )


def _statement(item: parser.Parsed, text: str, source: str, first_line: int) -> Statement:
    kind = _kind(item)
    line = text.count("\n", 0, item.offset) + first_line
    if kind == "transaction":
        raise SpecError(
            f"{source}, line {line}: {item.text.split()[0].upper()}: transactions are Lockstep's to decide.",
            remedy="Remove BEGIN, COMMIT, ROLLBACK and SAVEPOINT from the change.",
        )
    if kind in REFUSED:
        raise Unsupported(f"{_words(kind)} in a change ({source}, line {line})", instead=REFUSED[kind])
    if kind == "create_index" and item.node.table_space:
        raise Unsupported(
            f"CREATE INDEX … TABLESPACE in a change ({source}, line {line})",
            instead="Leave TABLESPACE out; afterwards, if it has to be:  ALTER INDEX … SET TABLESPACE in a quiet hour.",
        )
    rebuild = _rebuild(item, f"{source}, line {line}")
    concurrent = rebuild is None and parser.is_concurrent(item.node)
    is_data = item.name in data_statements.VERBS
    return Statement(
        sql=item.text,
        kind=kind,
        line=line,
        tables=tuple(dict.fromkeys(_tables(item))),
        using=dict(_using(item)),
        retyped=tuple((table, alter.name) for table, _, alter in _type_commands(item)),
        renames=tuple(_renames(item, kind)),
        rebuild=rebuild,
        data=data_statements.read(item, f"{source}, line {line}") if is_data else None,
        defaulted=tuple(_defaulted(item)),
        concurrent=concurrent,
        transactional_sql=_in_transaction(item, kind, rebuild, is_concurrent=concurrent),
    )


def _in_transaction(item: parser.Parsed, kind: str, rebuild: Rebuild | None, *, is_concurrent: bool) -> str:
    if rebuild is not None:
        name = sql.Identifier(*(part for part in rebuild.name if part)).as_string()
        return f"REINDEX {rebuild.kind.upper()} {name}"
    if kind == "alter_enum" and not item.node.old_val and not item.node.skip_if_new_val_exists:
        return _if_not_exists(item.text)
    return parser.without_concurrently(item.text) if is_concurrent else item.text


def _rebuild(item: parser.Parsed, where: str) -> Rebuild | None:
    """Return what a REINDEX means; its options are Lockstep's, which rebuilds index by index, concurrently."""
    if item.name != "reindex_stmt":
        return None
    word = _object(item.node, "kind").removeprefix("reindex_object_")
    if any(option.def_elem.defname == "tablespace" for option in item.node.params):
        raise Unsupported(f"REINDEX with TABLESPACE ({where})", instead="Leave the option out.")
    name = TableName(item.node.relation.schemaname, item.node.relation.relname)
    match word:
        case "index":
            return Rebuild(kind="index", name=name)
        case "table":
            return Rebuild(kind="table", name=name)
        case _:
            raise Unsupported(
                f"REINDEX {word.upper()} in a change ({where})",
                instead="Name the tables or indexes that need it: REINDEX TABLE … or REINDEX INDEX …",
            )


def _kind(item: parser.Parsed) -> str:
    base = item.name.removesuffix("_stmt")
    node = item.node
    match base:
        case "alter_table":
            return f"alter_{_object(node, 'objtype')}"
        case "rename":
            return f"rename_{_object(node, 'rename_type')}"
        case "drop":
            return f"drop_{_object(node, 'remove_type')}"
        case "vacuum":
            return "vacuum" if node.is_vacuumcmd else "analyze"
        case "define":
            return f"create_{_object(node, 'kind')}"
        case _:
            return _KINDS.get(base, base)


def _if_not_exists(text: str) -> str:
    """Return ALTER TYPE … ADD VALUE as one that does nothing where the value is there already."""
    end = next(token.start + len("VALUE") for token in parser.tokens(text) if token.word == "VALUE")
    source = text.encode()
    return f"{source[:end].decode()} IF NOT EXISTS{source[end:].decode()}"


def _object(node: Node, field: str) -> str:
    """Return an object type of the parse tree as a word: OBJECT_TABLE is ``table``."""
    word = choice(node, field).removeprefix("OBJECT_").lower()
    return {"matview": "materialized_view", "tabconstraint": "constraint"}.get(word, word)


def _words(kind: str) -> str:
    return kind.replace("_", " ").upper()


def _tables(item: parser.Parsed) -> Iterator[TableName]:
    """Yield the relations that the statement names as its own object (not those that a query in it reads)."""
    node = item.node
    fields = {field.name for field, _ in node.ListFields()}
    if "relation" in fields and node.relation.relname:
        yield TableName(node.relation.schemaname, node.relation.relname)
    if "table" in fields and type(node.table).__name__ == "RangeVar":
        yield TableName(node.table.schemaname, node.table.relname)
    if item.name == "drop_stmt" and _object(node, "remove_type") in ("table", "foreign_table"):
        for dropped in node.objects:
            yield _written([part.string.sval for part in dropped.list.items])
    if item.name == "drop_stmt" and _object(node, "remove_type") in ("trigger", "policy", "rule"):
        for dropped in node.objects:
            yield _written([part.string.sval for part in dropped.list.items][:-1])
    if item.name == "comment_stmt" and _object(node, "objtype") in ("table", "column"):
        parts = [part.string.sval for part in node.object.list.items]
        yield _written(parts if _object(node, "objtype") == "table" else parts[:-1])
    if item.name == "grant_stmt" and _object(node, "objtype") == "table":
        for granted in node.objects:
            if granted.WhichOneof("node") == "range_var":
                yield TableName(granted.range_var.schemaname, granted.range_var.relname)


def _written(parts: Sequence[str]) -> TableName:
    return TableName(parts[-2] if len(parts) > 1 else "", parts[-1])


def _using(item: parser.Parsed) -> Iterator[tuple[tuple[TableName, str], str]]:
    """Yield every USING of an ALTER TABLE as the user's own text, proven to be the expression that the parser saw."""
    commands = tuple(_type_commands(item))
    texts = [_after_using(item.text, words) for words in _commands(item.text)] if commands else []
    for table, position, alter in commands:
        column = getattr(alter, "def").column_def
        if column.HasField("raw_default"):
            text = texts[position] if len(texts) == len(item.node.cmds) else None
            if text is None or not expression_tree.has_form(text, form(column.raw_default)):
                raise Unsupported(
                    f"the USING of column {alter.name} of {item.text!r}, which cannot be told apart",
                    instead="Write this ALTER COLUMN as a statement of its own.",
                )
            yield (table, alter.name), text


def _type_commands(item: parser.Parsed) -> Iterator[tuple[TableName, int, Node]]:
    """Yield every ALTER COLUMN … TYPE of an ALTER TABLE, with its position in the statement."""
    if item.name != "alter_table_stmt":
        return
    table = TableName(item.node.relation.schemaname, item.node.relation.relname)
    for position, command in enumerate(item.node.cmds):
        alter = command.alter_table_cmd
        enum = alter.DESCRIPTOR.fields_by_name["subtype"].enum_type
        if enum.values_by_number[alter.subtype].name == "AT_AlterColumnType":
            yield table, position, alter


def _commands(text: str) -> list[list[parser.Token]]:
    """Return the words of a statement, divided where a comma stands outside all parentheses and brackets."""
    found: list[list[parser.Token]] = [[]]
    for token, depth in data_statements.depths(parser.tokens(text)):
        if token.word == "," and depth == 0:
            found.append([])
        else:
            found[-1].append(token)
    return found


def _after_using(text: str, words: Sequence[parser.Token]) -> str | None:
    for position, (token, depth) in enumerate(data_statements.depths(words)):
        if token.word == "USING" and depth == 0 and position + 1 < len(words):
            return text.encode()[words[position + 1].start : words[-1].end].decode()
    return None


def _defaulted(item: parser.Parsed) -> Iterator[tuple[TableName, str]]:
    if item.name != "alter_table_stmt":
        return
    table = TableName(item.node.relation.schemaname, item.node.relation.relname)
    for command in item.node.cmds:
        definition = getattr(command.alter_table_cmd, "def").column_def
        if any(_object(part.constraint, "contype") == "constr_default" for part in definition.constraints):
            yield table, definition.colname


def _renames(item: parser.Parsed, kind: str) -> Iterator[Rename]:
    node = item.node
    if kind not in ("rename_column", "rename_table"):
        return
    table = TableName(node.relation.schemaname, node.relation.relname)
    yield Rename(table=table, column=node.subname if kind == "rename_column" else None, to=node.newname)


# ------------------------------------------------------------------------------------------------ syntax errors


def _syntax_message(text: str, source: str, first_line: int, fault: parser.SyntaxFault) -> str:
    if fault.offset is None:
        return f"{source}: {fault.message}."
    offset = min(fault.offset, len(text))
    if offset == len(text):
        offset = len(text.rstrip())
    line = text.count("\n", 0, offset) + first_line
    start = text.rfind("\n", 0, offset) + 1
    content = text[start:].split("\n", 1)[0].rstrip()
    where = f"{source}, line {line}, column {offset - start + 1}"
    return f"{where}: {fault.message}\n  {content}\n  {caret(text[start:offset])}"


def caret(before: str) -> str:
    """Return the line below one that begins with ``before``, with a caret under what comes next.

    Tabs stay tabs, so that it stands there in any terminal.
    """
    return re.sub(r"[^\t]", " ", before) + "^"


def _syntax_remedy(text: str, fault: parser.SyntaxFault) -> str | None:
    """Name the usual reasons why a file that works elsewhere is not SQL."""
    start = text.rfind("\n", 0, fault.offset or 0) + 1
    if re.search(r"^\s*copy\b[^;]*\bfrom\s+stdin\b", text, re.IGNORECASE | re.MULTILINE):
        return "COPY … FROM STDIN with data in the file is psql's: a change holds schema statements only."
    if text[start:].lstrip().startswith("\\") or '"\\"' in fault.message:
        return "Commands that begin with a backslash are psql's own, not SQL: remove them."
    if re.search(r"\$\{\w+", text):
        return "Placeholders like ${name} are not replaced: write the value."
    return None
