/* CRC32C (Castagnoli), fast enough to check a bundle at each load. */
#include "host.h"

#include <string.h>

enum { CHUNK = 1 << 20, LANES = 4 };

static uint32_t table[8][256];

NARU_HOST void naru_crc_init(void)
{
    for (uint32_t k = 0; k < 256; k++) {
        uint32_t crc = k;
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78u : 0);
        table[0][k] = crc;
    }
    for (int slice = 1; slice < 8; slice++)
        for (int k = 0; k < 256; k++)
            table[slice][k] = table[slice - 1][k] >> 8 ^ table[0][table[slice - 1][k] & 255];
}

/* Eight bytes a step from tables; `crc` is the inverted state. */
static uint32_t state_portable(uint32_t crc, const uint8_t *p, size_t size)
{
    for (; size >= 8; size -= 8, p += 8) {
        uint32_t low = crc ^ ((uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16
                              | (uint32_t)p[3] << 24);
        crc = table[7][low & 255] ^ table[6][low >> 8 & 255] ^ table[5][low >> 16 & 255]
              ^ table[4][low >> 24] ^ table[3][p[4]] ^ table[2][p[5]] ^ table[1][p[6]]
              ^ table[0][p[7]];
    }
    while (size--)
        crc = crc >> 8 ^ table[0][(crc ^ *p++) & 255];
    return crc;
}

#if defined(__x86_64__)
#include <nmmintrin.h>

__attribute__((target("sse4.2,crc32"))) static uint32_t state_sse42(uint32_t crc, const uint8_t *p,
                                                              size_t size)
{
    uint64_t wide = crc;
    for (; size >= 8; size -= 8, p += 8) {
        uint64_t word;
        memcpy(&word, p, 8);
        wide = _mm_crc32_u64(wide, word);
    }
    crc = (uint32_t)wide;
    while (size--)
        crc = _mm_crc32_u8(crc, *p++);
    return crc;
}

/* CRCs of LANES whole chunks at once: one instruction a cycle instead of one in three, and as many
 * streams for the hardware prefetcher. */
__attribute__((target("sse4.2,crc32"))) static void chunks_sse42(const uint8_t *p, uint32_t *out)
{
    uint64_t crc[LANES] = {0xffffffffu, 0xffffffffu, 0xffffffffu, 0xffffffffu};
    for (size_t k = 0; k < CHUNK; k += 64) {
        for (int lane = 0; lane < LANES; lane++)
            _mm_prefetch((const char *)p + lane * (size_t)CHUNK + k + 2048, _MM_HINT_T0);
        for (size_t j = k; j < k + 64; j += 8) {
            uint64_t a, b, c, d;
            memcpy(&a, p + j, 8);
            memcpy(&b, p + CHUNK + j, 8);
            memcpy(&c, p + 2 * (size_t)CHUNK + j, 8);
            memcpy(&d, p + 3 * (size_t)CHUNK + j, 8);
            crc[0] = _mm_crc32_u64(crc[0], a);
            crc[1] = _mm_crc32_u64(crc[1], b);
            crc[2] = _mm_crc32_u64(crc[2], c);
            crc[3] = _mm_crc32_u64(crc[3], d);
        }
    }
    for (int lane = 0; lane < LANES; lane++)
        out[lane] = ~(uint32_t)crc[lane];
}

static int fast(void)
{
    static int known = -1;
    if (known < 0)
        known = naru_cpu_has("crc32");
    return known;
}
#else
static int fast(void) { return 0; }
static uint32_t state_sse42(uint32_t crc, const uint8_t *p, size_t size)
{
    return state_portable(crc, p, size);
}
static void chunks_sse42(const uint8_t *p, uint32_t *out)
{
    for (int lane = 0; lane < LANES; lane++)
        out[lane] = naru_crc32c(0, p + lane * (size_t)CHUNK, CHUNK);
}
#endif

NARU_HOST uint32_t naru_crc32c(uint32_t crc, const uint8_t *data, size_t size)
{
    return ~(fast() ? state_sse42 : state_portable)(~crc, data, size);
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
    for (; fast() && size >= LANES * (size_t)CHUNK; size -= LANES * (size_t)CHUNK) {
        chunks_sse42(data, lanes);
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
