// The decoder blocks of Llama's family with LoRA, forward and backward, in bfloat16 with float32 sums.
//
// What learner/model/blocks.py writes out for float32. A call takes packed rows of tokens through all blocks. Every
// thread takes rows of its own, so nothing waits and the threads meet once; a row's numbers do not depend on its
// company. Factors of the base's weights are packed once, those of an adapter with every forward pass. What is cheap
// to compute again for the backward pass is not kept.
//
// Names and shapes are those of learner/model/blocks.py: H hidden size, h heads of d, k heads of keys, R the rank of
// a group's adapters together.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <vector>

#include "products.h"

namespace {

constexpr int RANKS = 8;   // rows of an adapter's gradient that are summed at a time
constexpr int GROUPS = 4;  // of projections in a block: query key value, out, gate up, down

// The products of columns that gradients of adapters are: sums (ranks, columns) += low.T @ wide, of low
// (tokens, ranks) and wide (tokens, columns). `transposed`: sums lie the other way round, (columns, ranks).
// It reads up to RANKS numbers beyond those of low, whatever they are.
void add_outer(const bf16* low, int64_t low_stride, int ranks, const bf16* wide, int64_t stride,
               int64_t tokens, int64_t columns, float* sums, bool transposed) {
  const __m512i evens = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38,
                                         6, 37, 5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
  const __m512i odds = _mm512_add_epi16(evens, _mm512_set1_epi16(16));
  for (int rank = 0; rank < ranks; rank += RANKS) {
    int some = std::min(RANKS, ranks - rank);
    for (int64_t column = 0; column < columns; column += 2 * LANES) {
      bool whole = columns - column >= 2 * LANES;
      __mmask32 mask = whole ? 0xffffffff : 0xffff;
      __m512 sum[RANKS][2];
      for (auto& line : sum) line[0] = line[1] = _mm512_setzero_ps();
      for (int64_t token = 0; token < tokens; token += 2) {
        bool both = token + 1 < tokens;
        const bf16* from = wide + token * stride + column;
        __m512i one = _mm512_maskz_loadu_epi16(mask, from);
        __m512i two = both ? _mm512_maskz_loadu_epi16(mask, from + stride) : _mm512_setzero_si512();
        __m512bh left = (__m512bh)_mm512_permutex2var_epi16(one, evens, two);
        __m512bh right = (__m512bh)_mm512_permutex2var_epi16(one, odds, two);
        const bf16* factor = low + token * low_stride + rank;
        for (int r = 0; r < RANKS; r++) {
          uint32_t pair = factor[r] | (both ? static_cast<uint32_t>(factor[low_stride + r]) << 16 : 0);
          __m512bh pairs = (__m512bh)_mm512_set1_epi32(static_cast<int>(pair));
          sum[r][0] = _mm512_dpbf16_ps(sum[r][0], pairs, left);
          sum[r][1] = _mm512_dpbf16_ps(sum[r][1], pairs, right);
        }
      }
      for (int r = 0; r < some; r++)
        for (int half = 0; half < (whole ? 2 : 1); half++) {
          __m512 x = sum[r][half];
          if (transposed) {
            alignas(64) float line[LANES];
            _mm512_store_ps(line, x);
            for (int c = 0; c < LANES; c++)
              sums[(column + half * LANES + c) * ranks + rank + r] += line[c];
          } else {
            float* to = sums + (rank + r) * columns + column + half * LANES;
            _mm512_storeu_ps(to, _mm512_add_ps(_mm512_loadu_ps(to), x));
          }
        }
    }
  }
}

// ---- what is not a product

// RMSNorm (Zhang & Sennrich 2019) of x: (H,) into bfloat16 or floats.
void norm(const float* x, const float* weight, int64_t width, float eps, bf16* narrowed, float* floats) {
  __m512 squares = _mm512_setzero_ps();
  for (int64_t c = 0; c < width; c += LANES) {
    __m512 part = _mm512_loadu_ps(x + c);
    squares = _mm512_fmadd_ps(part, part, squares);
  }
  float inverse = 1 / std::sqrt(_mm512_reduce_add_ps(squares) / width + eps);
  for (int64_t c = 0; c < width; c += LANES) {
    __m512 y = _mm512_mul_ps(_mm512_mul_ps(_mm512_loadu_ps(x + c), _mm512_set1_ps(inverse)),
                             _mm512_loadu_ps(weight + c));
    if (narrowed) narrow(narrowed + c, y);
    if (floats) _mm512_storeu_ps(floats + c, y);
  }
}

void norms(const float* x, const float* weight, int64_t rows, int64_t width, float eps, bf16* out) {
  for (int64_t row = 0; row < rows; row++)
    norm(x + row * width, weight, width, eps, out + row * width, nullptr);
}

// The gradient of norm's input, added to `to`.
void add_norm_backward(const float* dy, const float* x, const float* weight, int64_t width, float eps, float* to) {
  __m512 squares = _mm512_setzero_ps(), along = _mm512_setzero_ps();
  for (int64_t c = 0; c < width; c += LANES) {
    __m512 part = _mm512_loadu_ps(x + c);
    squares = _mm512_fmadd_ps(part, part, squares);
    along = _mm512_fmadd_ps(_mm512_mul_ps(_mm512_loadu_ps(dy + c), _mm512_loadu_ps(weight + c)), part, along);
  }
  float inverse = 1 / std::sqrt(_mm512_reduce_add_ps(squares) / width + eps);
  __m512 back = _mm512_set1_ps(_mm512_reduce_add_ps(along) * inverse * inverse * inverse / width);
  for (int64_t c = 0; c < width; c += LANES) {
    __m512 g = _mm512_mul_ps(_mm512_loadu_ps(dy + c), _mm512_loadu_ps(weight + c));
    __m512 dx = _mm512_fnmadd_ps(_mm512_loadu_ps(x + c), back, _mm512_mul_ps(g, _mm512_set1_ps(inverse)));
    _mm512_storeu_ps(to + c, _mm512_add_ps(_mm512_loadu_ps(to + c), dx));
  }
}

// Rotary positions (Su et al. 2021) in place on heads (count, d); cos, sin: (d / 2,); sign -1: back.
void rotate(float* heads, int64_t count, int64_t head, const float* cos, const float* sin, float sign) {
  int64_t half = head / 2;
  for (int64_t i = 0; i < count; i++)
    for (int64_t c = 0; c < half; c++) {
      float one = heads[i * head + c], two = heads[i * head + half + c], turn = sign * sin[c];
      heads[i * head + c] = one * cos[c] - two * turn;
      heads[i * head + half + c] = two * cos[c] + one * turn;
    }
}

// silu(gate) * up (I,) of gate and up, which lie one after the other.
void gated(const bf16* both, int64_t width, bf16* out) {
  for (int64_t c = 0; c < width; c += LANES) {
    __m512 gate = widened(both + c);
    narrow(out + c, _mm512_mul_ps(_mm512_mul_ps(gate, sigmoid(gate)), widened(both + width + c)));
  }
}

// The gradients of gate and up from that of silu(gate) * up.
void gated_backward(const bf16* both, const bf16* dy, int64_t width, bf16* d_both) {
  const __m512 one = _mm512_set1_ps(1);
  for (int64_t c = 0; c < width; c += LANES) {
    __m512 gate = widened(both + c), up = widened(both + width + c), d = widened(dy + c), s = sigmoid(gate);
    __m512 silu = _mm512_mul_ps(gate, s);
    __m512 slope = _mm512_fmadd_ps(silu, _mm512_sub_ps(one, s), s);
    narrow(d_both + c, _mm512_mul_ps(_mm512_mul_ps(d, up), slope));
    narrow(d_both + width + c, _mm512_mul_ps(d, silu));
  }
}

}  // namespace

