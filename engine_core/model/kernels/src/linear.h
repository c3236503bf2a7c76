// Linear layers: activations are brought into the form that the weights need, then each thread computes its panels.
// Next: decoder.cpp, which says in which order.
#pragma once
#include "quantized.h"

enum Format : int32_t { FLOAT32 = 0, BF16 = 1, INT8 = 2, DYNAMIC_INT8 = 3, INT4 = 4 };

extern "C" struct Linear {
    const char* weights;  // packed, see gemm.h; columns beyond num_columns are zero
    const float* scales;  // [columns, padded to whole panels]: int8 formats only
    const float* bias;    // [the same], or null
    int32_t num_columns;
    int32_t num_inputs;  // a multiple of 4
    int32_t format;
};

static inline int values_per_word(int format) {
    return format == FLOAT32 ? 1 : format == BF16 ? 2 : 4;
}
static inline int num_words(int format, int num_inputs) { return num_inputs / values_per_word(format); }
static inline int num_panels(const Linear& linear) { return (linear.num_columns + PANEL - 1) / PANEL; }

static inline int group_of(int format, int num_inputs) { return format == DYNAMIC_INT8 ? num_inputs : GROUP; }

// Brings one row of floats into a format. What is not finite in an int8 format makes the whole row NaN.
static inline void store_operand(int format, const float* row, int size, const Operand& operand, int64_t index) {
    uint32_t* words = operand.words + index * num_words(format, size);
    if (format == FLOAT32) {
        std::memcpy(words, row, size * sizeof(float));
    } else if (format == BF16) {
        uint16_t* halves = (uint16_t*)words;
        int i = 0;
        for (; i + LANES <= size; i += LANES) store_bf16(halves + i, load<Floats>(row + i));
        for (; i < size; i++) halves[i] = to_bf16(row[i]);
    } else {
        quantize_row(row, size, group_of(format, size), format == INT4, operand, index);
    }
}

// What becomes of the results of a Linear.
enum Epilogue { STORE, ADD, SILU, GELU, SILU_GATE, GELU_GATE };

template <class Dot> struct PanelTile {
    const Linear& linear;
    const Operand& operand;
    const char* weights;
    int panel, first_row;
    float* out;
    int64_t out_stride;
    Epilogue epilogue;
    Share next;

    template <int ROWS> void run() const {
        Floats sums[ROWS][2] = {};
        if constexpr (std::is_base_of_v<Int8Dot, Dot>)
            add_groups<ROWS>(sums);
        else
            tile<Dot, ROWS, 2>(words(), num_steps(), {weights, weights + 64}, STEP_BYTES, num_steps(), sums,
                               {next.begin, next.second}, next.step_bytes);
        for (int row = 0; row < ROWS; row++) finish(first_row + row, result<0>(sums[row]), result<1>(sums[row]));
    }

    template <int ROWS> void add_groups(Floats (&sums)[ROWS][2]) const {
        const Groups groups{words(), num_steps(), weights, operand.scales + first_row, operand.stride, next};
        if constexpr (std::is_same_v<Dot, Int4Dot>) {
            groups.add_int4<ROWS>(operand.sums + first_row, sums);
        } else {
            for (int row = 0; row < ROWS; row++)
                sums[row][0] = sums[row][1] = all(-WEIGHT_OFFSET * operand.sums[first_row + row]);
            if (linear.format == INT8)
                groups.add<ROWS, GROUP / 4>(sums);
            else
                groups.add_all<ROWS>(sums);
        }
    }

    int num_steps() const { return linear.num_inputs / Dot::VALUES_PER_WORD; }
    const uint32_t* words() const { return operand.words + int64_t(first_row) * num_steps(); }

    template <int V> Floats result(const Floats (&sums)[2]) const {
        const int column = panel * PANEL + V * LANES;
        const Floats value = linear.scales ? sums[V] * load<Floats>(linear.scales + column) : sums[V];
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
        } else if (epilogue == SILU || epilogue == GELU) {
            first = epilogue == SILU ? silu(first) : gelu_tanh(first);
            second = epilogue == SILU ? silu(second) : gelu_tanh(second);
        }
        store(to, first);
        store(to + LANES, second);
    }
};

template <class Dot>
static void run_panels(const Linear& linear, const Operand& operand, int num_rows, float* out, int64_t out_stride,
                       Epilogue epilogue, int first_panel, int last_panel) {
    const int64_t panel_bytes = std::is_same_v<Dot, Int4Dot>
                                    ? int64_t(linear.num_inputs / GROUP) * INT4_GROUP_BYTES
                                    : int64_t(linear.num_inputs / Dot::VALUES_PER_WORD) * STEP_BYTES;
    const int num_tiles = (num_rows + Dot::MAX_ROWS - 1) / Dot::MAX_ROWS;
    for (int panel = first_panel; panel < last_panel; panel++) {
        const char* weights = linear.weights + panel * panel_bytes;
        for (int index = 0; index < num_tiles; index++) {
            const int begin = int64_t(num_rows) * index / num_tiles, end = int64_t(num_rows) * (index + 1) / num_tiles;
            Share next;
            if (panel + 1 < last_panel) next = Share(weights + panel_bytes, panel_bytes, index, num_tiles);
            with_rows<PanelTile<Dot>, Dot::MAX_ROWS>(
                end - begin, PanelTile<Dot>{linear, operand, weights, panel, begin, out, out_stride, epilogue, next});
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
        case INT8:
        case DYNAMIC_INT8:
            return run_panels<Int8Dot>(linear, operand, num_rows, out, out_stride, epilogue, first, last);
        case INT4: return run_panels<Int4Dot>(linear, operand, num_rows, out, out_stride, epilogue, first, last);
    }
}
