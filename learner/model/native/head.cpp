// The output layer: logprobs of given tokens and their gradients, and how far distributions of the next token are
// apart, straight from states.
//
// A thread takes a block of rows, whose logits stay in its cache until all that is wanted of them is there. A state is
// taken apart into two numbers in bfloat16, which keep 16 of float32's 24 bits, and sums are in float32. A row's
// numbers do not depend on its company. Names: H hidden size, V entries of the vocabulary.

#include <algorithm>
#include <cmath>
#include <vector>

#include "products.h"

extern "C" {

// weight (V, H), packed for both directions by hearken_pack; bias (V,) or null. V and H are multiples of LANES.
struct Head {
  int64_t width, entries;
  const bf16 *forward, *backward;
  const float* bias;
};
}

namespace {

constexpr int64_t LOGITS = 4 << 20;  // that are in a table
constexpr int64_t DEEP = 2048;       // of a product's depth at a time: a panel of a factor fits into a core's cache

int64_t rows_at_once(const Head& head) { return std::clamp<int64_t>(LOGITS / head.entries / 32 * 32, 32, 256); }

// out (rows, columns) = the sum of parts: x (rows, depth) each, times a packed factor (depth, columns).
void multiply(std::initializer_list<const bf16*> parts, int64_t rows, const bf16* packed, int64_t depth,
              int64_t columns, const float* bias, float* out) {
  for (int64_t start = 0; start < depth; start += DEEP) {
    const int64_t deep = std::min(depth - start, DEEP);
    for (int64_t column = 0; column < columns; column += PANEL) {
      const int64_t width = std::min<int64_t>(PANEL, columns - column);
      std::vector<Term> terms;
      for (const bf16* x : parts) terms.push_back({x + start, depth, packed + start * width, deep, depth});
      panel_product(terms.data(), static_cast<int>(terms.size()), 0, rows, column, width,
                    {out, nullptr, columns, 1, start ? nullptr : bias, start > 0});
    }
  }
}

// Logits (rows, V) of states (rows, H).
struct Table {
  const Head& head;
  std::vector<bf16> high, low;
  std::vector<float> logits;

  Table(const Head& head, int64_t rows)
      : head(head), high(rows * head.width), low(rows * head.width), logits(rows * head.entries) {}

  void fill(const float* states, int64_t rows) {
    for (int64_t i = 0; i < rows * head.width; i += LANES) {
      const __m512 whole = _mm512_loadu_ps(states + i);
      narrow(high.data() + i, whole);
      narrow(low.data() + i, _mm512_sub_ps(whole, widened(high.data() + i)));
    }
    multiply({high.data(), low.data()}, rows, head.forward, head.width, head.entries, head.bias, logits.data());
  }

  const float* row(int64_t i) const { return logits.data() + i * head.entries; }

