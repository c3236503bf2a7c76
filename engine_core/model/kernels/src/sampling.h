// Picks a token from each row of logits: the largest, or a draw by temperature, min_p, top_k and top_p.
//
// The same as sampling/token_picker.py does in torch, but without sorting a row: top_k and top_p look at the few scores
// above a bound that is known to be low enough. A row is computed by one thread in one order, so its token does not
// depend on the rows beside it. The struct mirrors that of kernels/sampling.py.
#pragma once
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <functional>

#include "vectors.h"

extern "C" struct RowSampling {
    double uniform;     // in [0, 1)
    double top_p;       // 1 for all tokens
    float temperature;  // 0 for the largest logit
    float log_min_p;    // least score; -INFINITY for none
    int32_t top_k;      // the vocabulary's size for all tokens
};

constexpr int SAMPLING_GROUP = 256;  // tokens whose weights are added up before those of the others

static inline int num_sampling_groups(int size) { return (size + SAMPLING_GROUP - 1) / SAMPLING_GROUP; }

// Floats that a thread needs for rows of `size` logits.
static inline int64_t sampling_scratch_size(int size) {
    return 3 * (int64_t(size) + LANES) + 2 * num_sampling_groups(size);
}

// --- passes over a row ---

struct LargestLogit {
    float value;  // NaN where the row has any
    int index;    // the first one
};

// The first LANES values at `from`, or -INFINITY where there are fewer.
static inline Floats load_scores(const float* from, int count) {
    if (count >= LANES) return load<Floats>(from);
    Floats scores = all(-INFINITY);
    if (count > 0) std::memcpy(&scores, from, count * sizeof(float));
    return scores;
}

// Looks for the largest of each lane, and in which group of tokens it first was; then through that group.
static LargestLogit largest_logit(const float* logits, int size) {
    Floats largest = all(-INFINITY);
    Ints groups = {}, nan = {};
    for (int group = 0; group < num_sampling_groups(size); group++) {
        const float* from = logits + group * SAMPLING_GROUP;
        const int count = std::min(SAMPLING_GROUP, size - group * SAMPLING_GROUP);
        Floats of_group[2] = {all(-INFINITY), all(-INFINITY)};
        for (int i = 0; i < count; i += 2 * LANES)
            for (int half = 0; half < 2; half++) {
                const Floats value = load_scores(from + i + half * LANES, count - i - half * LANES);
                of_group[half] = larger(value, of_group[half]);
                nan |= value != value;
            }
        const Floats value = larger(of_group[0], of_group[1]);
        groups = value > largest ? Ints{} + group : groups;
        largest = larger(value, largest);
    }
    for (int lane = 0; lane < LANES; lane++)
        if (nan[lane]) return {NAN, 0};
    const float value = largest_of(largest);
    int group = num_sampling_groups(size) - 1;
    for (int lane = 0; lane < LANES; lane++)
        if (largest[lane] == value) group = std::min(group, groups[lane]);
    const float* begin = logits + group * SAMPLING_GROUP;
    return {value, int(std::find(begin, logits + size - 1, value) - logits)};
}

// Makes scores of the logits, in place: logarithms of the probabilities relative to the best one's.
static void to_scores(float* logits, int size, float best, float temperature) {
    int i = 0;
    if (temperature == 1) {  // dividing takes longer than all else
        for (; i + LANES <= size; i += LANES) store(logits + i, load<Floats>(logits + i) - best);
        for (; i < size; i++) logits[i] -= best;
        return;
    }
    for (; i + LANES <= size; i += LANES) store(logits + i, (load<Floats>(logits + i) - best) / temperature);
    for (; i < size; i++) logits[i] = (logits[i] - best) / temperature;
}

// Copies the scores that are at least `bound`, in their order; returns how many. `to` may be `from`, and has room for
// LANES more.
static int keep_from(float bound, const float* from, int size, float* to) {
    int kept = 0, i = 0;
#ifdef __AVX512F__
    for (; i + LANES <= size; i += LANES) {
        const __m512 scores = _mm512_loadu_ps(from + i);
        const __mmask16 mask = _mm512_cmp_ps_mask(scores, _mm512_set1_ps(bound), _CMP_GE_OQ);
        _mm512_storeu_ps(to + kept, _mm512_maskz_compress_ps(mask, scores));
        kept += __builtin_popcount(mask);
    }
#endif
    for (; i < size; i++) {
        const float score = from[i];
        to[kept] = score;
        kept += score >= bound;
    }
    return kept;
}

