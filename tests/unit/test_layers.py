"""The floors: imports only go down, and each floor has its own libraries (architecture.md, "Floors")."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent.parent
PACKAGES = ("flows", "tasks", "expectations")
MODULES = sorted(path for package in PACKAGES for path in (REPOSITORY / package).rglob("*.py"))
NAMES = [str(path.relative_to(REPOSITORY)) for path in MODULES]

LONGEST_MODULE = 500
LONGEST_FLOW = 120
DATA = {".sql", ".j2", ".css", ".yaml", ".json"}
FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "common", "misc"}
STATEMENT = re.compile(
    r"\s*(SELECT\s|INSERT\s+INTO\s|UPDATE\s+\S+\s+SET\s|DELETE\s+FROM\s|ALTER\s+\w|CREATE\s+\w|DROP\s+\w|TRUNCATE\s|SET\s+LOCAL\s)"
)

# The prefixes of what a floor must not import. A floor is the longest matching prefix of a module's name.
FORBIDDEN: dict[str, tuple[str, ...]] = {
    "tasks.planning": ("psycopg", "sqlalchemy", "prefect", "great_expectations", "expectations", "flows", "tasks"),
    "tasks.database": ("prefect", "great_expectations", "expectations", "flows", "tasks"),
    "tasks.application": ("prefect", "great_expectations", "expectations", "flows", "tasks"),
    "expectations": ("prefect", "flows", "tasks"),
    "tasks": ("great_expectations", "flows"),
    "flows": ("psycopg", "sqlalchemy", "great_expectations"),
}
# What is allowed nevertheless: quoting, and the floors below.
ALLOWED: dict[str, tuple[str, ...]] = {
    "tasks.planning": ("psycopg.sql", "tasks.planning"),
    "tasks.database": ("tasks.planning", "tasks.database"),
    "tasks.application": ("tasks.planning", "tasks.database", "tasks.application"),
    "expectations": ("tasks.planning", "tasks.database"),
    "tasks": (),
    "flows": (),
}


def module_name(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def imports(tree: ast.Module) -> Iterator[str]:
    """Yield every imported module by its full name, wherever in the file the import stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def under(name: str, prefixes: tuple[str, ...]) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def violations(name: str, tree: ast.Module) -> list[str]:
    floor = max((floor for floor in FORBIDDEN if under(name, (floor,))), key=len)
    return [
        imported
        for imported in imports(tree)
        if under(imported, FORBIDDEN[floor]) and not under(imported, ALLOWED[floor])
    ]


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def test_the_modules_are_found() -> None:
    assert "tasks/planning/plan.py" in NAMES
    assert len(NAMES) > 10


@pytest.mark.parametrize("path", MODULES, ids=NAMES)
def test_imports_only_go_down(path: Path) -> None:
    assert violations(module_name(path), parsed(path)) == []


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("tasks.planning.plan", "import psycopg"),
        ("tasks.planning.plan", "from psycopg import Connection, sql"),
        ("tasks.planning.plan", "from tasks.database import catalog"),
        ("tasks.planning.plan", "from tasks import gate"),
        ("tasks.database.ledger", "def f():\n    import prefect"),
        ("tasks.database.ledger", "from tasks.plan import make"),
        ("tasks.database.ledger", "from expectations.gate import run_gate"),
        ("expectations.gate", "from prefect.artifacts import create_table_artifact"),
        ("tasks.gate", "from flows.cli import main"),
        ("tasks.gate", "import great_expectations as gx"),
        ("flows.plan", "from psycopg import sql"),
    ],
)
def test_the_check_sees_what_goes_up(module: str, line: str) -> None:
    assert violations(module, ast.parse(line))


def test_the_tasks_package_imports_nothing() -> None:
    body = parsed(REPOSITORY / "tasks" / "__init__.py").body
    assert [type(node).__name__ for node in body] == ["Expr"], "a docstring, and nothing else"


def test_one_module_knows_the_parser_library() -> None:
    users = [name for path, name in zip(MODULES, NAMES, strict=True) if "postgast" in _roots(path)]
    assert len(users) <= 1


def _roots(path: Path) -> set[str]:
    return {imported.split(".")[0] for imported in imports(parsed(path))}


@pytest.mark.parametrize("path", MODULES, ids=NAMES)
def test_modules_are_small_and_named_after_what_they_are(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LONGEST_MODULE
    assert path.stem not in FORBIDDEN_NAMES


def test_what_is_here_is_also_in_the_package() -> None:
    """Setuptools finds no package by itself here, and puts no data file into the wheel that is not named."""
    tool = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {path.parent.relative_to(REPOSITORY) for path in MODULES}
    assert {".".join(folder.parts) for folder in folders} == set(tool["packages"])
    named = {
        path
        for package, patterns in tool["package-data"].items()
        for pattern in patterns
        for path in (REPOSITORY / package.replace(".", "/")).glob(pattern)
    }
    found = {path for package in PACKAGES for path in (REPOSITORY / package).rglob("*.*") if path.suffix in DATA}
    assert found == named


FLOWS = sorted((REPOSITORY / "flows").rglob("*.py"))


@pytest.mark.parametrize("path", FLOWS, ids=lambda path: path.name)
def test_flows_hold_order_and_policy_only(path: Path) -> None:
    if path.name != "cli.py":
        assert len(path.read_text().splitlines()) <= LONGEST_FLOW
    texts = [
        node.value for node in ast.walk(parsed(path)) if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    assert [text for text in texts if STATEMENT.match(text)] == []


def test_the_check_for_sql_sees_sql() -> None:
    assert STATEMENT.match("SELECT 1")
    assert STATEMENT.match("\n  ALTER TABLE t ADD COLUMN c int")
    assert not STATEMENT.match("Create a migration")


class TestHelp:
    PROGRAM = "import sys; sys.argv = ['lockstep', '--help']; from flows.cli import main\ntry:\n    main()\nfinally:\n"

    def test_it_imports_no_heavy_library(self) -> None:
        heavy = ("prefect", "great_expectations", "sqlalchemy", "pandas", "psycopg", "sqlglot")
        program = f"{self.PROGRAM}    print([name for name in {heavy} if name in sys.modules], file=sys.stderr)"
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=REPOSITORY
        )
        assert "plan" in done.stdout
        assert done.stderr.strip() == "[]"