extern "C" {

// Projections with one input: their weights stacked (outputs, inputs), packed for both directions. parts: how
// many they are, of so many outputs each; none in blocks without adapters, which the last block is never.
struct Group {
  int64_t inputs, outputs, parts, sizes[3];
  bf16 *forward, *backward;
  const float* bias;
};

struct Layer {
  Group groups[GROUPS];
  const float *norm_1, *norm_2;
};

struct Trunk {
  int64_t layers, hidden, inner, heads, kv_heads, head;
  double eps;
  const float *embedding, *norm;
  const Layer* layer;
};

// offsets: of every group's matrices A in weights, its B after them. packed: room of adapter_size numbers, zeros.
struct Adapter {
  int64_t rank, count;
  double scale;
  const float* weights;
  const int64_t* offsets;
  bf16* packed;
};

// One pass over rows of packed tokens: starts (rows + 1,), tokens (starts[rows],), cos and sin (longest row,
// d / 2). It begins after `first` blocks, with what they made of the tokens, inputs (starts[rows], H), which is
// not looked at where `first` is 0. wanted: (outputs,) ascending places of the tokens whose states (outputs, H)
// are asked for, after `layers` blocks and, when `whole` is set, the final norm. kept: room of kept_size bytes.
// keeps: whether backward will follow. taps: (tapped,) numbers of blocks, rising, after which the wanted tokens'
// states go to tap_states (tapped, outputs, H) as well.
struct Pass {
  int64_t rows, outputs, first, layers, whole, keeps, threads, tapped;
  const int64_t *starts, *tokens, *wanted, *taps;
  const float *cos, *sin, *inputs;
  float *states, *tap_states;
  uint8_t* kept;
};
}

