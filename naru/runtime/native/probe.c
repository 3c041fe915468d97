/* The roofs of this machine, measured: `naru doctor` prints them and `explain` compares with them. */
#include "native.h"

#include <stdlib.h>
#include <string.h>

enum { PROBE_NS = 30000000 }; /* long enough for the clock to settle, short enough to wait for */

/* ---- fp32 FMA: 12 independent chains hide a latency of 4 at 2 a cycle, with room ---- */

/* Without it the compiler sees a pure function and calls it once for all rounds. */
#define KEEP __asm__ volatile("" ::: "memory")
#define REPEAT12(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11)

#if defined(__x86_64__)
#include <immintrin.h>

#define DECLARE512(K) __m512 x##K = _mm512_set1_ps((float)K);
#define STEP512(K) x##K = _mm512_fmadd_ps(x##K, factor, term);
#define SUM512(K) total = _mm512_add_ps(total, x##K);

__attribute__((target("avx512f"))) static float fma_avx512(int64_t rounds)
{
    __m512 factor = _mm512_set1_ps(0.999f), term = _mm512_set1_ps(0.001f), total = term;
    REPEAT12(DECLARE512)
    for (int64_t k = 0; k < rounds; k++) {
        KEEP;
        REPEAT12(STEP512)
    }
    REPEAT12(SUM512)
    float sink[16];
    _mm512_storeu_ps(sink, total);
    return sink[0];
}

#define DECLARE256(K) __m256 x##K = _mm256_set1_ps((float)K);
#define STEP256(K) x##K = _mm256_fmadd_ps(x##K, factor, term);
#define SUM256(K) total = _mm256_add_ps(total, x##K);

__attribute__((target("avx2,fma"))) static float fma_avx2(int64_t rounds)
{
    __m256 factor = _mm256_set1_ps(0.999f), term = _mm256_set1_ps(0.001f), total = term;
    REPEAT12(DECLARE256)
    for (int64_t k = 0; k < rounds; k++) {
        KEEP;
        REPEAT12(STEP256)
    }
    REPEAT12(SUM256)
    float sink[8];
    _mm256_storeu_ps(sink, total);
    return sink[0];
}
#endif

/* ---- bf16 in matrix registers: four sums in turn, each of 16 x 16 x 32 multiply-adds ---- */

#if defined(__x86_64__) && defined(__linux__) && \
    (defined(__clang__) ? __clang_major__ >= 12 : __GNUC__ >= 11)
#define HAS_TILES 1

static float tiles_bf16(int64_t rounds)
{
    static const uint8_t shapes[64] __attribute__((aligned(64))) = {
        1, [16] = 64, [18] = 64, [20] = 64, [22] = 64, [24] = 64, [26] = 64, [28] = 64, [30] = 64,
        [48] = 16, [49] = 16, [50] = 16, [51] = 16, [52] = 16, [53] = 16, [54] = 16, [55] = 16,
    };
    __asm__ volatile("ldtilecfg %0" : : "m"(shapes));
    for (int64_t k = 0; k < rounds; k++)
        __asm__ volatile("tdpbf16ps %tmm6, %tmm4, %tmm0\n\ttdpbf16ps %tmm7, %tmm4, %tmm1\n\t"
                         "tdpbf16ps %tmm6, %tmm5, %tmm2\n\ttdpbf16ps %tmm7, %tmm5, %tmm3");
    __asm__ volatile("tilerelease");
    return 0;
}
#endif

/* Four-wide, on every target: multiply and add on x86-64's baseline, one FMA on aarch64. */
typedef float float4 __attribute__((vector_size(16)));
#define DECLARE128(K) float4 x##K = {K, K, K, K};
#if defined(__aarch64__)
#include <arm_neon.h>
#define STEP128(K) x##K = (float4)vfmaq_f32((float32x4_t)term, (float32x4_t)x##K, (float32x4_t)factor);
#else
#define STEP128(K) x##K = x##K * factor + term;
#endif
#define SUM128(K) total += x##K;

static float fma_baseline(int64_t rounds)
{
    float4 factor = {0.999f, 0.999f, 0.999f, 0.999f}, term = {0.001f, 0.001f, 0.001f, 0.001f};
    float4 total = term;
    REPEAT12(DECLARE128)
    for (int64_t k = 0; k < rounds; k++) {
        KEEP;
        REPEAT12(STEP128)
    }
    REPEAT12(SUM128)
    return total[0];
}

/* GFLOP/s of the best of the rounds that fit in the time, each of so many multiply-adds. */
static double peak(float (*loop)(int64_t), int64_t adds)
{
    const int64_t rounds = adds > 1000 ? 4000 : 100000;
    volatile float sink;
    double best = 0;
    int64_t end = naru_now_ns() + PROBE_NS;
    for (int64_t now = naru_now_ns(); now < end;) {
        sink = loop(rounds);
        int64_t after = naru_now_ns();
        double rate = (double)rounds * 2 * (double)adds / (double)(after - now);
        best = rate > best ? rate : best;
        now = after;
    }
    (void)sink;
    return best;
}

