"""The files in examples/ do what they say."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from deploy.answer_guards import Pair
from deploy.decide.own_checks import vetoes
from feedback.core.log import Entry
from feedback.core.secret import load_secret
from feedback.opening import open_sealer
from feedback.sqlite.log import SqliteLog
from hearken.cli import main
from learner.examples import Examples
from learner.model.shared import SharedModel
from tests.feedback.examples import completion, record, thumb
from tests.hearken.test_judging import pair, side, votes, write
from tests.learner.conftest import random_model
from tests.learner.test_ppo import likes, sample
from tests.learner.test_preferences import PRICE, made, votes_for_the_ended
from tests.serve.conftest import Gateway, ready

__all__ = ["random_model"]

NOT_SEEN = "The completion that it is about has not been seen yet."
WAITS = "The next update of the reward model will look whether it can learn from it."
EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(autouse=True)
def path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    with ready(tmp_path) as running:
        yield running


def run(name: str, *arguments: str | Path) -> str:
    """What an example prints."""
    command = [sys.executable, EXAMPLES / name, *arguments]
    done = subprocess.run(command, cwd=EXAMPLES.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_products_thumb_is_a_vote_of_its_user_on_the_answer(gateway: Gateway) -> None:
    printed = run("thumbs.py", gateway.url + "/v1", "ada", "down", "Where is my parcel?")
    [answer], [vote] = gateway.completions(), gateway.votes()
    assert printed.startswith(answer.choices[0].text)
    assert (vote.kind, vote.label) == ("thumbs", "down")
    assert vote.rater == answer.user == gateway.signer.pseudonym("default", "ada")
    assert [target.completion_id for target in vote.targets] == [answer.completion_id]
    assert vote.reasons == ["incomplete"]
    told = printed.splitlines()[-1].removeprefix(f"durable as {vote.event_id}. ")
    assert told in (NOT_SEEN, WAITS)


def test_a_judge_of_ones_own_votes_on_the_pairs_in_the_log(tmp_path: Path) -> None:
    load_secret(tmp_path / "secret")
    long, short = side(0, "answer", "It is on its way. " * 9), side(0, "reference", "It is on its way.")
    empty = (side(1, "answer", " "), side(1, "reference", "Here."))
    write(tmp_path, long, short, *pair(2)[:1], *empty)
    command = ["judge", "--data", str(tmp_path), "--judge", "short_judge:Shorter", "--name", "brevity"]
    assert main([*command, "--once"]) == 0
    [vote] = votes(tmp_path)
    assert (vote.kind, vote.source, vote.label) == ("comparison", "model", "b")
    assert [target.completion_id for target in vote.targets] == [long.completion_id, short.completion_id]
    assert 0 < vote.value < 0.3


def test_a_loss_of_ones_own_teaches_the_policy_by_its_import_path(random_model: str) -> None:
    model = SharedModel(random_model, rank=4, alpha=8, device="cpu", seed=1)
    hinge = made(model, "hinge_loss:Hinge")
    assert hinge.kind == "hinge_loss:Hinge"  # so a checkpoint of DPO is not taken for one of this
    far = 2 / PRICE
    ratios = torch.tensor([[far, 0.0], [0.0, 0.0], [0.0, far], [far, 0.0]])
    said = Examples([], torch.tensor([1.0, 1.0, 1.0, 0.5]), torch.ones(4), answers=2)
    torch.testing.assert_close(hinge.losses(ratios, said, 0.0), torch.tensor([0.0, 1.0, 3.0, 0.0]))

    liked = votes_for_the_ended(model, 64)
    rollouts = sample(model, 16, seed=1)
    losses = []
    for _ in range(4):
        step = hinge.step(hinge.measure(rollouts), likes(rollouts), votes=liked[:32])
        losses.append(step.preference_loss)
    assert losses[0] == pytest.approx(1.0, abs=0.1)
    assert losses[-1] < losses[0] - 0.05


def test_votes_are_counted_by_day(tmp_path: Path) -> None:
    sealer, log = open_sealer(tmp_path), SqliteLog(tmp_path / "log.db")
    thumbs = [thumb(f"c{i}", float(i > 0), 1) for i in range(3)]
    thumbs[2] = thumbs[2].model_copy(update={"at": 86_400.0 * 3})
    for event in (*(completion(f"c{i}") for i in range(3)), *thumbs):
        sealed = record(sealer.seal(event))
        log.append([Entry(sealed.topic, sealed.key, sealed.value)]).result()
    log.close()
    file = tmp_path / "votes.jsonl"
    assert main(["export", str(file), "--data", str(tmp_path)]) == 0
    assert run("votes_by_day.py", file).splitlines()[1:] == [
        "1970-01-01       2  50%",
        "1970-01-04       1  100%",
    ]


def test_a_check_of_ones_own_vetoes_a_candidate_that_promises_what_live_does_not() -> None:
    told = [
        Pair(f"Where is parcel {i}?", "It is on its way.", "We will give you a refund.") for i in range(20)
    ]
    assert vetoes(("no_promises:no_promises",), told, 60) == [
        "no_promises:no_promises says: 20 of 20 answers promise a refund, 0 of live's do"
    ]
    alike = [pair._replace(live=pair.candidate) for pair in told]
    assert vetoes(("no_promises:no_promises",), alike, 60) == []
