// Products of matrices in bfloat16 with float32 sums, for processors with AVX512-BF16; where they have tiles (AMX),
// most are by these.

#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#ifdef __AMX_BF16__
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace {

using bf16 = uint16_t;

#define UNROLLED _Pragma("GCC unroll 16")  // what is summed over stays in registers only then

constexpr int LANES = 16;  // float32 of a register
constexpr int PANEL = 64;  // columns of a packed factor that lie together
#ifdef __AMX_BF16__
constexpr int DEPTH = 32;  // what the depths of factors are made a multiple of: a tile's
#else
constexpr int DEPTH = LANES;
#endif

int64_t up_to(int64_t count, int64_t multiple) { return (count + multiple - 1) / multiple * multiple; }

// ---- registers

__mmask16 first(int64_t count) { return count >= LANES ? 0xffff : count <= 0 ? 0 : (1u << count) - 1; }

__m512 widened(const bf16* from) {
  __m512i bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
  return _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16));
}

// The first `count` numbers, and zeros.
__m512 widened(const bf16* from, int64_t count) {
  if (count >= LANES) return widened(from);
  return (__m512)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(first(count), from)), 16);
}

void narrow(bf16* to, __m512 x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), (__m256i)_mm512_cvtneps_pbh(x));
}

bf16 narrowed(float x) {
  __m128bh found = _mm_cvtneps_pbh(_mm_set_ss(x));
  bf16 out;
  std::memcpy(&out, &found, sizeof out);
  return out;
}

void narrow_all(const float* from, int64_t count, bf16* to) {
  for (int64_t i = 0; i < count; i += LANES) narrow(to + i, _mm512_loadu_ps(from + i));
}

// exp(x): 2 to the nearest whole power times a polynomial of what is left; the error is that of rounding.
__m512 exponential(__m512 x) {
  const __m512 log2e = _mm512_set1_ps(1.44269504f), high = _mm512_set1_ps(0.693145752f),
               low = _mm512_set1_ps(1.42860677e-6f);
  __m512 power = _mm512_roundscale_ps(_mm512_mul_ps(x, log2e), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m512 left = _mm512_fnmadd_ps(power, low, _mm512_fnmadd_ps(power, high, x));
  __m512 sum = _mm512_set1_ps(1.0f / 5040);
  for (float term : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f})
    sum = _mm512_fmadd_ps(sum, left, _mm512_set1_ps(term));
  return _mm512_scalef_ps(sum, power);
}

__m512 sigmoid(__m512 x) {
  const __m512 one = _mm512_set1_ps(1);
  return _mm512_div_ps(one, _mm512_add_ps(one, exponential(_mm512_sub_ps(_mm512_setzero_ps(), x))));
}

// ---- products

// A factor (K, N) of a product lies in panels of columns, in them pairs of rows: for each pair, each column's two.
// K is even and N a multiple of LANES; rows and columns that were not there are 0.

bf16* panel_of(bf16* packed, int64_t column, int64_t depth) { return packed + column * depth; }

bf16* place(bf16* packed, int64_t row, int64_t column, int64_t depth, int64_t columns) {
  int64_t start = column / PANEL * PANEL, width = std::min<int64_t>(PANEL, columns - start);
  return panel_of(packed, start, depth) + (row / 2 * width + column - start) * 2 + row % 2;
}

// from: (K, N) float32 with any strides; into a corner of a factor of depth rows and columns.
void pack_floats(const float* from, int64_t row_stride, int64_t column_stride, int64_t rows, int64_t wide,
                 bf16* packed, int64_t depth, int64_t columns, int64_t row_0 = 0, int64_t column_0 = 0) {
  for (int64_t c = 0; c < wide; c++) {
    bf16* to = place(packed, 0, column_0 + c, depth, columns);
    int64_t start = (column_0 + c) / PANEL * PANEL, step = 2 * std::min<int64_t>(PANEL, columns - start);
    for (int64_t r = 0; r < rows; r++)
      to[(row_0 + r) / 2 * step + (row_0 + r) % 2] = narrowed(from[r * row_stride + c * column_stride]);
  }
}

