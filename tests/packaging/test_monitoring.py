"""Dashboard and alert rules ask only for what the programs show, and promtool agrees with them."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import Histogram, generate_latest
from prometheus_client.metrics import MetricWrapperBase

from deploy.controller.metrics import ControllerMetrics
from deploy.settings import ControllerSettings
from learner.loop.metrics import LearnerMetrics
from serve.metrics import Metrics as GatewayMetrics
from tests.packaging.tools import ROOT, Render, Run

RULES = ROOT / "helm/rules/hearken.rules.yaml"
RULES_TESTS = sorted((ROOT / "helm/rules").glob("*.test.yaml"))
DASHBOARD = ROOT / "helm/dashboards/hearken.json"
TARGET_LABELS = {"instance", "job", "namespace", "pod"}  # added by Prometheus itself


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return loaded


def dashboard_queries() -> list[str]:
    panels = dashboard()["panels"]
    queries = [target["expr"] for panel in panels for target in panel.get("targets", [])]
    return queries + [item["expr"] for item in dashboard()["annotations"]["list"]]


def shown_metrics() -> dict[str, set[str]]:
    """Every series that the three programs can show, with its labels, asked of the programs' own objects."""
    settings = ControllerSettings(data=Path("/nowhere"), engines=("http://engine:8000",))
    shown: dict[str, set[str]] = {}
    for metrics in (GatewayMetrics(), LearnerMetrics(), ControllerMetrics(settings)):
        parts = (
            metrics,
            metrics.losses,
            *([metrics.shadow, metrics.opinions] if isinstance(metrics, ControllerMetrics) else []),
            *([metrics.times, metrics.guards] if isinstance(metrics, LearnerMetrics) else [metrics.lookups]),
        )
        for metric in (metric for part in parts for metric in vars(part).values()):
            if isinstance(metric, MetricWrapperBase):
                labels = set(metric._labelnames)
                (family,) = metric.describe()
                names = {"counter": [f"{family.name}_total"]}.get(family.type, [family.name])
                if isinstance(metric, Histogram):
                    names = [f"{family.name}_{part}" for part in ("bucket", "sum", "count")]
                    labels.add("le")
                shown.update(dict.fromkeys(names, labels))
    return shown


def uses(query: str) -> Iterator[tuple[str, set[str]]]:
    """Each metric in a query, with the labels that the query selects by."""
    for name, matchers in re.findall(r"(hearken_\w+)(?:\{([^}]*)\})?", query):
        yield name, set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers))


def grouped(query: str) -> set[str]:
    """The labels that a query groups or matches by."""
    lists = re.findall(r"\b(?:by|on|without|ignoring)\s*\(([^)]*)\)", query)
    return {label.strip() for item in lists for label in item.split(",") if label.strip()}


QUERIES = [*dashboard_queries(), *(rule["expr"] for rule in alerts())]


def test_there_is_something_to_check() -> None:
    assert len(shown_metrics()) > 40
    assert len(QUERIES) > 60


@pytest.mark.parametrize("query", sorted(set(QUERIES)))
def test_queries_name_only_metrics_and_labels_that_exist(query: str) -> None:
    shown = shown_metrics()
    known: set[str] = set()
    for name, labels in uses(query):
        assert name in shown, f"no program shows {name}"
        assert labels <= shown[name] | TARGET_LABELS, f"{name} has the labels {sorted(shown[name])}"
        known |= shown[name]
    assert grouped(query) <= known | TARGET_LABELS


def test_the_dashboard_shows_every_metric_that_the_programs_have() -> None:
    seen = {name for query in dashboard_queries() for name, _ in uses(query)}
    histograms = {name.removesuffix("_bucket") for name in seen if name.endswith("_bucket")}
    unseen = {
        name for name in shown_metrics()
        if name not in seen and re.sub(r"_(bucket|sum|count)$", "", name) not in histograms
    }  # fmt: skip
    assert unseen == set()


def test_prometheus_understands_the_dashboards_queries(promtool: Run, tmp_path: Path) -> None:
    rules = [
        {"record": f"query_{n}", "expr": query.replace("$__rate_interval", "5m").replace("$__range", "1h")}
        for n, query in enumerate(dashboard_queries())
    ]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    result = promtool("check", "rules", tmp_path / "rules.yaml")
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"{len(rules)} rules found" in result.stdout + result.stderr


