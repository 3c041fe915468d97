/* What one call in flight owns: an arena, the arrays of naru_ctx, and host.alloc's region. */
#include "native.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

static void *context_alloc(naru_ctx *abi, int64_t bytes)
{
    return naru_region_alloc(&((naru_context *)abi)->region, bytes);
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
    naru_region_free(&ctx->region);
    naru_give_memory(NULL, ctx->abi.arena, (size_t)ctx->arena_size);
    free(ctx);
}

int naru_context_grow(naru_context *ctx, int64_t bytes)
{
    naru_give_memory(NULL, ctx->abi.arena, (size_t)ctx->arena_size);
    ctx->abi.arena = naru_take_memory(NULL, (size_t)bytes);
    ctx->arena_size = ctx->abi.arena ? bytes : 0;
    return ctx->abi.arena != NULL;
}
