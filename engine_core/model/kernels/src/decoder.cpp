// One step of a decoder of the Llama family on a CPU: every layer in one parallel region, phase after phase.
//
// The structs mirror those of bindings.py. Activations between linear layers are floats; the residual stream is never
// rounded. Phases divide rows, panels or attention tiles among the threads and end with a barrier; a row's result does
// not depend on the rows beside it. Reading order: vectors.h, gemm.h, quantized.h, linear.h, lora.h, attention.h, this
// file.
#include <omp.h>

#include "attention.h"
#include "linear.h"
#include "lora.h"
#include "sampling.h"

extern "C" struct Layer {
    Linear qkv, output, gate_up, down;
    const float *input_norm, *post_attention_norm, *mlp_norm, *post_mlp_norm;  // [hidden_size]; post norms may be null
    const float *query_norm, *key_norm;                                        // [head_dim] or null
    const float *cos, *sin;                                                    // [max_model_len][rotary_dim / 2]
    char *keys, *values;
    int32_t rotary_dim;
    int32_t window;  // 0 for none
};

extern "C" struct Decoder {
    const Layer* layers;
    const void* embedding;  // [vocab_size][hidden_size], float or bfloat16
    const float* norm;
    int32_t num_layers, hidden_size, intermediate_size, num_heads, num_kv_heads, head_dim, block_size;
    int32_t is_bf16;  // embedding and KV cache
    int32_t has_gelu;
    int32_t has_gate;  // of the MLP: gate_up holds both, see `finish` in linear.h; else up only
    float rms_norm_eps, embedding_scale, attention_scale, attention_softcap;
};

extern "C" struct Batch {
    const int64_t *input_ids, *positions;  // [num_tokens]
    const Span* spans;
    const int32_t* tiles;  // [num_tiles][2]: span, first row; each for all KV heads
    int32_t num_tokens, num_spans, num_tiles;
    const LoraStep* lora;  // null where no token has an adapter
};

extern "C" struct Scratch {  // strides are `stride_of` the sizes
    float* residual;         // [tokens][hidden_size]; at the end the hidden states
    float* qkv;              // [tokens][(num_heads + 2 · num_kv_heads) · head_dim]; later gates or results
    float* attended;         // [tokens][num_heads · head_dim]
    float* activated;        // [tokens][intermediate_size]
    uint32_t* query;         // [tokens][num_heads · head_dim]
    uint32_t* operand;       // [tokens][largest number of inputs]
    float* operand_scales;   // [largest number of groups][tokens]
    float* operand_sums;     // [the same]
    double* phase_seconds;   // [NUM_PHASES], to which the step's times are added; null to measure nothing
};

enum Phase { LINEAR, ATTENTION, REST, NUM_PHASES };  // the rest: norms, rotation, changes of form

static inline int64_t stride_of(int64_t size) { return (size + PANEL - 1) / PANEL * PANEL; }

static void rms_norm(const float* row, const float* weight, int size, float eps, float* out) {
    Floats squares = all(0.0f);
    int i = 0;
    for (; i + LANES <= size; i += LANES) squares += load<Floats>(row + i) * load<Floats>(row + i);
    float sum = sum_of(squares);
    for (int j = i; j < size; j++) sum += row[j] * row[j];
    const float scale = 1.0f / std::sqrt(sum / float(size) + eps);
    for (i = 0; i + LANES <= size; i += LANES)
        store(out + i, load<Floats>(row + i) * scale * load<Floats>(weight + i));
    for (; i < size; i++) out[i] = row[i] * scale * weight[i];
}

struct StepRunner {
    const Decoder& decoder;
    const Batch& batch;
    const Scratch& scratch;
    int thread, num_threads;
    int64_t hidden_stride = stride_of(decoder.hidden_size);
    double phase_began = 0;