def test_the_dashboard_can_be_imported_anywhere() -> None:
    board = dashboard()
    assert board["uid"] == "hearken"
    assert "id" not in board  # the number of a row in one Grafana's own database
    assert board["schemaVersion"] >= 39
    source, *chosen = board["templating"]["list"]
    assert (source["name"], source["type"], source["query"]) == ("datasource", "datasource", "prometheus")
    assert [each["name"] for each in chosen] == ["namespace", "release"]
    for each in chosen:  # a scrape without namespaces is seen, too
        assert (each["includeAll"], each["allValue"]) == (True, ".*")
    for panel in board["panels"]:
        for place in [panel, *panel.get("targets", [])]:
            if panel["type"] != "row":
                assert place["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        if panel["type"] != "row":
            assert panel["targets"]
            assert panel["description"]


def test_every_series_of_the_dashboard_is_of_the_chosen_release() -> None:
    """Or services under one Prometheus are summed."""
    chosen = 'namespace=~"$namespace",job=~"$release"'
    for query in dashboard_queries():
        for selected in re.findall(r"hearken_\w+(\{[^}]*\})?", query):
            assert chosen in selected, query


def test_no_program_shows_when_its_counters_were_made() -> None:
    controller = ControllerMetrics(ControllerSettings(data=Path(), engines=("http://engine:8000",)))
    for registry in (GatewayMetrics().registry, LearnerMetrics().registry, controller.registry):
        shown = generate_latest(registry).decode()
        assert "hearken_build_info{version=" in shown
        assert "_created" not in shown


def test_panels_have_their_own_number_and_place() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert [panel["title"] for panel in panels if panel["type"] == "row"] == [
        "Users", "Learning", "Release", "Feedback and log",
    ]  # fmt: skip
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, f"{panel['title']} lies over another panel"
        taken |= cells


def test_evidence_is_drawn_on_a_log_axis_with_its_bounds() -> None:
    (panel,) = (panel for panel in dashboard()["panels"] if panel["title"] == "Evidence")
    assert panel["fieldConfig"]["defaults"]["custom"]["scaleDistribution"] == {"type": "log", "log": 10}
    assert any("hearken_canary_evidence_bound" in target["expr"] for target in panel["targets"])


def test_alerts_tell_the_operator_what_to_do() -> None:
    for rule in alerts():
        assert rule["labels"]["severity"] in ("critical", "warning"), rule["alert"]
        assert rule["annotations"].keys() == {"summary", "description"}, rule["alert"]
        assert len(rule["annotations"]["description"]) > 120, rule["alert"]
    names = [rule["alert"] for rule in alerts()]
    assert len(names) == len(set(names))


def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    fires: set[str] = set()
    quiet: set[str] = set()
    for case in (case for file in RULES_TESTS for case in yaml.safe_load(file.read_text())["tests"]):
        for check in case["alert_rule_test"]:
            (fires if check.get("exp_alerts") else quiet).add(check["alertname"])
    names = {rule["alert"] for rule in alerts()}
    assert fires == names
    assert quiet == names


def test_prometheus_accepts_the_rules(promtool: Run) -> None:
    result = promtool("check", "rules", RULES)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("cases", RULES_TESTS, ids=lambda file: file.stem)
def test_alerts_fire_when_they_should(promtool: Run, cases: Path) -> None:
    result = promtool("test", "rules", cases)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_chart_carries_the_same_rules_and_dashboard(render: Render) -> None:
    resources = {item["kind"]: item for item in render("everything")}
    assert resources["PrometheusRule"]["spec"] == yaml.safe_load(RULES.read_text())
    maps = [item["data"] for item in render("everything") if item["kind"] == "ConfigMap"]
    (carried,) = (data["hearken.json"] for data in maps if "hearken.json" in data)
    assert json.loads(carried) == dashboard()
    assert not {"PrometheusRule", "ServiceMonitor", "ConfigMap"} & {
        item["kind"] for item in render("default")
    }


def test_every_alert_links_to_its_section_where_the_docs_are_served(render: Render) -> None:
    served = "https://docs.example.com/alerts/"
    resources = render("everything", f"monitoring.rules.runbooks={served}")
    (rules,) = (item["spec"] for item in resources if item["kind"] == "PrometheusRule")
    links = [rule["annotations"]["runbook_url"] for group in rules["groups"] for rule in group["rules"]]
    titles = re.findall(r"^### (\w+)$", (ROOT / "docs/alerts.md").read_text(), re.MULTILINE)
    assert links == [f"{served}#{title.lower()}" for title in titles]


def test_prometheus_finds_each_programs_metrics_once(render: Render) -> None:
    resources = render("everything")
    (monitor,) = (item["spec"] for item in resources if item["kind"] == "ServiceMonitor")
    (expression,) = monitor["selector"]["matchExpressions"]
    ports = {endpoint["port"] for endpoint in monitor["endpoints"]}
    found = [
        service["metadata"]["labels"]["app.kubernetes.io/component"]
        for service in resources
        if service["kind"] == "Service"
        and service["metadata"]["labels"]["app.kubernetes.io/component"] in expression["values"]
        and ports & {port["name"] for port in service["spec"]["ports"]}
    ]
    assert sorted(found) == ["controller", "engine", "gateway", "learner"]
