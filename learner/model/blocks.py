"""The decoder blocks of Llama's family with LoRA, forward and backward written out.

The same numbers as transformers and peft give, in fewer and larger operations: all tokens of a batch lie
packed in one row after the other, so nothing but attention ever sees padding; query, key and value are one
matrix product, and so are gate and up; a projection and its adapter are computed together; and of what the
backward pass needs only what is dear to compute is kept. `learner.model.shared` uses it where a model is of
this kind, and falls back to transformers and peft elsewhere. `learner.model.native` has the same compiled, in
bfloat16.

A base in bfloat16 is multiplied in bfloat16, attention included, and what is kept of those factors for the
backward pass is in it. The residual stream, norms, rotations, softmax and adapters are float32 always; in an
`exact` pass the products are too, by a copy of a projection's weights that lasts as long as the product.

Shapes: T packed (real) tokens, P of them wanted at the end, H hidden size, R adapter rank times projections,
B rows of at most S tokens, h heads of d, k heads of keys. An adapted projection is x @ W.T + scale * (x @
A.T) @ B.T (Hu et al. 2021, arXiv:2106.09685, equation 3).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from learner.batching import Batch
from learner.model.quantized import QuantizedLinear, Stack

PROJECTIONS = (
    ("self_attn", ("q_proj", "k_proj", "v_proj")),
    ("self_attn", ("o_proj",)),
    ("mlp", ("gate_proj", "up_proj")),
    ("mlp", ("down_proj",)),
)
"""A block's linear layers; those in one group have the same input and are one matrix product."""


