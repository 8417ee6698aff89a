"""One file of settings: every field is in it, what is wrong is told by line, and what goes over what."""

import dataclasses
import json
import math
import tomllib
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from hearken.base.errors import UsageError
from hearken.cli import main
from hearken.config.assemble import assemble
from hearken.config.check import problems
from hearken.config.docs import docs
from hearken.config.fields import NEEDED, Leaf, without_none
from hearken.config.file import line_numbers, load
from hearken.config.follow import follow
from hearken.config.layers import Given
from hearken.config.resolve import Config
from hearken.config.schema import schema
from hearken.config.show import show
from hearken.config.tables import Tables, tables
from hearken.config.values import from_text, read, write
from learner.model.machine import has_fast_bf16
from serve.settings import GatewaySettings
from tests.packaging.tools import ROOT

SIZES = {
    "hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
    "intermediate_size": 1536, "vocab_size": 49152, "max_position_embeddings": 8192,
}  # fmt: skip

# Where another value than half or twice the default is needed for the class to take it.
OTHERS: dict[str, Any] = {
    "gateway.redact": "patterns",
    "gateway.cors_origins": ("https://shop.example",),
    "gateway.trusted_proxies": ("10.0.0.0/8",),
    "gateway.engines": ("http://10.0.0.1:8000", "http://10.0.0.2:8000"),
    "controller.engines": ("http://10.0.0.1:8000", "dns://engines.chat.svc:8000"),
    "controller.ladder": ((0.02, 5.0), (0.4, 6.0)),
    "controller.webhooks": ("https://ops.example/releases",),
    "controller.gate.length_ratio_low": 0.5,
    "controller.guardrails.feedback_ratio": 0.7,
    "learner.gate.length_ratio_low": 0.5,
    "engine.max_cpu_loras": 24,
    "service.registry": "s3://models/chat",
    "controller.registry": "s3://models/chat",
    "learner.registry": "s3://models/chat",
    "learner.self_check": None,
    "learner.optimiser": "somebodys.package:Way",
    "learner.base_bits": 8,
    "learner.gate_scales": (1.0, 0.9),
    "learner.answers": None,
    "learner.answers.checks": ("somebodys.package:check",),
    "learner.guards": None,
    "learner.guards.demonstration_perplexity": 1.2,
    "learner.guards.second_domain_perplexity": 1.2,
}


def other(leaf: Leaf) -> Any:
    """A value for a setting that is not its default."""
    if leaf.path in OTHERS:
        return OTHERS[leaf.path]
    kind, default = without_none(leaf.setting.kind), leaf.default
    if typing.get_origin(kind) is Literal:
        return next(word for word in typing.get_args(kind) if word != default)
    if typing.get_origin(kind) is tuple:
        return ("some", "texts")
    if kind is bool:
        return not default
    if kind is int:
        return 7 if default is None or default is NEEDED else default + 1
    if kind is float:
        return 0.25 if default is None or default == 0 or math.isinf(default) else default * 0.75
    return Path("/some/where") if kind is Path else "something"


def at(built: Any, path: str) -> Any:
    """The value at "ppo.clip" of a settings object."""
    for name in path.split("."):
        built = getattr(built, name)
    return built


def configured(tmp_path: Path, text: str, known: Tables | None = None, **told: object) -> Config:
    file = tmp_path / "hearken.toml"
    file.write_text(text)
    asked = {path.replace("__", "."): Given(value, "--flag") for path, value in told.items()}
    return assemble([asked], file, known)


def followed(tmp_path: Path, text: str, *, cuda: bool = False) -> Config:
    """Settings of a service that has no adapters yet, with what follows from the model in `tmp_path`."""
    return follow(configured(tmp_path, text, service__data=tmp_path / "data"), tmp_path, cuda)


def complaints(tmp_path: Path, text: str) -> list[str]:
    """What is said of a file, a line each, without its folder."""
    try:
        found = problems(configured(tmp_path, text))
    except UsageError as error:
        found = str(error).split("\nhearken: ")
    return [line.replace(f"{tmp_path}/", "") for line in found]


