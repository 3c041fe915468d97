/* CRC32C (Castagnoli), fast enough to check a bundle at each load. */
#include "host.h"

#include <stdatomic.h>
#include <string.h>

enum { CHUNK = 1 << 20, LANES = 4 };

static uint32_t table[256] NARU_ZERO;

NARU_HOST void naru_crc_init(void)
{
    for (uint32_t k = 0; k < 256; k++) {
        uint32_t crc = k;
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78u : 0);
        table[k] = crc;
    }
}

/* For the few CPUs without an instruction; `crc` is the inverted state. */
static uint32_t state_portable(uint32_t crc, const uint8_t *p, size_t size)
{
    while (size--)
        crc = crc >> 8 ^ table[(crc ^ *p++) & 255];
    return crc;
}

#if defined(__x86_64__)
#include <nmmintrin.h>

#define WITH_CRC __attribute__((target("sse4.2,crc32")))
#define CRC_FEATURE "crc32"
#define CRC_OF_8(crc, word) (uint32_t)_mm_crc32_u64(crc, word)
#define CRC_OF_1(crc, byte) _mm_crc32_u8(crc, byte)
#elif defined(__aarch64__)
#define WITH_CRC __attribute__((target("+crc")))
#define CRC_FEATURE "crc"

WITH_CRC static uint32_t crc_of_8(uint32_t crc, uint64_t word)
{
    __asm__("crc32cx %w0, %w0, %x1" : "+r"(crc) : "r"(word));
    return crc;
}

WITH_CRC static uint32_t crc_of_1(uint32_t crc, uint32_t byte)
{
    __asm__("crc32cb %w0, %w0, %w1" : "+r"(crc) : "r"(byte));
    return crc;
}
#define CRC_OF_8 crc_of_8
#define CRC_OF_1 crc_of_1
#endif

#ifdef CRC_FEATURE
static uint64_t load_8(const uint8_t *p)
{
    uint64_t word;
    memcpy(&word, p, 8);
    return word;
}

WITH_CRC static uint32_t state_fast(uint32_t crc, const uint8_t *p, size_t size)
{
    for (; size >= 8; size -= 8, p += 8)
        crc = CRC_OF_8(crc, load_8(p));
    while (size--)
        crc = CRC_OF_1(crc, *p++);
    return crc;
}

/* CRCs of LANES whole chunks at once: one instruction a cycle instead of one in three, and as many
 * streams for the hardware prefetcher. */
WITH_CRC static void chunks_fast(const uint8_t *p, uint32_t *out)
{
    uint32_t a = ~0u, b = ~0u, c = ~0u, d = ~0u;
    for (size_t k = 0; k < CHUNK; k += 64) {
        for (int lane = 0; lane < LANES; lane++)
            __builtin_prefetch(p + lane * (size_t)CHUNK + k + 2048);
        for (size_t j = k; j < k + 64; j += 8) {
            a = CRC_OF_8(a, load_8(p + j));
            b = CRC_OF_8(b, load_8(p + CHUNK + j));
            c = CRC_OF_8(c, load_8(p + 2 * (size_t)CHUNK + j));
            d = CRC_OF_8(d, load_8(p + 3 * (size_t)CHUNK + j));
        }
    }
    out[0] = ~a, out[1] = ~b, out[2] = ~c, out[3] = ~d;
}

static int crc_is_fast(void)
{
    static _Atomic int known = -1;
    int fast = atomic_load_explicit(&known, memory_order_relaxed);
    if (fast < 0) {
        fast = naru_cpu_has(CRC_FEATURE);
        atomic_store_explicit(&known, fast, memory_order_relaxed);
    }
    return fast;
}
#else
static int crc_is_fast(void) { return 0; }
#define state_fast state_portable
static void chunks_fast(const uint8_t *p, uint32_t *out) { (void)p, (void)out; }
#endif

NARU_HOST uint32_t naru_crc32c(uint32_t crc, const uint8_t *data, size_t size)
{
    return ~(crc_is_fast() ? state_fast : state_portable)(~crc, data, size);
}

static uint32_t fold(uint32_t digest, uint32_t chunk)
{
    uint8_t bytes[4] = {(uint8_t)chunk, (uint8_t)(chunk >> 8), (uint8_t)(chunk >> 16),
                        (uint8_t)(chunk >> 24)};
    return naru_crc32c(digest, bytes, 4);
}

NARU_HOST uint32_t naru_digest(const uint8_t *data, size_t size)
{
    uint32_t digest = 0, lanes[LANES];
    for (; crc_is_fast() && size >= LANES * (size_t)CHUNK; size -= LANES * (size_t)CHUNK) {
        chunks_fast(data, lanes);
        for (int lane = 0; lane < LANES; lane++)
            digest = fold(digest, lanes[lane]);
        data += LANES * (size_t)CHUNK;
    }
    while (size) {
        size_t part = size < CHUNK ? size : CHUNK;
        digest = fold(digest, naru_crc32c(0, data, part));
        data += part, size -= part;
    }
    return digest;
}