typedef double Doubles __attribute__((vector_size(64)));

static inline Doubles sum_in_doubles(Floats v) {
    typedef float Half __attribute__((vector_size(32)));
    Half halves[2];
    std::memcpy(halves, &v, sizeof(v));
    return __builtin_convertvector(halves[0], Doubles) + __builtin_convertvector(halves[1], Doubles);
}
static inline double sum_of_doubles(Doubles v) {
    return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
}

static inline Floats weights_of(Floats scores, float threshold) {
    return scores >= all(threshold) ? exp(scores) : all(0.0f);
}

// Sum of e^score of the scores that are at least `threshold`.
static double sum_of_weights(const float* scores, int size, float threshold) {
    Doubles sum = {};
    for (int i = 0; i < size; i += LANES) sum += sum_in_doubles(weights_of(load_scores(scores + i, size - i), threshold));
    return sum_of_doubles(sum);
}

// --- one row ---

class RowSampler {
  public:
    // `scratch` has `sampling_scratch_size(size)` floats.
    RowSampler(const RowSampling& row, float* scores, int size, float* scratch)
        : row(row), scores(scores), size(size), group_ends((double*)scratch),
          kept(scratch + 2 * num_sampling_groups(size)), weights(kept + size + LANES),
          between(weights + size + LANES) {}

    int draw() {
        const float threshold = least_kept_score();
        double end = 0;
        for (int group = 0; group < num_sampling_groups(size); group++)
            group_ends[group] = end += sum_of_group(group, threshold);
        const double target = row.uniform * end;
        const int group = first_above(target, group_ends, num_sampling_groups(size));
        return group * SAMPLING_GROUP + draw_in_group(group, threshold, group ? target - group_ends[group - 1] : target);
    }

  private:
    static constexpr int BISECTIONS = 14;       // leave a thousandth of a score
    static constexpr float NO_WEIGHT = -88.0f;  // `exp` gives 0 from here on

    const RowSampling& row;
    const float* scores;
    const int size;
    double* group_ends;
    float *kept, *weights, *between;

    // --- truncation: each filter keeps what is at least a threshold ---

    float least_kept_score() {
        float threshold = row.log_min_p;
        if (row.top_k < size) threshold = std::max(threshold, largest_score(row.top_k));
        if (row.top_p < 1) threshold = std::max(threshold, least_of_nucleus(threshold));
        return threshold;
    }

    // The k-th largest score. Of the largest ones of many small sets, the k-th is a bound: k scores reach it.
    float largest_score(int k) {
        int num_sets = 0;
        for (int group = 0; group + SAMPLING_GROUP <= size; group += SAMPLING_GROUP, num_sets += LANES)
            store(weights + num_sets, largest_of_lanes(scores + group, SAMPLING_GROUP));
        float bound = -INFINITY;
        if (k <= num_sets) {
            std::nth_element(weights, weights + k - 1, weights + num_sets, std::greater<float>());
            bound = weights[k - 1];
        }
        const int count = keep_from(bound, scores, size, kept);
        std::nth_element(kept, kept + k - 1, kept + count, std::greater<float>());
        return kept[k - 1];
    }

    static Floats largest_of_lanes(const float* scores, int count) {
        Floats largest = all(-INFINITY);
        for (int i = 0; i < count; i += LANES) largest = larger(load_scores(scores + i, count - i), largest);
        return largest;
    }

    // The least of the fewest best scores, of those from `threshold` on, whose weights add up to the share top_p.
    float least_of_nucleus(float threshold) {
        const float* from = scores;
        int count = size;
        if (threshold > -INFINITY) {
            count = keep_from(threshold, scores, size, kept);
            from = kept;
        }
        const double total = sum_of_weights(from, count, -INFINITY), mass = row.top_p * total;
        // All weights below this are together less than what top_p leaves out.
        const double negligible = std::max(total - mass, 0.0) / count;
        const float low = std::max(float(std::log(negligible)) - 0.01f, NO_WEIGHT);
        count = keep_from(low, from, count, kept);
        for (int i = 0; i < count; i += LANES) store(weights + i, exp(load<Floats>(kept + i)));
        return least_with_mass(count, mass, low);
    }