@pytest.mark.parametrize("path", tables().leaves)
def test_every_field_of_every_class_is_set_by_the_file(path: str, tmp_path: Path) -> None:
    leaf, table = tables().leaves[path], path.partition(".")[0]
    value = other(leaf)
    assert value != leaf.default
    parent, _, name = path.rpartition(".")
    config = configured(tmp_path, f"[{parent}]\n{name} = {write(value)}\n")
    if config.get("learner.model").value is NEEDED:
        config = config.over({"learner.model": Given("m", "the test")})
    assert at(config.build(table), path.partition(".")[2]) == value
    assert config.get(path).origin == f"{tmp_path}/hearken.toml:2"
    assert f"{name} = {write(value)} " in show(config, (table,))


def test_every_field_is_documented() -> None:
    """If not: write it beside the type, name: Annotated[int, "what it is"] = 3"""
    known = {leaf.path: leaf.setting.doc for leaf in tables().leaves.values()}
    assert [path for path, doc in known.items() if len(doc) < 9 or doc.endswith(".")] == []


def test_the_page_of_settings_is_that_of_the_classes() -> None:
    """If not: hearken config docs > docs/settings.md"""
    assert (ROOT / "docs/settings.md").read_text() == docs(tables())


@dataclass(frozen=True, slots=True)
class Tray:
    """Where cups stand."""

    cups: Annotated[int, "how many cups there are"] = 3


@dataclass(frozen=True, slots=True)
class WithMore(GatewaySettings):
    """A gateway that can be told more."""

    tea_minutes: Annotated[float, "how long the tea draws"] = 4.0
    tray: Annotated[Tray, "what carries the tea"] = dataclasses.field(default_factory=Tray)


def test_a_field_that_is_added_is_in_file_show_docs_and_schema(tmp_path: Path) -> None:
    known = Tables({**tables().classes, "gateway": WithMore})
    config = configured(tmp_path, "[gateway]\ntea_minutes = 5\ntray.cups = 6\n", known)
    built = config.build("gateway")
    assert (built.tea_minutes, built.tray.cups) == (5.0, 6)
    shown = show(config, ("gateway",), docs=True)
    assert "# how long the tea draws\ntea_minutes = 5.0" in shown
    assert tomllib.loads(shown)["gateway"]["tray"] == {"cups": 6}
    assert "| tea_minutes | a number | `4.0` | how long the tea draws |" in docs(known)
    assert "## [gateway.tray]\n\nWhere cups stand." in docs(known)
    made = schema(known)["properties"]["gateway"]["properties"]
    assert made["tea_minutes"]["description"] == "how long the tea draws"
    assert made["tray"]["properties"]["cups"]["type"] == "integer"
    with pytest.raises(UsageError, match=r"toml:2: \[gateway\] has no setting tea_minuts; did you mean"):
        configured(tmp_path, "[gateway]\ntea_minuts = 5", known)


