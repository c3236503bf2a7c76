// Quantized weights: activations are brought into 8 bits, in groups of inputs with a scale each, so that one large value
// takes the precision of its group only. A row's numbers depend on that row alone.
// Weights of 4 bits come in the blocks of GGUF's Q4_1: of 32 inputs, each value is minimum + scale · (0 … 15). A panel
// of them is `[group]` of scales and minimums, 32 of each as halves, and `[4][32]` words: those of steps 0 … 3 in the low
// four bits of each byte, of steps 4 … 7 in the high. Next: linear.h.
#pragma once
#include <algorithm>
#include <cfloat>

#include "gemm.h"

constexpr int GROUP = 32;  // inputs that share a scale in the INT8 and INT4 formats
constexpr int INT4_GROUP_BYTES = 2 * PANEL * 2 + 4 * STEP_BYTES;

// Rows of activations in the form that a Linear reads.
struct Operand {
    uint32_t* words;  // [rows][num_words]
    float* scales;    // [num_groups][stride]: quantized formats only
    float* sums;      // INT4: [num_groups][stride], of the group; INT8, DYNAMIC_INT8: [stride], of the row
    int64_t stride;   // at least the number of rows
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

// Brings a row into groups, with a sum for each group or one for all.
static inline void quantize_row(const float* row, int size, int group, bool has_group_sums, const Operand& operand,
                                int64_t index) {
    int8_t* to = (int8_t*)operand.words + index * size;
    float *scale = operand.scales + index, *sum = operand.sums + index;
    Floats total = all(0.0f);
    for (int begin = 0; begin < size; begin += group, scale += operand.stride) {
        if (group == GROUP && begin + GROUP <= size)  // of a size that the compiler knows
            *scale = quantize_group(row + begin, GROUP, to + begin, total);
        else
            *scale = quantize_group(row + begin, std::min(group, size - begin), to + begin, total);
        if (has_group_sums) {
            *sum = sum_of(total);
            sum += operand.stride;
            total = all(0.0f);
        }
    }
    if (!has_group_sums) *sum = sum_of(total);
}

// A tile's share of the next panel, which it fetches into the cache while it computes: all tiles of a panel together
// fetch it at the rate at which they compute.
struct Share {
    static constexpr int MAX_SHARES = 16;

    const char* begin = nullptr;  // null for none
    const char* second = nullptr;
    int64_t num_bytes = 0;
    int64_t step_bytes = 0;  // from `begin` and from `second` on, in a step

    Share() = default;
    Share(const char* panel, int64_t panel_bytes, int index, int num_tiles) {
        const int num_shares = std::min(num_tiles, MAX_SHARES);
        if (index >= num_shares) return;
        num_bytes = panel_bytes / num_shares;
        begin = panel + num_bytes * index;
        second = begin + (num_shares == 1 ? 64 : num_bytes / 2);
        step_bytes = num_shares == 1 ? STEP_BYTES : 64 / num_shares;
    }
};

// The groups of `ROWS` rows times a panel, added to `sums`. Few registers but those of the sums, or GCC spills these.
struct Groups {
    const uint32_t* words;  // of the first row
    int64_t num_words;      // of a row
    const char* weights;
    const float* scales;  // of the first row
    int64_t scale_stride;
    Share next;

    template <int ROWS, int STEPS> [[gnu::noinline]] void add(Floats (&result)[ROWS][2]) const {
        Floats sums[ROWS][2];
        for_each<ROWS, 2>([&](int row, int v) { sums[row][v] = result[row][v]; });
        const int64_t stride = num_words;
        const uint32_t *row = words, *end = words + num_words / STEPS * STEPS;
        const char *panel = weights, *fetched = next.begin, *due = next.begin;
        const int64_t due_per_group = next.begin ? next.num_bytes * STEPS / num_words + 1 : 0;
        const float* scale = scales;
        for (; row < end; row += STEPS, panel += STEPS * STEP_BYTES, scale += scale_stride) {
            Ints parts[ROWS][2] = {};
            fetch(fetched, due += due_per_group);
#pragma GCC unroll 8
            for (int step = 0; step < STEPS; step++)
                add_step<ROWS>(row + step, stride, panel + step * STEP_BYTES, parts);
            for_each<ROWS, 2>([&](int row, int v) { sums[row][v] += to_floats(parts[row][v]) * scale[row]; });
        }
        if (const int rest = int(num_words % STEPS)) {
            Ints parts[ROWS][2] = {};
            for (int step = 0; step < rest; step++)
                add_step<ROWS>(row + step, stride, panel + step * STEP_BYTES, parts);
            for_each<ROWS, 2>([&](int row, int v) { sums[row][v] += to_floats(parts[row][v]) * scale[row]; });
        }
        for_each<ROWS, 2>([&](int row, int v) { result[row][v] = sums[row][v]; });
    }

