/* What the C files of naru.runtime._native share with each other. See abi.h for generated code. */
#ifndef NARU_NATIVE_H
#define NARU_NATIVE_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>

#include "abi.h"

/* ---- cpu.c: what this machine is ---- */

/* A tuple of LLVM feature names that the CPU and the kernel both support. New reference. */
PyObject *naru_cpu_features(void);
int naru_cpu_has(const char *feature);
/* Asks the kernel, once per process, to let this process use AMX tiles. 0 when refused. */
int naru_request_amx(void);
/* {"l1d": bytes, "l1i": ..., "l2": ..., "l3": ...}; a level that is not reported is absent. */
PyObject *naru_cache_sizes(void);
/* CPUs' worth of time that the control group allows, or 0.0 when it sets no limit. */
double naru_cpu_quota(void);
/* Physical cores this process may run on, no more than the quota (rounded up); at least 1. */
int naru_usable_cores(void);
/* Logical CPUs this process may run on; at least 1. */
int naru_allowed_cpus(void);
/* Physical memory plus swap, in bytes. */
int64_t naru_memory_limit(void);
int64_t naru_now_ns(void);

/* ---- crc.c ---- */

void naru_crc_init(void); /* before the others */
uint32_t naru_crc32c(uint32_t crc, const uint8_t *data, size_t size);
/* CRC32C over the little-endian CRC32Cs of each 1 MiB chunk (the last may be short). */
uint32_t naru_digest(const uint8_t *data, size_t size);

/* ---- pool.c: one SPMD thread pool per process ---- */

void naru_pool_init(void);
int naru_get_threads(void);
void naru_set_threads(int threads); /* 0: back to the default */
/* How many threads may run now: up to `want`, or 1 when the pool is busy. When it returns more
 * than 1 the caller holds the pool and must call naru_pool_run exactly once. */
int naru_pool_enter(int want);
/* Runs run(ctx, tid, n) for tid 0..n-1 (0 is the caller), then gives the pool back. */
void naru_pool_run(naru_run_fn run, naru_ctx *ctx, int n);
void naru_barrier(naru_ctx *ctx, int64_t tid, int64_t n);

/* ---- context.c: what one call in flight owns ---- */

typedef struct naru_chunk naru_chunk;

typedef struct naru_context {
    naru_ctx abi; /* first, so that generated code's pointer is ours */
    struct naru_context *next;
    int64_t arena_size;
    int64_t *plan;     /* what plan() said for plan_key */
    int64_t *plan_key; /* the input symbols it was asked for */
    int plan_valid;
    PyObject **outputs;
    naru_chunk *chunks; /* host.alloc's region, newest first */
    int64_t chunk_total;
    PyThreadState *saved; /* of the caller, while it has given the GIL away */
    int64_t look_at;      /* when a loop looks for signals next, ns; 0: it has not begun */
} naru_context;

/* Sizes of the arrays of a context. */
typedef struct naru_shape {
    int inputs, outputs, pointers, symbols, plan, trace;
} naru_shape;

/* Memory of so many bytes, in large pages where it is long enough for them; NULL: there is none. */
void *naru_take_memory(size_t bytes);
void naru_give_memory(void *memory, size_t bytes);
naru_context *naru_context_new(const naru_shape *shape, const uint8_t *weights);
void naru_context_free(naru_context *ctx);
/* Makes the arena at least `bytes` long; its contents are lost. 0 when there is no memory. */
int naru_context_grow(naru_context *ctx, int64_t bytes);
/* host.next_round: looks for signals, and at the limit. */
int64_t naru_next_round(naru_ctx *ctx, int64_t round);
void naru_set_loop_limit(int64_t rounds); /* of every loop from now on; 0: none */
/* Ends the life of what host.alloc gave out. */
void naru_context_reset(naru_context *ctx);

/* ---- image.c: a bundle in memory ---- */

typedef struct naru_image {
    PyObject_HEAD
    uint8_t *base;
    size_t size, mapped;
    uint8_t *code; /* inside base, or a copy where the file system forbids executing */
    Py_ssize_t code_offset;
    size_t code_size, copied;
    uint8_t *weights; /* a copy in large pages, or NULL */
    size_t weights_offset, weights_size;
} naru_image;

/* Where what lies at an offset is read from: in the copy, if it has one. */
const uint8_t *naru_image_at(const naru_image *image, size_t offset);

extern PyTypeObject naru_image_type;

/* ---- debugger.c: symbols for gdb ---- */

/* Announces an ELF image (bytes) with the symbols of code; they go when the capsule does. */
PyObject *naru_announce_symbols(PyObject *elf);

/* ---- program.c: the callable ---- */

extern PyTypeObject naru_program_type;
int naru_program_init(void); /* imports numpy's C API; -1 with an exception on failure */

/* ---- probe.c: the roofs of this machine, measured ---- */

PyObject *naru_probe_fma(void);
double naru_probe_read(size_t bytes);
double naru_probe_fork_join(int threads, int rounds);
double naru_probe_barrier(int threads, int rounds);

#endif
