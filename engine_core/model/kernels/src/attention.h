// Attention over the paged KV cache: causal, grouped queries, sliding window, soft cap.
//
// A block holds, for each KV head, its keys as `[head_dim / v][block_size]` words and its values as
// `[block_size / v][head_dim]` words, where a word holds v values (2 in bfloat16, 1 in float32): both are panels as
// gemm.h reads them, scores with tokens as columns and outputs with dimensions as columns.
// A tile is up to 12 queries of one request and KV head. Keys are taken in chunks that begin at multiples of CHUNK, with
// the running softmax of FlashAttention (Dao et al. 2022), so a query's result does not depend on what is computed
// beside it, nor on how its prompt was divided.
#pragma once
#include <algorithm>

#include "gemm.h"

constexpr int CHUNK = 128;

extern "C" struct Span {  // a request's part of the flat batch
    const int32_t* block_ids;
    int32_t query_start, num_queries;
    int32_t num_computed;  // tokens in the cache before this step
};

struct KVCache {  // of one layer
    char *keys, *values;
    int num_kv_heads, head_dim, block_size;

    template <class Dot> int64_t words_per_head() const {
        return int64_t(block_size) * head_dim / Dot::VALUES_PER_WORD;
    }
    template <class Dot> uint32_t* keys_of(int64_t block, int kv_head) const {
        return (uint32_t*)keys + (block * num_kv_heads + kv_head) * words_per_head<Dot>();
    }
    template <class Dot> uint32_t* values_of(int64_t block, int kv_head) const {
        return (uint32_t*)values + (block * num_kv_heads + kv_head) * words_per_head<Dot>();
    }

    // Writes the key and the value of one token and head.
    void write(bool is_bf16, int64_t block, int kv_head, int offset, const float* key, const float* value) const {
        if (is_bf16) {
            uint32_t* to = keys_of<Bf16Dot>(block, kv_head) + offset;
            for (int i = 0; i < head_dim; i += 2) to[int64_t(i / 2) * block_size] = bf16_pair(key[i], key[i + 1]);
            uint16_t* halves = (uint16_t*)(values_of<Bf16Dot>(block, kv_head) + int64_t(offset / 2) * head_dim);
            for (int i = 0; i < head_dim; i++) halves[2 * i + offset % 2] = to_bf16(value[i]);
        } else {
            float* to = (float*)keys_of<Float32Dot>(block, kv_head) + offset;
            for (int i = 0; i < head_dim; i++) to[int64_t(i) * block_size] = key[i];
            std::memcpy(values_of<Float32Dot>(block, kv_head) + int64_t(offset) * head_dim, value, 4 * head_dim);
        }
    }
};

struct Attention {  // of one layer in one step
    KVCache cache;
    int num_heads;
    int window;             // tokens that a query sees, itself included; 0 for all
    float softcap;          // 0 for none
    const uint32_t* query;  // [tokens][num_heads][head_dim / v], scaled
    float* out;             // [tokens][num_heads][head_dim]
};