namespace {

int64_t padded(int64_t rank) { return up_to(rank, DEPTH); }

// An adapter's factors of one group, packed in four ways.
struct Factors {
  int64_t rank, wide;        // R, and as a multiple of DEPTH
  bf16 *down, *up;           // (inputs, wide), (wide, outputs)
  bf16 *d_down, *d_up;       // (wide, inputs), (outputs, wide)
  const float *a, *b;        // (R, inputs), the parts' (size, rank)
  int64_t offset;            // of a in the weights
};

struct Pack {
  const Trunk& trunk;
  const Adapter* adapter;

  // How many numbers the first groups take.
  int64_t size(int64_t groups) const {
    int64_t total = 0;
    for (int64_t i = 0; i < groups; i++) {
      const Group& group = trunk.layer[i / GROUPS].groups[i % GROUPS];
      total += 2 * padded(adapter->rank * group.parts) * (group.inputs + group.outputs);
    }
    return total;
  }

  Factors of(int64_t layer, int index) const {
    if (!adapter) return {};
    const Group& group = trunk.layer[layer].groups[index];
    Factors found;
    found.rank = adapter->rank * group.parts;
    found.wide = padded(found.rank);
    found.down = adapter->packed + size(GROUPS * layer + index);
    found.up = found.down + found.wide * group.inputs;
    found.d_down = found.up + found.wide * group.outputs;
    found.d_up = found.d_down + found.wide * group.inputs;
    found.offset = adapter->offsets[GROUPS * layer + index];
    found.a = adapter->weights + found.offset;
    found.b = found.a + found.rank * group.inputs;
    return found;
  }

  // Renew the packed factors of one group. The B of several projections lie on a diagonal; the rest stays 0.
  void renew(int64_t layer, int index) const {
    const Group& group = trunk.layer[layer].groups[index];
    Factors f = of(layer, index);
    pack_floats(f.a, 1, group.inputs, group.inputs, f.rank, f.down, group.inputs, f.wide);
    pack_floats(f.a, group.inputs, 1, f.rank, group.inputs, f.d_down, f.wide, group.inputs);
    const float* b = f.b;
    int64_t output = 0, rank = adapter->rank;
    for (int64_t part = 0; part < group.parts; part++) {
      int64_t size = group.sizes[part];
      pack_floats(b, 1, rank, rank, size, f.up, f.wide, group.outputs, part * rank, output);
      pack_floats(b, rank, 1, size, rank, f.d_up, group.outputs, f.wide, output, part * rank);
      b += size * rank;
      output += size;
    }
  }
};

// Room that is given out piece by piece.
struct Room {
  uint8_t* base;
  int64_t used = 0;

  template <class T>
  T* take(int64_t count) {
    T* found = reinterpret_cast<T*>(base + used);
    used += up_to(count * sizeof(T), 64);
    return found;
  }
};

// What a block keeps of all tokens for its backward pass. Tokens are in the threads' order.
struct Kept {
  float *x, *middle;                 // (T, H)
  bf16 *qkv, *mixed, *both;          // (T, (h + 2k) d), (T, h d), (T, 2 I)
  float* sums;                       // (T, h) logarithms of attention's sums
  bf16* low[GROUPS];                 // (T, wide) inputs of the adapters' B

  Kept(const Trunk& trunk, const Adapter* adapter, int64_t tokens, Room& room) {
    x = room.take<float>(tokens * trunk.hidden);
    middle = room.take<float>(tokens * trunk.hidden);
    qkv = room.take<bf16>(tokens * (trunk.heads + 2 * trunk.kv_heads) * trunk.head);
    mixed = room.take<bf16>(tokens * trunk.heads * trunk.head);
    both = room.take<bf16>(tokens * 2 * trunk.inner);
    sums = room.take<float>(tokens * trunk.heads);
    for (int i = 0; i < GROUPS && adapter; i++)
      low[i] = room.take<bf16>(tokens * padded(adapter->rank * trunk.layer[trunk.layers - 1].groups[i].parts) + RANKS);
  }
};

// The pass's rows as threads have them: the longest first, each to whom has least.
struct Plan {
  std::vector<std::vector<int64_t>> rows;  // of each thread
  std::vector<int64_t> begin;              // each thread's first token in the threads' order
  std::vector<int64_t> first, last;        // each row's range of `wanted`

  explicit Plan(const Pass& pass)
      : rows(pass.threads), begin(pass.threads + 1), first(pass.rows), last(pass.rows) {
    std::vector<int64_t> order(pass.rows), load(pass.threads);
    std::iota(order.begin(), order.end(), 0);
    auto size = [&](int64_t row) { return pass.starts[row + 1] - pass.starts[row]; };
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return size(a) > size(b); });
    for (int64_t row : order) {
      int64_t thread = std::min_element(load.begin(), load.end()) - load.begin();
      rows[thread].push_back(row);
      load[thread] += size(row);
    }
    for (int64_t thread = 0; thread < pass.threads; thread++) begin[thread + 1] = begin[thread] + load[thread];
    int64_t place = 0;
    for (int64_t row = 0; row < pass.rows; row++) {
      first[row] = place;
      while (place < pass.outputs && pass.wanted[place] < pass.starts[row + 1]) place++;
      last[row] = place;
    }
  }
};

