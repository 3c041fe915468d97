/* What the C files of naru.runtime._native share with each other, besides host.h. */
#ifndef NARU_NATIVE_H
#define NARU_NATIVE_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* before the first header */
#endif
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "host.h"

/* ---- context.c: what one call in flight owns ---- */

typedef struct naru_context {
    naru_ctx abi; /* first, so that generated code's pointer is ours */
    struct naru_context *next;
    int64_t arena_size;
    int64_t *plan;     /* what plan() said for plan_key */
    int64_t *plan_key; /* the input symbols it was asked for */
    int plan_valid;
    PyObject **outputs;
    naru_region region; /* host.alloc's */
    PyThreadState *saved; /* of the caller, while it has given the GIL away */
    int64_t look_at;      /* when a loop looks for signals next, ns; 0: it has not begun */
} naru_context;

/* Sizes of the arrays of a context. */
typedef struct naru_shape {
    int inputs, outputs, pointers, symbols, plan, trace;
} naru_shape;

naru_context *naru_context_new(const naru_shape *shape, const uint8_t *weights);
void naru_context_free(naru_context *ctx);
/* Makes the arena at least `bytes` long; its contents are lost. 0 when there is no memory. */
int naru_context_grow(naru_context *ctx, int64_t bytes);
/* host.next_round: looks for signals, and at the limit. */
int64_t naru_next_round(naru_ctx *ctx, int64_t round);
void naru_set_loop_limit(int64_t rounds); /* of every loop from now on; 0: none */
/* The most threads that runs called by this thread use; 0: no limit of its own. */
void naru_limit_caller(int threads);

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