// from: (rows, columns) bfloat16; rows are made a multiple of DEPTH.
void pack_rows(const bf16* from, int64_t stride, int64_t rows, int64_t columns, bf16* packed) {
  int64_t depth = up_to(rows, DEPTH);
  for (int64_t start = 0; start < columns; start += PANEL) {
    int64_t width = std::min<int64_t>(PANEL, columns - start);
    uint32_t* to = reinterpret_cast<uint32_t*>(panel_of(packed, start, depth));
    for (int64_t r = 0; r < rows; r += 2)
      for (int64_t c = 0; c < width; c += LANES, to += LANES) {
        const bf16* one = from + r * stride + start + c;
        __m512i pair = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(one)));
        if (r + 1 < rows) {
          __m256i two = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(one + stride));
          pair = _mm512_or_si512(pair, _mm512_slli_epi32(_mm512_cvtepu16_epi32(two), 16));
        }
        _mm512_storeu_si512(to, pair);
      }
    std::fill_n(to, (depth - up_to(rows, 2)) / 2 * width, 0);
  }
}

// The factor (depth, columns) whose columns are the rows of from: (columns, depth); columns are made a multiple
// of DEPTH.
void pack_columns(const bf16* from, int64_t stride, int64_t columns, int64_t depth, bf16* packed) {
  int64_t whole = up_to(columns, DEPTH);
  for (int64_t start = 0; start < whole; start += PANEL) {
    int64_t width = std::min<int64_t>(PANEL, whole - start);
    uint32_t* to = reinterpret_cast<uint32_t*>(panel_of(packed, start, depth));
    for (int64_t c = 0; c < width; c++) {
      const bf16* row = from + (start + c) * stride;
      bool there = start + c < columns;
      for (int64_t pair = 0; pair < depth / 2; pair++) {
        uint32_t both = 0;
        if (there) std::memcpy(&both, row + 2 * pair, sizeof both);
        to[pair * width + c] = both;
      }
    }
  }
}

// One term of a product: x (M, depth) with rows of stride, and packed (depth or more, N) of height rows.
struct Term {
  const bf16* x;
  int64_t stride;
  const bf16* packed;
  int64_t depth, height;
};

// Where a product goes: into floats, added to them if add says so, or into bfloat16; times scale, plus bias (N,),
// plus more (M, N) with rows of stride as well.
struct Out {
  float* floats;
  bf16* halves;
  int64_t stride;
  float scale = 1;
  const float* bias = nullptr;
  bool add = false;
  const bf16* more = nullptr;

  void put(int64_t row, int64_t column, __m512 x) const {
    x = _mm512_mul_ps(x, _mm512_set1_ps(scale));
    if (bias) x = _mm512_add_ps(x, _mm512_loadu_ps(bias + column));
    if (more) x = _mm512_add_ps(x, widened(more + row * stride + column));
    if (halves) return narrow(halves + row * stride + column, x);
    float* to = floats + row * stride + column;
    _mm512_storeu_ps(to, add ? _mm512_add_ps(_mm512_loadu_ps(to), x) : x);
  }
};

// Two bfloat16 in each lane; the lower ones, the upper ones, as float32.
__m512 lower_halves(const bf16* pairs) { return (__m512)_mm512_slli_epi32(_mm512_loadu_si512(pairs), 16); }

__m512 upper_halves(const bf16* pairs) {
  return (__m512)_mm512_and_si512(_mm512_loadu_si512(pairs), _mm512_set1_epi32(static_cast<int>(0xffff0000)));
}

// Intel's cores take two cycles for a product of pairs and half a one for a product of float32, which so is twice
// as fast once both factors are widened; AMD's take one for either. A product of two bfloat16 is exact in float32.
#if defined(__AMX_BF16__)
bool widens() { return false; }  // what tiles do not suit is little
#else
bool widens() {
  static const bool intel = __builtin_cpu_is("intel");
  return intel;
}
#endif

constexpr int64_t STRETCH = 256;  // of a row, widened at a time

template <int M, int V>
struct Sums {
  __m512 at[M][V];
};

