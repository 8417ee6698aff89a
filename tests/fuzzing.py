"""schemathesis: tries an API with what its /openapi.json allows and with what that forbids."""

import os
import subprocess
import sys
from pathlib import Path

SEED = 20261125
_CONFIG = Path(__file__).with_name("schemathesis.toml")


def fuzz(url: str, *options: str, examples: int) -> None:
    """Fails with what was found: a 5xx, an answer unlike its schema, or a forbidden request that is accepted.

    The same requests in every run, so that a change is what breaks it. With HEARKEN_FUZZ=N in the environment
    (`make fuzz`) N examples of each operation, other ones every time.
    """
    wanted = os.environ.get("HEARKEN_FUZZ")
    seed = [] if wanted else ["--seed", str(SEED)]
    tool = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(_CONFIG)]
    tool += ["run", url + "/openapi.json", "--no-color"]
    # Rules across fields (stream_options needs stream, a named function must be among the tools) are told in
    # words: that what the schemas allow is always accepted is not claimed. All else is checked.
    limits = ["--max-examples", wanted or str(examples), "--exclude-checks", "positive_data_acceptance"]
    found = subprocess.run([*tool, *limits, *seed, *options], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout[-20_000:] + found.stderr[-2000:]