// One thread's share of a pass.
class Worker {
 public:
  Worker(const Trunk& trunk, const Adapter* adapter, const Pass& pass, const Plan& plan, int64_t thread)
      : trunk_(trunk), pack_{trunk, adapter}, pass_(pass), rows_(plan.rows[thread]),
        offset_(plan.begin[thread]), count_(plan.begin[thread + 1] - plan.begin[thread]),
        scale_(adapter ? static_cast<float>(adapter->scale) : 0), eps_(static_cast<float>(trunk.eps)) {
    int64_t place = 0;
    for (int64_t row : rows_) {
      starts_.push_back(place);
      for (int64_t i = plan.first[row]; i < plan.last[row]; i++) {
        places_.push_back(place + pass.wanted[i] - pass.starts[row]);
        outputs_.push_back(i);
      }
      place += size(row);
      longest_ = std::max(longest_, size(row));
    }
  }

  void forward() {
    const int64_t hidden = trunk_.hidden;
    float* x = kept(pass_.first).x;
    for (size_t i = 0; i < rows_.size(); i++)
      for (int64_t t = 0; t < size(rows_[i]); t++)
        std::memcpy(x + (starts_[i] + t) * hidden, input(pass_.starts[rows_[i]] + t), 4 * hidden);
    for (int64_t layer = pass_.first, tap = 0; layer < pass_.layers; layer++) {
      if (tap < pass_.tapped && pass_.taps[tap] == layer)
        copy_states(layer, pass_.tap_states + tap++ * pass_.outputs * hidden);
      forward(layer);
    }
    const float* last = kept(pass_.layers).x;
    bool moved = pass_.layers > pass_.first;  // the last block has only the wanted tokens left
    for (size_t i = 0; i < places_.size(); i++) {
      const float* from = last + (moved ? i : places_[i]) * hidden;
      float* to = pass_.states + outputs_[i] * hidden;
      if (pass_.whole) norm(from, trunk_.norm, hidden, eps_, nullptr, to);
      else std::memcpy(to, from, 4 * hidden);
    }
  }

  // gradient: of the adapter's weights, added to. d_states: (outputs, H).
  void backward(const float* d_states, float* gradient) {
    const int64_t hidden = trunk_.hidden;
    std::vector<float> flow(places_.size() * hidden);
    const float* last = kept(pass_.layers).x;
    for (size_t i = 0; i < places_.size(); i++) {
      const float* from = d_states + outputs_[i] * hidden;
      if (pass_.whole)
        add_norm_backward(from, last + i * hidden, trunk_.norm, hidden, eps_, flow.data() + i * hidden);
      else
        std::memcpy(flow.data() + i * hidden, from, 4 * hidden);
    }
    for (int64_t layer = pass_.layers; layer-- > pass_.first;) backward(layer, flow, gradient);
  }

 private:
  const Trunk& trunk_;
  Pack pack_;
  const Pass& pass_;
  const std::vector<int64_t>& rows_;
  int64_t offset_, count_, longest_ = 0;
  float scale_, eps_;
  std::vector<int64_t> starts_, places_, outputs_;  // rows' first tokens; wanted tokens, and which they are of all

  int64_t size(int64_t row) const { return pass_.starts[row + 1] - pass_.starts[row]; }

  // What a token of the batch is before the first block of this pass.
  const float* input(int64_t token) const {
    return pass_.first ? pass_.inputs + token * trunk_.hidden : trunk_.embedding + pass_.tokens[token] * trunk_.hidden;
  }

  // The wanted tokens' inputs of a block.
  void copy_states(int64_t layer, float* to) const {
    const float* from = kept(layer).x;
    for (size_t i = 0; i < places_.size(); i++)
      std::memcpy(to + outputs_[i] * trunk_.hidden, from + places_[i] * trunk_.hidden, 4 * trunk_.hidden);
  }

  // What a block keeps of this thread's tokens.
  Kept kept(int64_t layer) const {
    const int64_t tokens = pass_.starts[pass_.rows];
    Room room{pass_.kept};
    Kept whole(trunk_, pack_.adapter, tokens, room);
    if (pass_.keeps && layer > pass_.first) {
      room = {pass_.kept + (layer - pass_.first) * room.used};
      whole = Kept(trunk_, pack_.adapter, tokens, room);
    }
    whole.x += offset_ * trunk_.hidden;
    whole.middle += offset_ * trunk_.hidden;
    whole.qkv += offset_ * turned();
    whole.mixed += offset_ * trunk_.heads * trunk_.head;
    whole.both += offset_ * 2 * trunk_.inner;
    whole.sums += offset_ * trunk_.heads;
    for (int i = 0; i < GROUPS && pack_.adapter; i++) whole.low[i] += offset_ * pack_.of(trunk_.layers - 1, i).wide;
    return whole;
  }

