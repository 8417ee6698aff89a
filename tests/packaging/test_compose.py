"""compose.yaml: the programs take its command lines, what it mounts exists, its parts find each other."""

import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from hearken.cli import parser
from hearken.commands.roles import CONTROLLER, GATEWAY, LEARNER
from hearken.config.assemble import assemble
from hearken.config.resolve import Config
from hearken.machine.engine import EngineOptions, engine_command, engine_environment
from hearken.service import flags
from tests.packaging.test_images import inherited
from tests.packaging.tools import ROOT, Run

TEXT = (ROOT / "compose.yaml").read_text()
VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")
FLAGS = {"gateway": GATEWAY, "controller": CONTROLLER, "learner": LEARNER}
KEYS = {
    *("image", "build", "command", "environment", "ports", "depends_on", "volumes", "healthcheck", "deploy"),
    *("restart", "stop_grace_period", "read_only", "cap_drop", "security_opt", "tmpfs", "shm_size"),
}
"""Keys of a service that are used; a misspelt one would be refused by Compose, which no test starts."""


def compose() -> dict[str, Any]:
    """The file as Compose reads it where no variable is set but those that must be."""
    filled = VARIABLE.sub(lambda match: match[3] if match[2] == "-" else "given", TEXT)
    loaded: dict[str, Any] = yaml.safe_load(filled)
    return loaded


SERVICES: dict[str, Any] = compose()["services"]


def target(name: str) -> str:
    """The Dockerfile's target that a service of ours runs: of its own build, or of who builds its image."""
    image = SERVICES[name]["image"]
    (built,) = (
        each["build"]["target"] for each in SERVICES.values() if each["image"] == image and "build" in each
    )
    return str(built)


def mounts(name: str) -> list[tuple[str, str]]:
    """What a service mounts, and where."""
    return [(one.split(":")[0], one.split(":")[1]) for one in SERVICES[name].get("volumes", [])]


def here(name: str, path: str) -> Path:
    """The file of this repository that a service sees at a path."""
    (found,) = (source for source, there in mounts(name) if there == path)
    return ROOT / found


def config(name: str) -> Config:
    """The settings of a service of ours, from its command line and its file."""
    arguments = parser().parse_args(SERVICES[name]["command"])
    arguments.config = here(name, SERVICES[name]["environment"]["HEARKEN_CONFIG"])
    return flags.configured(arguments, FLAGS[name])


def port_of(name: str) -> int:
    """Where a service of ours listens."""
    settings = config(name)
    place = "gateway.port" if name == "gateway" else f"{name}.metrics_port"
    return int(settings.get(place).value)


def test_every_key_is_one_of_composes() -> None:
    assert compose().keys() <= {"name", "services", "volumes"} | {k for k in compose() if k.startswith("x-")}
    for name, service in SERVICES.items():
        assert service.keys() <= KEYS, name
        assert service["restart"] == "unless-stopped", name


@pytest.mark.parametrize("name", FLAGS)
def test_our_command_lines_and_files_are_taken_by_our_programs(name: str) -> None:
    assert inherited(target(name), "ENTRYPOINT") == '["hearken"]'
    built = config(name).build(name)
    assert str(built.data) == "/data"
    assert ("data", "/data") in mounts(name)
    assert SERVICES[name]["read_only"] is True
    assert "/tmp" in SERVICES[name]["tmpfs"]


def test_a_wrong_setting_in_the_file_would_be_refused(tmp_path: Path) -> None:
    file = tmp_path / "hearken.toml"
    file.write_text((ROOT / "compose/hearken.toml").read_text().replace("engines", "engine_urls"))
    with pytest.raises(Exception, match="engine_urls"):
        assemble([], file)


