"""Two processes by torchrun against one: the same batch must give the same weights."""

import os
import subprocess
import sys
from pathlib import Path

import torch

SCRIPT = """
import sys
import torch
from learner.model import POLICY, SharedModel
from learner.ppo import PPO
from learner.ranks import Ranks
from learner.settings import PPOSettings
from tests.learner.test_ppo import likes, sample

ranks = Ranks.join()
model = SharedModel(sys.argv[1], rank=4, alpha=8, device="cpu", seed=1)
settings = PPOSettings(critic_warmup_steps=0, learning_rate=1e-4, warmup_steps=0, epochs=2)
ppo = PPO(model, settings, ranks=ranks)
shown = [([3, 5], [30, 31, 2]), ([4], [9, 2]), ([6, 3], [8, 8, 8, 2])]
rollouts = torch.load(sys.argv[2], weights_only=False)
reports = [ppo.step(ppo.measure(rollouts), likes(rollouts), shown) for _ in range(2)]
torch.save((model.flat[POLICY].weights.detach(), reports[-1].kl_nats_step), f"{sys.argv[3]}.{ranks.rank}")
"""

LED = """
import sys
import torch
from learner.leading import LeadingPPO, follow
from learner.model import LIVE, POLICY, SharedModel
from learner.ppo import PPO
from learner.ranks import Ranks
from learner.settings import PPOSettings
from tests.learner.test_model import disturb
from tests.learner.test_ppo import likes

ranks = Ranks.join()
model = SharedModel(sys.argv[1], rank=4, alpha=8, device="cpu", seed=1)
settings = PPOSettings(critic_warmup_steps=0, learning_rate=1e-4, warmup_steps=0, epochs=2)
disturb(model, LIVE, 2 + ranks.rank)  # what the others start from must not matter
if ranks.rank:
    disturb(model, POLICY, 3)
    follow(PPO(model, settings, seed=7, ranks=ranks))
else:
    ppo = LeadingPPO(model, settings, ranks=ranks)
    shown = [([3, 5], [30, 31, 2]), ([4], [9, 2]), ([6, 3], [8, 8, 8, 2])]
    rollouts = torch.load(sys.argv[2], weights_only=False)
    for _ in range(2):
        ppo.keep_waiting()
        measured = ppo.measure(rollouts)
        ppo.step(measured, likes(rollouts), shown)
    before = ppo.snapshot()
    ppo.step(measured, likes(rollouts))
    ppo.restore(before)  # an undone step is not what the others go on from
    ppo.step(measured, likes(rollouts))
    ppo.dismiss()
torch.save((model.flat[POLICY].weights.detach(), model.flat[LIVE].weights), f"{sys.argv[3]}.{ranks.rank}")
"""

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]


def run(command: list[str], arguments: list[str], folder: Path, text: str = SCRIPT) -> None:
    script = folder / "steps.py"
    script.write_text(text)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [*command, str(script), *arguments], env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_two_ranks_give_the_weights_of_one(random_model: str, tmp_path: Path) -> None:
    from learner.model import SharedModel
    from tests.learner.test_ppo import sample

    model = SharedModel(random_model, rank=4, alpha=8, device="cpu", seed=1)
    torch.save(sample(model, 24, seed=3), tmp_path / "rollouts")
    arguments = [random_model, str(tmp_path / "rollouts")]
    run([sys.executable], [*arguments, str(tmp_path / "one")], tmp_path)
    run(TORCHRUN, [*arguments, str(tmp_path / "two")], tmp_path)
    (one, kl), (first, kl_first), (second, _) = (
        torch.load(tmp_path / name) for name in ("one.0", "two.0", "two.1")
    )
    assert torch.equal(first, second)
    assert float((one - first).abs().max()) < 1e-5
    assert abs(kl - kl_first) < 1e-5
    start = model.flat["policy"].weights.detach()
    assert float((one - start).abs().max()) > 1e-4


def test_a_led_rank_computes_what_rank_0_asks_for(random_model: str, tmp_path: Path) -> None:
    from learner.model import SharedModel
    from tests.learner.test_ppo import sample

    model = SharedModel(random_model, rank=4, alpha=8, device="cpu", seed=1)
    torch.save(sample(model, 24, seed=3), tmp_path / "rollouts")
    arguments = [random_model, str(tmp_path / "rollouts")]
    run([sys.executable], [*arguments, str(tmp_path / "alone")], tmp_path, LED)
    run(TORCHRUN, [*arguments, str(tmp_path / "led")], tmp_path, LED)
    alone, leader, led = (torch.load(tmp_path / name) for name in ("alone.0", "led.0", "led.1"))
    for one, two, three in zip(alone, leader, led, strict=True):
        assert torch.equal(two, three)
        assert float((one - two).abs().max()) < 1e-5
    assert float((alone[0] - model.flat["policy"].weights.detach()).abs().max()) > 1e-4