  int64_t turned() const { return (trunk_.heads + 2 * trunk_.kv_heads) * trunk_.head; }

  // y = x @ W.T + scale * (x @ A.T) @ B.T of x (count, inputs) (Hu et al. 2021, arXiv:2106.09685, equation 3).
  void project(int64_t layer, int index, const bf16* x, int64_t count, bf16* low, Out out) const {
    const Group& group = trunk_.layer[layer].groups[index];
    out.bias = group.bias;
    Term base{x, group.inputs, group.forward, group.inputs, group.inputs};
    if (!pack_.adapter) return product({base}, count, group.outputs, out);
    Factors f = pack_.of(layer, index);
    product({{x, group.inputs, f.down, group.inputs, group.inputs}}, count, f.wide,
            {nullptr, low, f.wide, scale_});
    product({base, {low, f.wide, f.up, f.wide, f.wide}}, count, group.outputs, out);
  }

  // The gradients of a group's matrices, from that of its outputs dy (count, outputs), and of its input, if
  // there is somewhere to put it. d_low: room (count, wide).
  void project_backward(int64_t layer, int index, const bf16* x, const bf16* low, const bf16* dy, int64_t count,
                        bf16* d_low, float* gradient, const Out* d_input) const {
    const Group& group = trunk_.layer[layer].groups[index];
    Factors f = pack_.of(layer, index);
    product({{dy, group.outputs, f.d_up, group.outputs, group.outputs}}, count, f.wide,
            {nullptr, d_low, f.wide, scale_});
    float *da = gradient + f.offset, *db = da + f.rank * group.inputs;
    add_outer(d_low, f.wide, static_cast<int>(f.rank), x, group.inputs, count, group.inputs, da, false);
    int64_t output = 0, rank = pack_.adapter->rank;
    for (int64_t part = 0; part < group.parts; part++) {
      add_outer(low + part * rank, f.wide, static_cast<int>(rank), dy + output, group.outputs, count,
                group.sizes[part], db, true);
      db += group.sizes[part] * rank;
      output += group.sizes[part];
    }
    if (d_input)
      product({{dy, group.outputs, group.backward, group.outputs, group.outputs},
               {d_low, f.wide, f.d_down, f.wide, f.wide}},
              count, group.inputs, *d_input);
  }

  void forward(int64_t layer) {
    const Layer& here = trunk_.layer[layer];
    const int64_t hidden = trunk_.hidden, inner = trunk_.inner, flat = trunk_.heads * trunk_.head;
    Kept k = kept(layer);
    std::vector<bf16> input(count_ * std::max({hidden, inner, flat}));
    norms(k.x, here.norm_1, count_, hidden, eps_, input.data());
    {
      std::vector<float> wide(count_ * turned());
      project(layer, 0, input.data(), count_, k.low[0], {wide.data(), nullptr, turned()});
      turn(wide.data(), 1);
      narrow_all(wide.data(), count_ * turned(), k.qkv);
    }
    attend(k);
    const bool last = layer + 1 == pass_.layers;
    const int64_t left = last ? static_cast<int64_t>(places_.size()) : count_;
    for (int64_t i = 0; i < left; i++) {
      int64_t from = last ? places_[i] : i;
      std::memcpy(k.middle + i * hidden, k.x + from * hidden, 4 * hidden);
      if (last) std::memmove(k.mixed + i * flat, k.mixed + from * flat, 2 * flat);  // places ascend
    }
    project(layer, 1, k.mixed, left, k.low[1], {k.middle, nullptr, hidden, 1, nullptr, true});
    norms(k.middle, here.norm_2, left, hidden, eps_, input.data());
    project(layer, 2, input.data(), left, k.low[2], {nullptr, k.both, 2 * inner});
    for (int64_t i = 0; i < left; i++) gated(k.both + i * 2 * inner, inner, input.data() + i * inner);
    float* out = kept(layer + 1).x;
    std::memcpy(out, k.middle, 4 * left * hidden);
    project(layer, 3, input.data(), left, k.low[3], {out, nullptr, hidden, 1, nullptr, true});
  }