def test_what_is_shown_can_be_fed_back(tmp_path: Path) -> None:
    told = '[service]\nmodel = "m"\npace = "demo"\n[learner]\nself_check = "none"\nreward.veto_odds = inf\n'
    first = configured(tmp_path, told)
    again = configured(tmp_path, show(first, tuple(tables().classes)))
    for table in tables().classes:
        assert again.build(table) == first.build(table)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[gateway]\n\nprot = 1", "hearken.toml:3: [gateway] has no setting prot; did you mean port?"),
        ("[learner]\nladder = 1",
         "hearken.toml:2: [learner] has no setting ladder; there is one in [controller]"),
        ("[gatewya]\nport = 1", "hearken.toml:1: there is no table [gatewya]; did you mean gateway?"),
        ("port = 1", "hearken.toml:1: there is no table [port]; there is one in [gateway]"),
        ("[gateway]\nport = '80'", "hearken.toml:2: gateway.port must be a whole number, not '80'"),
        ("[gateway]\nport = true", "hearken.toml:2: gateway.port must be a whole number, not True"),
        ("[service]\npace = 'dmeo'",
         "hearken.toml:2: service.pace must be one of \"demo\", \"normal\", not 'dmeo'; did you mean demo?"),
        ("[learner]\nppo = 3", "hearken.toml:2: ppo is a table: write [learner.ppo]"),
        ("[learner]\nppo = {clip = 'x'}", "hearken.toml:2: learner.ppo.clip must be a number, not 'x'"),
        ("[controller]\nladder = [[0.1]]",
         "hearken.toml:2: controller.ladder must be [a number, a number], not [0.1]"),
        ("[gateway\n", "hearken.toml:1: not TOML: Expected ']' at the end of a table declaration "
         "(at line 1, column 9)"),
        ("[learner]\noptimiser = 'dpp'",
         "hearken.toml:2: optimiser is 'dpp'; it must be ppo, dpo, ipo, kto, or the import path of a class "
         "of your own, package.module:Class"),
        ("[learner.answers]\nchecks = ['no_such_package:mine']",
         "hearken.toml:2: learner.answers.checks names 'no_such_package:mine': no_such_package cannot be "
         "imported (ModuleNotFoundError: No module named 'no_such_package'); it must be a module that this "
         "Python finds: install it, or name its folder in PYTHONPATH"),
        ("[learner]\n\noptimiser = 'no_such_package.ways:Mine'",
         "hearken.toml:3: optimiser is 'no_such_package.ways:Mine', and no_such_package.ways cannot be "
         "imported (ModuleNotFoundError: No module named 'no_such_package'); it must be a module that this "
         "Python finds: install it, or name its folder in PYTHONPATH"),
        # and what only the class itself can see
        ("[learner]\nseed = 3\nmin_labels = 0", "hearken.toml:3: min_labels is 0; it must be at least 1"),
        ("[gateway.limits]\ntokens_per_minute = -1",
         "hearken.toml:2: tokens_per_minute is -1; it must be 0 (no limit) or more"),
        ("[service]\nengines = ['here']\n[gateway]\nport = 1",
         "hearken.toml:2, [service]: engine 'here' is not a URL; write it like http://127.0.0.1:8001, or "
         "dns://NAME:PORT for all addresses of a name"),
        ("[controller]\nmargin = 0.1\nholdback_max_seconds = 10",
         "hearken.toml:3: holdback_min_seconds 3600 exceeds holdback_max_seconds 10.0; it has to be at most "
         "that"),
        ("[engine]\nmax_loras = 20\nmax_cpu_loras = 16",
         "hearken.toml:2, hearken.toml:3: max_cpu_loras is 16; it must be max_loras + 5 = 25 or more: live, "
         "previous, control, canary and a rollout stay loaded beside what a batch mixes"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_line(text: str, said: str, tmp_path: Path) -> None:
    assert complaints(tmp_path, text) == [said]


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "hearken.toml"
    file.write_text("[gateway]\nprt = 1\nport = 'x'\n[learner.ppo]\nclip = []\n")
    assert main(["config", "check", "--config", str(file)]) == 2
    assert [line.split(": ")[1] for line in capsys.readouterr().err.splitlines()] == [
        f"{file}:{number}" for number in (2, 3, 5)
    ]
    file.write_text("[gateway]\nport = 9000\n")
    assert main(["config", "check", "--config", str(file)]) == 0
    assert capsys.readouterr().out == f"{file}: OK\n"


def test_lines_are_found_however_the_file_is_written() -> None:
    text = """# a comment = 1
[ gateway ]
"port" = 1   # port
limits.tokens_per_minute = 2
  [learner.ppo]
  clip=0.1
[learner]  # [not this]
ppo2 = { clip = 1 }
[controller]
ladder = [
  [0.1, 60],
  [0.5, 60]
]
margin = 0
"""
    found = line_numbers(text)
    assert (found["gateway"], found["gateway.port"], found["gateway.limits.tokens_per_minute"]) == (2, 3, 4)
    assert (found["gateway.limits"], found["learner.ppo.clip"], found["learner.ppo2"]) == (4, 6, 8)
    assert (found["controller.ladder"], found["controller.margin"]) == (10, 14)


def test_a_flag_goes_over_the_file_over_the_pace_over_the_default(tmp_path: Path) -> None:
    text = '[service]\npace = "demo"\nseed = 4\nkafka = "s:1"\n[learner]\nmin_labels = 9\nkafka = "l:1"\n'
    config = configured(tmp_path, text, learner__labels_per_update=8)
    values = {
        path: (config.get(path).value, config.get(path).origin.removeprefix(f"{tmp_path}/"))
        for path in (
            "learner.labels_per_update", "learner.min_labels", "learner.steps_per_candidate",
            "learner.gate_prompts", "learner.seed", "learner.kafka", "gateway.kafka",
        )
    }  # fmt: skip
    assert values == {
        "learner.labels_per_update": (8, "--flag"),
        "learner.min_labels": (9, "hearken.toml:6"),
        "learner.steps_per_candidate": (16, "pace demo"),
        "learner.gate_prompts": (128, "default"),
        "learner.seed": (4, "hearken.toml:3, [service]"),
        "learner.kafka": ("l:1", "hearken.toml:7"),
        "gateway.kafka": ("s:1", "hearken.toml:4, [service]"),
    }
    told = configured(tmp_path, text, service__kafka="f:1")
    assert told.get("learner.kafka").value == told.get("gateway.kafka").value == "f:1"


def test_the_learner_samples_on_the_first_of_the_services_engines(tmp_path: Path) -> None:
    config = configured(tmp_path, '[service]\nmodel = "m"\nengines = ["http://a:1", "http://b:1"]\n')
    assert config.build("learner").engine == "http://a:1"
    assert config.build("controller").engines == ("http://a:1", "http://b:1")
    config = configured(tmp_path, '[service]\nmodel = "m"\n[learner]\nengine = "http://c:1"\n')
    assert config.build("learner").engine == "http://c:1"


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    config = configured(tmp_path, '[service]\ndata = "data"\n[gateway]\nkeys = "~/keys.json"\n')
    assert config.build("gateway").data == tmp_path / "data"
    assert config.build("gateway").keys == Path.home() / "keys.json"


def test_where_the_file_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HEARKEN_CONFIG", raising=False)
    assert assemble([], None).file is None
    here, named = tmp_path / "hearken.toml", tmp_path / "named.toml"
    for file in (here, named):
        file.write_text("")
    assert assemble([], None).file == here
    monkeypatch.setenv("HEARKEN_CONFIG", str(named))
    assert assemble([], None).file == named
    assert assemble([], here).file == here
    assert main(["status", "--config", "nowhere.toml"]) == 2
    assert capsys.readouterr().err == f"hearken: --config: there is no file {tmp_path}/nowhere.toml\n"
    monkeypatch.setenv("HEARKEN_CONFIG", "gone.toml")
    with pytest.raises(UsageError, match=r"\$HEARKEN_CONFIG: there is no file"):
        assemble([], None)


@pytest.mark.parametrize(
    ("width", "limit", "rank", "rate", "context"),
    [(192, 512, 8, 1e-3, 512), (576, 8192, 8, 1e-3 / 3, 4096), (64, 2048, 8, 1e-3, 2048),
     (4096, 131072, 16, 4.6875e-5, 4096)],
)  # fmt: skip
def test_what_nobody_set_follows_the_model(
    width: int, limit: int, rank: int, rate: float, context: int, tmp_path: Path
) -> None:
    sizes = SIZES | {"hidden_size": width, "max_position_embeddings": limit}
    (tmp_path / "config.json").write_text(json.dumps(sizes))
    config = followed(tmp_path, '[service]\nmodel = "m"\n')
    learner, engine = config.build("learner"), config.build("engine")
    assert (learner.rank, engine.lora_rank, engine.max_model_len) == (rank, rank, context)
    assert learner.ppo.learning_rate == pytest.approx(rate)
    dtype = "bfloat16" if has_fast_bf16() and width >= 576 else "float32"
    assert (engine.dtype, engine.max_cpu_loras, engine.tool_parser) == (dtype, 16, "hermes")
    shown = show(config, ("learner",))
    assert f"# follows the hidden size, {width}" in next(
        x for x in shown.splitlines() if x.startswith("rank =")
    )
    assert followed(tmp_path, "", cuda=True).build("engine").max_model_len == min(limit, 32768)
    assert config.get("gateway.default_max_tokens").value == min(1024, context)
    assert followed(tmp_path, "", cuda=True).get("gateway.default_max_tokens").value is None
    text = "[learner]\nrank = 20\nppo.learning_rate = 1e-4\n[engine]\nlongest_context = 300\n"
    asked = followed(tmp_path, text)
    assert (asked.get("learner.rank").value, asked.get("learner.ppo.learning_rate").value) == (20, 1e-4)
    assert (asked.build("engine").lora_rank, asked.build("engine").max_model_len) == (32, 300)


def test_an_engine_on_a_cpu_keeps_what_fits(tmp_path: Path) -> None:
    large = {
        "hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
        "intermediate_size": 18944, "vocab_size": 152064, "max_position_embeddings": 32768,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(large))
    engine = followed(tmp_path, "").build("engine")
    assert (engine.max_cpu_loras, engine.kv_cache_gib) == (13, 2)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[engine]\nmax_model_len = 9000",
         "hearken.toml:2: [engine] max_model_len is 9000, and the model's own limit is 8192 tokens; give "
         "that or less"),
        ("[engine]\nlora_rank = 8\n[learner]\nrank = 9",
         "hearken.toml:2: [engine] lora_rank is 8, too small for adapters of rank 9, the learner's "
         "(hearken.toml:4); leave it out, or give that or more"),
        ("[engine]\nlora_rank = 24",
         "hearken.toml:2: [engine] lora_rank is 24; vLLM knows 8, 16, 32, 64, 128, 256, 320, 512"),
        ("[learner]\nrank = 600", "[learner] rank is 600; adapters of a rank of at most 512 can be served"),
    ],
)  # fmt: skip
def test_what_does_not_suit_the_model_is_refused(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(SIZES))
    with pytest.raises(UsageError) as refused:
        followed(tmp_path, text)
    assert str(refused.value).replace(f"{tmp_path}/", "") == said


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [
        (None, float | None, '"none"'),
        (math.inf, float, "inf"),
        (1e-05, float, "1e-05"),
        (("a b", 'c"\n\x7f'), tuple[str, ...], '["a b", "c\\"\\n\\u007f"]'),
        (((0.1, 2.0),), tuple[tuple[float, float], ...], "[[0.1, 2.0]]"),
        (True, bool, "true"),
        (8, int, "8.0"),
        ("none", str, '"none"'),
    ],
)
def test_values_are_written_as_they_are_read(value: Any, kind: Any, text: str) -> None:
    assert read(tomllib.loads(f"x = {text}")["x"], kind) == value
    assert from_text(text, kind) == value
    assert from_text(write(value), kind) == value