    void run() {
        if (scratch.phase_seconds) phase_began = omp_get_wtime();
        for_each_token([&](int token) { embed(token); });
        for (int index = 0; index < decoder.num_layers; index++) {
            const Layer& layer = decoder.layers[index];
            attend(layer);
            feed_forward(layer);
        }
        for_each_token([&](int token) {
            float* row = residual(token);
            rms_norm(row, decoder.norm, decoder.hidden_size, decoder.rms_norm_eps, row);
        });
    }

    // --- phases ---

    void attend(const Layer& layer) {
        const int attended_size = decoder.num_heads * decoder.head_dim;
        normalize(layer.qkv, layer.input_norm);
        linear(layer.qkv, scratch.qkv, stride_of(layer.qkv.num_columns), STORE, layer, &LoraLayer::qkv);
        for_each_token([&](int token) { rotate_and_store(layer, token); });
        attend_tiles(layer);
        to_operand(layer.output, scratch.attended, attended_size);
        add_to_residual(layer.output, layer.post_attention_norm, layer, &LoraLayer::output);
    }

    void feed_forward(const Layer& layer) {
        const int64_t stride = stride_of(decoder.intermediate_size);
        normalize(layer.gate_up, layer.mlp_norm);
        if (has_adapter(layer, &LoraLayer::gate_up)) {
            const int64_t gates_stride = stride_of(layer.gate_up.num_columns);
            linear(layer.gate_up, batch.lora->gates, gates_stride, STORE, layer, &LoraLayer::gate_up);
            for_each_token([&](int token) {
                activate(batch.lora->gates + token * gates_stride, gates_stride, scratch.activated + token * stride);
            });
        } else {
            const Epilogue gated = decoder.has_gelu ? GELU_GATE : SILU_GATE, ungated = decoder.has_gelu ? GELU : SILU;
            const Epilogue epilogue = decoder.has_gate ? gated : ungated;
            linear(layer.gate_up, scratch.activated, stride, epilogue, layer, &LoraLayer::gate_up);
        }
        to_operand(layer.down, scratch.activated, stride);
        add_to_residual(layer.down, layer.post_mlp_norm, layer, &LoraLayer::down);
    }

    // Gates that adapters have changed, as the epilogue of a Linear does it with those that it has just computed.
    void activate(const float* gates, int64_t size, float* to) const {
        for (int64_t i = 0; i < size; i += decoder.has_gate ? PANEL : LANES, to += LANES) {
            const Floats gate = load<Floats>(gates + i), activated = decoder.has_gelu ? gelu_tanh(gate) : silu(gate);
            store(to, decoder.has_gate ? activated * load<Floats>(gates + i + LANES) : activated);
        }
    }

    void embed(int token) const {
        const int size = decoder.hidden_size;
        const int64_t at = batch.input_ids[token] * size;
        float* row = residual(token);
        for (int i = 0; i < size; i++)
            row[i] = decoder.embedding_scale * (decoder.is_bf16 ? from_bf16(((const uint16_t*)decoder.embedding)[at + i])
                                                                : ((const float*)decoder.embedding)[at + i]);
        for (int i = size; i < hidden_stride; i++) row[i] = 0;
    }

    // Norm of the residual stream, in the form that `linear` reads.
    void normalize(const Linear& linear, const float* weight) {
        for_each_token([&](int token) {
            float normalized[MAX_ROW];
            rms_norm(residual(token), weight, decoder.hidden_size, decoder.rms_norm_eps, normalized);
            store_operand(linear.format, normalized, decoder.hidden_size, operand(), token);
            if (batch.lora) LoraRunner{*batch.lora}.store_input(token, normalized, decoder.hidden_size);
        });
    }

    void to_operand(const Linear& linear, const float* rows, int64_t stride) {
        for_each_token([&](int token) {
            store_operand(linear.format, rows + token * stride, linear.num_inputs, operand(), token);
            if (batch.lora) LoraRunner{*batch.lora}.store_input(token, rows + token * stride, linear.num_inputs);
        });
    }