// The sums (M, 16 V) of rows from `row` on, and what a term adds to them. They come and go by value, for those that are
// pointed to are written to memory at every step.
template <int M, int V>
Sums<M, V> with_widened(Sums<M, V> sum, const Term& term, int64_t row, const bf16* weight) {
  alignas(64) float x[M][STRETCH];
  for (int64_t start = 0; start < term.depth; start += STRETCH) {
    const int64_t length = std::min<int64_t>(term.depth - start, STRETCH);
    for (int m = 0; m < M; m++)
      for (int64_t k = 0; k < length; k += LANES)
        _mm512_store_ps(&x[m][k], widened(term.x + (row + m) * term.stride + start + k, length - k));
    for (int64_t k = 0; k < length; k += 2, weight += 2 * LANES * V) {
      __m512 factors[V];
      UNROLLED for (int v = 0; v < V; v++) factors[v] = lower_halves(weight + 2 * LANES * v);
      UNROLLED for (int m = 0; m < M; m++) {
        const __m512 one = _mm512_set1_ps(x[m][k]);
        UNROLLED for (int v = 0; v < V; v++) sum.at[m][v] = _mm512_fmadd_ps(one, factors[v], sum.at[m][v]);
      }
      UNROLLED for (int v = 0; v < V; v++) factors[v] = upper_halves(weight + 2 * LANES * v);
      UNROLLED for (int m = 0; m < M; m++) {
        const __m512 one = _mm512_set1_ps(x[m][k + 1]);
        UNROLLED for (int v = 0; v < V; v++) sum.at[m][v] = _mm512_fmadd_ps(one, factors[v], sum.at[m][v]);
      }
    }
  }
  return sum;
}

template <int M, int V>
Sums<M, V> with_pairs(Sums<M, V> sum, const Term& term, int64_t row, const bf16* weight) {
  const bf16* x = term.x + row * term.stride;
  for (int64_t k = 0; k < term.depth; k += 2, weight += 2 * LANES * V) {
    __m512bh factors[V];
    UNROLLED for (int v = 0; v < V; v++) factors[v] = (__m512bh)_mm512_loadu_si512(weight + 2 * LANES * v);
    UNROLLED for (int m = 0; m < M; m++) {
      int pair;
      std::memcpy(&pair, x + m * term.stride + k, sizeof pair);
      const __m512bh both = (__m512bh)_mm512_set1_epi32(pair);
      UNROLLED for (int v = 0; v < V; v++) sum.at[m][v] = _mm512_dpbf16_ps(sum.at[m][v], both, factors[v]);
    }
  }
  return sum;
}

template <int M, int V>
void tile(const Term* terms, int count, int64_t row, int64_t column, const Out& out) {
  Sums<M, V> sum;
  UNROLLED for (int m = 0; m < M; m++)
    UNROLLED for (int v = 0; v < V; v++) sum.at[m][v] = _mm512_setzero_ps();
  for (const Term* term = terms; term < terms + count; term++) {
    const bf16* weight = term->packed + column * term->height;
    sum = widens() ? with_widened(sum, *term, row, weight) : with_pairs(sum, *term, row, weight);
  }
  UNROLLED for (int m = 0; m < M; m++)
    UNROLLED for (int v = 0; v < V; v++) out.put(row + m, column + LANES * v, sum.at[m][v]);
}

template <int M, int V>
void panel(const Term* terms, int count, int64_t row, int64_t end, int64_t column, const Out& out) {
  for (; row + M <= end; row += M) tile<M, V>(terms, count, row, column, out);
  if constexpr (M > 1)
    if (row < end) panel<(M > 8 ? 8 : M > 4 ? 4 : M / 2), V>(terms, count, row, end, column, out);
}

// ---- products by tiles

#ifdef __AMX_BF16__

constexpr int TILE = 16;  // rows of a tile, and numbers of float32 in each

// Whether this process may use tiles: Linux gives them to who asks.
bool has_tiles() {
  constexpr int ask = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  static const bool granted = syscall(SYS_arch_prctl, ask, tile_data) == 0;
  return granted;
}

struct alignas(64) TileSetting {
  uint8_t palette = 0, start = 0, unused[14] = {};
  uint16_t bytes[16] = {};  // of a row of each tile
  uint8_t rows[16] = {};
};

// Puts back what a thread's tiles were set to: others use them as well, and may not look.
struct TilesLent {
  TileSetting before;
  TilesLent() { if (has_tiles()) _tile_storeconfig(&before); }
  ~TilesLent() {
    if (!has_tiles()) return;
    if (before.palette) _tile_loadconfig(&before);
    else _tile_release();
  }
};

// Sums in tiles 0 to 3, (up to 32 rows, 32 columns), upper ones first; x in 4 and 5, the factor in 6 and 7.
void set_tiles(int64_t rows) {
  TileSetting setting;
  setting.palette = 1;
  const uint8_t upper = static_cast<uint8_t>(std::min<int64_t>(rows, TILE));
  const uint8_t lower = static_cast<uint8_t>(std::max<int64_t>(rows - TILE, 1));  // not used where it is 0
  for (int i = 0; i < 8; i++) {
    setting.bytes[i] = 64;
    setting.rows[i] = i > 5 ? TILE : i == 0 || i == 1 || i == 4 ? upper : lower;
  }
  _tile_loadconfig(&setting);
}

