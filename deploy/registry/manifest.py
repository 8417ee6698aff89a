"""What is written beside every adapter: where it came from, what it measured, how to recognise it."""

from pydantic import BaseModel, ConfigDict, Field

from deploy.guards import Guard


class Probe(BaseModel):
    """A fixed prompt and answer with the trainer's logprobs (nats, T=1): the engine must reproduce them.

    logprobs, base_logprobs: with the adapter and without, in float32. bf16_logprobs: with the adapter as an
    engine in bfloat16 adds it to the base. The last two are missing in manifests of before, which engines
    in float32 can prove.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    prompt_token_ids: list[int]
    token_ids: list[int]
    logprobs: list[float]
    bf16_logprobs: list[float] = Field(default_factory=list)
    base_logprobs: list[float] = Field(default_factory=list)


class GateNumbers(BaseModel):
    """The offline comparison of a candidate with the live policy, as the gate judges it.

    Win rates are over `prompts` held-out prompts, one answer of each policy per prompt, scored by the
    judging reward model; ties count half. KL is in nats per response; `high` is the upper end of its
    one-sided 95% confidence interval, missing (None) in manifests of before. `scale`: what the trained
    adapter's B matrices were multiplied by; the version has them so, and everything here is of that.
    """

    # A budget may be infinite; JSON has no word for that, so it is written as the string "Infinity".
    model_config = ConfigDict(frozen=True, extra="allow", ser_json_inf_nan="strings")

    prompts: int = 0
    scale: float = 1.0
    win_rate: float = 0.5
    win_rate_low: float = 0.0  # lower end of the one-sided 95% confidence interval
    kl_nats_base: float = 0.0
    kl_nats_live: float = 0.0
    kl_nats_base_high: float | None = None
    kl_nats_live_high: float | None = None
    kl_budget_nats_base: float = float("inf")
    kl_budget_nats_live: float = float("inf")
    response_tokens: float = 0.0  # mean length of the candidate's answers
    response_tokens_live: float = 0.0
    guards: list[Guard] = Field(default_factory=list)  # none in manifests of before
    vetoes: list[str] = Field(default_factory=list)  # of the user's own checks: which, and why

    @property
    def length_ratio(self) -> float | None:
        """Answer length over the live policy's; None where it was not measured."""
        if self.response_tokens_live <= 0 or self.response_tokens <= 0:
            return None
        return self.response_tokens / self.response_tokens_live


class Manifest(BaseModel):
    """The immutable description of one adapter version."""

    model_config = ConfigDict(frozen=True, extra="allow", ser_json_inf_nan="strings")

    version: str  # policy-<seq>-<first 8 hex digits of the weights' sha256>
    seq: int = Field(ge=0)  # 0: made from demonstrations, for a service to start with
    parent: str  # the version it was trained from, or "base"
    base_digest: str  # sha256 over the base model's weight files
    files: dict[str, str]  # file name -> sha256
    created_at: float
    rank: int = Field(ge=1)
    # The matrices of the base that it changes: (inputs, outputs). None are known in manifests of before.
    modules: dict[str, tuple[int, int]] = Field(default_factory=dict)
    training: dict[str, int] = Field(default_factory=dict)  # labels, reward_updates, ppo_steps
    offsets: dict[str, int] = Field(default_factory=dict)  # log cursor that it was trained up to
    gate: GateNumbers = GateNumbers()
    probes: list[Probe] = Field(default_factory=list)
