"""The composition: the processes are told what they understand, in an order that can be stopped."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.engines.key import VARIABLE, take_engine_key
from deploy.registry.registry import Registry
from hearken.base.checks import ensure_secret
from hearken.base.errors import UsageError
from hearken.base.paces import PACES
from hearken.cli import main, parser
from hearken.commands.roles import CONTROLLER, GATEWAY, LEARNER
from hearken.config.assemble import assemble
from hearken.config.layers import Given
from hearken.config.resolve import Config
from hearken.machine.engine import engine_threads, learner_threads, share_gpus
from hearken.machine.fitting import Layout, Machine
from hearken.models.support_desk import TOPICS
from hearken.service import flags
from hearken.service.plan import UpSettings
from hearken.service.suiting import lay_out
from hearken.service.supervisor import Child
from hearken.service.up import banner, children
from tests.deploy.builders import publish

FLAGS = {"gateway": GATEWAY, "controller": CONTROLLER, "learner": LEARNER}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    sizes = {"hidden_size": 192, "num_hidden_layers": 2, "num_attention_heads": 3, "vocab_size": 512}
    (folder / "config.json").write_text(json.dumps(sizes | {"max_position_embeddings": 256}))
    return folder


def settings(tmp_path: Path, asked: dict[str, object] | None = None, file: Path | None = None) -> UpSettings:
    """Of `hearken up --data DATA --set ...`."""
    told = {"service.data": tmp_path / "data"} | (asked or {})
    return UpSettings.of(assemble([{path: Given(value, "a flag") for path, value in told.items()}], file))


def understood(child: Child) -> Config:
    """The settings that a role's process takes from its command."""
    assert child.command[:3] == (sys.executable, "-m", "hearken")
    return flags.configured(parser().parse_args(child.command[3:]), FLAGS[child.name])


def test_every_role_understands_its_command(tmp_path: Path, model: Path) -> None:
    file = tmp_path / "my settings.toml"
    file.write_text('[gateway]\nmodel_name = "shop"\n[learner.ppo]\nclip = 0.3\n[controller]\nmargin = 0.1\n')
    asked = settings(
        tmp_path,
        {"gateway.port": 9000, "service.kafka": "k:9092", "service.redis": "redis://r",
         "service.pace": "demo", "service.seed": 3, "learner.kl_budget_nats": 2.5, "gateway.queue_length": 7,
         "gateway.queue_seconds": 2.5, "gateway.cors_origins": ("https://a.b", "https://c.d")},
        file,
    )  # fmt: skip
    found = children(asked, model, cuda=False)
    gateway = understood(found["gateway"]).build("gateway")
    learner = understood(found["learner"]).build("learner")
    controller = understood(found["controller"]).build("controller")
    for role in (gateway, learner, controller):
        assert (role.data, role.kafka) == (asked.data, "k:9092")
    assert gateway.engines == controller.engines == ("http://127.0.0.1:9001",)
    assert (gateway.host, gateway.port, gateway.redis) == ("127.0.0.1", 9000, "redis://r")
    assert (gateway.max_in_flight, gateway.queue_length, gateway.queue_seconds) == (128, 7, 2.5)
    assert (gateway.cors_origins, gateway.model_name) == (("https://a.b", "https://c.d"), "shop")
    assert gateway.max_model_len == 256
    assert (learner.engine, learner.metrics_port, learner.seed) == ("http://127.0.0.1:9001", 9002, 3)
    assert (learner.kl_budget_nats, learner.model, learner.min_labels) == (2.5, str(model), 150)
    assert (learner.threads, learner.rank, learner.ppo.clip) == (learner_threads(), 8, 0.3)
    assert (controller.metrics_port, controller.redis) == (9003, "redis://r")
    assert (controller.window_seconds, controller.margin) == (5.0, 0.1)


def test_ports_in_the_file_are_kept_and_engines_in_it_are_told_of(tmp_path: Path, model: Path) -> None:
    file = tmp_path / "hearken.toml"
    file.write_text('[learner]\nmetrics_port = 7777\nmodel = "m"\n[service]\nengines = ["http://a:1"]\n')
    asked = settings(tmp_path, file=file)
    assert asked.metrics_urls[1:] == ("http://127.0.0.1:7777", "http://127.0.0.1:8003")
    assert asked.engine_urls == ("http://127.0.0.1:8001",)
    assert asked.unused == (
        f"{file}:5, [service]: these engines are not used, as `hearken up` runs its own",
        f"{file}:3: this model is not used; write it in [service]",
    )
    assert understood(children(asked, model, cuda=False)["learner"]).build("learner").metrics_port == 7777


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
    found = children(settings(tmp_path), model, cuda=False)
    engine = found["engine"].command
    assert engine[engine.index("--max-lora-rank") + 1] == allowed
    assert understood(found["learner"]).build("learner").rank == rank
    small = settings(tmp_path, {"engine.lora_rank": 8, "learner.rank": 3})
    if rank > 8:
        with pytest.raises(UsageError, match=f"too small for adapters of rank {rank}, that there are"):
            children(small, model, cuda=False)


def test_engines_share_the_machine_and_are_all_told_of(tmp_path: Path, model: Path) -> None:
    asked = settings(tmp_path, {"engine.count": 3})
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
    assert understood(found["gateway"]).build("gateway").engines == tuple(urls)
    assert understood(found["controller"]).build("controller").engines == tuple(urls)
    assert understood(found["learner"]).build("learner").engine == urls[0]
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
        settings(tmp_path, {"engine.count": 0})
    with pytest.raises(UsageError, match="max_in_flight must be at least 1"):
        settings(tmp_path, {"gateway.max_in_flight": 0})