@dataclass(slots=True)
class Adapted:
    """Projections with one input: their weights stacked (O, H), their bias, and one adapter's matrices.

    weight: a `Stack` where the base is in 8 or 4 bits. down: (R, H), the projections' A stacked, None without
    an adapter; parameters: their A, (r, H) each, and then their B, (O_i, r) each.
    """

    weight: Tensor | Stack
    bias: Tensor | None
    down: Tensor | None
    parameters: tuple[Tensor, ...]
    scale: float

    @property
    def up(self) -> tuple[Tensor, ...]:
        """The projections' B."""
        return self.parameters[len(self.parameters) // 2 :]

    def spread(self) -> Tensor:
        """All B as one matrix (O, R), scaled: blocks on a diagonal, so that none sees another's input."""
        if len(self.up) == 1:
            return self.up[0].detach() * self.scale
        rank = self.up[0].shape[1]
        whole = self.up[0].new_zeros(len(self.weight), rank * len(self.up))
        row = 0
        for index, part in enumerate(self.up):
            whole[row : row + len(part), index * rank : (index + 1) * rank] = part.detach()
            row += len(part)
        return whole.mul_(self.scale)

    def forward(self, x: Tensor, run: "Run") -> tuple[Tensor, tuple[Tensor | None, ...]]:
        """Outputs (T, O) of inputs (T, H), and what `backward` wants: x itself and the adapter's share."""
        narrow = x.to(run.factors)
        y = torch.mm(narrow, self.weight.to(run.factors).t()).to(x.dtype)
        if self.bias is not None:
            y.add_(self.bias)
        if self.down is None:
            return y, (narrow, None, None)
        # low = x A', spread = scale B: y = x W' + low spread'. Both are kept: they are R wide.
        low, spread = torch.mm(x, self.down.detach().t()), self.spread()
        if run.bf16_sums:
            return add_in_bf16(y, torch.mm(low, spread.t())), (narrow, low, spread)
        return y.addmm_(low, spread.t()), (narrow, low, spread)

    def backward(
        self, dy: Tensor, saved: Sequence[Tensor | None], wants_input: bool = True
    ) -> tuple[Tensor | None, list[Tensor]]:
        """The gradients of the input (T, H) and of `parameters`."""
        narrow, low, spread = saved
        factors = self.weight.dtype if narrow is None else narrow.dtype
        dx = torch.mm(dy.to(factors), self.weight.to(factors)).to(dy.dtype) if wants_input else None
        if self.down is None or narrow is None or low is None or spread is None:
            return dx, []
        # The chain rule, W frozen: d_low = dy spread, dA = d_low' x, d_spread = dy' low, dx = dy W + d_low A.
        d_low = torch.mm(dy, spread)
        if dx is not None:
            dx.addmm_(d_low, self.down.detach())
        return dx, self._parts(torch.mm(dy.t(), low), torch.mm(d_low.t(), narrow.to(dy.dtype)))

    def _parts(self, d_up: Tensor, d_down: Tensor) -> list[Tensor]:
        """The gradients of `parameters` from those of all B as one (O, R) and of all A as one (R, H)."""
        # Of d_up only the blocks on the diagonal are anybody's; one product with the others in it is faster
        # than one for each projection. `spread` has the scale in it, so dB = scale times its block.
        rank, row, parts = self.up[0].shape[1], 0, []
        for index, part in enumerate(self.up):
            block = d_up[row : row + len(part), index * rank : (index + 1) * rank]
            parts.append(block * self.scale)
            row += len(part)
        return [*torch.split(d_down, rank), *parts]


def add_in_bf16(y: Tensor, change: Tensor) -> Tensor:
    """y + change, float32, with what is left of `change` when an engine has y and the sum in bfloat16:
    nothing of a change below half of y's last bit."""
    # y itself stays float32, as the trainer has it: of the engine's two roundings only what they make of the
    # change is taken.
    rounded = y.bfloat16().float()
    return y + (rounded + change).bfloat16().float().sub_(rounded)


def norm(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """RMSNorm (Zhang & Sennrich 2019) of x: (T, H), and 1 / rms: (T, 1)."""
    # The norm and its square, not the mean of squares: that would be a second (T, H).
    inverse = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
    return (x * inverse).mul_(weight), inverse


def norm_backward(dy: Tensor, x: Tensor, inverse: Tensor, weight: Tensor) -> Tensor:
    """The gradient of `norm`'s input."""
    # y_j = w_j x_j r with r = (|x|^2 / H + eps)^-1/2, and dr / dx_i = -r^3 x_i / H. So with g = w dy
    # dx_i = r g_i - (r^3 / H) (g . x) x_i. That eps counts is in r, for which `inverse` was kept.
    g = dy * weight
    along = torch.linalg.vecdot(g, x).unsqueeze(-1).mul_(inverse**3).div_(-x.shape[-1])
    return g.mul_(inverse).addcmul_(x, along)


def rotate_(heads: Tensor, cos: Tensor, sin: Tensor, sign: int = 1) -> Tensor:
    """Rotary positions (Su et al. 2021) in place on (T, h, d); cos, sin: (T, 1, d / 2); sign -1: back."""
    # A pair that turns together is (i, i + d / 2), as in transformers, not two neighbours as in the paper. A
    # rotation's transpose is the rotation back, so the gradient takes sign -1.
    half = heads.shape[-1] // 2
    one, two = heads[..., :half], heads[..., half:]
    kept = one * sin  # before `one` is overwritten
    one.mul_(cos).addcmul_(two, sin, value=-sign)
    two.mul_(cos).add_(kept, alpha=sign)
    return heads


class _Queries(torch.autograd.Function):
    """From a block's input (T, H) to the rotated queries, keys and values, padded: (B * S, (h + 2 k) d)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, block: "Block", run: "Run", *_: Tensor) -> Tensor:
        adapted = block.adapted(run.adapter, 0)
        normed, inverse = norm(x, block.norm_1, block.eps)
        y, saved = adapted.forward(normed, run)
        rotate_(block.turning(y), run.cos, run.sin)
        ctx.save_for_backward(x, inverse, *saved)
        ctx.block, ctx.run, ctx.adapted = block, run, adapted
        return y.to(run.factors).index_select(0, run.pad)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, inverse, *saved = ctx.saved_tensors
        block, run = ctx.block, ctx.run
        # Padding comes after the real tokens of its row, so under causal attention none of these saw it, and
        # its own gradient is zero: that of the real places is all of it.
        dy = grads[0].index_select(0, run.real).to(x.dtype)
        rotate_(block.turning(dy), run.cos, run.sin, -1)
        dx, parts = ctx.adapted.backward(dy, saved, ctx.needs_input_grad[0])
        if dx is not None:
            dx = norm_backward(dx, x, inverse, block.norm_1)
        return dx, None, None, *parts


class _Rest(torch.autograd.Function):
    """From attention's output (B * S, H), of which the places (P,) are taken, and the block's input (P, H) to
    the block's output (P, H)."""

    @staticmethod
    def forward(
        ctx: Any, mixed: Tensor, x: Tensor, block: "Block", run: "Run", places: Tensor, *_: Tensor
    ) -> Tensor:
        out, gates, down = (block.adapted(run.adapter, group) for group in (1, 2, 3))
        y, saved_1 = out.forward(mixed.index_select(0, places).to(x.dtype), run)
        middle = y.add_(x)
        normed, inverse = norm(middle, block.norm_2, block.eps)
        both, saved_2 = gates.forward(normed, run)
        gate, up = both.chunk(2, -1)
        y, saved_3 = down.forward(functional.silu(gate).mul_(up), run)
        kept = both.to(run.factors)  # before the activation, whose derivative wants it
        ctx.save_for_backward(middle, inverse, kept, places, *saved_1, *saved_2, *saved_3)
        ctx.block, ctx.groups, ctx.mixed, ctx.factors = block, (out, gates, down), mixed.shape, run.factors
        return y.add_(middle)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        middle, inverse, kept, places, *saved = ctx.saved_tensors
        block, (out, gates, down) = ctx.block, ctx.groups
        both = kept.to(middle.dtype)
        gate, up = both.chunk(2, -1)
        d_inner, parts_3 = down.backward(grads[0], saved[6:])
        # inner = silu(gate) up, so d_up = d_inner silu(gate) and d_gate = d_inner up silu'(gate). Both become
        # halves of one tensor, for the next product wants them side by side. d_up comes first: for d_gate
        # d_inner is multiplied in place.
        d_both = torch.empty_like(both)
        d_gate, d_up = d_both.chunk(2, -1)
        torch.mul(d_inner, functional.silu(gate), out=d_up)
        torch.ops.aten.silu_backward(d_inner.mul_(up), gate, grad_input=d_gate)
        d_normed, parts_2 = gates.backward(d_both, saved[3:6])
        # Around each half of the block goes the residual stream, along which a gradient passes as it is.
        d_middle = norm_backward(d_normed, middle, inverse, block.norm_2).add_(grads[0])
        d_taken, parts_1 = out.backward(d_middle, saved[:3])
        assert d_taken is not None
        # Places that were not taken, padding among them, had no part in the output.
        d_mixed = d_taken.new_zeros(ctx.mixed, dtype=ctx.factors)
        d_mixed.index_copy_(0, places, d_taken.to(ctx.factors))
        d_x = d_middle if ctx.needs_input_grad[1] else None
        return d_mixed, d_x, None, None, None, *parts_1, *parts_2, *parts_3


class _Norm(torch.autograd.Function):
    """RMSNorm with a frozen weight."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        y, inverse = norm(x, weight, eps)
        ctx.save_for_backward(x, inverse, weight)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, inverse, weight = ctx.saved_tensors
        return norm_backward(grads[0], x, inverse, weight), None, None


@dataclass(frozen=True, slots=True)
class Run:
    """One pass: its adapter, the rotation of its T tokens, (T, 1, d / 2) each, and where they are when they
    are padded to B rows of S.

    real: (T,) places in the flattened (B * S) rows; pad: (B * S,) the place of a padded row's token among the
    real ones, for padding that of any. factors: what the base's weights are multiplied in. bf16_sums: whether
    adapters are added as by `add_in_bf16`, which has no gradient.
    """

    adapter: str | None
    factors: torch.dtype
    bf16_sums: bool
    cos: Tensor
    sin: Tensor
    rows: int
    width: int
    real: Tensor
    pad: Tensor


class Block:
    """One decoder block of transformers with peft's layers in it. Weights of one group are stacked in place:
    the block's own layers become views, so the base stays in memory once."""

    def __init__(self, layer: Any, heads: tuple[int, int], head: int, adapters: Sequence[str]) -> None:
        (self.heads, self.kv_heads), self.head = heads, head
        self.norm_1 = layer.input_layernorm.weight.float()
        self.norm_2 = layer.post_attention_layernorm.weight.float()
        self.eps = float(layer.input_layernorm.variance_epsilon)
        groups = [[getattr(getattr(layer, part), name) for name in names] for part, names in PROJECTIONS]
        bases = [_stacked(group) for group in groups]
        self._adapted: dict[str | None, list[Adapted]] = {
            name: [_adapted(group, base, name) for group, base in zip(groups, bases, strict=True)]
            for name in (None, *adapters)
        }

    def adapted(self, adapter: str | None, group: int) -> Adapted:
        """One of the four groups of `PROJECTIONS` with an adapter, or none."""
        return self._adapted[adapter][group]

    def turning(self, y: Tensor) -> Tensor:
        """The heads in (T, (h + 2 k) d) that have rotary positions: queries and keys, (T, h + k, d)."""
        return y.view(len(y), -1, self.head)[:, : self.heads + self.kv_heads]

    def forward(self, x: Tensor, run: Run, wanted: Tensor | None) -> Tensor:
        """The block's output (T, H) of its input, or only its rows `wanted` (P,)."""
        first, rest = self.adapted(run.adapter, 0), [self.adapted(run.adapter, i) for i in (1, 2, 3)]
        padded: Tensor = _Queries.apply(x, self, run, *first.parameters)  # type: ignore[no-untyped-call]
        mixed = self._attend(padded, run)
        places = run.real
        if wanted is not None:
            places, x = places[wanted], x.index_select(0, wanted)
        parameters = [parameter for part in rest for parameter in part.parameters]
        out: Tensor = _Rest.apply(mixed, x, self, run, places, *parameters)  # type: ignore[no-untyped-call]
        return out

    def _attend(self, padded: Tensor, run: Run) -> Tensor:
        """Causal attention (B * S, h d) of queries, keys and values (B * S, (h + 2 k) d)."""
        # Rows are padded at their ends alone: causal attention needs no mask, so it takes its fast kernel.
        parts = padded.view(run.rows, run.width, -1, self.head)
        sizes = [self.heads, self.kv_heads, self.kv_heads]
        q, k, v = (part.transpose(1, 2) for part in torch.split(parts, sizes, 2))
        found = functional.scaled_dot_product_attention(
            q, k, v, is_causal=True, enable_gqa=self.heads != self.kv_heads
        )
        return found.transpose(1, 2).flatten(0, 1).flatten(1)


def _base(layer: Any) -> Any:
    """A projection without its adapters, if it has any."""
    return getattr(layer, "base_layer", layer)


def _stacked(group: Sequence[Any]) -> tuple[Tensor | Stack, Tensor | None]:
    """The base weights and biases of a group as one, of which its layers' own become views."""
    linears = [_base(layer) for layer in group]
    if all(isinstance(linear, QuantizedLinear) for linear in linears):
        biases = [linear.bias.data for linear in linears if linear.bias is not None]
        return Stack(linears), torch.cat(biases) if biases else None
    if len(linears) == 1:
        return linears[0].weight.data, None if linears[0].bias is None else linears[0].bias.data
    weight = torch.cat([linear.weight.data for linear in linears])
    bias = None if linears[0].bias is None else torch.cat([linear.bias.data for linear in linears])
    row = 0
    for linear in linears:
        end = row + linear.out_features
        linear.weight.data = weight[row:end]
        if bias is not None:
            linear.bias.data = bias[row:end]
        row = end
    return weight, bias


def _adapted(
    group: Sequence[Any], base: tuple[Tensor | Stack, Tensor | None], adapter: str | None
) -> Adapted:
    if adapter is None or not hasattr(group[0], "lora_A"):
        return Adapted(*base, None, (), 0.0)
    downs = [layer.lora_A[adapter].weight for layer in group]
    ups = [layer.lora_B[adapter].weight for layer in group]
    # All A of a group lie one after the other in the adapter's flat tensor (`FlatAdapter`), so their stack is
    # a view, and has what Adam does to them at once. A copy would have to be made anew after every update.
    first = downs[0].detach()
    down = first.as_strided((sum(len(part) for part in downs), first.shape[1]), first.stride())
    if any(
        part.data_ptr() != down[i * len(part) :].data_ptr() or not part.is_contiguous()
        for i, part in enumerate(downs)
    ):
        raise ValueError("the matrices A of a group do not lie one after the other")
    return Adapted(*base, down, (*downs, *ups), float(group[0].scaling[adapter]))


class PackedTrunk:
    """The decoder without its head, by the blocks above. Raises `Unsuitable` for another kind of model.

    recompute: keep of a block only its input, and compute the rest again in the backward pass (Chen et al.
    2016, arXiv:1604.06174): a third more work, and memory for one block instead of all.
    """

    def __init__(self, trunk: Any, adapters: Sequence[str], *, recompute: bool = False) -> None:
        self.recompute = recompute
        config = trunk.config
        _check_kind(trunk)
        heads = int(config.num_attention_heads)
        head = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
        self.embedding: Tensor = trunk.embed_tokens.weight
        self.rotary = trunk.rotary_emb
        self.norm, self.eps = trunk.norm.weight.float(), float(trunk.norm.variance_epsilon)
        self.blocks = [
            Block(layer, (heads, int(config.num_key_value_heads)), head, adapters) for layer in trunk.layers
        ]
        adapted = [block.adapted(adapters[0], 0).down is not None for block in self.blocks]
        self.frozen = adapted.index(True)  # so many blocks, the first ones, are the base's for every adapter

    def states(
        self,
        batch: Batch,
        adapter: str | None,
        *,
        layers: int | None = None,
        wanted: Tensor | None = None,
        exact: bool = False,
        bf16_sums: bool = False,
    ) -> Tensor:
        """The states (T, H), float32, after the first `layers` blocks, or after all and the final norm; only
        the rows `wanted` (P,) if given. exact: with products in float32, from the first block on. bf16_sums:
        see `Run`."""
        run = self._run(batch, adapter, torch.float32 if exact else self.embedding.dtype, bf16_sums)
        count = len(self.blocks) if layers is None else layers
        x, first = self._start(batch, count, exact=exact)
        for index, block in enumerate(self.blocks[first:count], first):
            taken = wanted if index == count - 1 else None  # before, others' attention wants every state
            if self.recompute and torch.is_grad_enabled():
                x = checkpoint(block.forward, x, run, taken, use_reentrant=False, preserve_rng_state=False)
            else:
                x = block.forward(x, run, taken)
        if layers is not None:
            return x
        out: Tensor = _Norm.apply(x, self.norm, self.eps)  # type: ignore[no-untyped-call]
        return out

    def base_states(
        self, batch: Batch, layers: int | None, wanted: Tensor | None, taps: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """The base's states (P, H) as `states` gives them, and in the same pass those after `taps` blocks
        each, rising and fewer than `layers`, (L, P, H). Without gradient."""
        run = self._run(batch, None, self.embedding.dtype, False)
        count = len(self.blocks) if layers is None else layers
        x, first = self._start(batch, count, exact=False)
        found = []
        for index, block in enumerate(self.blocks[first:count], first):
            if index in taps:
                found.append(x if wanted is None else x.index_select(0, wanted))
            x = block.forward(x, run, wanted if index == count - 1 else None)
        last = x if layers is not None else norm(x, self.norm, self.eps)[0]
        return last, torch.stack(found) if found else last.new_zeros(0, *last.shape)

    def _start(self, batch: Batch, count: int, *, exact: bool) -> tuple[Tensor, int]:
        """The states (T, H) that a pass of `count` blocks starts from, and before which block that is."""
        lower = batch.exact_lower if exact else batch.lower
        if lower is not None and count >= self.frozen:
            return lower, self.frozen
        return functional.embedding(batch.tokens.flatten()[batch.real], self.embedding).float(), 0

    def turns(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin, (T, d / 2) each, of the positions (T,)."""
        like = self.norm  # the rotation comes in its dtype and on its device
        cos, sin = (part[0, :, : part.shape[-1] // 2] for part in self.rotary(like, positions[None]))
        return cos.contiguous(), sin.contiguous()

    def _run(self, batch: Batch, adapter: str | None, factors: torch.dtype, bf16_sums: bool) -> Run:
        cos, sin = (part[:, None] for part in self.turns(batch.positions))
        rows, width = batch.tokens.shape
        return Run(adapter, factors, bf16_sums, cos, sin, rows, width, batch.real, batch.pad)


class Unsuitable(ValueError):
    """The model is of another kind than this file computes. The message says in what."""


def _check_kind(trunk: Any) -> None:
    missing = [name for name in ("embed_tokens", "layers", "norm", "rotary_emb") if not hasattr(trunk, name)]
    if missing:
        raise Unsuitable(f"it has no {missing[0]}")
    config = trunk.config
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    dtype, activation = trunk.embed_tokens.weight.dtype, getattr(config, "hidden_act", None)
    projections = [
        getattr(getattr(layer, part, None), name, None)
        for layer in trunk.layers
        for part, names in PROJECTIONS
        for name in names
    ]
    kinds = (nn.Linear, QuantizedLinear)
    plain = all(type(_base(each)) in kinds for each in projections)
    wrong = {
        f"its weights are {dtype}": dtype not in (torch.float32, torch.bfloat16),
        "its projections are not those of Llama's blocks, or not plain matrices": not plain,
        f"its activation is {activation}": activation != "silu",
        f"its rotary positions are {rope}": rope not in ("default", "linear", "llama3"),
        "it has norms on queries": hasattr(trunk.layers[0].self_attn, "q_norm"),
        "it has a sliding window": bool(getattr(config, "use_sliding_window", False)),
    }
    for why, holds in wrong.items():
        if holds:
            raise Unsuitable(why)
