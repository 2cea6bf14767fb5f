"""README.md shows commands that exist, and its links and those of docs/ lead somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from flows.cli import app
from flows.command_pages import command_names

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")])
TESTS = "python3 -m venv .venv && .venv/bin/pip install -q -e '.[dev]' && .venv/bin/pytest -n logical --dist loadfile"
DEMO = "python3 -m venv .venv && .venv/bin/pip install -q -e . && .venv/bin/lockstep demo"
IMAGE_BYTES = 300_000


def shown_commands() -> list[list[str]]:
    """Return every lockstep command line of the README: those of the code blocks and those in the text."""
    blocks = re.findall(r"```(?:sh|console)\n(.*?)```", README, re.DOTALL)
    lines = [line for block in blocks for line in re.findall(r"(?m)^\$ (lockstep .*)$", block)]
    prose = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    lines += [text for text in re.findall(r"`(lockstep [^`]+)`", prose) if "…" not in text]
    return [shlex.split(line)[1:] for line in lines]


def test_the_two_commands_are_the_ones_that_ci_runs() -> None:
    assert f"\n{TESTS}\n" in README
    assert f"\n{DEMO}\n" in README
    assert TESTS in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_the_commands_of_a_migration_are_all_shown() -> None:
    assert {words[0] for words in shown_commands()} >= set(command_names()) - {"demo"}


@pytest.mark.parametrize("words", shown_commands(), ids=" ".join)
def test_a_shown_command_exists_with_its_options(words: list[str]) -> None:
    command = getattr(get_command(app), "commands")[words[0]]  # noqa: B009 - typer's group is click's own or typer's
    options = {name for parameter in command.params for name in parameter.opts}
    assert {word for word in words[1:] if word.startswith("--")} <= options


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if "://" not in link:
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_every_page_is_linked() -> None:
    linked = set(re.findall(r"\]\((docs/[^)#]+)", README))
    assert {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")} <= linked
    assert {f"docs/img/{image.name}" for image in (ROOT / "docs" / "img").iterdir()} <= linked


def test_the_shown_spec_is_the_example() -> None:
    (shown,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    assert shown == (ROOT / "examples" / "drink-water" / "intake-v2.yaml").read_text(encoding="utf-8")


def test_images_are_small_pictures() -> None:
    images = list((ROOT / "docs" / "img").iterdir())
    assert images
    for image in images:
        content = image.read_bytes()
        assert content.startswith(b"\x89PNG")
        assert len(content) < IMAGE_BYTES


def test_nothing_is_left_to_fill_in() -> None:
    assert "<!--" not in README
