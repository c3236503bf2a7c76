// Sixteen 32-bit lanes, and what the kernels do with them. GCC's vector extensions make AVX-512, AVX2 or SSE of them;
// only the dot products have a form of their own per processor. Next: gemm.h.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

constexpr int LANES = 16;
typedef float Floats __attribute__((vector_size(64)));
typedef int32_t Ints __attribute__((vector_size(64)));
typedef uint32_t Words __attribute__((vector_size(64)));
typedef int8_t Bytes __attribute__((vector_size(16)));

template <class V> static inline V load(const void* from) {
    V value;
    std::memcpy(&value, from, sizeof(V));
    return value;
}
template <class V> static inline void store(void* to, V value) { std::memcpy(to, &value, sizeof(V)); }

static inline Floats all(float value) { return Floats{} + value; }
static inline Words all_words(uint32_t value) { return Words{} + value; }
static inline Floats to_floats(Ints value) { return __builtin_convertvector(value, Floats); }
static inline Ints all_ints(int32_t value) { return Ints{} + value; }
template <class V> static inline V larger(V a, V b) { return a > b ? a : b; }
static inline Floats absolute(Floats a) { return (Floats)((Words)a & 0x7fffffffu); }

template <int DISTANCE, class V> static inline V swapped(V v) {  // each lane has that of the lane so far away
    return __builtin_shuffle(v, Ints{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15} ^ DISTANCE);
}
template <class V> static inline auto sum_of(V v) {
    v += swapped<8>(v);
    v += swapped<4>(v);
    v += swapped<2>(v);
    return (v + swapped<1>(v))[0];
}
template <class V> static inline auto largest_of(V v) {
    v = larger(v, swapped<8>(v));
    v = larger(v, swapped<4>(v));
    v = larger(v, swapped<2>(v));
    return larger(v, swapped<1>(v))[0];
}

// --- bfloat16 ---

static inline uint16_t to_bf16(float value) {  // to nearest, ties to even; NaN stays NaN
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return uint16_t(bits >> 16) | 0x40;
    return uint16_t((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16);
}
static inline float from_bf16(uint16_t value) {
    uint32_t bits = uint32_t(value) << 16;
    float result;
    std::memcpy(&result, &bits, 4);
    return result;
}
static inline uint32_t bf16_pair(float low, float high) { return to_bf16(low) | uint32_t(to_bf16(high)) << 16; }

// Rounds 16 floats to 16 bfloat16 at `to`.
static inline void store_bf16(uint16_t* to, Floats value) {
#ifdef __AVX512BF16__
    _mm256_storeu_si256((__m256i*)to, (__m256i)_mm512_cvtneps_pbh((__m512)value));
#else
    for (int lane = 0; lane < LANES; lane++) to[lane] = to_bf16(value[lane]);
#endif
}
static inline Floats load_bf16(const uint16_t* from) {
    typedef uint16_t Halves __attribute__((vector_size(32)));
    return (Floats)(__builtin_convertvector(load<Halves>(from), Words) << 16);
}

// Of 16 finite halves (IEEE's 16 bits).
static inline Floats load_halves(const uint16_t* from) {
    typedef uint16_t Halves __attribute__((vector_size(32)));
    const Words bits = __builtin_convertvector(load<Halves>(from), Words);
    const Floats magnitude = (Floats)((bits & 0x7fffu) << 13) * 0x1p112f;  // as if the exponent began where float's does
    return (Floats)((Words)magnitude | (bits & 0x8000u) << 16);
}

// --- functions ---

// e^x within 2 units in the last place; 0 below -87, NaN of NaN. Cephes' polynomial (expf) on the reduced range.
static inline Floats exp(Floats x) {
    const auto is_tiny = x < all(-87.0f);
    x = is_tiny ? all(-87.0f) : (x > all(88.0f) ? all(88.0f) : x);
    const Floats magic = all(12582912.0f);
    const Floats n = (x * 1.44269504088896341f + magic) - magic;
    Floats r = x - n * 0.693359375f;
    r = r + n * 2.12194440e-4f;
    Floats p = all(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    const Ints exponent = (__builtin_convertvector(n, Ints) + 127) << 23;
    return is_tiny ? all(0.0f) : p * (Floats)exponent;
}
// 2^x for x ≤ 126, 0 below -126. Polynomials interpolated at Chebyshev nodes on half a unit around 0: within 4e-6, which
// is far below the rounding of bfloat16, or, for `IS_PRECISE`, within that of float.
template <bool IS_PRECISE> static inline Floats exp2(Floats x) {
    const Floats magic = all(12582912.0f);
    const Floats shifted = x + magic;  // the whole number is in its low bits
    const Floats r = x - (shifted - magic);
    Floats p;
    if constexpr (IS_PRECISE) {
        p = all(1.54614447e-4f);
        p = p * r + 1.34004282e-3f;
        p = p * r + 9.61805668e-3f;
        p = p * r + 5.55032723e-2f;
        p = p * r + 0.240226509f;
        p = p * r + 0.693147207f;
    } else {
        p = all(9.66636852e-3f);
        p = p * r + 5.59219758e-2f;
        p = p * r + 0.24022349f;
        p = p * r + 0.693121045f;
    }
    p = p * r + 1.0f;
    const Floats result = (Floats)((Ints)p + ((Ints)shifted << 23));
    return x < all(-126.0f) ? all(0.0f) : result;
}
static inline Floats tanh(Floats x) {
    const Floats e = exp(absolute(x) * -2.0f);
    const Floats t = (1.0f - e) / (1.0f + e);
    return (Floats)((Words)t | ((Words)x & 0x80000000u));
}
static inline Floats silu(Floats x) {
    const Floats power = x * -1.44269504088896341f;
    return x / (1.0f + exp2<true>(power > all(126.0f) ? all(126.0f) : power));
}
static inline Floats gelu_tanh(Floats x) {
    return 0.5f * x * (1.0f + tanh(0.7978845608028654f * (x + 0.044715f * x * x * x)));
}
