"""Several releases under one Prometheus: each alert is of one of them, and a healthy one hides nothing."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.packaging.test_monitoring import RULES, RULES_TESTS, alerts
from tests.packaging.tools import Render, Run

RELEASE = ("namespace", "job")

SAMPLES = 1200  # more than any case has

# A release in which all is well.
HEALTHY = {
    "hearken_engine_up": ({"engine": "http://e0:8000", "instance": "g0"}, "1x{n}"),
    "hearken_requests_total": (
        {"route": "/v1/chat/completions", "code": "200", "instance": "g0"},
        "0+1000x{n}",
    ),
    "hearken_queue_refused_total": ({"reason": "queue full", "instance": "g0"}, "0x{n}"),
    "hearken_keys_stale": ({"instance": "g0"}, "0x{n}"),
    "hearken_relay_age_seconds": ({"instance": "g0"}, "1x{n}"),
    "hearken_completions_unlogged_total": ({"instance": "g0"}, "0x{n}"),
    "hearken_vault_lost": ({"instance": "g0"}, "0x{n}"),
    "hearken_completions_total": ({"arm": "live", "instance": "g0"}, "0+1000x{n}"),
    "hearken_feedback_total": ({"kind": "thumbs", "label": "up", "instance": "g0"}, "0+100x{n}"),
    "hearken_policy_info": ({"version": "policy-2-bbbbbbbb", "arm": "live", "instance": "g0"}, "1x{n}"),
    "hearken_kl_nats": ({"reference": "base", "instance": "l"}, "1x{n}"),
    "hearken_kl_budget_nats": ({"reference": "base", "instance": "l"}, "600x{n}"),
    "hearken_learner_phase": ({"phase": "ppo", "instance": "l"}, "1x{n}"),
    "hearken_labels_total": ({"kind": "thumbs", "instance": "l"}, "0+100x{n}"),
    "hearken_candidates_refused_total": ({"reason": "over-optimised", "instance": "l"}, "9x{n}"),
    "hearken_guard_refusals_total": ({"guard": "refusals", "instance": "l"}, "9x{n}"),
    "hearken_reward_accuracy_ratio": ({"instance": "l"}, "0.75x{n}"),
    "hearken_learner_votes_usable": ({"instance": "l"}, "900x{n}"),
    "hearken_learner_lag_seconds": ({"instance": "l"}, "3x{n}"),
    "hearken_ppo_skipped_updates_total": ({"instance": "l"}, "9x{n}"),
    "hearken_learner_votes_lost_total": ({"instance": "l"}, "9x{n}"),
    "hearken_learner_vault_lost": ({"instance": "l0"}, "0x{n}"),
    "hearken_registry_away": ({"instance": "c0"}, "0x{n}"),
    "hearken_controller_leads": ({"instance": "c0"}, "1x{n}"),
    "hearken_release_stage": ({"stage": "canary", "instance": "c"}, "1x{n}"),
    "hearken_canary_pairs": ({"instance": "c"}, "0+1x{n}"),
    "hearken_rollbacks_total": ({"instance": "c"}, "7x{n}"),
    "hearken_adapter_rejections_total": ({"engine": "http://e0:8000", "instance": "c"}, "7x{n}"),
    "hearken_engine_adapter_info": (
        {"engine": "http://e0:8000", "version": "policy-2-bbbbbbbb", "digest": "bb", "instance": "c"},
        "1x{n}",
    ),
    "hearken_webhooks_total": (
        {"receiver": "https://ops.example.com", "result": "delivered", "instance": "c0"},
        "0+1x{n}",
    ),
    "hearken_ttft_seconds_bucket": ({"le": "5.0", "arm": "live", "instance": "g0"}, "0+1000x{n}"),
    "hearken_ttft_seconds_count": ({"arm": "live", "instance": "g0"}, "0+1000x{n}"),
    "hearken_candidates_total": ({"instance": "l"}, "0+1x{n}"),
    "hearken_reward_mean": ({"instance": "l"}, "0.5x{n}"),
    "hearken_entropy_nats": ({"instance": "l"}, "1.5x{n}"),
    "hearken_response_tokens": ({"instance": "l"}, "60x{n}"),
    "hearken_votes_after_update": ({"instance": "g0"}, "3x{n}"),
    "hearken_votes_waiting": ({"reason": "new", "instance": "l"}, "3x{n}"),
    "hearken_learner_dead_letters_total": ({"instance": "l"}, "9x{n}"),
    "hearken_controller_dead_letters_total": ({"instance": "c"}, "9x{n}"),
    "hearken_inconclusive_total": ({"instance": "c"}, "7x{n}"),
    "hearken_engine_quarantined": ({"engine": "http://e0:8000", "instance": "c"}, "0x{n}"),
    "hearken_parity_tolerance_nats": ({"instance": "c"}, "0.02x{n}"),
}


@pytest.mark.parametrize(
    ("ill", "well"),
    [(("shop", "chat"), ("lab", "chat")), (("shop", "chat"), ("shop", "beta"))],
    ids=["in two namespaces", "in one namespace"],
)
@pytest.mark.parametrize("cases", RULES_TESTS, ids=lambda file: file.stem)
def test_an_alert_names_its_release_whatever_another_one_does(
    promtool: Run, tmp_path: Path, cases: Path, ill: tuple[str, str], well: tuple[str, str]
) -> None:
    """Every case of the rules' own tests, as one release beside a healthy one."""
    document = yaml.load(cases.read_text(), Loader=yaml.BaseLoader)  # 0x30 is no number here
    document["rule_files"] = [str(RULES)]
    document["tests"] = [_beside(case, ill, well) for case in document["tests"] if case["input_series"]]
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    result = promtool("test", "rules", tmp_path / "test.yaml")
    assert result.returncode == 0, result.stdout + result.stderr
    assert len(document["tests"]) > 5


