"""The chart and what a platform has of its own: Gateway API, KEDA, egress, digests, volumes, resources."""

import ast

import pytest

from hearken.cli import parser
from hearken.service import flags
from serve.metrics import Metrics as GatewayMetrics
from tests.packaging.test_chart import KAFKA, component, container, pod, selects, workloads
from tests.packaging.test_monitoring import shown_metrics, uses
from tests.packaging.tools import Render, Resource, Run

PARTS = ("gateway", "engine", "learner", "controller")


def only(resources: list[Resource], kind: str) -> Resource:
    (found,) = (item for item in resources if item["kind"] == kind)
    return found


def test_the_gateway_api_leads_to_the_same_paths_as_an_ingress_and_its_name_is_trusted(
    render: Render,
) -> None:
    resources = render("platform")
    route = only(resources, "HTTPRoute")["spec"]
    (rule,) = route["rules"]
    assert {match["path"]["value"] for match in rule["matches"]} == {"/v1", "/feedback.js", "/signals.js"}
    (backend,) = rule["backendRefs"]
    (service,) = (
        item for item in resources
        if item["kind"] == "Service" and item["metadata"]["name"] == backend["name"]
    )  # fmt: skip
    assert backend["port"] in {port["port"] for port in service["spec"]["ports"]}
    arguments = container(resources, "gateway")["args"]
    assert arguments[arguments.index("chat.example.com") - 1] == "--trusted-host"


def scaled(resources: list[Resource], part: str) -> Resource:
    """How KEDA scales a part of the service; the part itself says no number."""
    (spec,) = (
        item["spec"] for item in resources
        if item["kind"] == "ScaledObject"
        and item["metadata"]["labels"]["app.kubernetes.io/component"] == part
    )  # fmt: skip
    (target,) = (
        item for item in workloads(resources) if item["metadata"]["name"] == spec["scaleTargetRef"]["name"]
    )
    assert component(target) == part
    assert "replicas" not in target["spec"], "or each upgrade sets the number back"
    found: Resource = spec
    return found


def asked(spec: Resource) -> set[str]:
    """The metrics that a part is scaled by, which the programs show."""
    (trigger,) = spec["triggers"]
    names = {name for name, _ in uses(trigger["metadata"]["query"])}
    assert names <= shown_metrics().keys()
    assert 'job="demo"' in trigger["metadata"]["query"]
    return names


def test_gateways_scale_by_the_requests_at_work(render: Render) -> None:
    resources = render("platform")
    assert asked(scaled(resources, "gateway")) == {"hearken_engine_in_flight", "hearken_queue_length"}
    assert not [item for item in resources if item["kind"] == "HorizontalPodAutoscaler"]


def test_a_learner_is_there_while_votes_wait_and_never_twice(render: Render) -> None:
    spec = scaled(render("platform"), "learner")
    assert (spec["minReplicaCount"], spec["maxReplicaCount"], spec["cooldownPeriod"]) == (0, 1, 3600)
    assert asked(spec) == {"hearken_votes_after_update"}
    assert b"hearken_votes_after_update" in GatewayMetrics().render(), "who is not there says nothing"
    assert pod_count(render("default"), "learner") == 1


def pod_count(resources: list[Resource], part: str) -> int:
    (count,) = (item["spec"]["replicas"] for item in workloads(resources) if component(item) == part)
    assert isinstance(count, int)
    return count


def test_topics_are_made_before_anything_is_there(render: Render) -> None:
    """Also before the release's own service account, configuration and volumes."""
    assert not [item for item in render("default") if item["kind"] == "Job"]
    for values, kafka, partitions in (
        ("platform", "kafka:9092", 4),
        ("everything", "/kafka/hearken.properties", 12),
    ):
        job = only(render(values), "Job")
        assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
        spec = job["spec"]["template"]["spec"]
        assert "serviceAccountName" not in spec
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        (made,) = spec["containers"]
        arguments = parser().parse_args(made["args"])
        assert (arguments.partitions, arguments.replication) == (partitions, 3)
        assert flags.configured(arguments, {"--kafka": "service.kafka"}).build("service").kafka == kafka
        assert {mount["name"] for mount in made["volumeMounts"]} == {
            volume["name"] for volume in spec["volumes"]
        }
        assert {"requests", "limits"} == made["resources"].keys()
        assert made["securityContext"]["readOnlyRootFilesystem"] is True


