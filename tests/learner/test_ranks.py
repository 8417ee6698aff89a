"""Two processes by torchrun against one: the same batch must give the same weights. And how ranks end."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = """
import sys
import torch
from learner.model.shared import POLICY, SharedModel
from learner.policy.ppo import PPO
from learner.model.ranks import Ranks
from learner.settings import PPOSettings
from tests.learner.test_ppo import likes, sample

with Ranks.join() as ranks:
    model = SharedModel(sys.argv[1], rank=4, alpha=8, device="cpu", seed=1)
    settings = PPOSettings(critic_warmup_steps=0, learning_rate=1e-4, warmup_steps=0, epochs=2)
    ppo = PPO(model, settings, ranks=ranks)
    shown = [([3, 5], [30, 31, 2]), ([4], [9, 2]), ([6, 3], [8, 8, 8, 2])]
    rollouts = torch.load(sys.argv[2], weights_only=False)
    reports = [ppo.step(ppo.measure(rollouts), likes(rollouts), shown) for _ in range(2)]
    torch.save((model.flat[POLICY].weights.detach(), reports[-1].kl_nats_step), f"{sys.argv[3]}.{ranks.rank}")
assert not torch.distributed.is_initialized()
"""

LED = """
import sys
import torch
from learner.policy.leading import dismiss, follow, keep_waiting, lead
from learner.model.shared import LIVE, POLICY, SharedModel
from learner.policy.ppo import PPO
from learner.model.ranks import Ranks
from learner.settings import PPOSettings
from tests.learner.test_model import disturb
from tests.learner.test_ppo import likes

with Ranks.join() as ranks:
    model = SharedModel(sys.argv[1], rank=4, alpha=8, device="cpu", seed=1)
    settings = PPOSettings(critic_warmup_steps=0, learning_rate=1e-4, warmup_steps=0, epochs=2)
    disturb(model, LIVE, 2 + ranks.rank)  # what the others start from must not matter
    if ranks.rank:
        disturb(model, POLICY, 3)
        follow(PPO(model, settings, seed=7, ranks=ranks))
    else:
        ppo = lead(PPO(model, settings, ranks=ranks))
        shown = [([3, 5], [30, 31, 2]), ([4], [9, 2]), ([6, 3], [8, 8, 8, 2])]
        rollouts = torch.load(sys.argv[2], weights_only=False)
        for _ in range(2):
            keep_waiting(ranks)
            measured = ppo.measure(rollouts)
            ppo.step(measured, likes(rollouts), shown)
        before = ppo.snapshot()
        ppo.step(measured, likes(rollouts))
        ppo.restore(before)  # an undone step is not what the others go on from
        ppo.step(measured, likes(rollouts))
        dismiss(ranks)
    torch.save((model.flat[POLICY].weights.detach(), model.flat[LIVE].weights), f"{sys.argv[3]}.{ranks.rank}")
assert not torch.distributed.is_initialized()
"""

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]


ENDS = """
import os
import signal
import sys
from torch import distributed
from learner.model.ranks import Ranks

with Ranks.join() as ranks:
    ranks.send("hello") if ranks.rank == 0 else ranks.receive()
    if ranks.rank == int(sys.argv[1]):
        if sys.argv[2] == "raises":
            raise ValueError("a fault of its own")
        if sys.argv[2] == "is killed":
            os.kill(os.getpid(), signal.SIGKILL)
    while ranks.rank == 0 and sys.argv[2] != "is done":
        ranks.send("more")
    ranks.send("end") if ranks.rank == 0 else None
    while ranks.rank and ranks.receive() != "end":
        pass
assert not distributed.is_initialized()
"""


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}


def run_alone(script: str, arguments: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a script as the only rank: here, where everything is imported already."""
    (folder / "alone.py").write_text(script)
    with monkeypatch.context() as patched:
        patched.setattr(sys, "argv", ["alone.py", *arguments])
        runpy.run_path(str(folder / "alone.py"))


def run_two(script: str, arguments: list[str], folder: Path) -> None:
    (folder / "steps.py").write_text(script)
    command = [*TORCHRUN, str(folder / "steps.py"), *arguments]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]


def test_two_ranks_give_the_weights_of_one(
    random_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from learner.model.shared import SharedModel
    from tests.learner.test_ppo import sample

    model = SharedModel(random_model, rank=4, alpha=8, device="cpu", seed=1)
    torch.save(sample(model, 24, seed=3), tmp_path / "rollouts")
    arguments = [random_model, str(tmp_path / "rollouts")]
    run_alone(SCRIPT, [*arguments, str(tmp_path / "one")], tmp_path, monkeypatch)
    run_two(SCRIPT, [*arguments, str(tmp_path / "two")], tmp_path)
    (one, kl), (first, kl_first), (second, _) = (
        torch.load(tmp_path / name) for name in ("one.0", "two.0", "two.1")
    )
    assert torch.equal(first, second)
    assert float((one - first).abs().max()) < 1e-5
    assert abs(kl - kl_first) < 1e-5
    start = model.flat["policy"].weights.detach()
    assert float((one - start).abs().max()) > 1e-4


def test_a_led_rank_computes_what_rank_0_asks_for(
    random_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from learner.model.shared import SharedModel
    from tests.learner.test_ppo import sample

    model = SharedModel(random_model, rank=4, alpha=8, device="cpu", seed=1)
    torch.save(sample(model, 24, seed=3), tmp_path / "rollouts")
    arguments = [random_model, str(tmp_path / "rollouts")]
    run_alone(LED, [*arguments, str(tmp_path / "alone")], tmp_path, monkeypatch)
    run_two(LED, [*arguments, str(tmp_path / "led")], tmp_path)
    alone, leader, led = (torch.load(tmp_path / name) for name in ("alone.0", "led.0", "led.1"))
    for one, two, three in zip(alone, leader, led, strict=True):
        assert torch.equal(two, three)
        assert float((one - two).abs().max()) < 1e-5
    assert float((alone[0] - model.flat["policy"].weights.detach()).abs().max()) > 1e-4


def end_two(tmp_path: Path, who: int, how: str) -> list[tuple[int, str]]:
    """Return code and stderr of two ranks, of which one ends in a way of its own."""
    (tmp_path / "ends.py").write_text(ENDS)
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    environment = ENVIRONMENT | {
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # as under torchrun, the store outlives the ranks
    }
    command = [sys.executable, str(tmp_path / "ends.py"), str(who), how]
    processes = [
        subprocess.Popen(command, env=environment | {"RANK": str(rank)}, stderr=subprocess.PIPE, text=True)
        for rank in (0, 1)
    ]
    told = [process.communicate(timeout=600)[1] for process in processes]
    return [(process.returncode, text) for process, text in zip(processes, told, strict=True)]


def test_ranks_that_are_done_end_without_a_word(tmp_path: Path) -> None:
    for code, text in end_two(tmp_path, 0, "is done"):
        assert code == 0, text


@pytest.mark.parametrize(("who", "how"), [(0, "raises"), (1, "is killed")])
def test_a_rank_that_ends_early_ends_the_other_in_order(tmp_path: Path, who: int, how: str) -> None:
    ended = end_two(tmp_path, who, how)
    code, text = ended[1 - who]
    assert code == 1, text
    assert f"RankGone: rank {1 - who} of 2 has lost the others" in text
    code, text = ended[who]
    assert code == (1 if how == "raises" else -9)
    assert how == "is killed" or "ValueError: a fault of its own" in text
