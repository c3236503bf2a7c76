// Rows of activations times packed weights: one micro-kernel for every format, for the linear layers and for attention.
//
// Everything is seen as 32-bit words: a word of weights or activations holds one float, a pair of bfloat16, or four
// bytes, and one step multiplies a word of each row with a word of each of 16 (or 32) columns. A result is the sum over
// the steps in their order, whatever other rows there are: a row never depends on its neighbours.
// Packed weights: panels of 32 columns, `[panel][step][32]`. Next: quantized.h, linear.h, attention.h.
#pragma once
#include "vectors.h"

constexpr int MAX_TILE_ROWS = 12;  // times two vectors: 24 of 32 registers
constexpr int PANEL = 32;
constexpr int STEP_BYTES = 4 * PANEL;  // of a panel

struct Float32Dot {
    typedef Floats Sum;
    static constexpr int VALUES_PER_WORD = 1, MAX_ROWS = MAX_TILE_ROWS;
    static void add(Floats& sum, Words activation, Words weight) { sum += (Floats)activation * (Floats)weight; }
};

struct Bf16Dot {
    typedef Floats Sum;
    static constexpr int VALUES_PER_WORD = 2, MAX_ROWS = MAX_TILE_ROWS;
    static void add(Floats& sum, Words activation, Words weight) {
#ifdef __AVX512BF16__
        sum = (Floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)activation, (__m512bh)weight);
#else
        sum += (Floats)(activation << 16) * (Floats)(weight << 16);
        sum += (Floats)(activation & 0xffff0000u) * (Floats)(weight & 0xffff0000u);
#endif
    }
};

constexpr float WEIGHT_OFFSET = 128;  // added to int8 weights; what a sum begins with takes it away

// Unsigned weights and int8 activations, four to a word.
struct Int8Dot {
    typedef Ints Sum;
    static constexpr int VALUES_PER_WORD = 4, MAX_ROWS = 6;  // beside the sums of a group, those of all groups
    static void add(Ints& sum, Words activation, Words weight) {
#ifdef __AVX512VNNI__
        sum = (Ints)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)weight, (__m512i)activation);
#else
        for (int shift = 0; shift < 32; shift += 8)
            sum += (Ints)((weight >> shift) & 0xffu) * ((Ints)(activation << (24 - shift)) >> 24);
#endif
    }
};

// Calls `function(row, v)` for all, with numbers that the compiler knows.
template <int ROWS, int VECTORS, class Function>
[[gnu::always_inline]] static inline void for_each(Function&& function) {
#pragma GCC unroll 12
    for (int row = 0; row < ROWS; row++)
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; v++) function(row, v);
}

struct Int4Dot : Int8Dot {};  // weights of four bits, see quantized.h

// `ROWS` rows times 16 · `VECTORS` columns, added to `result`. Activations: `[ROWS][activation_stride]` words. Weights:
// step s begins at `weights[v] + s · weight_stride` bytes. Meanwhile the lines `next[v] + s · next_stride` are fetched
// into the cache, where it is not null.
template <class Dot, int ROWS, int VECTORS>
[[gnu::always_inline]] static inline void tile(const uint32_t* activations, int64_t activation_stride,
                                               const char* const (&weights)[VECTORS], int64_t weight_stride,
                                               int num_steps, typename Dot::Sum (&result)[ROWS][VECTORS],
                                               const char* const (&next)[VECTORS], int64_t next_stride) {
    typename Dot::Sum sums[ROWS][VECTORS];
    for_each<ROWS, VECTORS>([&](int row, int v) { sums[row][v] = result[row][v]; });
    int64_t at = 0;
    for (int step = 0; step < num_steps; step++, at += weight_stride) {
        Words columns[VECTORS];
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; v++) {
            if (next[v]) __builtin_prefetch(next[v] + step * next_stride, 0, 2);
            columns[v] = load<Words>(weights[v] + at);
        }
#pragma GCC unroll 12
        for (int row = 0; row < ROWS; row++) {
            const Words activation = all_words(activations[row * activation_stride + step]);
#pragma GCC unroll 2
            for (int v = 0; v < VECTORS; v++) Dot::add(sums[row][v], activation, columns[v]);
        }
    }
    for_each<ROWS, VECTORS>([&](int row, int v) { result[row][v] = sums[row][v]; });
}

// Calls `function.template run<n>()` with n = `rows` (1 … MAX_TILE_ROWS) known to the compiler.
template <class Function, int ROWS = MAX_TILE_ROWS> static inline void with_rows(int rows, Function&& function) {
    if constexpr (ROWS > 0) {
        if (rows == ROWS)
            function.template run<ROWS>();
        else
            with_rows<Function, ROWS - 1>(rows, static_cast<Function&&>(function));
    }
}
