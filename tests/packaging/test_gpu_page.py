"""docs/gpu.md shows the table that the plan gives."""

from bench.cards import rows
from tests.packaging.tools import ROOT


def test_the_table_of_cards_is_the_plans() -> None:
    """If not: python -m bench cards"""
    assert "\n".join(rows()) in (ROOT / "docs/gpu.md").read_text()
