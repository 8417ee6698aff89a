"""One frozen base model in memory, and every model that learning needs as a small LoRA adapter on it."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from learner.batching import Batch, Item, in_buckets, make_batch
from learner.model import native
from learner.model.adapters import FlatAdapter, RankTooLow, embed, on_layers_of, rank_of
from learner.model.base import linear_names, load, weight_files
from learner.model.blocks import PackedTrunk, Unsuitable, add_in_bf16
from learner.model.head import NextTokens, OutputLayer, TokenLogprobs
from learner.model.native.head import compiled
from learner.model.native.trunk import NativeTrunk
from learner.model.quantized import CannotQuantize
from learner.model.width import default_rank
from learner.settings import LearnerSettings, Products

logger = logging.getLogger("hearken.learner")

POLICY, LIVE = "policy", "live"
ADAPTERS = (POLICY, LIVE)
READER = "reader"  # of the reward model, see `learner.reward.reader`
STATES_APART = {torch.float32: 1e-4, torch.bfloat16: 0.1}
"""Relative distance of our blocks' states from transformers' that rounding explains. Another kind of block is
off by 1 or so."""
WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"


class SharedModel:
    """A frozen causal language model with the adapters `ADAPTERS`; the reference policy is the base alone.
    `adapters`: their names, with `READER` if that was asked for.

    folder: a folder in Hugging Face format, or a hub name that is already in the cache or can be fetched.
    rank, alpha: of the LoRA adapters, which sit on every linear layer of the blocks; a fresh adapter changes
    nothing. rank None: by the model's width (`default_rank`). adapted_layers: the share of the blocks that
    have them, counted from the last; the others are the base's for every adapter, and what they make of a
    text can be kept (`Batch.lower`). dtype: of the base (adapters and logprobs are always float32). seed: of
    the adapters' first weights. max_tokens: padded tokens of one forward pass without gradient; None for what
    suits the device. packed: whether to use `learner.model.blocks` where they fit the model. bf16_products:
    take passes through `learner.model.native` where it fits the packed model, but where `exact` is asked for.
    Raises `ValueError` when it cannot be had on this machine. reader: whether there is to be an adapter
    `READER`.
    recompute: keep for the backward pass only what goes into each block; `learner.model.native` keeps little
    anyway and takes no notice. base_bits: 16, or 8 or 4 for a base that is kept in so few (see
    `learner.model.quantized`); passes that are `exact` are those of the base as it is served. Raises
    `CannotQuantize` when bitsandbytes is not there, or the base cannot be had so.

    Wherever `adapter` is asked for, None means the base. There is no dropout, so the same input gives the
    same output with and without gradient.
    """

    def __init__(
        self,
        folder: str,
        *,
        rank: int | None = None,
        alpha: int = 16,
        device: str | torch.device | None = None,
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
        max_tokens: int | None = None,
        packed: bool = True,
        bf16_products: bool = False,
        reader: bool = False,
        recompute: bool = False,
        base_bits: int = 16,
        adapted_layers: float = 1.0,
    ) -> None:
        self.adapters = (*ADAPTERS, READER) if reader else ADAPTERS
        self.name, self.alpha = str(folder), alpha
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.recompute = recompute
        self.max_tokens = max_tokens or (1024 if self.device.type == "cpu" else 8192)
        if bf16_products and base_bits < 16:
            raise CannotQuantize(
                f"products in bfloat16 on a CPU need the base in 16 bits, not in {base_bits}; "
                'take products "auto" or "float32", or base_bits 16'
            )
        base, self._served = load(self.name, dtype, self.device, base_bits)
        self._check_head(base)
        self.target_modules = linear_names(base)
        self.hidden_size = int(base.config.hidden_size)
        self.rank = rank or default_rank(self.hidden_size)
        self.vocab_size = int(base.config.vocab_size)
        self.layers = int(base.config.num_hidden_layers)
        self.frozen_layers = self.layers - max(1, round(adapted_layers * self.layers))
        self.context: int | None = getattr(base.config, "max_position_embeddings", None)  # tokens
        self.eos_token_ids = _eos_token_ids(base)
        self._head = OutputLayer(base.get_output_embeddings())
        self._trunk: nn.Module = base.base_model  # looked up before peft wraps its layers in place
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._peft = get_peft_model(base, self._config(), adapter_name=POLICY)
            for name in self.adapters[1:]:
                self._peft.add_adapter(name, self._config())
        self._peft.eval()
        self._layers = [module for module in self._peft.modules() if isinstance(module, LoraLayer)]
        self._adapters = {name: _adapter_parameters(self._peft, name) for name in self.adapters}
        self.flat = {name: FlatAdapter(parameters) for name, parameters in self._adapters.items()}
        self.flat[LIVE].weights.requires_grad_(False)
        self._packed = self._packed_trunk() if packed else None
        self._native = self._native_trunk() if bf16_products and self._packed is not None else None
        if self._native is not None:
            self._head = compiled(self._head, self.name)
        self._selected: str | None = "?"
        self._select(None)
        if recompute and self._packed is None:
            self._recompute_layers()

    @classmethod
    def of(cls, settings: LearnerSettings) -> "SharedModel":
        """The model that a learner is to train, in the arithmetic that its settings ask for."""
        reader = settings.reward.reader_tokens > 0
        return cls.fitting(
            settings.model,
            settings.products,
            rank=settings.rank,
            seed=settings.seed,
            reader=reader,
            recompute=settings.recompute,
            base_bits=settings.base_bits,
            adapted_layers=settings.adapted_layers,
        )

    @classmethod
    def fitting(
        cls,
        folder: str,
        products: Products = "auto",
        *,
        rank: int | None,
        seed: int = 0,
        reader: bool = False,
        recompute: bool = False,
        base_bits: int = 16,
        adapted_layers: float = 1.0,
    ) -> "SharedModel":
        """A model in the arithmetic that suits this machine.

        "auto" is bfloat16 on a GPU and on a processor that is fast at it, and float32 elsewhere. On a GPU the
        base itself is in bfloat16 then. On a CPU a base in fewer than 16 bits is multiplied in float32.
        """
        on_gpu = torch.cuda.is_available()
        fast = on_gpu or (base_bits == 16 and native.library() is not None)
        rough = products == "bfloat16" or (products == "auto" and fast)
        return cls(
            folder,
            rank=rank,
            seed=seed,
            dtype=torch.bfloat16 if rough and on_gpu else torch.float32,
            bf16_products=rough and not on_gpu,
            reader=reader,
            recompute=recompute,
            base_bits=base_bits,
            adapted_layers=adapted_layers,
        )

    @property
    def is_native(self) -> bool:
        """Whether passes are in bfloat16, by `learner.model.native`, but where `exact` is asked for."""
        return self._native is not None

    @property
    def is_packed(self) -> bool:
        """Whether forward and backward passes are those of `learner.model.blocks`."""
        return self._packed is not None

    def _packed_trunk(self) -> PackedTrunk | None:
        """The trunk by `learner.model.blocks`, if this model is of their kind and they give the same
        states."""
        try:
            trunk = PackedTrunk(self._trunk, self.adapters, recompute=self.recompute)
        except Unsuitable as why:
            logger.info("%s goes through transformers' own layers: %s", self.name, why)
            return None
        length = min(48, int(getattr(self._trunk.config, "max_position_embeddings", 48)))
        tokens = torch.arange(length) % self.vocab_size
        batch = make_batch([(tokens.tolist(), ()), (tokens[:3].tolist(), ())], self.device)
        with torch.no_grad():
            for layer in self._layers:
                layer.enable_adapters(False)
            theirs = self._trunk(batch.tokens, use_cache=False)[0].flatten(0, 1)[batch.real].float()
            ours = trunk.states(batch, None)
        apart = float((ours - theirs).norm() / theirs.norm())
        if not apart < STATES_APART[trunk.embedding.dtype]:
            logger.warning(
                "%s goes through transformers' own layers: states differ by %.2g", self.name, apart
            )
            return None
        return trunk

    def _native_trunk(self) -> NativeTrunk | None:
        """The packed trunk in bfloat16, if it is of sizes that this is made for."""
        library = native.library()
        if library is None:
            raise ValueError(
                "products in bfloat16 need a processor with AVX512-BF16 and a C++ compiler; "
                'take "auto" or "float32"'
            )
        assert self._packed is not None
        try:
            return NativeTrunk(
                library, self._packed, {name: flat.weights for name, flat in self.flat.items()}
            )
        except Unsuitable as why:
            logger.info("products of %s stay in float32: %s", self.name, why)
            return None

    def _recompute_layers(self) -> None:
        """Let transformers' layers keep their inputs only. A layer that is computed again needs the adapter
        that it had, whichever acts by then."""
        for layer in self._trunk.modules():
            if isinstance(layer, GradientCheckpointingLayer):
                layer.forward = self._recomputed(layer.forward)

    def _recomputed(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            adapter = self._selected

            def again(*args: Any, **kwargs: Any) -> Any:
                self._select(adapter)
                return forward(*args, **kwargs)

            if not torch.is_grad_enabled():
                return forward(*args, **kwargs)
            return checkpoint(again, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

        return run

    def _config(self) -> LoraConfig:
        return LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=0.0,
            target_modules=self.target_modules,
            layers_to_transform=self._adapted_layers,
            bias="none",
            task_type="CAUSAL_LM",
        )

    @property
    def _adapted_layers(self) -> list[int] | None:
        """The numbers of the blocks that have adapters, None for all."""
        return [*range(self.frozen_layers, self.layers)] if self.frozen_layers else None

    def _check_head(self, base: Any) -> None:
        """Logits are made here by the output layer alone, so a model that does more must not pass."""
        tokens = torch.tensor([[1, 2, 3]], device=self.device)
        with torch.no_grad():
            whole = base(tokens, use_cache=False).logits[0].float()
            ours = OutputLayer(base.get_output_embeddings()).logits(
                base.base_model(tokens, use_cache=False)[0][0].float()
            )
        rounding = 1e-3 if base.dtype == torch.float32 else 2**-6  # theirs are rounded to the base's dtype
        if not torch.allclose(whole, ours, atol=rounding, rtol=rounding):
            raise ValueError(
                f"{self.name} changes its logits after the output layer (soft-capping or scaling); "
                "a model whose logits are the output layer's is needed"
            )

    def _select(self, adapter: str | None) -> None:
        """Make one adapter, or none, act in the next forward pass.

        peft also switches requires_grad with every change, and a backward pass silently skips a weight that
        was switched off after its forward pass. So the flags are put back: what is in the graph is trained.
        """
        if adapter == self._selected:
            return
        for layer in self._layers:
            if adapter is None:
                layer.enable_adapters(False)
            else:
                layer.set_adapter([adapter])
                layer.enable_adapters(True)
        for name, parameters in self._adapters.items():
            for parameter in parameters.values():
                parameter.requires_grad_(name != LIVE)
        self._selected = adapter

    def _check_name(self, adapter: str | None) -> None:
        if adapter is not None and adapter not in self.adapters:
            raise ValueError(f"there is no adapter {adapter!r}; there are {', '.join(self.adapters)}")

    def knows(self, token_ids: Sequence[int]) -> bool:
        """Whether all of them are tokens of this model."""
        return not token_ids or (min(token_ids) >= 0 and max(token_ids) < self.vocab_size)

    # ---- forward passes

    def hidden(
        self, batch: Batch, adapter: str | None, layers: int | None = None, *, exact: bool = False
    ) -> Tensor:
        """The states (B, S, H), float32, after the last layer's final norm, or after the first `layers`
        layers. exact: with all products in float32, where the passes are ours, and the base as it is
        served; without gradient where it is kept in fewer than 16 bits."""
        self._check_name(adapter)
        if self._packed is not None:
            states = self._packed_states(batch, adapter, layers=layers, exact=exact)
            return states[batch.pad].reshape(*batch.tokens.shape, -1)
        self._select(adapter)
        with self._as_served(exact):
            found = self._trunk(batch.tokens, use_cache=False, output_hidden_states=layers is not None)
        whole: Tensor = found[0] if layers is None else found.hidden_states[layers]
        return whole.float()

    def predicting_states(
        self, batch: Batch, adapter: str | None, *, exact: bool = False, bf16_sums: bool = False
    ) -> Tensor:
        """The states (N, H) from which the N real answer tokens are predicted, row after row.

        exact, bf16_sums: see `answer_logprobs`.
        """
        if self._packed is None:
            with self._bf16_sums() if bf16_sums else nullcontext():
                return self.hidden(batch, adapter, exact=exact).flatten(0, 1)[batch.predicting]
        self._check_name(adapter)
        wanted = batch.pad[batch.predicting]
        return self._packed_states(batch, adapter, wanted=wanted, exact=exact, bf16_sums=bf16_sums)

    @contextmanager
    def _bf16_sums(self) -> Iterator[None]:
        """Let transformers' layers add adapters as `add_in_bf16` does. In bfloat16 peft's sums are such."""

        def add(layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            y = layer.base_layer(inputs[0])
            return add_in_bf16(y, output - y)

        dtype = self._head.weight.dtype
        hooks = [layer.register_forward_hook(add) for layer in self._layers if dtype == torch.float32]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    @torch.no_grad()
    def layer_states(self, batch: Batch, layers: Sequence[int], wanted: Tensor) -> Tensor:
        """The base's states (L, P, H) after so many layers each, rising and fewer than all, in one pass.

        wanted: (P,) places of tokens among the real ones, rising.
        """
        trunk = self._packed if self._native is None else self._native
        if trunk is not None:
            last, before = trunk.base_states(batch, layers[-1], wanted, layers[:-1])
            return torch.cat([before, last[None]])
        self._select(None)
        if not layers:
            return torch.zeros(0, len(wanted), self.hidden_size, device=self.device)
        found = self._trunk(batch.tokens, use_cache=False, output_hidden_states=True).hidden_states
        places = batch.real[wanted]
        return torch.stack([found[count].flatten(0, 1)[places] for count in layers])

    @torch.no_grad()
    def read_base(self, batch: Batch, layers: Sequence[int]) -> tuple[Batch, Tensor, Tensor]:
        """One pass of the base: the batch with `Batch.lower`, if there is any; the states (N, H) that predict
        the answers' tokens; and those of the answers' tokens themselves after so many `layers` each, rising
        and fewer than all, (L, N, H)."""
        trunk = self._packed if self._native is None else self._native
        predicting, answers = batch.pad[batch.predicting], batch.answers
        if trunk is None:
            states = self.layer_states(batch, layers, answers)
            return batch, self.predicting_states(batch, None), states.float()
        wanted = torch.unique(torch.cat([predicting, answers]))
        low = [count for count in layers if count < self.frozen_layers]
        below = []
        if self.frozen_layers:
            lower, found = trunk.base_states(batch, self.frozen_layers, None, low)
            below, batch = [found[:, wanted]], replace(batch, lower=lower)
        last, above = trunk.base_states(batch, None, wanted, layers[len(low) :])
        taps = torch.cat([*below, above])
        return (
            batch,
            last[torch.searchsorted(wanted, predicting)],
            taps[:, torch.searchsorted(wanted, answers)],
        )

    def final_states(self, batch: Batch, adapter: str | None) -> Tensor:
        """The states (B, H) at the last answer tokens."""
        return self.hidden(batch, adapter).flatten(0, 1)[batch.final]

    def _packed_states(
        self,
        batch: Batch,
        adapter: str | None,
        *,
        layers: int | None = None,
        wanted: Tensor | None = None,
        exact: bool,
        bf16_sums: bool = False,
    ) -> Tensor:
        if self._native is not None and not exact:
            return self._native.states(batch, adapter, layers=layers, wanted=wanted)
        assert self._packed is not None
        with self._as_served(exact):
            return self._packed.states(
                batch, adapter, layers=layers, wanted=wanted, exact=exact, bf16_sums=bf16_sums
            )

    def _as_served(self, exact: bool) -> AbstractContextManager[None]:
        """In an exact pass, compute with the base as its files have it, whatever it is kept in."""
        return self._served.acting() if exact and self._served is not None else nullcontext()

    def answer_states(self, batch: Batch, adapter: str | None) -> Tensor:
        """The states (N, H) at the N real answer tokens themselves, row after row."""
        if self._packed is None:
            return self.hidden(batch, adapter).flatten(0, 1)[batch.predicting + 1]
        self._check_name(adapter)
        return self._packed_states(batch, adapter, wanted=batch.answers, exact=False)

    def token_logprobs(self, states: Tensor, tokens: Tensor) -> Tensor:
        """Logprobs (nats, (N,)) of the tokens that follow `states: (N, H)`, float32.

        Logits are made for a slice of the N at a time.
        """
        found: Tensor = TokenLogprobs.apply(states, tokens, self._head)  # type: ignore[no-untyped-call]
        return found

    @torch.no_grad()
    def compare(self, states: Tensor, others: Sequence[Tensor], tokens: Tensor) -> NextTokens:
        """What the distributions of the next token say after `states: (N, H)`, without gradient.

        others: (N, H) each, what they are compared with; tokens: (N,) that followed.
        """
        return self._head.compare(states, others, tokens)

    def answer_logprobs(
        self, items: Sequence[Item], adapter: str | None, *, exact: bool = False, bf16_sums: bool = False
    ) -> Tensor:
        """Logprobs (nats) of each answer's tokens, (B, T) on the CPU, 0 after its end. No gradient.

        exact: with all products in float32, as an engine in float32 has them, where the passes are ours, and
        with the base as engines serve it.
        bf16_sums: with that of the adapter which is left when it is added to the base in bfloat16, as an
        engine in bfloat16 does it; together with `exact`, otherwise without that engine's noise.
        """
        out = torch.zeros(len(items), max(len(answer) for _, answer in items))
        with torch.no_grad():
            for rows, batch in in_buckets(items, self.max_tokens, self.device):
                states = self.predicting_states(batch, adapter, exact=exact, bf16_sums=bf16_sums)
                logprobs = self.token_logprobs(states, batch.targets)
                part = torch.zeros(batch.mask.shape)
                part[batch.mask.cpu()] = logprobs.float().cpu()
                out[rows, : part.shape[1]] = part
        return out

    # ---- adapters

    def parameters(self, adapter: str) -> list[nn.Parameter]:
        """The weights of one adapter, in a fixed order."""
        return list(self._adapters[adapter].values())

    @property
    def adapted(self) -> dict[str, tuple[int, int]]:
        """The matrices of the base that adapters change, named as in an adapter file: (inputs, outputs)."""
        return {
            name: (layer.base_layer.in_features, layer.base_layer.out_features)
            for name, layer in self._peft.named_modules()
            if hasattr(layer, "lora_A") and hasattr(layer, "base_layer")
        }

    def adapter_state(self, adapter: str) -> dict[str, Tensor]:
        """A copy of an adapter's weights, named as in an adapter file."""
        return {key: value.detach().cpu().clone() for key, value in self._adapters[adapter].items()}

    def load_adapter_state(self, adapter: str, state: dict[str, Tensor], alpha: float | None = None) -> None:
        """Overwrite an adapter's weights, also by those of a lower rank, on fewer layers, or with another
        alpha (None: ours).

        Raises `ValueError` when they are not of this base, `RankTooLow` when this model's rank is too low,
        `LayersTooFew` when they change layers that ours are not on.
        """
        ours = self._adapters[adapter]
        state = on_layers_of(ours, state)
        wrong = sorted(ours.keys() ^ state.keys())
        if wrong:
            raise ValueError(f"the weights do not fit {self.name}: {wrong[0]} is on one side only")
        rank, alpha = rank_of(state), self.alpha if alpha is None else alpha
        if rank > self.rank:
            raise RankTooLow(f"an adapter of rank {rank} needs a rank of {rank} at least, not {self.rank}")
        if (rank, alpha) != (self.rank, self.alpha):
            state = embed(state, self.rank, (alpha / rank) / (self.alpha / self.rank))
        for key, value in state.items():
            if value.shape != ours[key].shape:
                raise ValueError(f"{key} has shape {tuple(value.shape)}; {tuple(ours[key].shape)} is needed")
        with torch.no_grad():
            for key, value in state.items():
                ours[key].copy_(value)

    def copy_adapter(self, source: str, target: str) -> None:
        """Make `target`'s weights equal to `source`'s."""
        self.load_adapter_state(target, self.adapter_state(source))

    def same(self, one: str, other: str) -> bool:
        """Whether two adapters change the base alike: by the same weights, or not at all."""
        equal = torch.equal(self.flat[one].weights, self.flat[other].weights)
        return equal or (self.is_base(one) and self.is_base(other))

    def is_base(self, adapter: str) -> bool:
        """Whether an adapter changes nothing: all its second matrices are zero."""
        return not any(
            bool(value.detach().any()) for key, value in self._adapters[adapter].items() if ".lora_B." in key
        )

    def save_policy(self, folder: str | Path) -> None:
        """Write the policy adapter as peft and vLLM read it. The same weights give the same bytes."""
        config = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": Path(self.name).name if Path(self.name).is_dir() else self.name,
            "r": self.rank,
            "lora_alpha": self.alpha,
            "lora_dropout": 0.0,
            "target_modules": self.target_modules,
            "bias": "none",
            "inference_mode": True,
        }
        if self.frozen_layers:
            config["layers_to_transform"] = self._adapted_layers
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        state = {key: value.contiguous() for key, value in self.adapter_state(POLICY).items()}
        save_file(state, target / WEIGHTS_FILE, metadata={"format": "pt"})
        (target / CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")

    def load_adapter(self, folder: str | Path, adapter: str = POLICY) -> None:
        """Overwrite an adapter with a saved one. Raises as `load_adapter_state`."""
        config = json.loads((Path(folder) / CONFIG_FILE).read_text())
        self.load_adapter_state(adapter, load_file(Path(folder) / WEIGHTS_FILE), config["lora_alpha"])

    @property
    def policy_digest(self) -> str:
        """sha256 (hex) over the policy adapter's weights."""
        return hashlib.sha256(self.flat[POLICY].weights.detach().cpu().numpy().tobytes()).hexdigest()

    # ---- the base

    @cached_property
    def base_digest(self) -> str:
        """See `digest_of_base`."""
        return digest_of_base(self.name)


def digest_of_base(folder: str | Path) -> str:
    """sha256 (hex) over the bytes of a base's safetensors files, in the order of their names."""
    digest = hashlib.sha256()
    for file in weight_files(str(folder)):
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _eos_token_ids(base: Any) -> tuple[int, ...]:
    """Every token id that ends an answer, by the generation settings and else by the model's."""
    config = base.generation_config if base.generation_config.eos_token_id is not None else base.config
    ids = config.eos_token_id
    if ids is None:
        return ()
    return tuple(ids) if isinstance(ids, (list, tuple)) else (int(ids),)


def _adapter_parameters(model: nn.Module, adapter: str) -> dict[str, nn.Parameter]:
    """An adapter's weights by their name in an adapter file, which does not tell the adapter's own name."""
    mark = f".{adapter}.weight"
    return {
        name.removesuffix(mark) + ".weight": parameter
        for name, parameter in model.named_parameters()
        if ".lora_" in name and name.endswith(mark)
    }