PyObject *naru_probe_fma(void)
{
    double wide = 0, middle = 0, tiles = 0, baseline;
    Py_BEGIN_ALLOW_THREADS
#if defined(__x86_64__)
    if (naru_cpu_has("avx512f"))
        wide = peak(fma_avx512, 12 * 16);
    if (naru_cpu_has("avx2") && naru_cpu_has("fma"))
        middle = peak(fma_avx2, 12 * 8);
#if defined(HAS_TILES)
    if (naru_cpu_has("amx-bf16") && naru_request_amx())
        tiles = peak(tiles_bf16, 4 * 16 * 16 * 32);
#endif
#endif
    baseline = peak(fma_baseline, 12 * 4);
    Py_END_ALLOW_THREADS
    PyObject *result = Py_BuildValue("{sd}", "baseline", baseline);
    const char *names[] = {"avx512f", "avx2", "amx-bf16"};
    const double rates[] = {wide, middle, tiles};
    for (int k = 0; result && k < 3; k++) {
        PyObject *rate = rates[k] > 0 ? PyFloat_FromDouble(rates[k]) : NULL;
        if (rate && PyDict_SetItemString(result, names[k], rate) < 0)
            Py_CLEAR(result);
        Py_XDECREF(rate);
    }
    return result;
}

/* ---- read bandwidth ---- */

typedef uint64_t word2 __attribute__((vector_size(16)));

static uint64_t read_baseline(const uint8_t *p, size_t bytes)
{
    word2 a = {0, 0}, b = a, c = a, d = a;
    for (size_t k = 0; k < bytes; k += 64) {
        KEEP;
        const word2 *line = (const word2 *)(p + k);
        a |= line[0], b |= line[1], c |= line[2], d |= line[3];
    }
    a |= b | c | d;
    return a[0] | a[1];
}

#if defined(__x86_64__)
__attribute__((target("avx512f"))) static uint64_t read_avx512(const uint8_t *p, size_t bytes)
{
    __m512i a = _mm512_setzero_si512(), b = a, c = a, d = a;
    for (size_t k = 0; k < bytes; k += 256) {
        KEEP;
        a = _mm512_or_si512(a, _mm512_load_si512(p + k));
        b = _mm512_or_si512(b, _mm512_load_si512(p + k + 64));
        c = _mm512_or_si512(c, _mm512_load_si512(p + k + 128));
        d = _mm512_or_si512(d, _mm512_load_si512(p + k + 192));
    }
    uint64_t sink[8];
    _mm512_storeu_si512(sink, _mm512_or_si512(_mm512_or_si512(a, b), _mm512_or_si512(c, d)));
    return sink[0] | sink[7];
}

__attribute__((target("avx2"))) static uint64_t read_avx2(const uint8_t *p, size_t bytes)
{
    __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;
    for (size_t k = 0; k < bytes; k += 128) {
        KEEP;
        const __m256i *line = (const __m256i *)(p + k);
        a = _mm256_or_si256(a, _mm256_load_si256(line));
        b = _mm256_or_si256(b, _mm256_load_si256(line + 1));
        c = _mm256_or_si256(c, _mm256_load_si256(line + 2));
        d = _mm256_or_si256(d, _mm256_load_si256(line + 3));
    }
    uint64_t sink[4];
    _mm256_storeu_si256((__m256i *)sink, _mm256_or_si256(_mm256_or_si256(a, b), _mm256_or_si256(c, d)));
    return sink[0] | sink[3];
}
#endif

double naru_probe_read(size_t bytes)
{
    bytes = bytes < 256 ? 256 : bytes & ~(size_t)255;
    uint8_t *data = aligned_alloc(4096, (bytes + 4095) & ~(size_t)4095);
    if (!data)
        return 0;
    memset(data, 1, bytes); /* pages must exist, or all reads hit one zero page */
    uint64_t (*reader)(const uint8_t *, size_t) = read_baseline;
#if defined(__x86_64__)
    reader = naru_cpu_has("avx512f") ? read_avx512 : naru_cpu_has("avx2") ? read_avx2 : read_baseline;
#endif
    size_t passes = (4u << 20) / bytes + 1;
    volatile uint64_t sink;
    double best = 0;
    int64_t end = naru_now_ns() + PROBE_NS;
    for (int64_t now = naru_now_ns(); now < end;) {
        for (size_t k = 0; k < passes; k++)
            sink = reader(data, bytes);
        int64_t after = naru_now_ns();
        double rate = (double)bytes * (double)passes / (double)(after - now);
        best = rate > best ? rate : best;
        now = after;
    }
    (void)sink;
    free(data);
    return best;
}

/* ---- the pool ---- */

static void nothing(naru_ctx *ctx, int64_t tid, int64_t n) { (void)ctx, (void)tid, (void)n; }

double naru_probe_fork_join(int threads, int rounds)
{
    naru_ctx ctx = {0};
    int64_t best = INT64_MAX;
    for (int k = 0; k < rounds; k++) {
        int64_t start = naru_now_ns();
        if (naru_pool_run(nothing, &ctx, threads) < 2)
            return 0;
        int64_t spent = naru_now_ns() - start;
        best = spent < best ? spent : best;
    }
    return (double)best;
}

enum { MEETINGS = 1000 };

static void meet(naru_ctx *ctx, int64_t tid, int64_t n)
{
    for (int k = 0; k < MEETINGS; k++)
        naru_barrier(ctx, tid, n);
}

double naru_probe_barrier(int threads, int rounds)
{
    naru_ctx ctx = {0};
    int64_t best = INT64_MAX;
    for (int k = 0; k < rounds; k++) {
        int64_t start = naru_now_ns();
        if (naru_pool_run(meet, &ctx, threads) < 2)
            return 0;
        int64_t spent = naru_now_ns() - start;
        best = spent < best ? spent : best;
    }
    return (double)best / MEETINGS;
}
