"""The outside tools of these tests, and the chart as Helm renders it."""

import functools

import pytest
import yaml

from tests.packaging.tools import NEWEST, ROOT, VALUES, Render, Resource, Run, runner


@pytest.fixture(scope="session")
def helm() -> Run:
    return runner("helm", "run scripts/tools.sh")


@pytest.fixture(scope="session")
def kubeconform() -> Run:
    run = runner("kubeconform", "run scripts/tools.sh")
    if not (ROOT / ".tools/schemas" / f"v{NEWEST}").exists():
        pytest.skip("no Kubernetes schemas in .tools/schemas: run scripts/tools.sh")
    return run


@pytest.fixture(scope="session")
def hadolint() -> Run:
    return runner("hadolint", "run scripts/tools.sh")


@pytest.fixture(scope="session")
def promtool() -> Run:
    return runner("promtool", "install the system's prometheus package")


@pytest.fixture(scope="session")
def template(helm: Run) -> Run:
    """`helm template` as it comes, for a release called "demo" in a current cluster."""
    cluster = ("--namespace", "chat", "--kube-version", NEWEST)
    return functools.partial(helm, "template", "demo", "helm", *cluster)


@pytest.fixture(scope="session")
def render(template: Run) -> Render:
    """The resources that the chart makes from a file of `values` and further --set options."""

    @functools.cache
    def rendered(values: str, *sets: str) -> list[Resource]:
        options = [option for item in sets for option in ("--set", item)]
        result = template("--values", VALUES / f"{values}.yaml", *options)
        assert result.returncode == 0, result.stderr
        return [resource for resource in yaml.safe_load_all(result.stdout) if resource]

    return rendered