template <class Dot> struct AttentionTile {
    const Attention& attention;
    const Span& span;
    int kv_head;
    int first;  // of the span's queries of this KV head, counted query by query and head by head

    static constexpr int V = Dot::VALUES_PER_WORD;
    static constexpr int MAX_HEAD_DIM = 256;

    int group() const { return attention.num_heads / attention.cache.num_kv_heads; }
    int position_of(int row) const { return span.num_computed + (first + row) / group(); }
    int64_t token_and_head(int row) const {
        return int64_t(span.query_start + (first + row) / group()) * attention.num_heads + kv_head * group() +
               (first + row) % group();
    }

    template <int ROWS> void run() const {
        const int head_dim = attention.cache.head_dim, num_words = head_dim / V;
        alignas(64) uint32_t queries[ROWS * MAX_HEAD_DIM / V];
        alignas(64) float out[ROWS * MAX_HEAD_DIM];
        float largest[ROWS], total[ROWS];
        for (int row = 0; row < ROWS; row++) {
            std::memcpy(queries + row * num_words, attention.query + token_and_head(row) * num_words, 4 * num_words);
            largest[row] = -INFINITY;
            total[row] = 0;
        }
        std::memset(out, 0, ROWS * head_dim * sizeof(float));
        const int begin = attention.window ? std::max(0, position_of(0) - attention.window + 1) / CHUNK * CHUNK : 0;
        const int end = position_of(ROWS - 1) + 1;
        for (int chunk = begin; chunk < end; chunk += CHUNK) {
            const int chunk_end = std::min(chunk + CHUNK, end);
            alignas(64) float scores[ROWS * CHUNK];
            alignas(64) uint32_t weights[ROWS * CHUNK / V];
            prefetch(chunk_end, std::min(chunk_end + CHUNK, end));
            score<ROWS>(queries, chunk, chunk_end, scores);
            for (int row = 0; row < ROWS; row++)
                soften(row, chunk, chunk_end, scores + row * CHUNK, weights + row * (CHUNK / V), largest[row],
                       total[row], out + row * head_dim);
            accumulate<ROWS>(weights, chunk, chunk_end, out);
        }
        for (int row = 0; row < ROWS; row++) {
            float* to = attention.out + token_and_head(row) * head_dim;
            for (int i = 0; i < head_dim; i += LANES)
                store(to + i, load<Floats>(out + row * head_dim + i) / total[row]);
        }
    }

    // Calls `function(block, offset, token, count)` for the runs of tokens from `begin` on that share a block.
    template <class Function> void for_each_run(int begin, int end, Function&& function) const {
        const int block_size = attention.cache.block_size;
        for (int token = begin; token < end;) {
            const int offset = token % block_size, count = std::min(block_size - offset, end - token);
            function(span.block_ids[token / block_size], offset, token, count);
            token += count;
        }
    }

    void prefetch(int begin, int end) const {
        const KVCache& cache = attention.cache;
        if (cache.block_size > CHUNK) return;  // the processor follows long runs by itself
        for_each_run(begin, end, [&](int block, int, int, int) {
            const char* keys = (const char*)cache.keys_of<Dot>(block, kv_head);
            const char* values = (const char*)cache.values_of<Dot>(block, kv_head);
            for (int64_t byte = 0; byte < 4 * cache.words_per_head<Dot>(); byte += 64) {
                __builtin_prefetch(keys + byte, 0, 2);
                __builtin_prefetch(values + byte, 0, 2);
            }
        });
    }

    // `scores` `[ROWS][CHUNK]`: query · key; whole vectors, so that what is behind `end` is meaningless.
    template <int ROWS> void score(const uint32_t* queries, int begin, int end, float* scores) const {
        const int num_words = attention.cache.head_dim / V, block_size = attention.cache.block_size;
        for_each_run(begin, end, [&](int block, int offset, int token, int count) {
            const char* keys = (const char*)(attention.cache.keys_of<Dot>(block, kv_head) + offset);
            int column = 0;
            for (; column + LANES < count; column += 2 * LANES) {
                Floats sums[ROWS][2] = {};
                tile<Dot, ROWS, 2>(queries, num_words, keys + 4 * column, 4 * block_size, num_words, sums);
                for (int row = 0; row < ROWS; row++) {
                    store(scores + row * CHUNK + token - begin + column, sums[row][0]);
                    store(scores + row * CHUNK + token - begin + column + LANES, sums[row][1]);
                }
            }
            if (column < count) {
                Floats sums[ROWS][1] = {};
                tile<Dot, ROWS, 1>(queries, num_words, keys + 4 * column, 4 * block_size, num_words, sums);
                for (int row = 0; row < ROWS; row++)
                    store(scores + row * CHUNK + token - begin + column, sums[row][0]);
            }
        });
    }

    // One row's softmax goes on: `weights` are e^(score - largest), 0 where the row must not look.
    void soften(int row, int begin, int end, float* scores, uint32_t* weights, float& largest, float& total,
                float* out) const {
        const int position = position_of(row);
        const int first_seen = attention.window ? position - attention.window + 1 : 0;
        Ints tokens = Ints{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15} + begin;
        Floats chunk_largest = all(-INFINITY);
        for (int i = 0; i < end - begin; i += LANES, tokens += LANES) {
            Floats value = load<Floats>(scores + i);
            if (attention.softcap > 0) value = attention.softcap * tanh(value / attention.softcap);
            value = (tokens <= position) & (tokens >= first_seen) ? value : all(-INFINITY);
            store(scores + i, value);
            chunk_largest = larger(value, chunk_largest);
        }
        const float new_largest = std::max({largest, largest_of(chunk_largest), -1e30f});
        const float factor = exp(all(largest - new_largest))[0];
        Floats chunk_total = all(0.0f);
        for (int i = 0; i < end - begin; i += LANES) {
            const Floats weight = exp(load<Floats>(scores + i) - new_largest);
            chunk_total += weight;
            if constexpr (V == 2)
                store_bf16((uint16_t*)weights + i, weight);
            else
                store(weights + i, weight);
        }
        largest = new_largest;
        total = total * factor + sum_of(chunk_total);
        if (factor != 1.0f)
            for (int i = 0; i < attention.cache.head_dim; i += LANES)
                store(out + i, load<Floats>(out + i) * factor);
    }

    // `out` `[ROWS][head_dim]` += weights · values.
    template <int ROWS> void accumulate(const uint32_t* weights, int begin, int end, float* out) const {
        const int head_dim = attention.cache.head_dim;
        for_each_run(begin, end, [&](int block, int offset, int token, int count) {
            const uint32_t* values = attention.cache.values_of<Dot>(block, kv_head) + int64_t(offset / V) * head_dim;
            const uint32_t* from = weights + (token - begin) / V;
            add_values<ROWS>(from, values, count / V, out);
            if (count % V) {  // half a word of values: the other half was never written
                alignas(64) uint32_t last[MAX_HEAD_DIM];
                for (int i = 0; i < head_dim; i++) last[i] = values[int64_t(count / V) * head_dim + i] & 0xffffu;
                add_values<ROWS>(from + count / V, last, 1, out);
            }
        });
    }

    template <int ROWS> void add_values(const uint32_t* weights, const uint32_t* values, int steps, float* out) const {
        const int head_dim = attention.cache.head_dim;
        int i = 0;
        for (; i + 2 * LANES <= head_dim; i += 2 * LANES) add_columns<ROWS, 2>(weights, values + i, steps, out + i);
        if (i < head_dim) add_columns<ROWS, 1>(weights, values + i, steps, out + i);
    }

    template <int ROWS, int VECTORS>
    void add_columns(const uint32_t* weights, const uint32_t* values, int steps, float* out) const {
        const int head_dim = attention.cache.head_dim;
        Floats sums[ROWS][VECTORS];
        for (int row = 0; row < ROWS; row++)
            for (int v = 0; v < VECTORS; v++) sums[row][v] = load<Floats>(out + row * head_dim + v * LANES);
        tile<Dot, ROWS, VECTORS>(weights, CHUNK / V, (const char*)values, 4 * head_dim, steps, sums);
        for (int row = 0; row < ROWS; row++)
            for (int v = 0; v < VECTORS; v++) store(out + row * head_dim + v * LANES, sums[row][v]);
    }
};
