"""The chart: what Helm makes of it is valid, belongs together, and fits the programs that it starts."""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.controller.webhooks import VARIABLE
from hearken.cli import parser
from hearken.commands.registry import FETCH
from hearken.commands.roles import CONTROLLER, GATEWAY, LEARNER
from hearken.config.assemble import assemble
from hearken.config.resolve import Config
from hearken.config.schema import CHART_DECIDES, put_into, schema
from hearken.config.tables import tables
from hearken.machine.engine import EngineOptions, engine_command, engine_environment
from hearken.service import flags
from serve.auth.limits import Limits
from serve.server.hosts import is_trusted
from tests.packaging.tools import NEWEST, OLDEST, ROOT, VALUES, Render, Resource, Run

VALUE_SETS = sorted(path.stem for path in VALUES.glob("*.yaml"))
FLAGS = {"gateway": GATEWAY, "controller": CONTROLLER, "learner": LEARNER}
PROGRAMS = tuple(FLAGS)
KAFKA = "kafka.bootstrapServers=kafka:9092"


def workloads(resources: list[Resource]) -> Iterator[Resource]:
    return (item for item in resources if item["kind"] in ("StatefulSet", "Deployment"))


def component(resource: Resource) -> str:
    name: str = resource["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/component"]
    return name


def pod(resources: list[Resource], name: str) -> Resource:
    """The pod template of a component."""
    (found,) = (item for item in workloads(resources) if component(item) == name)
    template: Resource = found["spec"]["template"]
    return template


def container(resources: list[Resource], name: str) -> Resource:
    (only,) = pod(resources, name)["spec"]["containers"]
    found: Resource = only
    return found


def configured(resources: list[Resource], name: str, folder: Path) -> Config:
    """The settings that a program takes from its arguments and the file that is mounted for it."""
    arguments = parser().parse_args(container(resources, name)["args"])
    if arguments.config is not None:
        (mount,) = (m for m in container(resources, name)["volumeMounts"] if m["name"] == "config")
        (volume,) = (v for v in pod(resources, name)["spec"]["volumes"] if v["name"] == "config")
        made = {r["metadata"]["name"]: r["data"] for r in resources if r["kind"] == "ConfigMap"}
        file = folder / arguments.config.name
        file.write_text(made[volume["configMap"]["name"]][file.name])
        assert arguments.config.parent == Path(mount["mountPath"])
        arguments.config = file
    return flags.configured(arguments, FLAGS[name])


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """Whether a Kubernetes label selector admits the labels."""
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    for rule in selector.get("matchExpressions", []):
        assert rule["operator"] == "In"
        if labels.get(rule["key"]) not in rule["values"]:
            return False
    return True


@pytest.mark.parametrize("values", VALUE_SETS)
def test_helm_finds_nothing_to_complain_about(helm: Run, values: str) -> None:
    result = helm("lint", "helm", "--strict", "--kube-version", NEWEST, "--values", VALUES / f"{values}.yaml")
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("release", [OLDEST, NEWEST])
@pytest.mark.parametrize("values", VALUE_SETS)
def test_every_resource_is_what_kubernetes_accepts(
    helm: Run, kubeconform: Run, values: str, release: str, tmp_path: Path
) -> None:
    options = ("--kube-version", release, "--values", VALUES / f"{values}.yaml")
    rendered = helm("template", "demo", "helm", *options)
    assert rendered.returncode == 0, rendered.stderr
    (tmp_path / "chart.yaml").write_text(rendered.stdout)
    result = _conform(kubeconform, tmp_path / "chart.yaml", release)
    assert result.returncode == 0, result.stdout
    summary = json.loads(result.stdout)["summary"]
    assert summary["valid"] == len([r for r in yaml.safe_load_all(rendered.stdout) if r])
    assert summary["skipped"] == 0


def _conform(kubeconform: Run, file: Path, release: str) -> Any:
    name = "{{.ResourceKind}}{{.KindSuffix}}.json"
    return kubeconform(
        "-strict", "-summary", "-output", "json", "-kubernetes-version", release,
        "-schema-location", ROOT / ".tools/schemas/{{.NormalizedKubernetesVersion}}" / name,
        "-schema-location", ROOT / "tests/packaging/schemas" / name,
        file,
    )  # fmt: skip


