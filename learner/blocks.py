"""The decoder blocks of Llama's family with LoRA, forward and backward written out, for float32 on a CPU.

The same numbers as transformers and peft give, in fewer and larger operations: all tokens of a batch lie
packed in one row after the other, so nothing but attention ever sees padding; query, key and value are one
matrix product, and so are gate and up; a projection and its adapter are computed together; and of what the
backward pass needs only what is dear to compute is kept. `learner.model` uses it where `fits` says that a
model is of this kind, and falls back to transformers and peft elsewhere.

Shapes: T packed (real) tokens, P of them wanted at the end, H hidden size, R adapter rank times projections,
B rows of at most S tokens, h heads of d, k heads of keys. An adapted projection is x @ W.T + scale * (x @
A.T) @ B.T (Hu et al. 2021, arXiv:2106.09685, equation 3).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from learner.batching import Batch
from learner.bf16 import COUNT, RANKS, WIDTH, batched, filled, product, product_of_columns, up_to

PROJECTIONS = (
    ("self_attn", ("q_proj", "k_proj", "v_proj")),
    ("self_attn", ("o_proj",)),
    ("mlp", ("gate_proj", "up_proj")),
    ("mlp", ("down_proj",)),
)
"""A block's linear layers; those in one group have the same input and are one matrix product."""

TABLE_BYTES = 8 << 20
"""The largest table of attention weights that is kept; longer rows have theirs computed again in pieces."""


