/* Memory: small blocks from the heap, big ones mapped on huge-page boundaries; regions that grow. */
#include "host.h"

#include <stdlib.h>
#include <sys/mman.h>

enum { HUGE_PAGE = 2 << 20, MAPPED = 1 << 20, FIRST_CHUNK = 64 << 10 };

static size_t rounded(size_t bytes)
{
    return bytes < MAPPED ? (bytes + 63) & ~(size_t)63
                          : (bytes + HUGE_PAGE - 1) & ~(size_t)(HUGE_PAGE - 1);
}

NARU_HOST void *naru_take_memory(const naru_heap *heap, size_t bytes)
{
    if (heap && heap->allocate) {
        void *memory = heap->allocate(heap->user, (bytes + 63) & ~(size_t)63, 64);
        if ((uintptr_t)memory % 64 == 0)
            return memory;
        naru_give_memory(heap, memory, bytes);
        return NULL;
    }
    bytes = rounded(bytes);
    if (bytes < MAPPED)
        return aligned_alloc(64, bytes);
    uint8_t *raw = mmap(NULL, bytes + HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                        -1, 0);
    if (raw == MAP_FAILED)
        return NULL;
    uint8_t *start = (uint8_t *)(((uintptr_t)raw + HUGE_PAGE - 1) & ~(uintptr_t)(HUGE_PAGE - 1));
    if (start > raw)
        munmap(raw, (size_t)(start - raw));
    if (start < raw + HUGE_PAGE)
        munmap(start + bytes, (size_t)(raw + HUGE_PAGE - start));
#ifdef MADV_HUGEPAGE
    madvise(start, bytes, MADV_HUGEPAGE); /* advice: refused is fine */
#endif
    return start;
}

NARU_HOST void naru_give_memory(const naru_heap *heap, void *memory, size_t bytes)
{
    if (!memory)
        return;
    if (heap && heap->release)
        heap->release(heap->user, memory, (bytes + 63) & ~(size_t)63);
    else if (heap && heap->allocate)
        ; /* who gives without taking back keeps it */
    else if (rounded(bytes) < MAPPED)
        free(memory);
    else
        munmap(memory, rounded(bytes));
}

/* ---- regions ---- */

struct naru_chunk {
    _Alignas(64) naru_chunk *next;
    int64_t size, used; /* bytes, this header included */
};

NARU_HOST void *naru_region_alloc(naru_region *region, int64_t bytes)
{
    int64_t limit = naru_memory_limit();
    if (bytes < 0 || bytes > limit - 256 || region->total > limit - bytes - 256)
        return NULL;
    bytes = bytes ? (bytes + 63) & ~INT64_C(63) : 64;
    naru_chunk *chunk = region->chunks;
    if (!chunk || chunk->size - chunk->used < bytes) {
        int64_t size = bytes + (int64_t)sizeof *chunk;
        int64_t grown = region->total < FIRST_CHUNK ? FIRST_CHUNK : region->total;
        if (size < grown)
            size = grown; /* doubling: a loop of small requests stays linear */
        chunk = naru_take_memory(region->heap, (size_t)size);
        if (!chunk)
            return NULL;
        *chunk = (naru_chunk){region->chunks, size, sizeof *chunk};
        region->chunks = chunk, region->total += size;
    }
    void *result = (uint8_t *)chunk + chunk->used;
    chunk->used += bytes;
    return result;
}

NARU_HOST void naru_region_free(naru_region *region)
{
    for (naru_chunk *chunk = region->chunks, *next; chunk; chunk = next) {
        next = chunk->next;
        naru_give_memory(region->heap, chunk, (size_t)chunk->size);
    }
    region->chunks = NULL, region->total = 0;
}

NARU_HOST void naru_region_reset(naru_region *region)
{
    naru_chunk *chunk = region->chunks;
    if (chunk && !chunk->next)
        chunk->used = sizeof *chunk;
    else if (chunk)
        naru_region_free(region);
}