def test_a_gpu_is_shared_as_it_was_laid_out(tmp_path: Path, model: Path) -> None:
    found = children(settings(tmp_path), model, True, Layout(engine_share=0.61))
    command = found["engine"].command
    assert command[command.index("--gpu-memory-utilization") + 1] == "0.61"
    assert "CUDA_VISIBLE_DEVICES" not in found["learner"].env.keys() - os.environ.keys()
    found = children(settings(tmp_path), model, True, Layout(learner_card=2, context=128))
    assert found["engine"].env["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert found["learner"].env["CUDA_VISIBLE_DEVICES"] == "2"
    command = found["engine"].command
    assert "--gpu-memory-utilization" not in command
    assert command[command.index("--max-model-len") + 1] == "128"
    asked = settings(tmp_path, {"engine.memory_share": 0.5})
    assert "0.50" in children(asked, model, True)["engine"].command


def test_the_longest_context_that_fits_a_gpu_is_taken_and_told(tmp_path: Path) -> None:
    config = {"model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864, "vocab_size": 151_936,
              "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2,
              "max_position_embeddings": 32_768, "tie_word_embeddings": True}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    contexts, said = {}, []
    for gib in (12, 16, 32, 48):
        machine = Machine(cards=(gib << 30,), learner_on_card=True)
        contexts[gib] = lay_out(settings(tmp_path), tmp_path, True, said.append, machine).context
    assert contexts == {12: 4096, 16: 8192, 32: 16_384, 48: 32_768}
    assert said == [
        f"chats may have {n} tokens: no more fits (engine.max_model_len in hearken.toml)"
        for n in ("4,096", "8,192", "16,384")
    ]
    small = Machine(cards=(9 << 30,), learner_on_card=True)
    with pytest.raises(UsageError, match="with 4,096 tokens of context needs about"):
        lay_out(settings(tmp_path), tmp_path, True, said.append, small)
    asked = settings(tmp_path, {"engine.max_model_len": 1024})
    assert lay_out(asked, tmp_path, True, print, small).context is None


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
    asked = settings(tmp_path, {"gateway.host": host})
    assert asked.url == url
    assert f"{url}/v1 " in banner(asked)


def test_what_is_printed_to_look_with_finds_the_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = settings(tmp_path / "my data")
    asked.data.mkdir(parents=True)
    ensure_secret(asked.data)
    (line,) = re.findall(r"^ +look at it +hearken (.*)$", banner(asked), re.MULTILINE)
    monkeypatch.chdir("/")
    assert main(shlex.split(line)) == 0
    assert "every user gets the base model" in capsys.readouterr().out
    assert str(asked.data) in shlex.split(line)


def test_where_kafka_is_belongs_to_what_is_printed_to_look_with(tmp_path: Path) -> None:
    asked = settings(tmp_path, {"service.kafka": "kafka:9092"})
    assert "--kafka kafka:9092" in banner(asked)


def test_the_page_suggests_what_suits_the_model(tmp_path: Path, model: Path) -> None:
    def suggested(values: dict[str, object]) -> tuple[str, ...]:
        gateway = children(settings(tmp_path, values), model, cuda=False)["gateway"]
        found: tuple[str, ...] = understood(gateway).build("gateway").suggestions
        return found

    desk = {ask for topic in TOPICS.values() for ask in topic.asks}
    assert suggested({})
    assert set(suggested({})) <= desk
    assert suggested({"service.model": str(model)})
    assert not set(suggested({"service.model": str(model)})) & desk
    assert suggested({"gateway.suggestions": ("Why?",)}) == ("Why?",)


@pytest.mark.parametrize("pace", ["demo", "normal"])
def test_both_paces_are_settings_that_the_rooms_accept(pace: str, tmp_path: Path) -> None:
    asked = settings(tmp_path, {"service.pace": pace, "service.model": "m"}).config
    newcomers = asked.build("learner").trust.newcomer_seconds
    assert (newcomers, asked.build("controller").ladder[0][0]) == {
        "demo": (0.0, 0.25), "normal": (600.0, 0.01),
    }[pace]  # fmt: skip
    for path in PACES[pace]:  # type: ignore[index]
        assert asked.get(path).origin == f"pace {pace}"


def test_watching_does_not_need_torch() -> None:
    """The process that supervises the others runs for weeks: it must stay small."""
    code = """
import sys
import hearken.service.up, hearken.demo.demo, hearken.demo.report, hearken.demo.watch
print([name for name in ("torch", "transformers", "vllm", "numpy") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_engines_have_a_key_that_only_the_service_knows(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "")
    take_engine_key(tmp_path)
    key = os.environ[VARIABLE]
    assert len(key) == 32
    for child in children(settings(tmp_path), model, cuda=False).values():
        assert child.env[VARIABLE] == key
        assert key not in " ".join(child.command)
    monkeypatch.setenv(VARIABLE, "")
    take_engine_key(tmp_path)
    assert os.environ[VARIABLE] == key  # whoever has the folder has it as well
    (other := tmp_path / "other").mkdir()
    take_engine_key(other)
    assert os.environ[VARIABLE] == key  # one that there is stays
    monkeypatch.setenv(VARIABLE, "")
    take_engine_key(other)
    assert os.environ[VARIABLE] != key