    void add_to_residual(const Linear& linear, const float* post_norm, const Layer& layer, LowRank LoraLayer::*part) {
        if (!post_norm) {
            this->linear(linear, scratch.residual, hidden_stride, ADD, layer, part);
            return;
        }
        this->linear(linear, scratch.qkv, hidden_stride, STORE, layer, part);
        for_each_token([&](int token) {
            float* row = scratch.qkv + token * hidden_stride;
            rms_norm(row, post_norm, decoder.hidden_size, decoder.rms_norm_eps, row);
            for (int i = 0; i < decoder.hidden_size; i++) residual(token)[i] += row[i];
        });
    }

    // STORE or ADD; where an adapter changes `part`, what it adds is there before the rest is.
    void linear(const Linear& linear, float* out, int64_t stride, Epilogue epilogue, const Layer& layer,
                LowRank LoraLayer::*part) {
        if (has_adapter(layer, part)) {
            if (epilogue == STORE) clear(linear, out, stride);
            const LoraRunner lora{*batch.lora};
            lora.shrink(index_of(layer), part);
            end_phase(REST);
            const int64_t panels = num_panels(linear);  // the same as in `run_linear`, which needs no barrier then
            lora.expand(index_of(layer), part, out, stride, int(panels * thread / num_threads),
                        int(panels * (thread + 1) / num_threads));
            epilogue = ADD;
        }
        run_linear(linear, operand(), batch.num_tokens, out, stride, epilogue, thread, num_threads);
        end_phase(LINEAR);
    }

    // This thread's panels of `out`; what is added to -0 stays what it is, to the last bit.
    void clear(const Linear& linear, float* out, int64_t stride) const {
        const int64_t panels = num_panels(linear);
        const int64_t begin = panels * thread / num_threads * PANEL, end = panels * (thread + 1) / num_threads * PANEL;
        for (int token = 0; token < batch.num_tokens; token++)
            for (int64_t i = begin; i < end; i += LANES) store(out + token * stride + i, all(-0.0f));
    }

    bool has_adapter(const Layer& layer, LowRank LoraLayer::*part) const {
        return batch.lora && LoraRunner{*batch.lora}.changes(index_of(layer), part);
    }
    int index_of(const Layer& layer) const { return int(&layer - decoder.layers); }

    // QK-norm and rotary embedding; queries go to the scratch, keys and values into the cache.
    void rotate_and_store(const Layer& layer, int token) const {
        const int head_dim = decoder.head_dim;
        float* row = scratch.qkv + token * stride_of(layer.qkv.num_columns);
        const int64_t position = batch.positions[token];
        const float* cos = layer.cos + position * (layer.rotary_dim / 2);
        const float* sin = layer.sin + position * (layer.rotary_dim / 2);
        for (int head = 0; head < decoder.num_heads + decoder.num_kv_heads; head++) {
            float* states = row + head * head_dim;
            const float* norm = head < decoder.num_heads ? layer.query_norm : layer.key_norm;
            if (norm) rms_norm(states, norm, head_dim, decoder.rms_norm_eps, states);
            rotate(states, cos, sin, layer.rotary_dim / 2);
        }
        const Operand queries = {scratch.query, nullptr, nullptr, 0};
        for (int i = 0; i < decoder.num_heads * head_dim; i++) row[i] *= decoder.attention_scale;
        store_operand(decoder.is_bf16 ? BF16 : FLOAT32, row, decoder.num_heads * head_dim, queries, token);
        const float* key = row + decoder.num_heads * head_dim;
        const float* value = key + decoder.num_kv_heads * head_dim;
        const int block = block_of(token, position), offset = int(position % decoder.block_size);
        for (int head = 0; head < decoder.num_kv_heads; head++)
            cache_of(layer).write(decoder.is_bf16, block, head, offset, key + head * head_dim, value + head * head_dim);
    }

