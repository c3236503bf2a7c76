// LoRA adapters: what they add to a linear layer, B · (A · x), for the tokens that have one.
//
// The tokens of a step with one adapter that lie together make tiles; a row's numbers do not depend on its tile. A and B
// are packed as any Linear without a scale or a bias. Next: decoder.cpp, which says when.
#pragma once
#include "linear.h"

extern "C" struct LowRank {
    Linear shrink;  // A; without weights where the adapter does not change this matrix
    Linear expand;  // B; its inputs are the columns of A
};

extern "C" struct LoraLayer {
    LowRank qkv, output, gate_up, down;
};

extern "C" struct LoraStep {
    const LoraLayer* layers;  // [num_adapters][num_layers]
    const int32_t* adapters;  // [num_tokens], -1 for none
    const int32_t* tiles;     // [num_tiles][3]: first token, number of tokens, adapter
    uint32_t* operand;        // [tokens][largest number of inputs]
    uint32_t* shrunk;         // [tokens][rank_words]
    float* gates;             // [tokens][2 · intermediate_size]
    int32_t num_tiles, num_layers;
    int32_t rank_words;  // of the largest rank, in whole panels
    int32_t format;      // FLOAT32 or BF16
};

template <class Dot> struct LoraTile {
    const uint32_t* rows;
    int64_t row_words;
    const char* weights;  // of the panel
    int num_steps;
    float* add_to;       // [ROWS][out_stride], or null for
    uint32_t* shrunk;    // [ROWS][shrunk_stride]
    int64_t out_stride;  // of either

    template <int ROWS> void run() const {
        Floats sums[ROWS][2] = {};
        tile<Dot, ROWS, 2>(rows, row_words, {weights, weights + 64}, STEP_BYTES, num_steps, sums, {nullptr, nullptr}, 0);
        for_each<ROWS, 2>([&](int row, int v) {
            if (add_to) {
                float* to = add_to + row * out_stride + v * LANES;
                store(to, load<Floats>(to) + sums[row][v]);
            } else if constexpr (std::is_same_v<Dot, Bf16Dot>) {
                store_bf16((uint16_t*)(shrunk + row * out_stride) + v * LANES, sums[row][v]);
            } else {
                store(shrunk + row * out_stride + v * LANES, sums[row][v]);
            }
        });
    }
};

// The adapters of one step, as one thread sees them.
struct LoraRunner {
    const LoraStep& step;

    void store_input(int token, const float* row, int size) const {
        const Operand operand = {step.operand, nullptr, nullptr, 0};
        if (step.adapters[token] >= 0) store_operand(step.format, row, size, operand, token);
    }

    bool changes(int layer, LowRank LoraLayer::*part) const {
        for (int index = 0; index < step.num_tiles; index++)
            if (low_rank(index, layer, part).shrink.weights) return true;
        return false;
    }

    // A · x of all tiles; panels are divided among the threads.
    void shrink(int layer, LowRank LoraLayer::*part) const {
        const int max_panels = step.rank_words * values_per_word(step.format) / PANEL;
#pragma omp for schedule(static) nowait
        for (int item = 0; item < step.num_tiles * max_panels; item++) {
            const int index = item / max_panels, panel = item % max_panels, token = tile_of(index)[0];
            const Linear& linear = low_rank(index, layer, part).shrink;
            if (!linear.weights || panel >= num_panels(linear)) continue;
            const int words = num_words(step.format, linear.num_inputs);
            uint32_t* to = step.shrunk + int64_t(token) * step.rank_words + panel * (step.rank_words / max_panels);
            run(index, linear, panel, step.operand + int64_t(token) * words, words, nullptr, to, step.rank_words);
        }
    }

    // Adds B · A · x to `out`, in the columns of this thread's panels.
    void expand(int layer, LowRank LoraLayer::*part, float* out, int64_t out_stride, int first_panel,
                int last_panel) const {
        for (int index = 0; index < step.num_tiles; index++) {
            const Linear& linear = low_rank(index, layer, part).expand;
            if (!linear.weights) continue;
            const int64_t token = tile_of(index)[0];
            for (int panel = first_panel; panel < last_panel; panel++)
                run(index, linear, panel, step.shrunk + token * step.rank_words, step.rank_words,
                    out + token * out_stride + panel * PANEL, nullptr, out_stride);
        }
    }

  private:
    const int32_t* tile_of(int index) const { return step.tiles + index * 3; }
    const LowRank& low_rank(int index, int layer, LowRank LoraLayer::*part) const {
        return step.layers[tile_of(index)[2] * step.num_layers + layer].*part;
    }

    void run(int index, const Linear& linear, int panel, const uint32_t* rows, int64_t row_words, float* add_to,
             uint32_t* shrunk, int64_t out_stride) const {
        const int num_steps = num_words(step.format, linear.num_inputs), num_rows = tile_of(index)[1];
        const char* weights = linear.weights + int64_t(panel) * num_steps * STEP_BYTES;
        if (step.format == BF16)
            with_rows(num_rows, LoraTile<Bf16Dot>{rows, row_words, weights, num_steps, add_to, shrunk, out_stride});
        else
            with_rows(num_rows, LoraTile<Float32Dot>{rows, row_words, weights, num_steps, add_to, shrunk, out_stride});
    }
};