    // The score of `kept` at which the weights of the larger ones and its own reach `mass`; none below `low` does.
    // Bisection by whole vectors leaves few scores, which are sorted.
    float least_with_mass(int count, double mass, float low) {
        float high = 1;  // no score is that large
        double above = 0;  // weights of the scores from `high` on
        for (int round = 0; round < BISECTIONS; round++) {
            const float middle = low + (high - low) / 2;
            const double sum = sum_of_kept(count, middle);
            if (sum > 0 && sum >= mass) {
                low = middle;
            } else {
                high = middle;
                above = sum;
            }
        }
        int num_between = 0;
        for (int i = 0; i < count; i++) {
            between[num_between] = kept[i];
            num_between += (kept[i] >= low) & (kept[i] < high);
        }
        if (num_between == 0) return low;  // rounding left the sum of all below `mass`
        std::sort(between, between + num_between, std::greater<float>());
        int last = 0;
        above += weight_of(between[0]);
        while (above < mass && last + 1 < num_between) above += weight_of(between[++last]);
        return between[last];
    }

    static float weight_of(float score) { return exp(all(score))[0]; }

    double sum_of_kept(int count, float threshold) const {
        Doubles sum = {};
        for (int i = 0; i < count; i += LANES)
            sum += sum_in_doubles(load_scores(kept + i, count - i) >= all(threshold) ? load<Floats>(weights + i) : all(0.0f));
        return sum_of_doubles(sum);
    }

    // --- the draw, as sampling/draw.py has it ---

    double sum_of_group(int group, float threshold) const {
        const float* from = scores + group * SAMPLING_GROUP;
        const int count = std::min(SAMPLING_GROUP, size - group * SAMPLING_GROUP);
        if (threshold > -INFINITY && largest_of(largest_of_lanes(from, count)) < threshold) return 0;
        return sum_of_weights(from, count, threshold);
    }

    int draw_in_group(int group, float threshold, double target) const {
        const float* from = scores + group * SAMPLING_GROUP;
        const int count = std::min(SAMPLING_GROUP, size - group * SAMPLING_GROUP);
        double ends[SAMPLING_GROUP], end = 0;
        for (int i = 0; i < count; i += LANES) {
            const Floats lanes = weights_of(load_scores(from + i, count - i), threshold);
            for (int lane = 0; lane < LANES && i + lane < count; lane++) ends[i + lane] = end += lanes[lane];
        }
        return first_above(target, ends, count);
    }

    // Index of the first end above the target; the last that adds something where rounding left none.
    static int first_above(double target, const double* ends, int count) {
        const double* found = std::upper_bound(ends, ends + count, target);
        const double* largest = std::lower_bound(ends, ends + count, ends[count - 1]);
        return int(std::min(found, largest) - ends);
    }
};

// Picks a token from each row; overwrites the logits of rows that are drawn.
//
// `best` [num_rows]: the largest logit, NaN where the row has any; where it is not finite, the token means nothing.
// `scratch` [num_threads][scratch_stride], at least `sampling_scratch_size` and even.
extern "C" void sample_rows(float* logits, int64_t stride, int vocab_size, const RowSampling* rows, int num_rows,
                            float* best, int64_t* token_ids, float* scratch, int64_t scratch_stride, int num_threads) {
#pragma omp parallel for num_threads(num_threads) schedule(dynamic, 1) if (num_rows > 1)
    for (int index = 0; index < num_rows; index++) {
        float* row = logits + index * stride;
        const LargestLogit largest = largest_logit(row, vocab_size);
        best[index] = largest.value;
        token_ids[index] = largest.index;
        if (rows[index].temperature == 0 || !std::isfinite(largest.value)) continue;
        to_scores(row, vocab_size, largest.value, rows[index].temperature);
        RowSampler sampler(rows[index], row, vocab_size, scratch + omp_get_thread_num() * scratch_stride);
        token_ids[index] = sampler.draw();
    }
}