    static void rotate(float* states, const float* cos, const float* sin, int half) {
        for (int i = 0; i < half; i++) {
            const float first = states[i], second = states[i + half];
            states[i] = first * cos[i] - second * sin[i];
            states[i + half] = second * cos[i] + first * sin[i];
        }
    }

    void attend_tiles(const Layer& layer) {
        const Attention attention = {cache_of(layer), decoder.num_heads,  layer.window, decoder.attention_softcap,
                                     scratch.query,   scratch.attended};
        const int rows_per_query = decoder.num_heads / decoder.num_kv_heads;
        const int num_items = batch.num_tiles * decoder.num_kv_heads;
#pragma omp for schedule(dynamic, 1) nowait
        for (int item = 0; item < num_items; item++) {
            const int32_t* tile = batch.tiles + item / decoder.num_kv_heads * 2;
            const Span& span = batch.spans[tile[0]];
            const int rows = std::min(MAX_TILE_ROWS, span.num_queries * rows_per_query - tile[1]);
            const int kv_head = item % decoder.num_kv_heads;
            if (decoder.is_bf16)
                with_rows(rows, AttentionTile<Bf16Dot>{attention, span, kv_head, tile[1]});
            else
                with_rows(rows, AttentionTile<Float32Dot>{attention, span, kv_head, tile[1]});
        }
        end_phase(ATTENTION);
    }

    // --- what the phases use ---

    static constexpr int MAX_ROW = 16384;

    float* residual(int token) const { return scratch.residual + token * hidden_stride; }
    Operand operand() const { return {scratch.operand, scratch.operand_scales, scratch.operand_sums, batch.num_tokens}; }
    KVCache cache_of(const Layer& layer) const {
        return {layer.keys, layer.values, decoder.num_kv_heads, decoder.head_dim, decoder.block_size};
    }
    int block_of(int token, int64_t position) const {
        const Span* span = batch.spans;
        int low = 0, high = batch.num_spans - 1;
        while (low < high) {  // the last span that begins at the token or before
            const int middle = (low + high + 1) / 2;
            if (span[middle].query_start <= token)
                low = middle;
            else
                high = middle - 1;
        }
        return span[low].block_ids[position / decoder.block_size];
    }

    void end_phase(Phase phase) {
#pragma omp barrier
        if (!scratch.phase_seconds || thread != 0) return;
        const double now = omp_get_wtime();
        scratch.phase_seconds[phase] += now - phase_began;
        phase_began = now;
    }

    template <class Function> void for_each_token(Function&& function) {
        const int64_t tokens = batch.num_tokens;
        const int begin = int(tokens * thread / num_threads), end = int(tokens * (thread + 1) / num_threads);
        for (int token = begin; token < end; token++) function(token);
        end_phase(REST);
    }
};

// Computes a step; the hidden states after the last norm are in `scratch.residual`.
extern "C" void decoder_step(const Decoder* decoder, const Batch* batch, const Scratch* scratch, int num_threads) {
#pragma omp parallel num_threads(num_threads)
    StepRunner{*decoder, *batch, *scratch, omp_get_thread_num(), omp_get_num_threads()}.run();
}

// `out` `[num_rows][stride_of(num_columns)]` = `rows` `[num_rows][row_stride]` through one linear layer.
extern "C" void linear_rows(const Linear* linear, const float* rows, int64_t row_stride, int num_rows,
                            uint32_t* operand, float* operand_scales, float* operand_sums, float* out,
                            int num_threads) {
#pragma omp parallel num_threads(num_threads)
    {
        const Operand form = {operand, operand_scales, operand_sums, num_rows};
#pragma omp for
        for (int row = 0; row < num_rows; row++)
            store_operand(linear->format, rows + row * row_stride, linear->num_inputs, form, row);
        run_linear(*linear, form, num_rows, out, stride_of(linear->num_columns), STORE, omp_get_thread_num(),
                   omp_get_num_threads());
    }
}
