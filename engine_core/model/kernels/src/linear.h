// Linear layers: activations are brought into the form that the weights need, then each thread computes its panels.
// Next: decoder.cpp, which says in which order.
#pragma once
#include <algorithm>

#include "gemm.h"

enum Format : int32_t { FLOAT32 = 0, BF16 = 1, INT8 = 2, DYNAMIC_INT8 = 3 };

extern "C" struct Linear {
    const char* weights;         // packed, see gemm.h; columns beyond num_columns are zero
    const float* scales;         // [columns, padded to whole panels]: int8 formats only
    const int32_t* column_sums;  // [the same]: dynamic int8 only, 128 · the sum of the column's weights
    const float* bias;           // [the same], or null
    int32_t num_columns;
    int32_t num_inputs;  // a multiple of 4
    int32_t format;
};

// Rows of activations in the form that a Linear reads.
struct Operand {
    uint32_t* words;  // [rows][num_words]
    float* scales;    // [rows]: int8 formats only
};

static inline int values_per_word(int format) {
    return format == FLOAT32 ? 1 : format == DYNAMIC_INT8 ? 4 : 2;
}
static inline int num_words(int format, int num_inputs) { return num_inputs / values_per_word(format); }
static inline int num_panels(const Linear& linear) { return (linear.num_columns + PANEL - 1) / PANEL; }

// The largest activation of which `num_inputs` products with int8 weights cannot leave 32 bits.
static inline float int16_limit(int num_inputs) {
    return std::min(32767.0f, std::floor(2147483647.0f / 127.0f / float(num_inputs)) - 1.0f);
}

static inline float largest_magnitude(const float* row, int size) {
    Floats largest = all(0.0f);
    int i = 0;
    for (; i + LANES <= size; i += LANES) largest = larger(absolute(load<Floats>(row + i)), largest);
    float result = largest_of(largest);
    for (; i < size; i++) result = std::max(result, std::fabs(row[i]));
    return result;
}

static inline bool has_nan(const float* row, int size) {
    Floats sum = all(0.0f);
    int i = 0;
    for (; i + LANES <= size; i += LANES) sum += load<Floats>(row + i) * 0.0f;
    float result = sum_of(sum);
    for (; i < size; i++) result += row[i] * 0.0f;
    return result != 0.0f;  // infinities and NaN give NaN
}

// Whole numbers nearest to `row · factor`, with `offset` added.
template <class Number>
static inline void store_rounded(Number* to, const float* row, int size, float factor, int32_t offset) {
    constexpr float MAGIC = 12582912.0f;  // adding it leaves the whole number in the low bits
    constexpr int32_t MAGIC_BITS = 0x4b400000;
    for (int i = 0; i < size; i++) {
        const float rounded = row[i] * factor + MAGIC;
        int32_t bits;
        std::memcpy(&bits, &rounded, 4);
        to[i] = Number(bits - MAGIC_BITS + offset);
    }
}

// Brings one row of floats into a format. What is not finite in an int8 format makes the whole row NaN.
static inline void store_operand(int format, const float* row, int size, const Operand& operand, int64_t index) {
    uint32_t* words = operand.words + index * num_words(format, size);
    if (format == FLOAT32) {
        std::memcpy(words, row, size * sizeof(float));
        return;
    }
    if (format == BF16) {
        uint16_t* halves = (uint16_t*)words;
        int i = 0;
        for (; i + LANES <= size; i += LANES) store_bf16(halves + i, load<Floats>(row + i));
        for (; i < size; i++) halves[i] = to_bf16(row[i]);
        return;
    }
    const float limit = format == INT8 ? int16_limit(size) : 127.0f;
    const float scale = largest_magnitude(row, size) / limit;
    operand.scales[index] = has_nan(row, size) ? NAN : scale;
    const float factor = scale > 0 && std::isfinite(scale) ? 1.0f / scale : 0.0f;
    if (format == INT8)
        store_rounded((int16_t*)words, row, size, factor, 0);
    else
        store_rounded((uint8_t*)words, row, size, factor, 128);
}

