"""axe-core on a page: what people cannot use who see little, or use a keyboard or a screen reader."""

from functools import cache

import pytest
from playwright.sync_api import Page

from tests.packaging.tools import ROOT

PROGRAM = ROOT / ".tools/axe/node_modules/axe-core/axe.min.js"
SCHEMES = ("light", "dark")
WIDTHS = (390, 1280)


@cache
def _program() -> str:
    if not PROGRAM.exists():
        pytest.skip("axe-core is not installed: run scripts/tools.sh, which needs npm")
    return PROGRAM.read_text()


def faults(page: Page) -> list[str]:
    """What axe finds on a page as it is now, each with where it is. Without axe-core the test skips, and
    fails in CI (see tests/conftest.py)."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(_program())
    found = page.evaluate("() => axe.run()")["violations"]
    return [
        f"{fault['id']}: {fault['help']}: {place['html']} {place['failureSummary']}"
        for fault in found
        for place in fault["nodes"]
    ]