def test_our_programs_find_the_others() -> None:
    for name in ("gateway", "controller", "learner"):
        settings = config(name)
        kafka, redis = settings.build("service").kafka, settings.build("service").redis
        assert f"PLAINTEXT://{kafka}" == SERVICES["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
        assert urlsplit(f"kafka://{kafka}").hostname in SERVICES
        assert urlsplit(redis).hostname in SERVICES
    engines = {*config("gateway").build("gateway").engines, *config("controller").build("controller").engines}
    assert engines == {config("learner").build("learner").engine} == {"http://engine:8000"}
    assert "--port=8000" in SERVICES["engine"]["command"]


def test_the_engine_is_started_as_the_programs_expect_it() -> None:
    share = 0.30
    options = EngineOptions(
        model=Path("/model"), port=8000, cuda=True, host="0.0.0.0", lora_rank=16, memory_share=share
    )
    wanted: dict[str, str | None] = {}
    for word in engine_command(options)[3:]:
        if word.startswith("--"):
            last = word
            wanted[last] = None
        else:
            wanted[last] = word
    given = {
        name: value or None
        for name, _, value in (word.partition("=") for word in SERVICES["engine"]["command"])
    }
    assert given == wanted | {"--model": "Qwen/Qwen2.5-1.5B-Instruct"}
    needed, told = engine_environment(options, {}), SERVICES["engine"]["environment"]
    for name in (
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING",
        "VLLM_NO_USAGE_STATS",
        "VLLM_ENFORCE_STRICT_TOOL_CALLING",
    ):
        assert told[name] == needed[name]
    assert ("data", "/data") in mounts("engine"), "adapters have one path everywhere"
    assert f"--model {given['--model']}" in " ".join(SERVICES["learner"]["command"])


def test_what_is_mounted_exists_and_every_volume_is_used() -> None:
    used = set()
    for name in SERVICES:
        for source, there in mounts(name):
            assert there.startswith("/")
            if source.startswith("."):
                assert (ROOT / source).is_file(), f"{name}: {source}"
            else:
                used.add(source)
    assert used == compose()["volumes"].keys()


def test_every_service_says_whether_it_is_well() -> None:
    for name, service in SERVICES.items():
        if name in FLAGS:
            assert "HEALTH_URL" in (inherited(target(name), "HEALTHCHECK") or "")
            default = re.search(r"HEALTH_URL=(\S+)", inherited(target(name), "ENV") or "")
            assert default is not None
            url = urlsplit(service["environment"].get("HEALTH_URL", default[1]))
            assert url.port == port_of(name), name
            assert url.path == ("/livez" if name == "gateway" else "/metrics")
        else:
            assert service["healthcheck"]["test"][0] == "CMD", "no shell is asked for"


def test_who_waits_for_whom_has_an_end() -> None:
    waits = {name: set(service.get("depends_on", {})) for name, service in SERVICES.items()}
    for name, service in SERVICES.items():
        for other, how in service.get("depends_on", {}).items():
            assert how == {"condition": "service_healthy"}, (name, other)
    while waits:
        ready = {name for name, others in waits.items() if not others & waits.keys()}
        assert ready, f"they wait for each other: {waits}"
        waits = {name: others for name, others in waits.items() if name not in ready}


def test_only_this_machine_is_let_in_and_not_to_engine_kafka_or_redis() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published.keys() == {"gateway", "prometheus", "grafana"}
    for ports in published.values():
        assert all(port.startswith("127.0.0.1:") for port in ports)


def test_prometheus_reads_all_three_programs_and_the_alerts(promtool: Run, tmp_path: Path) -> None:
    file = here("prometheus", "/etc/prometheus/prometheus.yml")
    read = yaml.safe_load(file.read_text())
    (job,) = read["scrape_configs"]
    (targets,) = job["static_configs"]
    assert set(targets["targets"]) == {f"{name}:{port_of(name)}" for name in FLAGS}
    (pattern,) = read["rule_files"]
    rules = [there for _, there in mounts("prometheus") if Path(there).match(pattern)]
    assert [here("prometheus", there).name for there in rules] == ["hearken.rules.yaml"]
    copy = tmp_path / "prometheus.yml"
    copy.write_text(file.read_text().replace(pattern, str(here("prometheus", rules[0]))))
    checked = promtool("check", "config", copy)
    assert checked.returncode == 0, checked.stderr
    assert re.search(r"SUCCESS: \d+ rules found", checked.stdout)


def test_grafana_has_the_dashboard_and_where_its_figures_are() -> None:
    sources = yaml.safe_load(here("grafana", "/etc/grafana/provisioning/datasources/hearken.yml").read_text())
    (source,) = sources["datasources"]
    assert (source["type"], urlsplit(source["url"]).hostname) == ("prometheus", "prometheus")
    assert f":{urlsplit(source['url']).port}" in SERVICES["prometheus"]["ports"][0]
    provided = yaml.safe_load(here("grafana", "/etc/grafana/provisioning/dashboards/hearken.yml").read_text())
    (provider,) = provided["providers"]
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert str(Path(home).parent) == provider["options"]["path"]
    assert here("grafana", home) == ROOT / "helm/dashboards/hearken.json"


def test_what_is_to_be_set_is_on_its_page() -> None:
    page = (ROOT / "docs/compose.md").read_text()
    for name, _, _ in VARIABLE.findall(TEXT):
        assert f"`{name}`" in page, f"docs/compose.md says nothing of {name}"
