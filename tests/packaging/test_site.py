"""The documentation as a site: all pages are in it, its links lead somewhere, and it asks nobody else."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.docs_site import on_page_markdown
from tests.packaging.tools import ROOT

CONFIG: dict[str, Any] = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
PARTS = (
    *("hearken", "Getting started", "For product teams", "For operators", "The algorithm", "Deployment"),
    "Reference",
)


def pages(nav: list[Any]) -> Iterator[str]:
    """The files of a navigation, in order."""
    for entry in nav:
        for inside in entry.values():
            if isinstance(inside, str):
                yield inside
            else:
                yield from pages(inside)


def test_every_page_has_one_place_in_the_navigation() -> None:
    assert [next(iter(part)) for part in CONFIG["nav"]] == [*PARTS]
    assert sorted(pages(CONFIG["nav"])) == sorted(path.name for path in ROOT.glob("docs/*.md"))


def test_what_is_wrong_fails_the_build() -> None:
    assert set(CONFIG["validation"].values()) == {"warn"}, "--strict makes an error of each warning"
    assert CONFIG["theme"]["highlightjs"] is False, "its scripts would come from elsewhere"


def test_files_of_the_repository_are_named_and_not_linked() -> None:
    shown = on_page_markdown("See [examples/a.py](../examples/a.py), [a file](../b.py) and [that](c.md#d).")
    assert shown == "See `examples/a.py`, a file (`b.py`) and [that](c.md#d)."
    for path in ROOT.glob("docs/*.md"):
        for named in re.findall(r"\]\(\.\./([^)#]+)", path.read_text()):
            assert (ROOT / named).exists(), f"{path.name}: {named}"


class _Loads(HTMLParser):
    """What a page loads without being asked to."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        name = {"script": "src", "img": "src", "link": "href", "iframe": "src"}.get(tag)
        found = dict(attrs)
        if name is not None and found.get("rel") != "canonical":
            self.found.append(found.get(name) or "")


def build(top: Path, into: Path) -> "subprocess.CompletedProcess[str]":
    """Build the site of a copy of the repository's pages. Not --quiet: with it MkDocs counts no warnings."""
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(into)]
    return subprocess.run(command, cwd=top, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "wrong", ["[x](settings.md#no-such-heading)", "[x](no-such-page.md)", "[x](/metrics)"]
)
def test_a_link_that_leads_nowhere_fails_the_build(tmp_path: Path, wrong: str) -> None:
    for name in ("docs", "scripts"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    with (tmp_path / "docs/index.md").open("a") as page:
        page.write(f"\n{wrong}\n")
    built = build(tmp_path, tmp_path / "site")
    assert built.returncode == 1
    assert "Aborted with 1 warnings in strict mode" in built.stdout + built.stderr


def test_the_site_is_built_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    built = build(ROOT, tmp_path)
    assert built.returncode == 0, built.stdout + built.stderr
    files = sorted(tmp_path.rglob("*.html"))
    assert len(files) > len(list(pages(CONFIG["nav"])))
    for file in files:
        page = _Loads()
        page.feed(file.read_text())
        assert page.found, file
        outside = [link for link in page.found if link.startswith(("http:", "https:", "//"))]
        assert outside == [], file.name
    for sheet in (*tmp_path.rglob("*.css"), *tmp_path.rglob("search/*.js")):
        assert not re.search(r"(?:url\(|@import |importScripts\()[\"' ]*(?:https?:)?//", sheet.read_text()), (
            sheet
        )
