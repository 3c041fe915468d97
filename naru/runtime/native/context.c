/* What one call in flight owns: an arena, the arrays of naru_ctx, and host.alloc's region. */
#include "native.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { HUGE_PAGE = 2 << 20, MAPPED = 1 << 20, FIRST_CHUNK = 64 << 10 };

/* ---- memory: small blocks from the heap, big ones mapped on huge-page boundaries ---- */

static size_t rounded(size_t bytes)
{
    return bytes < MAPPED ? (bytes + 63) & ~(size_t)63
                          : (bytes + HUGE_PAGE - 1) & ~(size_t)(HUGE_PAGE - 1);
}

void *naru_take_memory(size_t bytes)
{
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

void naru_give_memory(void *memory, size_t bytes)
{
    bytes = rounded(bytes);
    if (!memory)
        return;
    if (bytes < MAPPED)
        free(memory);
    else
        munmap(memory, bytes);
}

/* ---- host.alloc ---- */

struct naru_chunk {
    _Alignas(64) naru_chunk *next;
    int64_t size, used; /* bytes, this header included */
};

static void *context_alloc(naru_ctx *abi, int64_t bytes)
{
    naru_context *ctx = (naru_context *)abi;
    int64_t limit = naru_memory_limit();
    if (bytes < 0 || bytes > limit - 256 || ctx->chunk_total > limit - bytes - 256)
        return NULL;
    bytes = (bytes + 63) & ~INT64_C(63);
    naru_chunk *chunk = ctx->chunks;
    if (!chunk || chunk->size - chunk->used < bytes) {
        int64_t size = bytes + (int64_t)sizeof *chunk;
        int64_t grown = ctx->chunk_total < FIRST_CHUNK ? FIRST_CHUNK : ctx->chunk_total;
        if (size < grown)
            size = grown; /* doubling: a loop of small requests stays linear */
        chunk = naru_take_memory((size_t)size);
        if (!chunk)
            return NULL;
        *chunk = (naru_chunk){ctx->chunks, size, sizeof *chunk};
        ctx->chunks = chunk, ctx->chunk_total += size;
    }
    void *result = (uint8_t *)chunk + chunk->used;
    chunk->used += bytes;
    return result;
}

static void free_chunks(naru_context *ctx)
{
    for (naru_chunk *chunk = ctx->chunks, *next; chunk; chunk = next) {
        next = chunk->next;
        naru_give_memory(chunk, (size_t)chunk->size);
    }
    ctx->chunks = NULL, ctx->chunk_total = 0;
}

void naru_context_reset(naru_context *ctx)
{
    naru_chunk *chunk = ctx->chunks;
    if (chunk && !chunk->next)
        chunk->used = sizeof *chunk; /* one chunk sufficed: keep it for the next run */
    else if (chunk)
        free_chunks(ctx);
}

/* ---- host.next_round ---- */

enum { LOOK_NS = 20000000 }; /* how long Ctrl-C may wait, besides a round */

static _Atomic int64_t loop_limit;

void naru_set_loop_limit(int64_t rounds)
{
    atomic_store_explicit(&loop_limit, rounds, memory_order_relaxed);
}

/* The caller's thread holds the GIL here, or takes it: a handler of Python may run. The exception
 * stays in the thread's state until the run is over. */
static int interrupted(naru_context *ctx)
{
    if (ctx->saved)
        PyEval_RestoreThread(ctx->saved);
    int found = PyErr_CheckSignals() < 0;
    ctx->saved = PyEval_SaveThread(); /* a loop that is this long lets other threads go on */
    return found;
}

int64_t naru_next_round(naru_ctx *abi, int64_t round)
{
    naru_context *ctx = (naru_context *)abi;
    int64_t limit = atomic_load_explicit(&loop_limit, memory_order_relaxed);
    if (limit > 0 && round >= limit)
        return NARU_TOO_LONG;
    int64_t now = naru_now_ns();
    if (now < ctx->look_at)
        return NARU_OK;
    int first = ctx->look_at == 0;
    ctx->look_at = now + LOOK_NS;
    return !first && interrupted(ctx) ? NARU_INTERRUPTED : NARU_OK;
}

/* ---- contexts ---- */

static const naru_host HOST = {NARU_ABI_VERSION, sizeof HOST,   context_alloc,
                               naru_barrier,     naru_now_ns, naru_next_round};

naru_context *naru_context_new(const naru_shape *shape, const uint8_t *weights)
{
    size_t pointers = (size_t)shape->inputs + 2 * (size_t)shape->outputs + (size_t)shape->pointers;
    size_t numbers = 2 * (size_t)shape->symbols + (size_t)shape->plan + (size_t)shape->trace;
    naru_context *ctx = calloc(1, sizeof *ctx + pointers * sizeof(void *) + numbers * 8);
    if (!ctx)
        return NULL;
    ctx->abi.host = &HOST;
    ctx->abi.weights = weights;
    int64_t *number = (int64_t *)(ctx + 1);
    ctx->abi.dims = number, number += shape->symbols;
    ctx->plan_key = number, number += shape->symbols;
    ctx->plan = number, number += shape->plan;
    ctx->abi.trace = shape->trace ? number : NULL, number += shape->trace;
    ctx->abi.io = (void **)number;
    ctx->outputs = (PyObject **)(ctx->abi.io + shape->inputs + shape->outputs + shape->pointers);
    return ctx;
}

void naru_context_free(naru_context *ctx)
{
    free_chunks(ctx);
    naru_give_memory(ctx->abi.arena, (size_t)ctx->arena_size);
    free(ctx);
}

int naru_context_grow(naru_context *ctx, int64_t bytes)
{
    naru_give_memory(ctx->abi.arena, (size_t)ctx->arena_size);
    ctx->abi.arena = naru_take_memory((size_t)bytes);
    ctx->arena_size = ctx->abi.arena ? bytes : 0;
    return ctx->abi.arena != NULL;
}
