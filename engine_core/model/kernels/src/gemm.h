// Rows of activations times packed weights: one micro-kernel for every format, used by the linear layers and by attention.
//
// Everything is seen as 32-bit words: a word of weights or activations holds one float, a pair of bfloat16, a pair of
// int16 or four int8, and one step multiplies a word of each row with a word of each of 16 (or 32) columns. A result is
// the sum over the steps in their order, whatever other rows there are: a row never depends on its neighbours.
// Packed weights: panels of 32 columns, `[panel][step][32]`. Next: linear.h, attention.h.
#pragma once
#include "vectors.h"

constexpr int MAX_TILE_ROWS = 12;  // times two vectors: 24 of 32 registers
constexpr int PANEL = 32;

struct WholeWords {  // weights that are kept as they are multiplied
    static constexpr int WEIGHT_BYTES = 4;
    static Words weights(const char* at) { return load<Words>(at); }
};

struct Float32Dot : WholeWords {
    typedef Floats Sum;
    static constexpr int VALUES_PER_WORD = 1;
    static void add(Floats& sum, Words activation, Words weight) { sum += (Floats)activation * (Floats)weight; }
};

struct Bf16Dot : WholeWords {
    typedef Floats Sum;
    static constexpr int VALUES_PER_WORD = 2;
    static void add(Floats& sum, Words activation, Words weight) {
#ifdef __AVX512BF16__
        sum = (Floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)activation, (__m512bh)weight);
#else
        sum += (Floats)(activation << 16) * (Floats)(weight << 16);
        sum += (Floats)(activation & 0xffff0000u) * (Floats)(weight & 0xffff0000u);
#endif
    }
};

// int8 weights, int16 activations that are small enough for sums of 32 bits (see `int16_limit` in linear.h).
struct Int8Dot {
    typedef Ints Sum;
    static constexpr int VALUES_PER_WORD = 2, WEIGHT_BYTES = 2;
    static Words weights(const char* at) {
        typedef int8_t Bytes __attribute__((vector_size(32)));
        typedef int16_t Shorts __attribute__((vector_size(64)));
        return (Words)__builtin_convertvector(load<Bytes>(at), Shorts);
    }
    static void add(Ints& sum, Words activation, Words weight) {
#ifdef __AVX512VNNI__
        sum = (Ints)_mm512_dpwssd_epi32((__m512i)sum, (__m512i)activation, (__m512i)weight);
#elif defined(__AVX512BW__)
        sum += (Ints)_mm512_madd_epi16((__m512i)activation, (__m512i)weight);
#else
        sum += ((Ints)(activation << 16) >> 16) * ((Ints)(weight << 16) >> 16);
        sum += ((Ints)activation >> 16) * ((Ints)weight >> 16);
#endif
    }
};

// int8 weights and activations; the activations are stored with 128 added, which `Linear.column_sums` takes away again.
struct DynamicInt8Dot : WholeWords {
    typedef Ints Sum;
    static constexpr int VALUES_PER_WORD = 4;
    static void add(Ints& sum, Words activation, Words weight) {
#ifdef __AVX512VNNI__
        sum = (Ints)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)activation, (__m512i)weight);
#else
        for (int shift = 0; shift < 32; shift += 8)
            sum += (Ints)((activation >> shift) & 0xffu) * ((Ints)(weight << (24 - shift)) >> 24);
#endif
    }
};

// `ROWS` rows times 16 · `VECTORS` columns, added to `result`. Activations: `[ROWS][activation_stride]` words. Weights:
// step s begins at `weights + s · weight_stride` bytes; those `ahead` bytes further on are fetched into the cache.
template <class Dot, int ROWS, int VECTORS>
[[gnu::always_inline]] static inline void tile(const uint32_t* activations, int64_t activation_stride,
                                               const char* weights, int64_t weight_stride, int num_steps,
                                               typename Dot::Sum (&result)[ROWS][VECTORS], int64_t ahead = 0) {
    typename Dot::Sum sums[ROWS][VECTORS];
#pragma GCC unroll 12
    for (int row = 0; row < ROWS; row++)
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; v++) sums[row][v] = result[row][v];
    for (int step = 0; step < num_steps; step++, weights += weight_stride) {
        Words columns[VECTORS];
        if (ahead)
            for (int byte = 0; byte < VECTORS * LANES * Dot::WEIGHT_BYTES; byte += 64)
                __builtin_prefetch(weights + ahead + byte, 0, 2);
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; v++) columns[v] = Dot::weights(weights + v * LANES * Dot::WEIGHT_BYTES);
#pragma GCC unroll 12
        for (int row = 0; row < ROWS; row++) {
            const Words activation = all_words(activations[row * activation_stride + step]);
#pragma GCC unroll 2
            for (int v = 0; v < VECTORS; v++) Dot::add(sums[row][v], activation, columns[v]);
        }
    }
#pragma GCC unroll 12
    for (int row = 0; row < ROWS; row++)
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; v++) result[row][v] = sums[row][v];
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