def _beside(case: dict[str, Any], ill: tuple[str, str], well: tuple[str, str]) -> dict[str, Any]:
    """A case of `ill`, with a healthy release `well` beside it; the expected alerts are those of `ill`."""
    series = [
        {"series": _labelled(each["series"], ill), "values": each["values"]} for each in case["input_series"]
    ]
    for name, (labels, values) in HEALTHY.items():
        written = ",".join(f'{key}="{value}"' for key, value in labels.items())
        series.append({"series": _labelled(f"{name}{{{written}}}", well), "values": values.format(n=SAMPLES)})
    checks = [
        check
        | {
            "exp_alerts": [
                alert | {"exp_labels": alert["exp_labels"] | dict(zip(RELEASE, ill, strict=True))}
                for alert in check.get("exp_alerts", [])
            ]
        }
        for check in case["alert_rule_test"]
    ]
    return {
        "name": case["name"],
        "interval": case["interval"],
        "input_series": series,
        "alert_rule_test": checks,
    }


def _labelled(series: str, release: tuple[str, str]) -> str:
    labels = ",".join(f'{name}="{value}"' for name, value in zip(RELEASE, release, strict=True))
    name, _, rest = series.partition("{")
    return f"{name}{{{labels}," + rest if rest else f"{name}{{{labels}}}"


def test_the_healthy_release_has_every_series_that_an_alert_asks_for() -> None:
    asked = {name for rule in alerts() for name in re.findall(r"hearken_\w+", rule["expr"])}
    assert asked - HEALTHY.keys() <= {"hearken_log_loss_standing"}  # which is there only while it is wrong


def test_every_alert_groups_and_matches_by_release() -> None:
    for rule in alerts():
        for clause in re.findall(r"\b(?:by|on|ignoring|without)\s*\(([^)]*)\)", rule["expr"]):
            assert set(RELEASE) <= {label.strip() for label in clause.split(",")}, rule["alert"]
        aggregates = re.findall(r"\b(sum|max|min|avg|count|group)\b(?!\s+by\b)\s*\(", rule["expr"])
        assert not aggregates, f"{rule['alert']} takes all releases together"


def test_all_parts_of_a_release_are_one_job(render: Render) -> None:
    """Some alerts hold gateways against the learner or the controller, which must have the same job."""
    resources = render("everything")
    (monitor,) = (item["spec"] for item in resources if item["kind"] == "ServiceMonitor")
    jobs = {
        item["metadata"]["labels"][monitor["jobLabel"]]
        for item in resources
        if item["kind"] == "Service"
        and item["metadata"]["labels"]["app.kubernetes.io/component"] in ("gateway", "learner", "controller")
    }
    assert jobs == {"demo"}  # the release's name
