// Activations in 8 bits for quantized weights: groups of inputs with a scale each, so that one large value takes the
// precision of its group only. A row's numbers depend on that row alone. Next: linear.h.
#pragma once
#include <algorithm>
#include <cfloat>

#include "gemm.h"

constexpr int GROUP = 32;  // inputs that share a scale in the INT8 format

// Rows of activations in the form that a Linear reads.
struct Operand {
    uint32_t* words;   // [rows][num_words]
    float* scales;     // [num_groups][stride]: int8 formats only
    float* offsets;    // [stride]: -128 · the sum of the row, as the weights have 128 added
    int64_t stride;    // at least the number of rows
};

// Whole numbers nearest to 16 floats of magnitude below 2^22.
static inline Ints rounded(Floats value) {
    constexpr float MAGIC = 12582912.0f;  // adding it leaves the whole number in the low bits
    return (Ints)(value + MAGIC) - 0x4b400000;
}

// Quantizes one group of a row, and adds its sum to `total`. What is not finite gives the scale NaN.
static inline float quantize_group(const float* values, int size, int8_t* to, Floats& total) {
    constexpr uint32_t INFINITE = 0x7f800000;  // bits; those of NaN are larger, and magnitudes order as their bits
    const int num_whole = size / LANES * LANES;
    float rest[LANES] = {};
    if (num_whole < size) std::memcpy(rest, values + num_whole, (size - num_whole) * sizeof(float));
    const Floats last = load<Floats>(rest);
    Words bits = (Words)last & 0x7fffffffu;
    for (int i = 0; i < num_whole; i += LANES) bits = larger(bits, load<Words>(values + i) & 0x7fffffffu);
    const uint32_t largest_bits = largest_of(bits);
    float largest;
    std::memcpy(&largest, &largest_bits, sizeof largest);
    const float scale = largest_bits < INFINITE ? largest * (1.0f / 127.0f) : NAN;
    const float factor = scale > FLT_MIN ? 1.0f / scale : 0.0f;
    Ints sums = {};
    for (int i = 0; i < num_whole; i += LANES) {
        const Ints numbers = rounded(load<Floats>(values + i) * factor);
        sums += numbers;
        store(to + i, __builtin_convertvector(numbers, Bytes));
    }
    if (num_whole < size) {
        const Ints numbers = rounded(last * factor);
        sums += numbers;
        for (int lane = 0; num_whole + lane < size; lane++) to[num_whole + lane] = int8_t(numbers[lane]);
    }
    total += to_floats(sums) * scale;
    return scale;
}

// Brings a row into groups.
static inline void quantize_row(const float* row, int size, int group, const Operand& operand, int64_t index) {
    int8_t* to = (int8_t*)operand.words + index * size;
    float* scale = operand.scales + index;
    Floats total = all(0.0f);
    int begin = 0;
    if (group == GROUP)  // of a size that the compiler knows
        for (; begin + GROUP <= size; begin += GROUP, scale += operand.stride)
            *scale = quantize_group(row + begin, GROUP, to + begin, total);
    for (; begin < size; begin += group, scale += operand.stride)
        *scale = quantize_group(row + begin, std::min(group, size - begin), to + begin, total);
    operand.offsets[index] = -128.0f * sum_of(total);
}

// The groups of `ROWS` rows times a panel, added to `sums`. Few registers but those of the sums, or GCC spills these.
struct Groups {
    const uint32_t* words;  // of the first row
    int64_t num_words;      // of a row
    const char* weights;
    const float* scales;  // of the first row
    int64_t scale_stride;
    int64_t ahead;  // see `tile`

    template <int ROWS, int STEPS> [[gnu::noinline]] void add(Floats (&result)[ROWS][2]) const {
        Floats sums[ROWS][2];
        for_each<ROWS, 2>([&](int row, int v) { sums[row][v] = result[row][v]; });
        const int64_t stride = num_words;
        const uint32_t *row = words, *end = words + num_words / STEPS * STEPS;
        const char* panel = weights;
        const float* scale = scales;
        for (; row < end; row += STEPS, panel += STEPS * STEP_BYTES, scale += scale_stride) {
            Ints parts[ROWS][2] = {};
            if (ahead)
                for (int byte = 0; byte < STEPS * STEP_BYTES; byte += 64) __builtin_prefetch(panel + ahead + byte, 0, 2);
#pragma GCC unroll 8
            for (int step = 0; step < STEPS; step++) add_step<ROWS>(row + step, stride, panel + step * STEP_BYTES, parts);
            for_each<ROWS, 2>([&](int row, int v) { sums[row][v] += to_floats(parts[row][v]) * scale[row]; });
        }
        if (const int rest = int(num_words % STEPS)) {
            Ints parts[ROWS][2] = {};
            for (int step = 0; step < rest; step++) add_step<ROWS>(row + step, stride, panel + step * STEP_BYTES, parts);
            for_each<ROWS, 2>([&](int row, int v) { sums[row][v] += to_floats(parts[row][v]) * scale[row]; });
        }
        for_each<ROWS, 2>([&](int row, int v) { result[row][v] = sums[row][v]; });
    }

    // All steps are one group.
    template <int ROWS> [[gnu::noinline]] void add_all(Floats (&result)[ROWS][2]) const {
        Ints parts[ROWS][2] = {};
        tile<Int8Dot, ROWS, 2>(words, num_words, {weights, weights + 64}, STEP_BYTES, int(num_words), parts,
                               {ahead, ahead});
        for_each<ROWS, 2>([&](int row, int v) { result[row][v] += to_floats(parts[row][v]) * scales[row]; });
    }

    template <int ROWS>
    [[gnu::always_inline]] static void add_step(const uint32_t* row, int64_t stride, const char* at,
                                                Ints (&parts)[ROWS][2]) {
        const Words columns[2] = {load<Words>(at), load<Words>(at + 64)};
#pragma GCC unroll 12
        for (int i = 0; i < ROWS; i++) {
            const Words activation = all_words(row[i * stride]);
            Int8Dot::add(parts[i][0], activation, columns[0]);
            Int8Dot::add(parts[i][1], activation, columns[1]);
        }
    }
};
