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
        Softmax softmax[ROWS];
        for (int row = 0; row < ROWS; row++)
            std::memcpy(queries + row * num_words, attention.query + token_and_head(row) * num_words, 4 * num_words);
        std::memset(out, 0, ROWS * head_dim * sizeof(float));
        const int begin = attention.window ? std::max(0, position_of(0) - attention.window + 1) / CHUNK * CHUNK : 0;
        const int end = position_of(ROWS - 1) + 1;
        alignas(64) uint32_t tail[LANES / V * MAX_HEAD_DIM];
        Columns columns(*this, begin, end, tail);
        for (int chunk = begin; chunk < end; chunk += CHUNK) {
            const Columns next(*this, chunk + CHUNK, end, tail);
            alignas(64) float scores[ROWS * CHUNK];
            alignas(64) uint32_t weights[ROWS * CHUNK / V];
            score<ROWS>(queries, columns, next, scores);
            for (int row = 0; row < ROWS; row++)
                soften(row, chunk, columns.count, scores + row * CHUNK, weights + row * (CHUNK / V), softmax[row]);
            int i = 0;
            for (; i + 2 * LANES <= head_dim; i += 2 * LANES)
                accumulate<ROWS, 2>(weights, columns, next, softmax, i, out + i);
            if (i < head_dim) accumulate<ROWS, 1>(weights, columns, next, softmax, i, out + i);
            columns = next;
        }
        for (int row = 0; row < ROWS; row++) {
            float* to = attention.out + token_and_head(row) * head_dim;
            for (int i = 0; i < head_dim; i += LANES)
                store(to + i, load<Floats>(out + row * head_dim + i) / softmax[row].total);
        }
    }

    // Of a row, over the chunks so far.
    struct Softmax {
        float largest = -INFINITY, total = 0;
        float factor = 1;  // by which the results so far shrink in this chunk
    };

    // Where the tokens of a chunk lie, 16 to a column; those of the next chunk are fetched meanwhile. The last column may
    // be filled in part: its values are copied to `tail` with zeros behind, as what lies behind was never written.
    struct Columns {
        const char* keys[CHUNK / LANES];
        const char* values[CHUNK / LANES];
        int count = 0;

        Columns(const AttentionTile& tile, int begin, int end, uint32_t* tail) {
            const KVCache& cache = tile.attention.cache;
            for (int token = begin; token < std::min(begin + CHUNK, end); token += LANES, count++) {
                const int block = tile.span.block_ids[token / cache.block_size], offset = token % cache.block_size;
                const uint32_t* from = cache.values_of<Dot>(block, tile.kv_head) + int64_t(offset / V) * cache.head_dim;
                keys[count] = (const char*)(cache.keys_of<Dot>(block, tile.kv_head) + offset);
                values[count] = (const char*)from;
                if (end - token < LANES) values[count] = (const char*)copied(from, end - token, cache.head_dim, tail);
            }
        }

        static uint32_t* copied(const uint32_t* from, int num_tokens, int head_dim, uint32_t* tail) {
            const int num_words = num_tokens / V * head_dim;
            std::memset(tail, 0, sizeof(uint32_t) * (LANES / V) * head_dim);
            std::memcpy(tail, from, sizeof(uint32_t) * num_words);
            if (num_tokens % V)  // half a word
                for (int i = 0; i < head_dim; i++) tail[num_words + i] = from[num_words + i] & 0xffffu;
            return tail;
        }
    };

    // `scores` `[ROWS][CHUNK]`: query · key; those behind the last token are meaningless.
    template <int ROWS>
    void score(const uint32_t* queries, const Columns& columns, const Columns& next, float* scores) const {
        int column = 0;
        for (; column + 2 <= columns.count; column += 2) score_columns<ROWS, 2>(queries, columns, next, column, scores);
        if (column < columns.count) score_columns<ROWS, 1>(queries, columns, next, column, scores);
    }

    template <int ROWS, int VECTORS>
    void score_columns(const uint32_t* queries, const Columns& columns, const Columns& next, int column,
                       float* scores) const {
        const int num_words = attention.cache.head_dim / V;
        const int64_t stride = 4 * attention.cache.block_size;
        const char *keys[VECTORS], *next_keys[VECTORS];
        for (int v = 0; v < VECTORS; v++) {
            keys[v] = columns.keys[column + v];
            next_keys[v] = column + v < next.count ? next.keys[column + v] : nullptr;
        }
        Floats sums[ROWS][VECTORS] = {};
        tile<Dot, ROWS, VECTORS>(queries, num_words, keys, stride, num_words, sums, next_keys, stride);
        for_each<ROWS, VECTORS>(
            [&](int row, int v) { store(scores + row * CHUNK + (column + v) * LANES, sums[row][v]); });
    }

    // One row's softmax goes on: `weights` are e^(score - largest), 0 where the row must not look.
    void soften(int row, int chunk, int num_columns, float* scores, uint32_t* weights, Softmax& softmax) const {
        constexpr float LOG2_E = 1.44269504088896341f;
        const int position = position_of(row);
        const int first_seen = attention.window ? position - attention.window + 1 : 0;
        const bool is_masked = first_seen > chunk || chunk + num_columns * LANES > position + 1;
        Ints tokens = Ints{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15} + chunk;
        Floats largest = all(softmax.largest);
        for (int i = 0; i < num_columns * LANES; i += LANES, tokens += LANES) {
            Floats value = load<Floats>(scores + i);
            if (attention.softcap > 0) value = attention.softcap * tanh(value / attention.softcap);
            if (is_masked) value = (tokens <= position) & (tokens >= first_seen) ? value : all(-INFINITY);
            if (is_masked || attention.softcap > 0) store(scores + i, value);
            largest = larger(value, largest);
        }
        const float new_largest = std::max(largest_of(largest), -1e30f);
        const float shift = new_largest * LOG2_E;
        Floats total = all(0.0f);
        for (int i = 0; i < num_columns * LANES; i += LANES) {
            const Floats weight = exp2<V == 1>(load<Floats>(scores + i) * LOG2_E - shift);
            total += weight;
            if constexpr (V == 2)
                store_bf16((uint16_t*)weights + i, weight);
            else
                store(weights + i, weight);
        }
        softmax.factor = exp2<true>(all((softmax.largest - new_largest) * LOG2_E))[0];
        softmax.total = softmax.total * softmax.factor + sum_of(total);
        softmax.largest = new_largest;
    }

    // `out` `[ROWS][head_dim]` = what it was, shrunk, + weights · values; dimensions from `first` on.
    template <int ROWS, int VECTORS>
    void accumulate(const uint32_t* weights, const Columns& columns, const Columns& next, const Softmax* softmax,
                    int first, float* out) const {
        const int head_dim = attention.cache.head_dim;
        Floats sums[ROWS][VECTORS];
        for_each<ROWS, VECTORS>([&](int row, int v) {
            sums[row][v] = load<Floats>(out + row * head_dim + v * LANES) * softmax[row].factor;
        });
        for (int column = 0; column < columns.count; column++) {
            const char *values[VECTORS], *next_values[VECTORS];
            for (int v = 0; v < VECTORS; v++) {
                const int bytes = 4 * (first + v * LANES);
                values[v] = columns.values[column] + bytes;
                next_values[v] = column < next.count ? next.values[column] + bytes : nullptr;
            }
            tile<Dot, ROWS, VECTORS>(weights + column * (LANES / V), CHUNK / V, values, 4 * head_dim, LANES / V, sums,
                                     next_values, 4 * head_dim);
        }
        for_each<ROWS, VECTORS>([&](int row, int v) { store(out + row * head_dim + v * LANES, sums[row][v]); });
    }
};
