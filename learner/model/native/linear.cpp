// A linear layer in bfloat16 with float32 sums, rounded once: for engines on processors where `widens()` holds.

#include "products.h"

extern "C" {

// Whether products are faster here than by the processor's own instruction for bfloat16, which others use.
int64_t hearken_widens() { return widens(); }

// weight (outputs, inputs) for hearken_linear: packed has room for as many numbers. inputs is even, outputs a multiple
// of LANES.
void hearken_pack_linear(const bf16* weight, int64_t outputs, int64_t inputs, bf16* packed) {
  pack_columns(weight, inputs, outputs, inputs, packed);
}

// out (rows, outputs) = x (rows, inputs, rows of stride) times the weight's transpose, plus bias (outputs,) and more
// (rows, outputs), either of which may be null.
void hearken_linear(const bf16* x, int64_t stride, int64_t rows, const bf16* packed, int64_t inputs, int64_t outputs,
                    const float* bias, const bf16* more, bf16* out, int64_t threads) {
  const Term term{x, stride, packed, inputs, inputs};
  Out into{nullptr, out, outputs, 1, bias};
  into.more = more;
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(dynamic)
  for (int64_t column = 0; column < outputs; column += PANEL)
    panel_product(&term, 1, 0, rows, column, std::min<int64_t>(PANEL, outputs - column), into);
}
}
