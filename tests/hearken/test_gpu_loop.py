"""The benchmark of the whole loop runs to its last line on a CPU, beside an engine that is there already."""

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import Engine


@pytest.mark.engine
def test_the_loop_runs_and_says_what_it_took(engine: Engine) -> None:
    command = [
        *(sys.executable, "-m", "bench", "gpu_loop", "--cpu-shape", "tiny"),
        *("--engine", engine.url, "--model", str(engine.model)),
        *("--batch", "8", "--steps", "2", "--max-tokens", "32", "--votes", "16"),
    ]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["chats_failed"] == 0
    assert found["chats"] >= 8
    assert 0 < found["parity_largest_nats"] < 1e-3
    assert found["parity_tokens"] >= 4
    for name in ("rollout_tokens_per_s", "step_seconds", "reward_update_seconds", "swap_load_seconds"):
        assert found[name] > 0, name