def test_a_flag_can_set_anything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = [
        "--set",
        "learner.ppo.clip=0.3",
        "--set",
        "controller.ladder=[[0.1, 3], [0.5, 9]]",
        "--pace",
        "demo",
    ]
    assert main(["config", "show", *told, "--set", "gateway.model_name=shop"]) == 0
    shown = tomllib.loads(capsys.readouterr().out)
    assert shown["learner"]["ppo"]["clip"] == 0.3
    assert shown["controller"]["ladder"] == [[0.1, 3.0], [0.5, 9.0]]
    assert (shown["gateway"]["model_name"], shown["service"]["pace"]) == ("shop", "demo")
    assert main(["config", "show", "--set", "learner.clip=1"]) == 2
    assert "did you mean learner.ppo.clip?" in capsys.readouterr().err
    assert main(["config", "show", "--set", "learner.seed=x"]) == 2
    assert capsys.readouterr().err == "hearken: --set learner.seed must be a whole number, not 'x'\n"


def test_the_schema_is_of_the_whole_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "schema"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == schema(tables())
    for path in tables().leaves:
        inner = printed
        for name in path.split("."):
            inner = next((each for each in inner.get("anyOf", ()) if "properties" in each), inner)
            inner = inner["properties"][name]
        assert inner["description"]


def test_a_file_that_is_read_has_only_what_it_says(tmp_path: Path) -> None:
    file = tmp_path / "hearken.toml"
    file.write_text("[learner]\ntrust = {burst_votes = 3}\nself_check.window = 2\n")
    found = load(file, tables())
    assert {path: given.value for path, given in found.items()} == {
        "learner.trust.burst_votes": 3, "learner.self_check.window": 2,
    }  # fmt: skip
