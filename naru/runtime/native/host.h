/* What runs generated code, without Python: shared by the extension and by the library of a model,
 * which is one C file made of these (naru/library), so their static names differ from one another. */
#ifndef NARU_HOST_H
#define NARU_HOST_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <stddef.h>
#include <stdint.h>

#include "abi.h"

#ifndef NARU_HOST
#define NARU_HOST /* `static` where all of it is one file */
#endif

#ifndef NARU_ZERO
#define NARU_ZERO /* for zeros that shall lie in the file: a loaded library is a mapping less then */
#endif
#ifndef NARU_MAX_THREADS
#define NARU_MAX_THREADS 1024
#endif

/* ---- cpu.c: what this machine is ---- */

/* The k-th known feature as LLVM spells it; NULL after the last. `present`: whether the CPU and the
 * kernel both support it. */
NARU_HOST const char *naru_cpu_feature(int k, int *present);
NARU_HOST int naru_cpu_has(const char *feature);
/* Asks the kernel, once per process, to let this process use AMX tiles. 0 when refused. */
NARU_HOST int naru_request_amx(void);
/* The k-th cache of CPU 0: its name ("l1d", "l2") and bytes; 0 after the last. */
NARU_HOST int naru_cache(int k, char name[40], long long *bytes);
/* CPUs' worth of time that the control group allows, or 0.0 when it sets no limit. */
NARU_HOST double naru_cpu_quota(void);
/* Physical cores this process may run on, no more than the quota (rounded up); at least 1. */
NARU_HOST int naru_usable_cores(void);
/* Logical CPUs this process may run on; at least 1. */
NARU_HOST int naru_allowed_cpus(void);
/* Physical memory plus swap, in bytes. */
NARU_HOST int64_t naru_memory_limit(void);
NARU_HOST int64_t naru_now_ns(void);

/* ---- crc.c ---- */

NARU_HOST void naru_crc_init(void); /* before the others */
NARU_HOST uint32_t naru_crc32c(uint32_t crc, const uint8_t *data, size_t size);
/* CRC32C over the little-endian CRC32Cs of each 1 MiB chunk (the last may be short). */
NARU_HOST uint32_t naru_digest(const uint8_t *data, size_t size);

/* ---- memory.c: blocks, and a region that grows ---- */

/* Where memory comes from; NULL in place of one: the C library and the kernel. What is not aligned as
 * asked for is given back, and counts as none. */
typedef struct naru_heap {
    void *(*allocate)(void *user, size_t bytes, size_t alignment); /* NULL: there is none */
    void (*release)(void *user, void *memory, size_t bytes);
    void *user;
} naru_heap;

/* Memory of so many bytes, 64-byte aligned, in large pages where it is long enough for them; NULL:
 * there is none. */
NARU_HOST void *naru_take_memory(const naru_heap *heap, size_t bytes);
NARU_HOST void naru_give_memory(const naru_heap *heap, void *memory, size_t bytes);

typedef struct naru_chunk naru_chunk;

/* What host.alloc gives out: memory that lives until the run ends. */
typedef struct naru_region {
    naru_chunk *chunks; /* newest first */
    int64_t total;
    const naru_heap *heap;
} naru_region;

NARU_HOST void *naru_region_alloc(naru_region *region, int64_t bytes);
/* Ends the life of what was given out; one chunk that sufficed is kept for the next run. */
NARU_HOST void naru_region_reset(naru_region *region);
NARU_HOST void naru_region_free(naru_region *region);

/* ---- pool.c: one SPMD thread pool ---- */

NARU_HOST void naru_pool_init(void); /* before the others */
/* Ends the workers, unless a run holds the pool. */
NARU_HOST void naru_pool_stop(void);
/* The same, and gives back what naru_pool_init took. No run is under way, and none comes. */
NARU_HOST void naru_pool_exit(void);
NARU_HOST int naru_get_threads(void);
NARU_HOST void naru_set_threads(int threads); /* 0: back to the default */
/* Runs run(ctx, tid, n) for tid 0..n-1 (0 is the caller) and returns n: up to `want`, or 1 where the
 * pool is busy, or other runs need the cores. */
NARU_HOST int naru_pool_run(naru_run_fn run, naru_ctx *ctx, int want);
NARU_HOST void naru_barrier(naru_ctx *ctx, int64_t tid, int64_t n);

/* Where threads meet that are not the pool's. */
typedef struct naru_meeting {
    _Atomic uint32_t arrived;
    _Alignas(64) _Atomic uint32_t generation; /* on a line that only the last to arrive writes */
} naru_meeting;

NARU_HOST void naru_meet(naru_meeting *meeting, int64_t n);

#endif
