/* The contract between generated code and whoever runs it: a bundle in Python, a .so, a wasm module.
 *
 * Generated code is position-independent, has no undefined symbols, keeps no mutable globals and
 * reaches outside only through naru_ctx.host. One context belongs to one call in flight; weights are
 * shared. Everything a run needs (arena, outputs) is sized beforehand by the entry's `plan`.
 * Append fields, never reorder them. Bump NARU_ABI_VERSION when code needs a field that older hosts
 * lack; raise NARU_ABI_OLDEST only where a host can no longer run code of an older version.
 */
#ifndef NARU_ABI_H
#define NARU_ABI_H
#include <stdint.h>

#define NARU_ABI_VERSION 1
#define NARU_ABI_OLDEST 1

typedef struct naru_ctx naru_ctx;

typedef struct naru_host {
    uint32_t abi_version;
    uint32_t size; /* sizeof(naru_host) of the host, so that code can test for later fields */
    /* 64-byte-aligned scratch that grows and lives until the run ends, of at least 64 bytes whatever
     * is asked for; NULL when memory is exhausted. Called from thread 0 only. Only entries whose manifest says "dynamic" call it. */
    void *(*alloc)(naru_ctx *ctx, int64_t bytes);
    /* All n threads of the run meet here. Not called when n == 1. */
    void (*barrier)(naru_ctx *ctx, int64_t tid, int64_t n);
    /* Monotonic nanoseconds, for the profiling entry. */
    int64_t (*now)(void);
    /* Before each round of a loop whose end data tell: 0, or why the run must end (error[0]). Called
     * from thread 0 only, and only if `size` says that the host has it. */
    int64_t (*next_round)(naru_ctx *ctx, int64_t round);
} naru_host;

struct naru_ctx {
    const naru_host *host;  /*  0 */
    const uint8_t *weights; /*  8: packed constants, 64-byte aligned, read only */
    uint8_t *arena;         /* 16: plan()'s arena bytes, 64-byte aligned, contents undefined */
    void **io;              /* 24: data pointers: inputs, then outputs. Code may read 64 bytes of a
                               tensor without elements, so none is NULL. An output whose shape the code
                               finds out itself ("late" in the manifest) is NULL on entry and is set
                               by the code to memory that lives until the run ends. After them,
                               `pointers` (manifest) slots of the code's own, for alloc */
    int64_t *dims;          /* 32: one value a symbol: sizes of inputs, then sizes that kernels define */
    void **state;           /* 40: named, persistent buffers (a KV cache), in manifest order */
    int64_t *trace;         /* 48: the profiling entry writes a time here before each step and at the end */
    int64_t error[4];       /* 56: code (0: none), then three arguments; the first failure stays */
};

/* error[0] */
enum {
    NARU_OK = 0,
    NARU_OUT_OF_RANGE = 1, /* step, index, bound */
    NARU_NO_MEMORY = 2,    /* step, bytes */
    NARU_BAD_DIM = 3,      /* step, value, bound */
    NARU_BROKEN = 4,       /* condition of the entry's `requires` that data break */
    NARU_TOO_SMALL = 5,    /* step, value, least */
    NARU_INTERRUPTED = 6,  /* step, round; a signal came */
    NARU_TOO_LONG = 7      /* step, round: the most that the host allows */
};

/* Runs the entry. Called by n threads at once with tid 0..n-1 (SPMD); all n must be live. */
typedef void (*naru_run_fn)(naru_ctx *ctx, int64_t tid, int64_t n);

/* Sizes for given symbol values: out[0] arena bytes, out[1] estimated nanoseconds on one core,
 * out[2] the largest useful n, then the dims of each output in order, flattened. Before a run,
 * kernel-defined symbols hold 0 and the dims of late outputs are ignored; after it, they are true.
 * out[0] = -1 - k: the sizes break condition k of the entry's `requires`; nothing may run. */
typedef void (*naru_plan_fn)(const int64_t *dims, int64_t *out);

#endif