@dataclass(slots=True)
class Adapted:
    """Projections with one input: their weights stacked (O, H), their bias, and one adapter's matrices.

    down: (R, H), the projections' A stacked, None without an adapter; parameters: their A, (r, H) each, and
    then their B, (O_i, r) each. wide, thin: all of it in bfloat16, from the first pass that asks for it on.
    lender: the same projections with an adapter, whose copy of the weights serves those without one.
    """

    weight: Tensor
    bias: Tensor | None
    down: Tensor | None
    parameters: tuple[Tensor, ...]
    scale: float
    lender: "Adapted | None" = None
    wide: Tensor | None = None
    thin: Tensor | None = None

    @property
    def up(self) -> tuple[Tensor, ...]:
        """The projections' B."""
        return self.parameters[len(self.parameters) // 2 :]

    def spread(self) -> Tensor:
        """All B as one matrix (O, R), scaled: blocks on a diagonal, so that none sees another's input."""
        if len(self.up) == 1:
            return self.up[0].detach() * self.scale
        rank = self.up[0].shape[1]
        whole = self.weight.new_zeros(len(self.weight), rank * len(self.up))
        row = 0
        for index, part in enumerate(self.up):
            whole[row : row + len(part), index * rank : (index + 1) * rank] = part.detach()
            row += len(part)
        return whole.mul_(self.scale)

    def inputs(self, x: Tensor, count: int, precision: str) -> tuple[Tensor, Tensor]:
        """What `forward` takes, for `count` tokens, and the part of it where their inputs (T, H) are to be.

        x: a tensor whose kind the inputs have. In bfloat16 there is room for the adapter's share beside them.
        """
        width = self.weight.shape[1]
        if precision != "bf16":
            whole = x.new_empty(count, width)
            return whole, whole
        share = 0 if self.down is None else up_to(len(self.down), RANKS)
        whole = x.new_empty(count, width + share, dtype=torch.bfloat16)
        return whole, whole[:, :width]

    def forward(self, x: Tensor, precision: str) -> tuple[Tensor, tuple[Tensor | None, ...]]:
        """Outputs (T, O) of inputs (T, H), and what `backward` wants: x itself and the adapter's share."""
        if precision == "bf16":
            return self._forward_bf16(x)
        y = torch.mm(x, self.weight.t())
        if self.bias is not None:
            y.add_(self.bias)
        if self.down is None:
            return y, (x, None, None)
        low, spread = torch.mm(x, self.down.detach().t()), self.spread()
        return y.addmm_(low, spread.t()), (x, low, spread)

    def backward(
        self, dy: Tensor, saved: Sequence[Tensor | None], precision: str, wants_input: bool = True
    ) -> tuple[Tensor | None, list[Tensor]]:
        """The gradients of the input (T, H) and of `parameters`."""
        if precision == "bf16":
            return self._backward_bf16(dy, saved, wants_input)
        x, low, spread = saved
        dx = torch.mm(dy, self.weight) if wants_input else None
        if self.down is None or x is None or low is None or spread is None:
            return dx, []
        d_low = torch.mm(dy, spread)
        if dx is not None:
            dx.addmm_(d_low, self.down.detach())
        return dx, self._parts(torch.mm(dy.t(), low), torch.mm(d_low.t(), x), self.scale)

    def _parts(self, d_up: Tensor, d_down: Tensor, scale: float) -> list[Tensor]:
        """The gradients of `parameters` from those of all B as one (O, R) and of all A as one (R, H)."""
        rank, row, parts = self.up[0].shape[1], 0, []
        for index, part in enumerate(self.up):
            block = d_up[row : row + len(part), index * rank : (index + 1) * rank]
            parts.append(block * scale if scale != 1 else block)
            row += len(part)
        return [*torch.split(d_down, rank), *parts]

    def _renewed(self) -> tuple[Tensor, Tensor]:
        """[weight, spread / scale] (O, H + R') and down (R', H) in bfloat16, R' the rank with zeros added.

        Of one buffer each, in which the adapter is renewed.
        """
        width, rank = self.weight.shape[1], 0 if self.down is None else len(self.down)
        if self.lender is not None:
            wide, thin = self.lender._renewed()
            return wide[:, :width], thin[:0]
        if self.wide is None or self.thin is None:
            room = up_to(rank, RANKS)
            self.wide = self.weight.new_zeros(len(self.weight), width + room, dtype=torch.bfloat16)
            self.wide[:, :width] = self.weight
            self.thin = self.weight.new_zeros(room, width, dtype=torch.bfloat16)
        if self.down is not None:
            self.thin[:rank] = self.down.detach()
        row, column = 0, width
        for part in self.up:
            self.wide[row : row + len(part), column : column + part.shape[1]] = part.detach()
            row, column = row + len(part), column + part.shape[1]
        return self.wide, self.thin

    def _forward_bf16(self, both: Tensor) -> tuple[Tensor, tuple[Tensor | None, ...]]:
        """[x, scale * x @ down.T] times [weight, B]: the adapter makes the one product a little deeper."""
        wide, thin = self._renewed()
        if len(thin):
            width = self.weight.shape[1]
            low = both[:, width:]
            product(both[:, :width], thin.t(), low)
            low.mul_(self.scale)
        y = product(both, wide.t())
        if self.bias is not None:
            y.add_(self.bias.bfloat16())
        return y, (both, None, None)

    def _backward_bf16(
        self, dy: Tensor, saved: Sequence[Tensor | None], wants_input: bool
    ) -> tuple[Tensor | None, list[Tensor]]:
        both, wide, thin, dy = saved[0], self.wide, self.thin, dy.bfloat16()
        if self.down is None:
            return product(dy, self._renewed()[0]), []
        assert both is not None
        assert wide is not None
        assert thin is not None
        width, rank = self.down.shape[1], len(self.down)
        d_both = product(dy, wide if wants_input else wide[:, width:])
        d_low, dx = d_both[:, -len(thin) :].mul_(self.scale), None
        d_up = product_of_columns(dy, both[:, width:])
        d_down = product_of_columns(d_low, both[:, :width])[:rank]
        if wants_input:
            dx = d_both[:, :width].add_(product(d_low, thin))
        return dx, self._parts(d_up, d_down, 1.0)


def norm(x: Tensor, weight: Tensor, eps: float, out: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """RMSNorm (Zhang & Sennrich 2019) of x: (T, H), and 1 / rms: (T, 1)."""
    inverse = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
    return torch.mul(x * inverse, weight, out=out), inverse


def norm_backward(dy: Tensor, x: Tensor, inverse: Tensor, weight: Tensor) -> Tensor:
    """The gradient of `norm`'s input."""
    g = dy * weight
    along = torch.linalg.vecdot(g, x).unsqueeze(-1).mul_(inverse**3).div_(-x.shape[-1])
    return g.mul_(inverse).addcmul_(x, along)


def rotate_(heads: Tensor, cos: Tensor, sin: Tensor, sign: int = 1) -> Tensor:
    """Rotary positions (Su et al. 2021) in place on (T, h, d); cos, sin: (T, 1, d / 2); sign -1: back."""
    half = heads.shape[-1] // 2
    one, two = heads[..., :half], heads[..., half:]
    kept = one * sin
    one.mul_(cos).addcmul_(two, sin, value=-sign)
    two.mul_(cos).add_(kept, alpha=sign)
    return heads


class _Queries(torch.autograd.Function):
    """From a block's input (T, H) to the rotated queries, keys and values, padded: (B * S, (h + 2 k) d)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, block: "Block", run: "Run", *_: Tensor) -> Tensor:
        adapted = block.adapted(run.adapter, 0)
        whole, inputs = adapted.inputs(x, len(x), run.precision)
        inverse = norm(x, block.norm_1, block.eps, inputs)[1]
        y, saved = adapted.forward(whole, run.precision)
        rotate_(block.turning(y), run.cos, run.sin)
        ctx.save_for_backward(x, inverse, *saved)
        ctx.block, ctx.run, ctx.adapted = block, run, adapted
        return y.index_select(0, run.pad)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, inverse, *saved = ctx.saved_tensors
        block, run = ctx.block, ctx.run
        dy = grads[0].index_select(0, run.real)
        dy[run.count :].zero_()
        rotate_(block.turning(dy), run.cos, run.sin, -1)
        dx, parts = ctx.adapted.backward(dy, saved, run.precision, ctx.needs_input_grad[0])
        if dx is not None:
            dx = norm_backward(dx, x, inverse, block.norm_1)
        return dx, None, None, *parts


class _Rest(torch.autograd.Function):
    """From attention's output (B * S, H), of which the places (P,) are taken, and the block's input (P, H) to
    the block's output (P, H). The first `count` places are all different."""

    @staticmethod
    def forward(
        ctx: Any, mixed: Tensor, x: Tensor, block: "Block", run: "Run", places: Tensor, count: int, *_: Tensor
    ) -> Tensor:
        out, gates, down = (block.adapted(run.adapter, group) for group in (1, 2, 3))
        precision = run.precision
        whole, inputs = out.inputs(x, len(x), precision)
        torch.index_select(mixed, 0, places, out=inputs) if inputs is whole else inputs.copy_(mixed[places])
        y, saved_1 = out.forward(whole, precision)
        middle = x + y
        whole, inputs = gates.inputs(x, len(x), precision)
        inverse = norm(middle, block.norm_2, block.eps, inputs)[1]
        both, saved_2 = gates.forward(whole, precision)
        gate, up = both.chunk(2, -1)
        whole, inputs = down.inputs(x, len(x), precision)
        torch.mul(functional.silu(gate), up, out=inputs)
        y, saved_3 = down.forward(whole, precision)
        ctx.save_for_backward(middle, inverse, both, places, *saved_1, *saved_2, *saved_3)
        ctx.block, ctx.groups, ctx.precision = block, (out, gates, down), precision
        ctx.mixed, ctx.count = mixed.shape, count
        return middle + y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        middle, inverse, both, places, *saved = ctx.saved_tensors
        block, (out, gates, down), count = ctx.block, ctx.groups, ctx.count
        gate, up = both.chunk(2, -1)
        d_inner, parts_3 = down.backward(grads[0], saved[6:], ctx.precision)
        d_both = torch.empty_like(both)
        d_gate, d_up = d_both.chunk(2, -1)
        torch.mul(d_inner, functional.silu(gate), out=d_up)
        torch.ops.aten.silu_backward(d_inner.mul_(up), gate, grad_input=d_gate)
        d_normed, parts_2 = gates.backward(d_both, saved[3:6], ctx.precision)
        d_middle = norm_backward(d_normed, middle, inverse, block.norm_2).add_(grads[0])
        d_taken, parts_1 = out.backward(d_middle, saved[:3], ctx.precision)
        assert d_taken is not None
        d_mixed = d_taken.new_zeros(ctx.mixed).index_copy_(0, places[:count], d_taken[:count])
        return (
            d_mixed,
            d_middle if ctx.needs_input_grad[1] else None,
            None,
            None,
            None,
            None,
            *parts_1,
            *parts_2,
            *parts_3,
        )


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
    """One pass: its adapter, the precision of products with base weights ("ieee" or "bf16"), the rotation of
    its T tokens, (T, 1, d / 2) each, and where they are when they are padded to B rows of S.

    real: (T,) places in the flattened (B * S) rows, of which the first `count` are all different; pad: (B *
    S,) the place of a padded row's token among the real ones, for padding that of any.
    """

    adapter: str | None
    precision: str
    cos: Tensor
    sin: Tensor
    rows: int
    width: int
    real: Tensor
    pad: Tensor
    count: int

    def chosen(self, wanted: Tensor) -> Tensor:
        """Some of the tokens, (P,), as a pass takes them: in bfloat16 the first again, up to whole tiles."""
        return filled(wanted) if self.precision == "bf16" else wanted


class Block:
    """One decoder block of transformers with peft's layers in it. Weights of one group are stacked in place:
    the block's own layers become views, so the base stays in memory once."""

    def __init__(self, layer: Any, heads: tuple[int, int], head: int, adapters: Sequence[str]) -> None:
        (self.heads, self.kv_heads), self.head = heads, head
        self.norm_1, self.norm_2 = layer.input_layernorm.weight, layer.post_attention_layernorm.weight
        self.eps = float(layer.input_layernorm.variance_epsilon)
        groups = [[getattr(getattr(layer, part), name) for name in names] for part, names in PROJECTIONS]
        bases = [_stacked(group) for group in groups]
        self._adapted: dict[str | None, list[Adapted]] = {
            name: [_adapted(group, base, name) for group, base in zip(groups, bases, strict=True)]
            for name in (None, *adapters)
        }
        for bare, lender in zip(self._adapted[None], self._adapted[adapters[0]], strict=True):
            bare.lender = lender

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
        places, count = run.real, run.count
        if wanted is not None:
            chosen, count = run.chosen(wanted), len(wanted)
            places, x = places[chosen], _rows(x, chosen, count)
        parameters = [parameter for part in rest for parameter in part.parameters]
        out: Tensor = _Rest.apply(mixed, x, self, run, places, count, *parameters)  # type: ignore[no-untyped-call]
        return out

    def _attend(self, padded: Tensor, run: Run) -> Tensor:
        """Causal attention (B * S, h d) of queries, keys and values (B * S, (h + 2 k) d)."""
        rows, width = run.rows, run.width
        if run.precision == "bf16" and 2 * rows * self.heads * width**2 <= TABLE_BYTES:
            mixed: Tensor = _Attention.apply(padded, self, run)  # type: ignore[no-untyped-call]
            return mixed
        q, k, v = (
            part.transpose(1, 2)
            for part in torch.split(
                padded.view(rows, width, -1, self.head), [self.heads, self.kv_heads, self.kv_heads], 2
            )
        )
        found = functional.scaled_dot_product_attention(
            q, k, v, is_causal=True, enable_gqa=self.heads != self.kv_heads
        )
        return found.transpose(1, 2).flatten(0, 1).flatten(1)


class _Attention(torch.autograd.Function):
    """Causal attention by batched products in bfloat16, its table of weights kept: for rows of a few dozen
    tokens several times faster than torch's fused one.

    Heads that share keys lie one after the other: G of them make G * S queries of one head of keys.
    """

    @staticmethod
    def forward(ctx: Any, padded: Tensor, block: Block, run: Run) -> Tensor:
        heads, kv, head, width = block.heads, block.kv_heads, block.head, run.width
        parts = padded.view(run.rows, width, -1, head).transpose(1, 2)
        q = parts[:, :heads].reshape(run.rows * kv, -1, head)
        k, v = (parts[:, start : start + kv].reshape(-1, width, head) for start in (heads, heads + kv))
        scores = batched(q, k.mT, COUNT * kv).view(-1, width, width)
        ahead = torch.full((width, width), -torch.inf).triu(1)
        table = torch.add(ahead, scores, alpha=head**-0.5).softmax(-1).bfloat16().view(len(q), -1, width)
        ctx.save_for_backward(q, k, v, table)
        ctx.block, ctx.run = block, run
        mixed = batched(table, v, COUNT * kv).view(run.rows, heads, width, head).transpose(1, 2)
        return mixed.reshape(run.rows * width, heads * head)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        q, k, v, table = ctx.saved_tensors
        heads, kv, head, width = ctx.block.heads, ctx.block.kv_heads, ctx.block.head, ctx.run.width
        out = grads[0].view(-1, width, heads, head).transpose(1, 2).reshape(len(q), -1, head)
        d_table = batched(out, v.mT, COUNT * kv)
        d_scores = torch._softmax_backward_data(d_table, table, -1, table.dtype).mul_(head**-0.5)
        whole = q.new_empty(ctx.run.rows, width, heads + 2 * kv, head)
        parts = whole.transpose(1, 2)
        parts[:, :heads] = batched(d_scores, k, COUNT * kv).view(-1, heads, width, head)
        parts[:, heads : heads + kv] = batched(d_scores.mT, q, COUNT * kv).view(-1, kv, width, head)
        parts[:, heads + kv :] = batched(table.mT, out, COUNT * kv).view(-1, kv, width, head)
        return whole.view(-1, whole.shape[2] * head), None, None


class _Rows(torch.autograd.Function):
    """Some rows, of which the first `count` are all different; no gradient comes back from the others."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor, count: int) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.shape, ctx.count = x.shape, count
        return x.index_select(0, rows)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        rows, count = ctx.saved_tensors[0], ctx.count
        return grads[0].new_zeros(ctx.shape).index_copy_(0, rows[:count], grads[0][:count]), None, None


def _rows(x: Tensor, rows: Tensor, count: int) -> Tensor:
    out: Tensor = _Rows.apply(x, rows, count)  # type: ignore[no-untyped-call]
    return out


def _stacked(group: Sequence[Any]) -> tuple[Tensor, Tensor | None]:
    """The base weights and biases of a group as one, of which its layers' own become views."""
    linears = [layer.base_layer for layer in group]
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


def _adapted(group: Sequence[Any], base: tuple[Tensor, Tensor | None], adapter: str | None) -> Adapted:
    if adapter is None:
        return Adapted(*base, None, (), 0.0)
    downs = [layer.lora_A[adapter].weight for layer in group]
    ups = [layer.lora_B[adapter].weight for layer in group]
    first = downs[0].detach()
    down = first.as_strided((sum(len(part) for part in downs), first.shape[1]), first.stride())
    if any(
        part.data_ptr() != down[i * len(part) :].data_ptr() or not part.is_contiguous()
        for i, part in enumerate(downs)
    ):
        raise ValueError("the matrices A of a group do not lie one after the other")
    return Adapted(*base, down, (*downs, *ups), float(group[0].scaling[adapter]))


class PackedTrunk:
    """The decoder without its head, by the blocks above. Raises `Unsuitable` for another kind of model."""

    def __init__(self, trunk: Any, adapters: Sequence[str]) -> None:
        config = trunk.config
        _check_kind(trunk)
        heads = int(config.num_attention_heads)
        head = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
        self._embedding: Tensor = trunk.embed_tokens.weight
        self._rotary = trunk.rotary_emb
        self._norm = trunk.norm
        self._blocks = [
            Block(layer, (heads, int(config.num_key_value_heads)), head, adapters) for layer in trunk.layers
        ]

    def states(
        self,
        batch: Batch,
        adapter: str | None,
        precision: str = "ieee",
        *,
        layers: int | None = None,
        wanted: Tensor | None = None,
    ) -> Tensor:
        """The states (T, H) after the first `layers` blocks, or after all and the final norm; only the rows
        `wanted` (P,) if given."""
        run = self._run(batch, adapter, precision)
        tokens = batch.tokens.flatten()[batch.real]
        x = functional.embedding(run.chosen(tokens), self._embedding)
        count = len(self._blocks) if layers is None else layers
        for index, block in enumerate(self._blocks[:count]):
            x = block.forward(x, run, wanted if index == count - 1 else None)
        x = x[: run.count if wanted is None else len(wanted)]
        if layers is not None:
            return x
        eps = float(self._norm.variance_epsilon)
        out: Tensor = _Norm.apply(x, self._norm.weight, eps)  # type: ignore[no-untyped-call]
        return out

    def _run(self, batch: Batch, adapter: str | None, precision: str) -> Run:
        """A pass over a batch; in bfloat16 its rows become as wide and as many as products like them."""
        rows, width = batch.tokens.shape
        real, pad, positions, dtype = batch.real, batch.pad, batch.positions, self._embedding.dtype
        if precision == "bf16":
            wider, dtype = up_to(width, WIDTH), torch.bfloat16
            pad = real.new_zeros(up_to(rows, COUNT), wider)
            pad[:rows, :width] = batch.pad.view(rows, width)
            rows, pad = len(pad), pad.flatten()
            real = filled(real + real // width * (wider - width))
            width, positions = wider, filled(positions)
        cos, sin = (
            part[0, :, None, : part.shape[-1] // 2].to(dtype, copy=True)
            for part in self._rotary(self._embedding, positions[None])
        )
        return Run(adapter, precision, cos, sin, rows, width, real, pad, len(batch.real))


class Unsuitable(ValueError):
    """The model is of another kind than this file computes. The message says in what."""


def _check_kind(trunk: Any) -> None:
    config = trunk.config
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    layer = trunk.layers[0]
    wrong = {
        "its weights are not float32 on a CPU": trunk.embed_tokens.weight.dtype != torch.float32
        or trunk.embed_tokens.weight.device.type != "cpu",
        f"its activation is {config.hidden_act}": config.hidden_act != "silu",
        f"its rotary positions are {rope}": rope not in ("default", "linear", "llama3"),
        "it has norms on queries": hasattr(layer.self_attn, "q_norm"),
        "it has a sliding window": bool(getattr(config, "use_sliding_window", False)),
    }
    for why, holds in wrong.items():
        if holds:
            raise Unsuitable(why)