    // All steps are one group.
    template <int ROWS> [[gnu::noinline]] void add_all(Floats (&result)[ROWS][2]) const {
        Ints parts[ROWS][2] = {};
        tile<Int8Dot, ROWS, 2>(words, num_words, {weights, weights + 64}, STEP_BYTES, int(num_words), parts,
                               {next.begin, next.second}, next.step_bytes);
        for_each<ROWS, 2>([&](int row, int v) { result[row][v] += to_floats(parts[row][v]) * scales[row]; });
    }

    // The same of weights in 4 bits; `group_sums` of the first row.
    template <int ROWS> [[gnu::noinline]] void add_int4(const float* group_sums, Floats (&result)[ROWS][2]) const {
        constexpr int STEPS = GROUP / 4;
        Floats sums[ROWS][2] = {};
        const int64_t stride = num_words;
        const uint32_t *row = words, *end = words + num_words;
        const char *panel = weights, *fetched = next.begin, *due = next.begin;
        const int64_t due_per_group = next.begin ? next.num_bytes * STEPS / num_words + 1 : 0;
        const float *scale = scales, *sum = group_sums;
        for (; row < end; row += STEPS, panel += INT4_GROUP_BYTES, scale += scale_stride, sum += scale_stride) {
            Ints parts[ROWS][2] = {};
            fetch(fetched, due += due_per_group);
#pragma GCC unroll 4
            for (int step = 0; step < STEPS / 2; step++) {
                const char* at = panel + 4 * PANEL + step * STEP_BYTES;
                const Words both[2] = {load<Words>(at), load<Words>(at + 64)};
                const Words low[2] = {both[0] & 0x0f0f0f0fu, both[1] & 0x0f0f0f0fu};
                add_columns<ROWS>(row + step, stride, low, parts);
                const Words high[2] = {(both[0] >> 4) & 0x0f0f0f0fu, (both[1] >> 4) & 0x0f0f0f0fu};
                add_columns<ROWS>(row + step + STEPS / 2, stride, high, parts);
            }
            const uint16_t* halves = (const uint16_t*)panel;
            for_each<ROWS, 2>([&](int i, int v) {
                sums[i][v] += to_floats(parts[i][v]) * (load_halves(halves + v * LANES) * scale[i]) +
                              load_halves(halves + PANEL + v * LANES) * sum[i];
            });
        }
        for_each<ROWS, 2>([&](int row, int v) { result[row][v] = sums[row][v]; });
    }

    static void fetch(const char*& from, const char* end) {
        for (; from < end; from += 64) __builtin_prefetch(from, 0, 2);
    }

    template <int ROWS>
    [[gnu::always_inline]] static void add_step(const uint32_t* row, int64_t stride, const char* at,
                                                Ints (&parts)[ROWS][2]) {
        const Words columns[2] = {load<Words>(at), load<Words>(at + 64)};
        add_columns<ROWS>(row, stride, columns, parts);
    }

    template <int ROWS>
    [[gnu::always_inline]] static void add_columns(const uint32_t* row, int64_t stride, const Words (&columns)[2],
                                                   Ints (&parts)[ROWS][2]) {
#pragma GCC unroll 12
        for (int i = 0; i < ROWS; i++) {
            const Words activation = all_words(row[i * stride]);
            Int8Dot::add(parts[i][0], activation, columns[0]);
            Int8Dot::add(parts[i][1], activation, columns[1]);
        }
    }
};
