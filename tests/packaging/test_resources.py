"""What the chart's pods ask for: as the values say, and the GPUs of their section."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.packaging.test_chart import PROGRAMS, VALUE_SETS, component, container, workloads
from tests.packaging.tools import ROOT, VALUES, Run

PARTS = (*PROGRAMS, "engine")
TRAINED = ("engine", "learner")  # those with GPUs

OVERRIDES: dict[str, Any] = {
    "nothing": {},
    "less than is asked for": {
        name: {"resources": {"requests": {"memory": "128Mi", "cpu": "50m"}}} for name in PARTS
    },
    "higher limits": {name: {"resources": {"limits": {"memory": "96Gi", "cpu": "12"}}} for name in PARTS},
    "other things": {name: {"resources": {"requests": {"ephemeral-storage": "1Gi"}}} for name in PARTS},
    "another kind of GPU": {
        "engine": {"gpus": 4, "gpuResource": "amd.com/gpu", "resources": {"requests": {"memory": "4Gi"}}},
        "learner": {"gpus": 2, "gpuResource": "amd.com/gpu"},
    },
    "no requests": {name: {"resources": {"requests": None}} for name in PARTS},
    "no limits": {name: {"resources": {"limits": None}} for name in PARTS},
    "no GPUs": {name: {"gpus": 0} for name in TRAINED},
}


@pytest.mark.parametrize("values", VALUE_SETS)
@pytest.mark.parametrize("case", OVERRIDES)
def test_every_pod_asks_for_what_the_values_say(
    template: Run, values: str, case: str, tmp_path: Path
) -> None:
    override = tmp_path / "override.yaml"
    override.write_text(yaml.safe_dump(OVERRIDES[case]))
    result = template("--values", VALUES / f"{values}.yaml", "--values", override)
    assert result.returncode == 0, result.stderr
    resources = [item for item in yaml.safe_load_all(result.stdout) if item]
    said: Any = yaml.safe_load((ROOT / "helm/values.yaml").read_text())
    for file in (VALUES / f"{values}.yaml", override):
        said = _merged(said, yaml.safe_load(file.read_text()))
    parts = {component(item) for item in workloads(resources)}
    assert parts == set(PARTS) - (set() if said["learner"]["enabled"] else {"learner"})
    for name in parts:
        asked = container(resources, name)["resources"]
        for kind in ("requests", "limits"):
            assert asked.get(kind, {}) == _wanted(said[name], kind), (name, kind)


def _wanted(part: dict[str, Any], kind: str) -> dict[str, Any]:
    """The requests or limits that a section of the values stands for: its own, and its GPUs."""
    gpus = part.get("gpus", 0)
    return (part["resources"].get(kind) or {}) | ({part["gpuResource"]: gpus} if gpus else {})


def _merged(first: Any, second: Any) -> Any:
    """Values as Helm lays one file over another: tables entry by entry, all else as a whole."""
    if not isinstance(first, dict) or not isinstance(second, dict):
        return second
    return first | {key: _merged(first.get(key), value) for key, value in second.items()}
