"""Writes docs/alerts.md: `python scripts/alerts_page.py > docs/alerts.md`. A test holds it to that."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

RULES = Path(__file__).parent.parent / "helm/rules/hearken.rules.yaml"
HEAD = """# Alerts

What each alert of `helm/rules/hearken.rules.yaml` says, and what to do. Load the file in Prometheus, or let
the chart do it ([Kubernetes](kubernetes.md#watching-it)). With `monitoring.rules.runbooks` set to where
this page is, such as `https://docs.example.com/alerts/`, each alert has its section's address as
`runbook_url`. Those about learning have more in
[when learning goes wrong](learning.md#when-learning-goes-wrong).
"""
TITLES = {
    "hearken-users": "Users",
    "hearken-feedback": "Votes and the log",
    "hearken-learning": "Learning",
    "hearken-releases": "Releases",
}


def section(rule: dict[str, Any]) -> Iterator[str]:
    """Parts of the text about one alert. Its numbers are only known when it fires."""
    lasts = f", once it has been so for {rule['for']}" if "for" in rule else ""
    yield f"### {rule['alert']}\n"
    yield f"{rule['labels']['severity'].capitalize()}{lasts}.\n"
    yield re.sub(r"{{ \$value[^}]*}}", "so many", rule["annotations"]["description"]).strip() + "\n"


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        parts.append(f"## {TITLES[group['name']]}\n")
        parts += [line for rule in group["rules"] for line in section(rule)]
    return "\n".join(parts)


if __name__ == "__main__":
    print(page(), end="")