def test_every_pod_may_reach_the_others_names_and_what_is_listed(render: Render) -> None:
    resources = render("platform")
    (policy,) = (
        item["spec"] for item in resources
        if item["kind"] == "NetworkPolicy" and item["spec"]["policyTypes"] == ["Egress"]
    )  # fmt: skip
    for part in PARTS:
        labels = pod(resources, part)["metadata"]["labels"]
        assert selects(policy["podSelector"], labels)
        assert selects(policy["egress"][0]["to"][0]["podSelector"], labels)
    assert policy["egress"][1]["ports"][0]["port"] == 53
    assert policy["egress"][2]["to"] == [{"ipBlock": {"cidr": "10.1.0.0/16"}}]
    everywhere = (item["spec"] for item in render("default") if item["kind"] == "NetworkPolicy")
    assert not [each for each in everywhere if "Egress" in each["policyTypes"]]


def test_volumes_of_ones_own_are_mounted_in_every_part(render: Render) -> None:
    resources = render("platform")
    for part in PARTS:
        spec = pod(resources, part)["spec"]
        known = {volume["name"] for volume in spec["volumes"]}
        claims = next(
            item["spec"].get("volumeClaimTemplates", [])
            for item in workloads(resources)
            if item["spec"]["template"]["spec"] is spec
        )
        known |= {claim["metadata"]["name"] for claim in claims}
        mounted = {mount["name"] for each in spec["containers"] for mount in each["volumeMounts"]}
        assert mounted & {"certificates", "scratch"}, part
        assert mounted <= known, part


def test_a_digest_goes_before_a_tag(render: Render) -> None:
    image = container(render("platform", "images.hearken.tag=v9"), "gateway")["image"]
    assert image == f"hearken/gateway@sha256:{'a' * 64}"


def test_a_learner_with_two_gpus_has_a_process_for_each(render: Render) -> None:
    learner = container(render("platform"), "learner")
    assert learner["command"] == ["torchrun", "--standalone", "--nproc-per-node", "2", "-m", "hearken"]
    assert learner["args"][0] == "learner"
    assert learner["resources"]["limits"]["nvidia.com/gpu"] == 2
    assert "command" not in container(render("default"), "learner")


def test_resources_of_ones_own_are_made_with_the_release(render: Render) -> None:
    (notes,) = (
        item for item in render("platform")
        if item["kind"] == "ConfigMap" and item["metadata"]["name"] == "demo-notes"
    )  # fmt: skip
    assert notes["data"] == {"owner": "chat"}


def test_helm_test_asks_a_gateway_whether_it_is_ready(render: Render) -> None:
    for values in ("default", "platform"):
        resources = render(values)
        test = only(resources, "Pod")
        assert test["metadata"]["annotations"]["helm.sh/hook"] == "test"
        (asks,) = test["spec"]["containers"]
        assert asks["image"] == container(resources, "gateway")["image"]
        (program,) = asks["args"]
        (url,) = (
            node.value for node in ast.walk(ast.parse(program))
            if isinstance(node, ast.Constant) and str(node.value).startswith("http")
        )  # fmt: skip
        host, _, port = str(url).removeprefix("http://").removesuffix("/readyz").partition(":")
        name, _, namespace = host.partition(".")
        (service,) = (
            item["spec"] for item in resources
            if item["kind"] == "Service" and item["metadata"]["name"] == name
        )  # fmt: skip
        assert int(port) in {each["port"] for each in service["ports"]}
        arguments = container(resources, "gateway")["args"]
        assert arguments[arguments.index(f"{name}.{namespace}") - 1] == "--trusted-host"
        assert test["spec"]["securityContext"]["runAsNonRoot"] is True


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["httpRoute.enabled=true"], "httpRoute.parentRefs"),
        (["gateway.autoscaling.prometheus=http://p:9090"], "gateway.autoscaling.enabled"),
        (["learner.autoscaling.enabled=true"], "learner.autoscaling.prometheus"),
        (["learner.autoscaling.prometheus=http://p:9090"], "learner.autoscaling.enabled"),
        (["kafka.topicJob.replication=0"], "replication"),
        (["images.hearken.digest=latest"], "digest"),
    ],
)
def test_what_would_not_work_is_refused(template: Run, sets: list[str], message: str) -> None:
    options = [word for each in [KAFKA, *sets] for word in ("--set", each)]
    refused = template(*options)
    assert refused.returncode != 0
    assert message in refused.stderr