  // flow: (left, H), the gradient of a block's output, becomes that of its input (count, H).
  void backward(int64_t layer, std::vector<float>& flow, float* gradient) {
    const Layer& here = trunk_.layer[layer];
    const int64_t hidden = trunk_.hidden, inner = trunk_.inner, flat = trunk_.heads * trunk_.head;
    const bool last = layer + 1 == pass_.layers;
    const int64_t left = last ? static_cast<int64_t>(places_.size()) : count_;
    Kept k = kept(layer);
    std::vector<bf16> dy(count_ * std::max(hidden, flat)), input(count_ * std::max({hidden, inner, flat})),
        d_inner(left * inner), d_both(left * 2 * inner), d_low(count_ * widest() + RANKS);
    std::vector<float> d_normed(count_ * hidden);

    narrow_all(flow.data(), left * hidden, dy.data());
    Out inner_out{nullptr, d_inner.data(), inner};
    for (int64_t i = 0; i < left; i++) gated(k.both + i * 2 * inner, inner, input.data() + i * inner);
    project_backward(layer, 3, input.data(), k.low[3], dy.data(), left, d_low.data(), gradient, &inner_out);
    for (int64_t i = 0; i < left; i++)
      gated_backward(k.both + i * 2 * inner, d_inner.data() + i * inner, inner, d_both.data() + i * 2 * inner);
    norms(k.middle, here.norm_2, left, hidden, eps_, input.data());
    Out normed_out{d_normed.data(), nullptr, hidden};
    project_backward(layer, 2, input.data(), k.low[2], d_both.data(), left, d_low.data(), gradient, &normed_out);
    for (int64_t i = 0; i < left; i++)
      add_norm_backward(d_normed.data() + i * hidden, k.middle + i * hidden, here.norm_2, hidden, eps_,
                        flow.data() + i * hidden);

    narrow_all(flow.data(), left * hidden, dy.data());
    std::vector<bf16> d_mixed(count_ * flat);
    Out mixed_out{nullptr, d_mixed.data(), flat};
    project_backward(layer, 1, k.mixed, k.low[1], dy.data(), left, d_low.data(), gradient, &mixed_out);
    if (last) {
      spread(d_mixed, flat);
      spread(flow, hidden);
    }
    std::vector<float> d_wide(count_ * turned());
    attend_backward(k, d_mixed.data(), d_wide.data());
    turn(d_wide.data(), -1);
    std::vector<bf16> d_turned(count_ * turned());
    narrow_all(d_wide.data(), count_ * turned(), d_turned.data());
    norms(k.x, here.norm_1, count_, hidden, eps_, input.data());
    project_backward(layer, 0, input.data(), k.low[0], d_turned.data(), count_, d_low.data(), gradient,
                     layer > pass_.first ? &normed_out : nullptr);
    for (int64_t i = 0; i < count_ && layer > pass_.first; i++)
      add_norm_backward(d_normed.data() + i * hidden, k.x + i * hidden, here.norm_1, hidden, eps_,
                        flow.data() + i * hidden);
  }

  // Rows (left, width) to their places among all of the thread's; the others become 0.
  template <class T>
  void spread(std::vector<T>& rows, int64_t width) const {
    std::vector<T> all(count_ * width);
    for (size_t i = 0; i < places_.size(); i++)
      std::copy_n(rows.data() + i * width, width, all.data() + places_[i] * width);
    rows.swap(all);
  }

  int64_t widest() const {
    int64_t found = 0;
    for (int i = 0; i < GROUPS; i++) found = std::max(found, pack_.of(trunk_.layers - 1, i).wide);
    return found;
  }

  // Rotate the queries and keys in wide: (count, (h + 2k) d).
  void turn(float* wide, float sign) const {
    const int64_t half = trunk_.head / 2;
    for (size_t i = 0; i < rows_.size(); i++)
      for (int64_t t = 0; t < size(rows_[i]); t++)
        rotate(wide + (starts_[i] + t) * turned(), trunk_.heads + trunk_.kv_heads, trunk_.head,
               pass_.cos + t * half, pass_.sin + t * half, sign);
  }

  // Room for one row's attention, of S tokens made a multiple of DEPTH.
  struct Table {
    std::vector<bf16> keys, key_rows, values, queries, outs, weights, turned, d_scores, d_turned;
    std::vector<float> scores, d_weights;
  };

  // Causal scores (S, S) of queries and packed keys: panels right of the diagonal are left out.
  void scores(const bf16* queries, int64_t stride, const bf16* packed, int64_t depth, int64_t length,
              int64_t room, float scale, float* to) const {
    Term term{queries, stride, packed, depth, depth};
    Out out{to, nullptr, room, scale};
    for (int64_t column = 0; column < room; column += PANEL)
      panel_product(&term, 1, column, length, column, std::min<int64_t>(PANEL, room - column), out);
  }

