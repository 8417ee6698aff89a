"""schemathesis against a real vLLM: whatever the document allows, and what it forbids, is no 5xx."""

import pytest

from tests.fuzzing import fuzz
from tests.serve.conftest import Gateway

pytestmark = pytest.mark.engine


@pytest.mark.timeout(1800)
def test_nothing_that_is_sent_upsets_the_engine(service: Gateway) -> None:
    # The model's context and vLLM's grammars allow less than the schemas.
    options = ["--include-path-regex", "completions$|comparisons$", "--request-timeout", "600"]
    fuzz(service.url, *options, examples=8)