@pytest.mark.parametrize(
    "wrong",
    [
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"ports": [{"porrt": 1}]}},
        {"apiVersion": "monitoring.coreos.com/v1", "kind": "PrometheusRule", "metadata": {"name": "a"},
         "spec": {"groups": [{"name": "a", "rules": [{"alert": "A", "exprs": "1"}]}]}},
        {"apiVersion": "example.com/v1", "kind": "Unknown", "metadata": {"name": "a"}},
    ],
)  # fmt: skip
def test_the_check_itself_refuses_wrong_fields_and_unknown_kinds(
    kubeconform: Run, tmp_path: Path, wrong: Resource
) -> None:
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(wrong))
    assert _conform(kubeconform, tmp_path / "wrong.yaml", NEWEST).returncode != 0


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ([], "kafka.bootstrapServers is empty"),
        (["kafka.bootstrapServers=kafka"], "bootstrapServers"),
        ([KAFKA, "kafka.clientSecret=client"], "kafka.bootstrapServers and kafka.clientSecret are both set"),
        ([KAFKA, "gateway.replicas=0"], "minimum"),
        ([KAFKA, "gateway.replica=3"], "replica"),
        ([KAFKA, "learner.rolloutEngine=1"], "numbered from 0 to 0"),
        ([KAFKA, "lora.kept=6"], "lora.kept is 6"),
        ([KAFKA, "controller.replicas=2"], "controller.replicas is 2 without Redis"),
        ([KAFKA, "monitoring.engines=true"], "networkPolicy.metricsFrom"),
        ([KAFKA, "ingress.enabled=true"], "ingress.hosts"),
        ([KAFKA, "access.keysSecret=keys", "monitoring.serviceMonitor.enabled=true"], "keySecret"),
        ([KAFKA, "access.limits.request_per_minute=3"], "request_per_minute"),
        ([KAFKA, "access.limits.requests_per_minute=-3"], "minimum"),
        ([KAFKA, "access.corsOrigins={shop.example}"], "corsOrigins"),
        ([KAFKA, "images.engine.tag="], "tag"),
        ([KAFKA, "config.learner.min_label=3"], "min_label"),
        ([KAFKA, "config.learner.min_labels=many"], "min_labels"),
        ([KAFKA, "config.service.kafka=other:9092"], "kafka"),
        ([KAFKA, "config.learner.rank=32"], "config.learner.rank is 32"),
        ([KAFKA, "config.controller.webhooks={https://ops.example}"], "controller.webhookSecret"),
        ([KAFKA, "controller.webhookSecret.name=x"], "name"),
        ([KAFKA, "adapters.s3.region=eu-1"], "adapters.s3.url is empty"),
        ([KAFKA, "adapters.s3.url=gs://models"], "/adapters/s3/url"),
        ([KAFKA, "adapters.s3.url=s3://models", "vault.takeOver=true"], "vault.takeOver takes keys over"),
        ([KAFKA, "adapters.s3.url=s3://models", "adapters.s3.copies=8"], "adapters.s3.copies is 8"),
        ([KAFKA, "config.service.registry=s3://models"], "registry"),
    ],
)
def test_a_mistake_is_told_before_anything_is_installed(template: Run, sets: list[str], message: str) -> None:
    result = template(*(option for item in sets for option in ("--set", item)))
    assert result.returncode != 0
    assert message in result.stderr


@pytest.mark.parametrize("values", VALUE_SETS)
def test_hearken_understands_the_arguments_that_the_chart_gives_it(
    render: Render, values: str, tmp_path: Path
) -> None:
    resources = render(values)
    urls = {}
    for name in {component(item) for item in workloads(resources)} - {"engine"}:
        settings = configured(resources, name, tmp_path).build(name)
        assert str(settings.data) == "/data"
        assert settings.kafka == ("/kafka/hearken.properties" if values == "everything" else "kafka:9092")
        urls[name] = settings.engine if name == "learner" else list(settings.engines)
        if name != "gateway":
            assert settings.metrics_host == "0.0.0.0"
            assert settings.metrics_port == container(resources, name)["ports"][0]["containerPort"]
    (engines,) = (item for item in workloads(resources) if component(item) == "engine")
    names = [
        f"http://{engines['metadata']['name']}-{n}.{engines['spec']['serviceName']}:8000"
        for n in range(engines["spec"]["replicas"])
    ]
    discovered = [f"dns://{engines['spec']['serviceName']}s.chat.svc:8000"]
    assert urls["gateway"] == urls["controller"] == (discovered if values == "everything" else names)
    if "learner" in urls:
        assert urls["learner"] == names[-1]