  // Causal attention (Vaswani et al. 2017, arXiv:1706.03762, equation 1) into mixed, row by row of the batch.
  void attend(const Kept& k) const {
    const int64_t head = trunk_.head, flat = trunk_.heads * head, group = trunk_.heads / trunk_.kv_heads;
    const int64_t most = up_to(longest_, DEPTH);
    Table t;
    t.keys.resize(most * head), t.values.resize(most * head);
    t.scores.resize(most * most), t.weights.resize(most * most);
    for (size_t i = 0; i < rows_.size(); i++) {
      const int64_t length = size(rows_[i]), room = up_to(length, DEPTH);
      const bf16* row = k.qkv + starts_[i] * turned();
      for (int64_t g = 0; g < trunk_.kv_heads; g++) {
        pack_columns(row + (trunk_.heads + g) * head, turned(), length, head, t.keys.data());
        pack_rows(row + (trunk_.heads + trunk_.kv_heads + g) * head, turned(), length, head, t.values.data());
        for (int64_t h = g * group; h < (g + 1) * group; h++) {
          scores(row + h * head, turned(), t.keys.data(), head, length, room, 1 / std::sqrt(float(head)),
                 t.scores.data());
          for (int64_t m = 0; m < length; m++)
            k.sums[(starts_[i] + m) * trunk_.heads + h] =
                softmax(t.scores.data() + m * room, m + 1, room, t.weights.data() + m * room);
          product({{t.weights.data(), room, t.values.data(), room, room}}, length, head,
                  {nullptr, k.mixed + starts_[i] * flat + h * head, flat});
        }
      }
    }
  }

  // Softmax of the first `length` of a line into bfloat16, 0 beyond; the logarithm of the sum of exponentials.
  static float softmax(const float* from, int64_t length, int64_t room, bf16* to) {
    __m512 most = _mm512_set1_ps(-INFINITY), sum = _mm512_setzero_ps();
    for (int64_t c = 0; c < length; c += LANES)
      most = _mm512_mask_max_ps(most, first(length - c), most, _mm512_loadu_ps(from + c));
    float top = _mm512_reduce_max_ps(most);
    for (int64_t c = 0; c < length; c += LANES)
      sum = _mm512_mask_add_ps(sum, first(length - c), sum,
                               exponential(_mm512_sub_ps(_mm512_loadu_ps(from + c), _mm512_set1_ps(top))));
    float whole = top + std::log(_mm512_reduce_add_ps(sum));
    for (int64_t c = 0; c < room; c += LANES) narrow(to + c, weights(from + c, length - c, whole));
    return whole;
  }

  // The attention weights of 16 scores, of which `count` are, given the logarithm of the sum.
  static __m512 weights(const float* from, int64_t count, float sum) {
    __m512 scores = _mm512_maskz_loadu_ps(first(count), from);
    return _mm512_maskz_mov_ps(first(count), exponential(_mm512_sub_ps(scores, _mm512_set1_ps(sum))));
  }

  // The gradient of the rotated queries, keys and values d_wide: (count, (h + 2k) d), from that of mixed.
  void attend_backward(const Kept& k, const bf16* d_mixed, float* d_wide) const {
    const int64_t head = trunk_.head, flat = trunk_.heads * head, group = trunk_.heads / trunk_.kv_heads;
    const int64_t most = up_to(longest_, DEPTH);
    const float scale = 1 / std::sqrt(float(head));
    Table t;
    for (auto* each : {&t.keys, &t.key_rows, &t.values, &t.queries, &t.outs}) each->resize(most * head);
    for (auto* each : {&t.weights, &t.turned, &t.d_scores, &t.d_turned}) each->resize(most * most);
    t.scores.resize(most * most), t.d_weights.resize(most * most);
    for (size_t i = 0; i < rows_.size(); i++) {
      const int64_t length = size(rows_[i]), room = up_to(length, DEPTH);
      const bf16* row = k.qkv + starts_[i] * turned();
      const bf16* outs = d_mixed + starts_[i] * flat;
      float* to = d_wide + starts_[i] * turned();
      for (int64_t g = 0; g < trunk_.kv_heads; g++) {
        const int64_t key = (trunk_.heads + g) * head, value = key + trunk_.kv_heads * head;
        pack_columns(row + key, turned(), length, head, t.keys.data());
        pack_columns(row + value, turned(), length, head, t.values.data());
        pack_rows(row + key, turned(), length, head, t.key_rows.data());
        for (int64_t h = g * group; h < (g + 1) * group; h++) {
          const bool more = h > g * group;
          scores(row + h * head, turned(), t.keys.data(), head, length, room, scale, t.scores.data());
          scores(outs + h * head, flat, t.values.data(), head, length, room, 1, t.d_weights.data());
          for (int64_t m = 0; m < length; m++)
            softmax_backward(t, m, room, k.sums[(starts_[i] + m) * trunk_.heads + h], scale);
          transpose(t.weights.data(), length, room, t.turned.data());
          transpose(t.d_scores.data(), length, room, t.d_turned.data());
          pack_rows(outs + h * head, flat, length, head, t.outs.data());
          pack_rows(row + h * head, turned(), length, head, t.queries.data());
          product({{t.turned.data(), room, t.outs.data(), room, room}}, length, head,
                  {to + value, nullptr, turned(), 1, nullptr, more});
          product({{t.d_scores.data(), room, t.key_rows.data(), room, room}}, length, head,
                  {to + h * head, nullptr, turned()});
          product({{t.d_turned.data(), room, t.queries.data(), room, room}}, length, head,
                  {to + key, nullptr, turned(), 1, nullptr, more});
        }
      }
    }
  }

