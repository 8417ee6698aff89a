"""schemathesis against a real vLLM: whatever the document allows, and what it forbids, is no 5xx."""

import subprocess
import sys

import pytest

from tests.serve.conftest import Gateway

pytestmark = pytest.mark.engine


def test_nothing_that_is_sent_upsets_the_engine(service: Gateway) -> None:
    tool = [sys.executable, "-m", "schemathesis.cli", "run", service.url + "/openapi.json", "--no-color"]
    answers = ["--include-path-regex", "completions$|comparisons$", "--request-timeout", "60"]
    # The model's context and vLLM's grammars allow less than the schemas: see tests/serve/test_openapi.py.
    limits = ["--max-examples", "8", "--exclude-checks", "positive_data_acceptance"]
    found = subprocess.run([*tool, *answers, *limits], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout[-6000:] + found.stderr[-2000:]