def test_engines_are_found_by_a_service_of_those_that_are_ready_and_not_about_to_stop(
    render: Render, tmp_path: Path
) -> None:
    resources = render("default", "engine.discover=true", "engine.replicas=3")
    urls = {
        name: configured(resources, name, tmp_path).build(name).engines for name in ("gateway", "controller")
    }
    (url,) = urls["gateway"]
    assert urls["controller"] == (url,)
    name, namespace, *_ = url.removeprefix("dns://").split(".")
    (service,) = (r for r in resources if r["kind"] == "Service" and r["metadata"]["name"] == name)
    assert service["metadata"].get("namespace", namespace) == namespace
    assert service["spec"]["clusterIP"] == "None"
    assert not service["spec"].get("publishNotReadyAddresses"), "else it has those that are to stop"
    assert selects(
        {"matchLabels": service["spec"]["selector"]}, pod(resources, "engine")["metadata"]["labels"]
    )
    drain = container(resources, "engine")["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod(resources, "engine")["spec"]["terminationGracePeriodSeconds"] > drain
    learner = configured(resources, "learner", tmp_path).build("learner").engine
    assert "-engine-0." in learner, "the one that is there however few there are"


def test_kafkas_client_settings_are_mounted_where_they_are_read_and_nowhere_else(render: Render) -> None:
    resources = render("everything")
    for item in workloads(resources):
        pod = item["spec"]["template"]["spec"]
        volumes = [volume["secret"] for volume in pod["volumes"] if volume["name"] == "kafka"]
        mounts = [m for c in pod["containers"] for m in c["volumeMounts"] if m["name"] == "kafka"]
        if component(item) == "engine":
            assert (volumes, mounts) == ([], [])
        else:
            assert volumes == [{"secretName": "kafka-client", "defaultMode": 0o440}]
            assert mounts == [{"name": "kafka", "mountPath": "/kafka", "readOnly": True}]


@pytest.mark.parametrize("values", ["default", "minimal"])
def test_the_engine_runs_as_it_does_on_one_machine(render: Render, values: str) -> None:
    # What hearken up found to be needed (logprobs mode, priorities, adapters) must hold in a cluster too.
    engine = container(render(values), "engine")
    cuda = values == "default"
    options = EngineOptions(model=Path("/model"), port=8000, cuda=cuda, host="0.0.0.0", lora_rank=16)
    wanted = _flags(engine_command(options)[3:])
    if not cuda:
        for flag in ("--block-size", "--distributed-executor-backend"):
            del wanted[flag]  # a matter of speed for a tiny model on two cores
    wanted["--model"] = "Qwen/Qwen2.5-1.5B-Instruct"
    assert _flags(engine["args"]) == wanted
    environment = {item["name"]: item["value"] for item in engine["env"]}
    needed = engine_environment(options, {})
    vllm = ("ALLOW_RUNTIME_LORA_UPDATING", "NO_USAGE_STATS", "ENFORCE_STRICT_TOOL_CALLING")
    for name in (*(f"VLLM_{word}" for word in vllm), "TORCH_COMPILE_DISABLE"):
        assert environment.get(name) == needed.get(name)


def test_a_model_that_thinks_is_given_its_parser(render: Render) -> None:
    arguments = container(render("minimal", "model.reasoningParser=qwen3"), "engine")["args"]
    assert _flags(arguments)["--reasoning-parser"] == "qwen3"


def _flags(arguments: list[str]) -> dict[str, str | None]:
    """{"--port": "8000", "--enable-lora": None}"""
    flags: dict[str, str | None] = {}
    last = ""
    for argument in arguments:
        if argument.startswith("--"):
            last = argument
            flags[last] = None
        else:
            flags[last] = argument
    return flags


@pytest.mark.parametrize("values", VALUE_SETS)
def test_pods_meet_the_restricted_security_standard(render: Render, values: str) -> None:
    for workload in workloads(render(values)):
        spec = workload["spec"]["template"]["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for item in (*spec["containers"], *spec.get("initContainers", ())):
            assert item["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert "limits" in item["resources"]
            assert "requests" in item["resources"]
            assert not item["image"].endswith((":", ":latest"))


@pytest.mark.parametrize("values", VALUE_SETS)
def test_what_is_mounted_named_and_selected_exists(render: Render, values: str) -> None:
    resources = render(values)
    claims = {item["metadata"]["name"] for item in resources if item["kind"] == "PersistentVolumeClaim"}
    outside = {"models", "shared", "keys"}  # existingClaim of the value sets
    for workload in workloads(resources):
        spec = workload["spec"]["template"]["spec"]
        made = {claim["metadata"]["name"] for claim in workload["spec"].get("volumeClaimTemplates", [])}
        volumes = {volume["name"] for volume in spec["volumes"]} | made
        mounts = spec["containers"][0]["volumeMounts"]
        assert {mount["name"] for mount in mounts} == volumes
        for item in spec.get("initContainers", ()):
            assert {mount["name"] for mount in item["volumeMounts"]} <= volumes
        paths = [mount["mountPath"] for mount in mounts]
        assert len(paths) == len(set(paths))
        for volume in spec["volumes"]:
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            assert claim is None or claim in claims | outside
    pods = [item["spec"]["template"]["metadata"]["labels"] for item in workloads(resources)]
    for service in (item for item in resources if item["kind"] == "Service"):
        selector = {"matchLabels": service["spec"]["selector"]}
        assert len([labels for labels in pods if selects(selector, labels)]) == 1


def test_an_adapter_has_one_path_everywhere_and_only_the_learner_writes_it(render: Render) -> None:
    seen: dict[tuple[str, str], dict[str, bool]] = {}
    for name in ("gateway", "learner", "controller", "engine"):
        for mount in container(render("default"), name)["volumeMounts"]:
            if mount["name"] == "adapters":
                writes = not mount.get("readOnly", False)
                seen.setdefault((mount["mountPath"], mount["subPath"]), {})[name] = writes
    assert seen == {
        ("/data/adapters", "adapters"): {"learner": True, "controller": False, "engine": False},
        ("/data/learner/rollouts", "rollouts"): {"learner": True, "engine": False},
    }


def test_a_bucket_takes_the_place_of_the_volume(render: Render, tmp_path: Path) -> None:
    resources = render("s3")
    assert "adapters" not in str([pod(resources, name)["spec"]["volumes"] for name in (*PROGRAMS, "engine")])
    claims = [item["metadata"]["name"] for item in resources if item["kind"] == "PersistentVolumeClaim"]
    assert [name for name in claims if name.endswith("-adapters")] == []
    for name in ("controller", "learner"):
        settings = configured(resources, name, tmp_path).build(name)
        assert (settings.registry, settings.fetch_port) == ("s3://models/chat", 8010)
    (fetch,) = pod(resources, "engine")["spec"]["initContainers"]
    assert fetch["restartPolicy"] == "Always", "it stays beside the engine"
    arguments = parser().parse_args(fetch["args"])
    settings = flags.configured(arguments, FETCH).build("service")
    assert (settings.registry, settings.fetch_port, settings.registry_copies) == (
        "s3://models/chat",
        8010,
        24,
    )
    (mount,) = (m for m in container(resources, "engine")["volumeMounts"] if m["name"] == "cache")
    assert mount in fetch["volumeMounts"], "under the path that the engine is told"
    assert arguments.folder.is_relative_to(mount["mountPath"])
    assert arguments.host == "0.0.0.0"
    told = {"AWS_ENDPOINT_URL_S3": "https://minio.example:9000", "AWS_REGION": "eu-central-1"}
    for each in (fetch, container(resources, "controller"), container(resources, "learner")):
        assert told.items() <= {item["name"]: item.get("value") for item in each["env"]}.items()
        assert each["envFrom"] == [{"secretRef": {"name": "bucket"}}]
    for name in ("engine", "gateway"):
        assert "envFrom" not in container(resources, name)
    assert "AWS_" not in str(render("default"))


def test_only_who_loads_adapters_reaches_what_fetches_them(render: Render) -> None:
    resources = render("s3")
    labels = {name: pod(resources, name)["metadata"]["labels"] for name in (*PROGRAMS, "engine")}
    (policy,) = (
        item["spec"]
        for item in resources
        if item["kind"] == "NetworkPolicy" and selects(item["spec"]["podSelector"], labels["engine"])
    )
    (rule,) = (each for each in policy["ingress"] if each["ports"] == [{"port": "fetch"}])
    (peer,) = rule["from"]
    reach = {name for name in labels if selects(peer["podSelector"], labels[name])}
    assert reach == {"learner", "controller"}
    (service,) = (
        item["spec"]
        for item in resources
        if item["kind"] == "Service" and item["spec"]["selector"].items() <= labels["engine"].items()
    )
    assert {"name": "fetch", "port": 8010, "targetPort": "fetch"} in service["ports"]


def test_users_keys_are_on_a_volume_of_their_own(render: Render) -> None:
    for values, before in (("default", False), ("everything", True)):
        for name in (*PROGRAMS, "engine"):
            mounts = {mount["mountPath"]: mount for mount in container(render(values), name)["volumeMounts"]}
            opens = name in ("gateway", "learner")
            assert (mounts.get("/data/vault") == {"name": "vault", "mountPath": "/data/vault"}) is opens
            assert ("/data/vault-before" in mounts) is (opens and before)


def test_only_our_own_programs_reach_an_engine(render: Render) -> None:
    resources = render("default")
    stranger = {"app.kubernetes.io/name": "something", "app.kubernetes.io/component": "gateway"}
    labels = {name: pod(resources, name)["metadata"]["labels"] for name in (*PROGRAMS, "engine")}
    policies = [item["spec"] for item in resources if item["kind"] == "NetworkPolicy"]
    (policy,) = (item for item in policies if selects(item["podSelector"], labels["engine"]))
    (rule,) = policy["ingress"]
    (peer,) = rule["from"]
    assert peer.keys() == {"podSelector"}  # of this namespace alone
    assert {name for name in labels if selects(peer["podSelector"], labels[name])} == set(PROGRAMS)
    assert not selects(peer["podSelector"], stranger)
    for name in PROGRAMS:
        assert any(selects(item["podSelector"], labels[name]) for item in policies)


def test_acknowledged_feedback_outlives_its_pod(render: Render) -> None:
    (gateway,) = (item for item in workloads(render("default")) if component(item) == "gateway")
    assert gateway["kind"] == "StatefulSet"
    assert gateway["spec"]["persistentVolumeClaimRetentionPolicy"] == {
        "whenDeleted": "Retain",
        "whenScaled": "Retain",
    }
    (claim,) = gateway["spec"]["volumeClaimTemplates"]
    listed = container(render("default"), "gateway")["volumeMounts"]
    mounts = {mount["name"]: mount["mountPath"] for mount in listed}
    assert mounts[claim["metadata"]["name"]] == "/data"


def test_keys_limits_and_origins_reach_the_gateway_and_prometheus_has_a_key(
    render: Render, tmp_path: Path
) -> None:
    resources = render("everything")
    gateway = container(resources, "gateway")
    settings = configured(resources, "gateway", tmp_path).build("gateway")
    assert settings.limits == Limits(
        requests_per_minute=1200, tokens_per_minute=3_000_000, concurrent_requests=0
    )
    assert settings.cors_origins == ("https://shop.example", "http://localhost:3000")
    assert settings.trusted_proxies == ("10.0.0.0/8",)
    services = [item["metadata"]["name"] for item in resources if item["kind"] == "Service"]
    name = min(services, key=len)  # the gateway's: the others' begin with it
    below = ("", ".chat", ".chat.svc", ".chat.svc.cluster.local")  # chat: the namespace
    for host in ("chat.example.com", "chat.example.net", *(name + end for end in below)):
        assert is_trusted(host, settings.trusted_hosts), host
    assert not is_trusted("evil.example.com", settings.trusted_hosts)
    (mount,) = (mount for mount in gateway["volumeMounts"] if mount["name"] == "keys")
    assert "subPath" not in mount  # or changed keys would never arrive
    assert settings.keys == Path(mount["mountPath"]) / "keys.json"
    (volume,) = (v for v in pod(resources, "gateway")["spec"]["volumes"] if v["name"] == "keys")
    assert volume["secret"]["secretName"] == "api-keys"
    assert volume["secret"]["items"] == [{"key": "keys", "path": "keys.json"}]
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert gateway[probe]["httpGet"]["path"] in ("/livez", "/readyz")  # which need no key
    (monitor,) = (item["spec"] for item in resources if item["kind"] == "ServiceMonitor")
    (served,) = (endpoint for endpoint in monitor["endpoints"] if endpoint["port"] == "http")
    assert served["authorization"] == {
        "type": "Bearer",
        "credentials": {"name": "operator-key", "key": "value"},
    }

    bare = configured(render("default"), "gateway", tmp_path).build("gateway")
    assert (bare.limits, bare.keys, bare.cors_origins) == (Limits(), None, ())


def test_further_settings_reach_their_roles_and_a_change_rolls_the_pods(
    render: Render, tmp_path: Path
) -> None:
    resources = render("everything")
    gateway = configured(resources, "gateway", tmp_path).build("gateway")
    assert (gateway.queue_length, gateway.queue_seconds) == (1_000_000, 20.0)
    assert gateway.feedback_reasons == ("rude", "wrong")
    assert gateway.limits.tokens_per_minute == 3_000_000  # the chart's own value, a flag, goes over the file
    controller = configured(resources, "controller", tmp_path).build("controller")
    assert controller.ladder == ((0.1, 60.0), (0.5, 600.0))
    assert (controller.guardrails.z, controller.window_seconds, controller.margin) == (5.0, 5.0, 0.1)
    learner = configured(resources, "learner", tmp_path).build("learner")
    assert (learner.rank, learner.self_check, learner.min_labels) == (16, None, 40)
    assert (learner.ppo.clip, learner.ppo.value_clip, learner.kl_budget_nats) == (0.1, math.inf, 4.0)
    changed = render("everything", "config.learner.min_labels=41")
    for name in PROGRAMS:
        before, after = (pod(each, name)["metadata"]["annotations"] for each in (resources, changed))
        assert before.pop("checksum/config") != after.pop("checksum/config")
        assert before == after == {"example.com/team": "chat"}
        assert "--config" not in container(render("default"), name)["args"]
        assert "annotations" not in pod(render("default"), name)["metadata"]


def test_the_controller_has_the_webhooks_and_alone_their_secret(render: Render, tmp_path: Path) -> None:
    resources = render("everything")
    settings = configured(resources, "controller", tmp_path).build("controller")
    assert settings.webhooks == ("https://ops.example/releases",)
    for name in PROGRAMS:
        given = {each["name"]: each for each in container(resources, name).get("env", ())}
        assert (VARIABLE in given) == (name == "controller")
        if name == "controller":
            assert given["TZ"]["value"] == "UTC", "beside what the values add"
            assert given[VARIABLE]["valueFrom"]["secretKeyRef"] == {"name": "webhooks", "key": "signing"}
    assert VARIABLE not in str(render("default"))


def test_the_learner_keeps_to_the_rank_that_engines_accept(render: Render, tmp_path: Path) -> None:
    assert configured(render("default"), "learner", tmp_path).build("learner").rank is None
    small = render("default", "lora.maxRank=8")
    assert configured(small, "learner", tmp_path).build("learner").rank == 8
    assert _flags(container(small, "engine")["args"])["--max-lora-rank"] == "8"


def test_the_charts_schema_is_that_of_the_settings_classes() -> None:
    """If not: hearken config schema --into helm/values.schema.json"""
    text = (ROOT / "helm/values.schema.json").read_text()
    assert put_into(text, schema(tables(), CHART_DECIDES)) == text
    assert json.loads(text)["properties"]["config"] == schema(tables(), CHART_DECIDES)


def test_every_example_of_settings_is_a_file_that_hearken_takes(tmp_path: Path) -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", (ROOT / "docs/settings.md").read_text(), re.DOTALL)
    (tmp_path / "hearken.toml").write_text(example)
    assert assemble([], tmp_path / "hearken.toml").build("gateway").limits.requests_per_minute == 600


def test_a_stopping_gateway_has_time_to_finish_its_answers(render: Render) -> None:
    spec = pod(render("default", "gateway.drainSeconds=90"), "gateway")["spec"]
    assert spec["containers"][0]["lifecycle"]["preStop"] == {"sleep": {"seconds": 90}}
    assert spec["terminationGracePeriodSeconds"] > 90


def test_there_is_never_a_second_learner(render: Render) -> None:
    found = {component(item): item["spec"] for item in workloads(render("everything"))}
    assert found["learner"]["replicas"] == 1


def test_a_second_controller_has_a_folder_of_its_own_and_the_same_redis(
    render: Render, tmp_path: Path
) -> None:
    resources = render("everything")
    (controller,) = (item for item in workloads(resources) if component(item) == "controller")
    assert (controller["kind"], controller["spec"]["replicas"]) == ("StatefulSet", 2)
    (claim,) = controller["spec"]["volumeClaimTemplates"]
    mounts = {m["name"]: m["mountPath"] for m in container(resources, "controller")["volumeMounts"]}
    assert mounts[claim["metadata"]["name"]] == "/data"
    programs = {name: configured(resources, name, tmp_path).build(name) for name in ("gateway", "controller")}
    assert programs["controller"].redis == programs["gateway"].redis is not None
    (alone,) = (item for item in workloads(render("default")) if component(item) == "controller")
    assert alone["spec"]["replicas"] == 1


def test_gpus_are_asked_for_and_used(render: Render) -> None:
    engine = container(render("everything"), "engine")
    assert engine["resources"]["limits"]["nvidia.com/gpu"] == 2
    assert engine["resources"]["requests"]["nvidia.com/gpu"] == 2
    assert engine["resources"]["limits"]["memory"] == "32Gi"
    assert _flags(engine["args"])["--tensor-parallel-size"] == "2"
    assert "nvidia.com/gpu" not in container(render("minimal"), "engine")["resources"]["limits"]


def test_a_generated_secret_can_sign_and_is_kept(render: Render) -> None:
    import base64

    (secret,) = (item for item in render("default") if item["kind"] == "Secret")
    assert len(base64.b64decode(secret["data"]["secret"])) == 32
    assert secret["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert not [item for item in render("everything") if item["kind"] == "Secret"]


def test_the_autoscaler_alone_decides_how_many_gateways_there_are(render: Render) -> None:
    (scaler,) = (item for item in render("everything") if item["kind"] == "HorizontalPodAutoscaler")
    (gateway,) = (item for item in workloads(render("everything")) if component(item) == "gateway")
    assert scaler["spec"]["scaleTargetRef"]["name"] == gateway["metadata"]["name"]
    assert scaler["spec"]["scaleTargetRef"]["kind"] == gateway["kind"]
    assert "replicas" not in gateway["spec"]


def test_versions_agree() -> None:
    import tomllib

    chart = yaml.safe_load((ROOT / "helm/Chart.yaml").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert chart["appVersion"] == project["version"]
    assert chart["kubeVersion"] == f">={OLDEST}-0"
    values = yaml.safe_load((ROOT / "helm/values.yaml").read_text())
    (engine,) = project["optional-dependencies"]["gpu"]
    assert engine.partition("==")[2] == values["images"]["engine"]["tag"].removeprefix("v")
    schemas = (ROOT / "scripts/kube_schemas.py").read_text()
    assert f'"v{OLDEST}"' in schemas
    assert f'"v{NEWEST}"' in schemas


def test_the_ingress_lets_the_widget_through(render: Render) -> None:
    resources = render("minimal", KAFKA, "ingress.enabled=true", "ingress.hosts={chat.example}")
    (ingress,) = (item for item in resources if item["kind"] == "Ingress")
    paths = {each["path"] for each in ingress["spec"]["rules"][0]["http"]["paths"]}
    widget, seen = ["/feedback.js"], set[str]()
    while widget:
        seen.add(name := widget.pop())
        script = (ROOT / "serve/pages" / name[1:]).read_text()
        widget += {f"/{found}" for found in re.findall(r'from "\./([\w.]+)"', script)} - seen
    assert len(seen) > 1
    assert seen <= paths
