"""The documentation says what is there: links lead somewhere, and every command and option exists."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from archnet.cli import app

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*.md")])
SOURCES = [*PAGES, *sorted(ROOT.glob("examples/*.py"))]


def name(path: Path) -> str:
    """A page's path in the repository."""
    return str(path.relative_to(ROOT))


def prose(page: Path) -> str:
    """A page without its code."""
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """What a link to a heading of this page may be called."""
    headings = re.findall(r"^#+ (.+)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def command_lines(page: Path) -> list[list[str]]:
    """The words of every line that calls archnet."""
    text = page.read_text(encoding="utf-8")
    found = re.findall(r"(?:^|&& )\s*(?:\.venv/bin/)?(archnet [a-z].*?)(?: +#.*)?$", text, flags=re.MULTILINE)
    return [shlex.split(line.rstrip("`")) for line in found]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path) if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_files_that_are_named_exist(page: Path) -> None:
    folders = "archnet|converters|targets|calibration|tests|benchmarks|docs|examples"
    named = re.findall(rf"`((?:{folders})/[\w/]+(?:\.(?:py|md|toml))?/?)`", page.read_text(encoding="utf-8"))
    assert [path for path in named if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("page", SOURCES, ids=name)
def test_commands_and_options_exist(page: Path) -> None:
    wrong = []
    for _, command, *words in command_lines(page):
        known = app.commands.get(command)
        if known is None:
            wrong.append(command)
            continue
        if isinstance(known, click.Group) and words and words[0] in known.commands:
            command, known = f"{command} {words[0]}", known.commands[words[0]]
        options = {option for parameter in known.params for option in parameter.opts}
        wrong += [f"{command} {w}" for w in words if w.startswith("--") and w.split("=")[0] not in options]
    assert wrong == []


def test_the_pages_do_show_commands() -> None:
    shown = {line[1] for page in SOURCES for line in command_lines(page)}
    assert {
        "quickstart",
        "targets",
        "inspect",
        "convert",
        "validate",
        "export",
        "run",
        "bench",
        "report",
    } <= shown


def test_the_readme_has_exactly_two_set_up_commands_and_ci_runs_both() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = [line for line in readme.splitlines() if line.startswith("./setup.sh")]
    assert lines == ["./setup.sh && .venv/bin/archnet quickstart", "./setup.sh dev && .venv/bin/pytest"]
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert "./setup.sh" in ci
    assert "./setup.sh dev" in ci


def test_the_constraints_pin_every_dependency_once() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line.split("==")[0].lower().replace("_", "-") for line in lines if not line.startswith("#")]
    assert len(pins) == len(set(pins))
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    needed = re.findall(r'"([\w-]+)(?:>=|==)', project.split("[project.scripts]")[0])
    assert sorted(set(needed) - set(pins)) == []


def test_every_command_is_documented() -> None:
    assert isinstance(app, click.Group)
    readme = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert [command for command in app.commands if command not in readme] == []
