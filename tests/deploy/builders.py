"""Small real things that the tests of this room are made of."""

import json
import struct
from pathlib import Path

from deploy.registry.files import CONFIG, WEIGHTS
from deploy.registry.manifest import GateNumbers, Manifest, Probe
from deploy.registry.registry import Registry
from feedback.core.events import Choice, Completion
from feedback.joining.join import Answer, Label
from tests.deploy.fake_engine import trainer_logprob

GOOD_GATE = GateNumbers(
    prompts=64,
    win_rate=0.6,
    win_rate_low=0.55,
    kl_nats_base=1.0,
    kl_nats_live=0.5,
    kl_budget_nats_base=10.0,
    kl_budget_nats_live=2.0,
    response_tokens=20,
    response_tokens_live=18,
)

CLEAR_GATE = GateNumbers(
    prompts=64,
    win_rate=0.8,
    win_rate_low=0.7,
    kl_budget_nats_base=10.0,
    kl_budget_nats_live=10.0,
    response_tokens=20.0,
    response_tokens_live=20.0,
)
"""Of a candidate that is well above live, with all but its KL told."""


def tensor_file(tensors: dict[str, tuple[str, list[int], bytes]]) -> bytes:
    """The bytes of a safetensors file: name -> dtype, shape and data."""
    header, data = {}, b""
    for name, (dtype, shape, values) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(values)]}
        data += values
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


MODULE = "base_model.model.model.layers.0.self_attn.q_proj"


def lora(content: bytes, rank: int = 8) -> dict[str, tuple[str, list[int], bytes]]:
    """The tensors of an adapter of one module, of which B is these bytes as numbers."""
    numbers = [byte / 256 for byte in content] + [0.0] * (-len(content) % rank)
    down = ("F32", [rank, 2], struct.pack(f"<{2 * rank}f", *[0.5] * (2 * rank)))
    up = ("F32", [len(numbers) // rank, rank], struct.pack(f"<{len(numbers)}f", *numbers))
    return {f"{MODULE}.lora_A.weight": down, f"{MODULE}.lora_B.weight": up}


def safetensors(content: bytes, rank: int = 8) -> bytes:
    """The bytes of an adapter's weights, in which are these bytes as numbers."""
    return tensor_file(lora(content, rank))


def adapter_folder(folder: Path, content: bytes = b"one", rank: int = 8) -> Path:
    """An adapter's files, as a trainer writes them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / WEIGHTS).write_bytes(safetensors(content, rank))
    (folder / CONFIG).write_text(json.dumps({"r": rank}))
    return folder


def probes(content: bytes, rank: int = 8) -> list[Probe]:
    """What the trainer computed for a prompt and an answer."""
    prompt, answer = [1, 2, 3], [4, 5]
    weights = safetensors(content, rank)
    logprobs = [trainer_logprob(weights, [*prompt, *answer[:i]], answer[i]) for i in range(len(answer))]
    return [Probe(prompt_token_ids=prompt, token_ids=answer, logprobs=logprobs)]


def many_probes(content: bytes) -> list[Probe]:
    """Probes that are enough for an engine that rounds."""
    found = []
    for number in range(40):
        tokens = [1, 2, 3, *range(100 + number, 120 + number)]
        trained, base = (
            [trainer_logprob(weights, tokens[:i], tokens[i]) for i in range(3, len(tokens))]
            for weights in (safetensors(content), b"")
        )
        found.append(
            Probe(
                prompt_token_ids=tokens[:3],
                token_ids=tokens[3:],
                logprobs=trained,
                bf16_logprobs=trained,
                base_logprobs=base,
            )
        )
    return found


def publish(
    registry: Registry,
    scratch: Path,
    content: bytes = b"one",
    *,
    parent: str = "base",
    base_digest: str = "d" * 64,
    gate: GateNumbers = GOOD_GATE,
    after_seq: int = 0,
    rank: int = 8,
    known_by: list[Probe] | None = None,
) -> Manifest:
    """A published version with right probes."""
    return registry.publish(
        adapter_folder(scratch / content.hex(), content, rank),
        parent=parent,
        after_seq=after_seq,
        base_digest=base_digest,
        rank=rank,
        training={"labels": 10},
        offsets={"feedback/0": 10},
        gate=gate,
        probes=probes(content, rank) if known_by is None else known_by,
    )


def completion(
    number: int,
    *,
    user: str,
    arm: str = "canary",
    version: str = "policy-1-aaaaaaaa",
    epoch: int = 2,
    at: float = 0.0,
    text: str = "an answer",
    tokens: int = 20,
    answer_start: int = 0,
    finish_reason: str = "stop",
    latency_seconds: float = 1.0,
    ttft_seconds: float | None = 0.1,
    role: str = "answer",
    failure: str | None = None,
    choices: list[Choice] | None = None,
) -> Completion:
    """A completion as the gateway logs it."""
    return Completion.model_validate(
        {
            "event_id": f"chatcmpl-{number}",
            "completion_id": f"chatcmpl-{number}",
            "at": at,
            "conversation": f"c-{user}",
            "user": user,
            "policy_version": version,
            "arm": arm,
            "role": role,
            "table_epoch": epoch,
            "messages": [],
            "prompt_token_ids": [1, 2],
            "failure": failure,
            "choices": [
                Choice(
                    text=text,
                    token_ids=[7] * tokens,
                    logprobs=[-0.1] * tokens,
                    finish_reason=finish_reason,
                    answer_start=answer_start,
                )
            ]
            if choices is None
            else choices,
            "latency_seconds": latency_seconds,
            "ttft_seconds": ttft_seconds,
        }
    )


def answer(
    user: str,
    *,
    arm: str = "canary",
    version: str = "policy-1-aaaaaaaa",
    epoch: int = 2,
    role: str = "answer",
) -> Answer:
    """One choice of a completion, joined."""
    return Answer(
        completion_id=f"chatcmpl-{user}-{arm}-{role}",
        choice=0,
        user=user,
        policy_version=version,
        arm=arm,
        role=role,
        table_epoch=epoch,
        prompt_token_ids=(1, 2),
        token_ids=(3,),
        text="x",
        finish_reason="stop",
        at=0.0,
        ttft_seconds=None,
        latency_seconds=1.0,
        sampling_plain=True,
    )


def thumb(
    of: Answer,
    value: float,
    *,
    at: float,
    vote: str = "vote",
    revision: int = 1,
    rater: str | None = None,
    source: str = "end_user",
) -> Label:
    """A thumb on an answer, by the answer's own user unless told otherwise."""
    return Label(
        event_id=f"{of.user}-{of.arm}-{vote}",
        revision=revision,
        kind="thumbs",
        rater=of.user if rater is None else rater,
        tenant="default",
        at=at,
        value=value,
        label="up" if value > 0.5 else "down",
        source=source,
        answers=(of,),
    )