template <bool LOWER, bool RIGHT>
void tiled(const Term* terms, int count, int64_t row, int64_t rows, int64_t column, int64_t width, int64_t offset,
           const Out& out) {
  _tile_zero(0);
  if (RIGHT) _tile_zero(1);
  if (LOWER) _tile_zero(2);
  if (LOWER && RIGHT) _tile_zero(3);
  for (const Term* term = terms; term < terms + count; term++) {
    const bf16* x = term->x + row * term->stride;
    const bf16* weight = term->packed + column * term->height + 2 * offset;
    for (int64_t k = 0; k < term->depth; k += 32, weight += 32 * width) {
      _tile_loadd(4, x + k, 2 * term->stride);
      _tile_loadd(6, weight, 4 * width);
      _tile_dpbf16ps(0, 4, 6);
      if (RIGHT) {
        _tile_loadd(7, weight + 2 * TILE, 4 * width);
        _tile_dpbf16ps(1, 4, 7);
      }
      if (LOWER) {
        _tile_loadd(5, x + TILE * term->stride + k, 2 * term->stride);
        _tile_dpbf16ps(2, 5, 6);
        if (RIGHT) _tile_dpbf16ps(3, 5, 7);
      }
    }
  }
  alignas(64) float sums[2 * TILE][2 * TILE];
  _tile_stored(0, &sums[0][0], sizeof sums[0]);
  if (RIGHT) _tile_stored(1, &sums[0][TILE], sizeof sums[0]);
  if (LOWER) _tile_stored(2, &sums[TILE][0], sizeof sums[0]);
  if (LOWER && RIGHT) _tile_stored(3, &sums[TILE][TILE], sizeof sums[0]);
  for (int64_t m = 0; m < rows; m++)
    for (int64_t c = 0; c < (RIGHT ? 2 : 1); c++)
      out.put(row + m, column + offset + c * TILE, _mm512_load_ps(&sums[m][c * TILE]));
}

void panel_by_tiles(const Term* terms, int count, int64_t begin, int64_t end, int64_t column, int64_t width,
                    const Out& out) {
  for (int64_t row = begin; row < end; row += 2 * TILE) {
    const int64_t rows = std::min<int64_t>(end - row, 2 * TILE);
    if (row == begin || rows < 2 * TILE) set_tiles(rows);
    for (int64_t offset = 0; offset < width; offset += 2 * TILE) {
      const bool right = width - offset > TILE;
      if (rows > TILE)
        (right ? tiled<true, true> : tiled<true, false>)(terms, count, row, rows, column, width, offset, out);
      else
        (right ? tiled<false, true> : tiled<false, false>)(terms, count, row, rows, column, width, offset, out);
    }
  }
}

// Whether all of a product's terms are as deep as tiles are. It does not depend on how many rows there are, so
// that a row's numbers do not either.
bool suits_tiles(const Term* terms, int count) {
  return has_tiles() && std::all_of(terms, terms + count, [](const Term& term) { return term.depth % 32 == 0; });
}

#else

struct TilesLent {};

#endif

// The columns of one panel of the sum of some terms, for rows begin to end.
void panel_product(const Term* terms, int count, int64_t begin, int64_t end, int64_t column, int64_t width,
                   const Out& out) {
#ifdef __AMX_BF16__
  if (suits_tiles(terms, count)) return panel_by_tiles(terms, count, begin, end, column, width, out);
#endif
  switch (width / LANES) {  // sums stay in registers: 24 of them
    case 1: return panel<12, 1>(terms, count, begin, end, column, out);
    case 2: return panel<12, 2>(terms, count, begin, end, column, out);
    case 3: return panel<8, 3>(terms, count, begin, end, column, out);
    default: return panel<6, 4>(terms, count, begin, end, column, out);
  }
}

// out (M, N) = the sum of terms.
void product(std::initializer_list<Term> terms, int64_t rows, int64_t columns, const Out& out) {
  for (int64_t column = 0; column < columns; column += PANEL)
    panel_product(terms.begin(), static_cast<int>(terms.size()), 0, rows, column,
                  std::min<int64_t>(PANEL, columns - column), out);
}

}  // namespace