  // The logarithm of the sum of a row's exponentials.
  float log_sum(int64_t i) const {
    const float* line = row(i);
    __m512 most = _mm512_set1_ps(-INFINITY), sum = _mm512_setzero_ps();
    for (int64_t c = 0; c < head.entries; c += LANES) most = _mm512_max_ps(most, _mm512_loadu_ps(line + c));
    const float top = _mm512_reduce_max_ps(most);
    for (int64_t c = 0; c < head.entries; c += LANES)
      sum = _mm512_add_ps(sum, exponential(_mm512_sub_ps(_mm512_loadu_ps(line + c), _mm512_set1_ps(top))));
    return top + std::log(_mm512_reduce_add_ps(sum));
  }
};

// 16 logprobs, given the logarithm of the sum.
__m512 logprobs_of(const float* logits, float sum) {
  return _mm512_sub_ps(_mm512_loadu_ps(logits), _mm512_set1_ps(sum));
}

// The chances (V,) of all entries in bfloat16.
void chances(const float* logits, int64_t entries, float sum, bf16* out) {
  for (int64_t c = 0; c < entries; c += LANES) narrow(out + c, exponential(logprobs_of(logits + c, sum)));
}

float entropy(const float* logits, int64_t entries, float sum) {
  __m512 found = _mm512_setzero_ps();
  for (int64_t c = 0; c < entries; c += LANES) {
    const __m512 logprobs = logprobs_of(logits + c, sum);
    found = _mm512_fnmadd_ps(exponential(logprobs), logprobs, found);
  }
  return _mm512_reduce_add_ps(found);
}

// KL (nats) of one distribution to another one.
float apart(const float* one, float one_sum, const float* other, float other_sum, int64_t entries) {
  __m512 found = _mm512_setzero_ps();
  for (int64_t c = 0; c < entries; c += LANES) {
    const __m512 logprobs = logprobs_of(one + c, one_sum);
    const __m512 more = _mm512_sub_ps(logprobs, logprobs_of(other + c, other_sum));
    found = _mm512_fmadd_ps(exponential(logprobs), more, found);
  }
  return _mm512_reduce_add_ps(found);
}

// Calls work(from, rows) for blocks of rows, each in one thread. `make` gives a thread its work.
template <class Make>
void in_blocks(const Head& head, int64_t rows, int64_t threads, Make make) {
  const int64_t step = rows_at_once(head);
#pragma omp parallel num_threads(static_cast<int>(threads))
  {
    TilesLent lent;
    auto work = make(std::min(step, rows));
#pragma omp for schedule(dynamic, 1)
    for (int64_t from = 0; from < rows; from += step) work(from, std::min(step, rows - from));
  }
}

}  // namespace

extern "C" {

// Logprobs (rows,) of tokens after states (rows, H). means: (rows, H), the mean of the weight's rows by the chances
// of all entries, which is what a logprob's gradient needs; null where it is not wanted.
void hearken_token_logprobs(const Head* head, const float* states, const int64_t* tokens, int64_t rows,
                            int64_t threads, float* logprobs, float* means) {
  in_blocks(*head, rows, threads, [=](int64_t most) {
    std::vector<bf16> likely(means ? most * head->entries : 0);
    return [=, table = Table(*head, most), likely = std::move(likely)](int64_t from, int64_t some) mutable {
      table.fill(states + from * head->width, some);
      for (int64_t i = 0; i < some; i++) {
        const float sum = table.log_sum(i);
        logprobs[from + i] = table.row(i)[tokens[from + i]] - sum;
        if (means) chances(table.row(i), head->entries, sum, likely.data() + i * head->entries);
      }
      if (means)
        multiply({likely.data()}, some, head->backward, head->entries, head->width, nullptr,
                 means + from * head->width);
    };
  });
}

// Logprobs (rows,) and entropies (rows,) after states (rows, H), and beside them after others (count, rows, H): their
// logprobs (count, rows) and the KL (count, rows) to them.
void hearken_compare(const Head* head, const float* states, const float* others, const int64_t* tokens, int64_t rows,
                     int64_t count, int64_t threads, float* logprobs, float* entropies, float* other_logprobs,
                     float* kl_nats) {
  in_blocks(*head, rows, threads, [=](int64_t most) {
    return [=, ours = Table(*head, most), theirs = Table(*head, most), sums = std::vector<float>(most)](
               int64_t from, int64_t some) mutable {
      ours.fill(states + from * head->width, some);
      for (int64_t i = 0; i < some; i++) {
        sums[i] = ours.log_sum(i);
        logprobs[from + i] = ours.row(i)[tokens[from + i]] - sums[i];
        entropies[from + i] = entropy(ours.row(i), head->entries, sums[i]);
      }
      for (int64_t other = 0; other < count; other++) {
        theirs.fill(others + (other * rows + from) * head->width, some);
        for (int64_t i = 0; i < some; i++) {
          const float sum = theirs.log_sum(i);
          const int64_t place = other * rows + from + i;
          other_logprobs[place] = theirs.row(i)[tokens[from + i]] - sum;
          const float kl = apart(ours.row(i), sums[i], theirs.row(i), sum, head->entries);
          kl_nats[place] = kl < 0 ? 0 : kl;  // rounding can leave less than 0
        }
      }
    };
  });
}
}