// What becomes of the results of a Linear.
enum Epilogue { STORE, ADD, SILU_GATE, GELU_GATE };

template <class Dot> struct PanelTile {
    const Linear& linear;
    const Operand& operand;
    const char* weights;
    int panel, first_row;
    float* out;
    int64_t out_stride;
    Epilogue epilogue;
    int64_t ahead;

    template <int ROWS> void run() const {
        const int steps = linear.num_inputs / Dot::VALUES_PER_WORD;
        typename Dot::Sum sums[ROWS][2] = {};
        tile<Dot, ROWS, 2>(operand.words + int64_t(first_row) * steps, steps, weights, PANEL * Dot::WEIGHT_BYTES, steps,
                           sums, ahead);
        for (int row = 0; row < ROWS; row++) finish(first_row + row, result<0>(sums[row], first_row + row),
                                                    result<1>(sums[row], first_row + row));
    }

    template <int V> Floats result(const typename Dot::Sum (&sums)[2], int row) const {
        const int column = panel * PANEL + V * LANES;
        Floats value;
        if constexpr (std::is_same_v<typename Dot::Sum, Floats>) {
            value = sums[V];
        } else {
            Ints sum = sums[V];
            if (linear.column_sums) sum -= load<Ints>(linear.column_sums + column);
            value = to_floats(sum) * operand.scales[row] * load<Floats>(linear.scales + column);
        }
        return linear.bias ? value + load<Floats>(linear.bias + column) : value;
    }

    void finish(int row, Floats first, Floats second) const {
        if (epilogue == SILU_GATE || epilogue == GELU_GATE) {  // 16 columns of the gate, then the same 16 of up
            float* to = out + row * out_stride + panel * LANES;
            store(to, (epilogue == SILU_GATE ? silu(first) : gelu_tanh(first)) * second);
            return;
        }
        float* to = out + row * out_stride + panel * PANEL;
        if (epilogue == ADD) {
            first += load<Floats>(to);
            second += load<Floats>(to + LANES);
        }
        store(to, first);
        store(to + LANES, second);
    }
};

template <class Dot>
static void run_panels(const Linear& linear, const Operand& operand, int num_rows, float* out, int64_t out_stride,
                       Epilogue epilogue, int first_panel, int last_panel) {
    const int64_t panel_bytes = int64_t(linear.num_inputs / Dot::VALUES_PER_WORD) * PANEL * Dot::WEIGHT_BYTES;
    const int num_tiles = (num_rows + MAX_TILE_ROWS - 1) / MAX_TILE_ROWS;
    for (int panel = first_panel; panel < last_panel; panel++) {
        for (int index = 0; index < num_tiles; index++) {
            const int begin = int64_t(num_rows) * index / num_tiles, end = int64_t(num_rows) * (index + 1) / num_tiles;
            with_rows(end - begin, PanelTile<Dot>{linear, operand, linear.weights + panel * panel_bytes, panel, begin,
                                                  out, out_stride, epilogue, index + 1 == num_tiles ? panel_bytes : 0});
        }
    }
}

// One thread's share of a Linear. `out_stride` ≥ the columns padded to whole panels (half of that for gates).
static void run_linear(const Linear& linear, const Operand& operand, int num_rows, float* out, int64_t out_stride,
                       Epilogue epilogue, int thread, int num_threads) {
    const int64_t panels = num_panels(linear);
    const int first = int(panels * thread / num_threads), last = int(panels * (thread + 1) / num_threads);
    switch (linear.format) {
        case FLOAT32: return run_panels<Float32Dot>(linear, operand, num_rows, out, out_stride, epilogue, first, last);
        case BF16: return run_panels<Bf16Dot>(linear, operand, num_rows, out, out_stride, epilogue, first, last);
        case INT8: return run_panels<Int8Dot>(linear, operand, num_rows, out, out_stride, epilogue, first, last);
        case DYNAMIC_INT8:
            return run_panels<DynamicInt8Dot>(linear, operand, num_rows, out, out_stride, epilogue, first, last);
    }
}
