"""The composition: the processes are told what they understand, in an order that can be stopped."""

import subprocess
import sys
from pathlib import Path

import pytest

from deploy.registry import Registry
from hearken.cli import parser
from hearken.engine import engine_threads, share_gpus
from hearken.errors import UsageError
from hearken.paces import controller_pace, learner_pace
from hearken.up import UpSettings, banner, check, children
from tests.deploy.builders import publish


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"max_position_embeddings": 256}')
    return folder


def settings(tmp_path: Path, **asked: object) -> UpSettings:
    return UpSettings(data=tmp_path / "data", **asked)  # type: ignore[arg-type]


def test_every_role_understands_its_command(tmp_path: Path, model: Path) -> None:
    asked = settings(
        tmp_path, port=9000, kafka="k:9092", redis="redis://r", pace="demo", seed=3, kl_budget_nats=2.5,
        queue_length=7, queue_seconds=2.5,
    )  # fmt: skip
    found = children(asked, model, cuda=False)
    for role in ("controller", "learner", "gateway"):
        command = found[role].command
        assert command[:3] == (sys.executable, "-m", "hearken")
        understood = parser().parse_args(command[3:])
        assert understood.data == asked.data
        assert understood.engine == ["http://127.0.0.1:9001"]
        assert understood.kafka == "k:9092"
    learner = parser().parse_args(found["learner"].command[3:])
    assert (learner.metrics_port, learner.pace, learner.seed) == (9002, "demo", 3)
    assert (learner.kl_budget_nats, learner.redis, learner.model) == (2.5, "redis://r", str(model))
    assert parser().parse_args(found["controller"].command[3:]).metrics_port == 9003
    gateway = parser().parse_args(found["gateway"].command[3:])
    assert (gateway.host, gateway.port, gateway.redis) == ("127.0.0.1", 9000, "redis://r")
    assert (gateway.max_in_flight, gateway.queue_length, gateway.queue_seconds) == (128, 7, 2.5)


def test_the_engine_serves_the_model_within_its_context(tmp_path: Path, model: Path) -> None:
    engine = children(settings(tmp_path), model, cuda=False)["engine"]
    assert engine.command[engine.command.index("--model") + 1] == str(model)
    assert engine.command[engine.command.index("--max-model-len") + 1] == "256"
    assert engine.command[engine.command.index("--port") + 1] == "8001"


@pytest.mark.parametrize(("rank", "allowed"), [(4, "8"), (12, "16"), (16, "16")])
def test_engines_take_adapters_of_version_0_s_rank(
    tmp_path: Path, model: Path, rank: int, allowed: str
) -> None:
    publish(Registry(tmp_path / "data" / "adapters"), tmp_path, after_seq=-1, rank=rank)
    engine = children(settings(tmp_path), model, cuda=False)["engine"]
    assert engine.command[engine.command.index("--max-lora-rank") + 1] == allowed


def test_engines_share_the_machine_and_are_all_told_of(tmp_path: Path, model: Path) -> None:
    asked = settings(tmp_path, engines=3)
    found = children(asked, model, cuda=False)
    engines = [found[name] for name in ("engine", "engine-2", "engine-3")]
    ports = [child.command[child.command.index("--port") + 1] for child in engines]
    assert ports == ["8001", "8004", "8005"]
    assert asked.ports == (8000, 8002, 8003, 8001, 8004, 8005)
    for child, port in zip(engines, ports, strict=True):
        assert child.command[child.command.index("--host") + 1] == "127.0.0.1"
        assert child.health == f"http://127.0.0.1:{port}/health"
        assert int(child.env["OMP_NUM_THREADS"]) == max(1, engine_threads() // 3)
    urls = [f"http://127.0.0.1:{port}" for port in ports]
    for role, told in (("gateway", urls), ("controller", urls), ("learner", urls[:1])):
        assert parser().parse_args(found[role].command[3:]).engine == told
    assert list(found)[:3] == ["engine", "engine-2", "engine-3"]


@pytest.mark.parametrize(
    ("visible", "count", "shares"),
    [("", 4, ["0,1", "2,3"]), ("", 5, ["0,1", "2,3,4"]), ("5, GPU-a,7", 3, ["5", "GPU-a,7"])],
)
def test_gpus_are_split_between_engines(visible: str, count: int, shares: list[str]) -> None:
    assert share_gpus(2, count, visible) == shares


def test_more_engines_than_gpus_or_none_at_all_are_refused(
    tmp_path: Path,
) -> None:
    with pytest.raises(UsageError, match="shows 1; pass --engines 1"):
        share_gpus(2, 1)
    with pytest.raises(UsageError, match="at least 1"):
        check(settings(tmp_path, engines=0), print)
    with pytest.raises(UsageError, match="--max-in-flight must be at least 1"):
        check(settings(tmp_path, max_in_flight=0), print)


def test_the_gateway_is_stopped_first_and_the_engine_last(tmp_path: Path, model: Path) -> None:
    found = children(settings(tmp_path), model, cuda=False)
    assert list(reversed(found)) == ["gateway", "learner", "controller", "engine"]
    assert sum(child.stop_seconds for child in found.values()) <= 12


def test_all_logs_lie_in_the_data_folder(tmp_path: Path, model: Path) -> None:
    asked = settings(tmp_path)
    for name, child in children(asked, model, cuda=False).items():
        assert child.log == asked.data / "logs" / f"{name}.log"


@pytest.mark.parametrize(
    ("host", "url"),
    [("127.0.0.1", "http://127.0.0.1:8000"), ("0.0.0.0", "http://127.0.0.1:8000"),
     ("10.0.0.7", "http://10.0.0.7:8000")],
)  # fmt: skip
def test_where_the_gateway_is_reached(host: str, url: str, tmp_path: Path) -> None:
    asked = settings(tmp_path, host=host)
    assert asked.url == url
    assert f"{url}/v1 " in banner(asked)


@pytest.mark.parametrize("pace", ["demo", "normal"])
def test_both_paces_are_settings_that_the_rooms_accept(pace: str, tmp_path: Path) -> None:
    from deploy.settings import ControllerSettings
    from learner.settings import LearnerSettings

    url = "http://127.0.0.1:8001"
    ControllerSettings(data=tmp_path, engines=(url,), **controller_pace(pace))  # type: ignore[arg-type]
    LearnerSettings(data=tmp_path, model="m", engine=url, **learner_pace(pace))  # type: ignore[arg-type]


def test_watching_does_not_need_torch() -> None:
    """The process that supervises the others runs for weeks: it must stay small."""
    code = """
import sys
import hearken.up, hearken.demo, hearken.report, hearken.watch
print([name for name in ("torch", "transformers", "vllm", "numpy") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
