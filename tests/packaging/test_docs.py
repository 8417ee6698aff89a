"""docs/kubernetes.md, alerts.md and metrics.md tell of what there is: values, alerts and metrics."""

import os
import re
import shlex
import subprocess
import sys

import yaml

from hearken.cli import parser
from tests.packaging.tools import NEWEST, ROOT, Run

PAGE = (ROOT / "docs/kubernetes.md").read_text()
COMMANDS = re.sub(r" \\\n\s*", " ", "\n".join(re.findall(r"^    (.+)$", PAGE, re.MULTILINE)))


def test_every_alert_has_a_section_of_its_page() -> None:
    page = (ROOT / "docs/alerts.md").read_text()
    assert page == printed("scripts/alerts_page.py"), (
        "write it anew: python scripts/alerts_page.py > docs/alerts.md"
    )
    groups = yaml.safe_load((ROOT / "helm/rules/hearken.rules.yaml").read_text())["groups"]
    real = [rule["alert"] for group in groups for rule in group["rules"]]
    assert re.findall(r"^### (\w+)$", page, re.MULTILINE) == real


def test_the_section_that_an_alert_names_is_there_and_tells_of_it() -> None:
    groups = yaml.safe_load((ROOT / "helm/rules/hearken.rules.yaml").read_text())["groups"]
    named = set()
    for rule in (rule for group in groups for rule in group["rules"]):
        text = rule["annotations"]["description"]
        for page, title in re.findall(r'(docs/\w+\.md), "([^"]+)"', text):
            (section,) = re.findall(
                rf"^## {title}\n(.*?)(?=^## |\Z)", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL
            )
            assert f"**{rule['alert']}**" in section, f"{page} says nothing of {rule['alert']}"
            named.add(rule["alert"])
    assert len(named) > 5


def test_the_values_that_are_named_exist() -> None:
    values = yaml.safe_load((ROOT / "helm/values.yaml").read_text())
    named = set(re.findall(r"`([a-z]\w+(?:\.\w+)+)`", PAGE)) | set(re.findall(r"--set ([\w.]+)=", PAGE))
    chart = {name for name in named if name.partition(".")[0] in values}
    assert len(chart) > 12
    for name in chart:
        at = values
        for part in name.split("."):
            assert part in at, f"helm/values.yaml has no {name}"
            at = at[part]


def test_the_commands_for_operators_are_understood() -> None:
    (rollback,) = re.findall(r"-- (hearken rollback.*)", COMMANDS)
    assert parser().parse_args(shlex.split(rollback)[1:]).reason == "answers are rude"


def test_the_installation_that_is_shown_renders(helm: Run) -> None:
    (line,) = re.findall(r"^helm install (.*)$", COMMANDS, re.MULTILINE)
    result = helm("template", *shlex.split(line), "--kube-version", NEWEST)
    assert result.returncode == 0, result.stderr
    names = re.findall(r"(?:service|statefulset)/([\w-]+)", COMMANDS)
    made = {item["metadata"]["name"] for item in yaml.safe_load_all(result.stdout) if item}
    assert names
    assert set(names) <= made


def printed(script: str) -> str:
    """What a script of this repository prints."""
    shown = subprocess.run(
        [sys.executable, script],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert shown.returncode == 0, shown.stderr
    return shown.stdout


def test_every_metric_is_on_its_page() -> None:
    page = (ROOT / "docs/metrics.md").read_text()
    assert page == printed("scripts/metrics_page.py"), (
        "write it anew: python scripts/metrics_page.py > docs/metrics.md"
    )
    assert page.count("| `hearken_") > 100