  // A row of attention weights again, and the gradient of its scores.
  static void softmax_backward(Table& t, int64_t m, int64_t room, float sum, float scale) {
    const float *line = t.scores.data() + m * room, *d = t.d_weights.data() + m * room;
    __m512 along = _mm512_setzero_ps();
    for (int64_t c = 0; c <= m; c += LANES) {
      __m512 slope = _mm512_maskz_loadu_ps(first(m + 1 - c), d + c);
      along = _mm512_fmadd_ps(weights(line + c, m + 1 - c, sum), slope, along);
    }
    const __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(along));
    for (int64_t c = 0; c < room; c += LANES) {
      const __mmask16 inside = first(m + 1 - c);
      __m512 weight = weights(line + c, m + 1 - c, sum);
      __m512 slope = _mm512_mul_ps(weight, _mm512_sub_ps(_mm512_maskz_loadu_ps(inside, d + c), mean));
      narrow(t.weights.data() + m * room + c, weight);
      narrow(t.d_scores.data() + m * room + c, _mm512_mul_ps(slope, _mm512_set1_ps(scale)));
    }
  }

  // from: (length, room), of which the first `length` columns count; columns beyond come out as 0.
  static void transpose(const bf16* from, int64_t length, int64_t room, bf16* to) {
    for (int64_t m = 0; m < length; m++)
      for (int64_t n = 0; n < length; n++) to[n * room + m] = from[m * room + n];
    for (int64_t n = 0; n < length; n++)
      for (int64_t m = length; m < room; m++) to[n * room + m] = 0;
  }
};

}  // namespace

extern "C" {

// Pack a group's weight (outputs, inputs) for both directions; each has room for outputs * inputs numbers.
void hearken_pack(const float* weight, int64_t outputs, int64_t inputs, bf16* forward, bf16* backward) {
  pack_floats(weight, 1, inputs, inputs, outputs, forward, inputs, outputs);
  pack_floats(weight, inputs, 1, outputs, inputs, backward, outputs, inputs);
}

// How many numbers of bfloat16 an adapter's packed factors take.
int64_t hearken_adapter_size(const Trunk* trunk, const Adapter* adapter) {
  return Pack{*trunk, adapter}.size(GROUPS * trunk->layers);
}

// How many bytes a pass over so many tokens keeps.
int64_t hearken_kept_size(const Trunk* trunk, const Adapter* adapter, const Pass* pass) {
  Room room{nullptr};
  Kept(*trunk, adapter, pass->starts[pass->rows], room);
  int64_t states = up_to(pass->starts[pass->rows] * trunk->hidden * sizeof(float), 64);  // after the last block
  return pass->keeps ? (pass->layers - pass->first) * room.used + states : room.used;
}

void hearken_forward(const Trunk* trunk, const Adapter* adapter, const Pass* pass) {
  const Plan plan(*pass);
  const int threads = static_cast<int>(pass->threads);
#pragma omp parallel num_threads(threads)
  {
    if (adapter) {
#pragma omp for
      for (int64_t i = GROUPS * pass->first; i < GROUPS * pass->layers; i++)
        Pack{*trunk, adapter}.renew(i / GROUPS, static_cast<int>(i % GROUPS));
    }
#pragma omp for schedule(static, 1)
    for (int thread = 0; thread < threads; thread++) {
      TilesLent lent;
      Worker(*trunk, adapter, *pass, plan, thread).forward();
    }
  }
}

// d_states: (outputs, H); gradient: (count,) of the adapter's weights, which is overwritten.
void hearken_backward(const Trunk* trunk, const Adapter* adapter, const Pass* pass, const float* d_states,
                      float* gradient) {
  const Plan plan(*pass);
  const int threads = static_cast<int>(pass->threads);
  std::vector<float> others((threads - 1) * adapter->count);
  std::fill(gradient, gradient + adapter->count, 0.0f);
#pragma omp parallel for schedule(static, 1) num_threads(threads)
  for (int thread = 0; thread < threads; thread++) {
    float* own = thread ? others.data() + (thread - 1) * adapter->count : gradient;
    TilesLent lent;
    Worker(*trunk, adapter, *pass, plan, thread).backward(d_states, own);
  }
  for (int thread = 1; thread < threads; thread++)  // in one order, so that the same pass gives the same bits
    for (int64_t i = 0; i < adapter->count; i++) gradient[i] += others[(thread - 1) * adapter->count + i];
}
}
