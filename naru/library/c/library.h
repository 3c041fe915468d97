/* ---- what the libraries of all models have in common ---- */
#if defined(NARU_LIBRARY_VERSION) && NARU_LIBRARY_VERSION != 1
#error "these headers are of libraries with different versions of the interface"
#endif
#ifndef NARU_LIBRARY_H
#define NARU_LIBRARY_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define NARU_LIBRARY_VERSION 1

#ifndef NARU_API
#define NARU_API
#endif

/* What every function answers: NARU_SUCCESS, or why it failed; error() then says more. */
typedef enum naru_status {
    NARU_SUCCESS = 0,
    NARU_BAD_ARGUMENT = 1,  /* a pointer, a size or an option that cannot be */
    NARU_BAD_WEIGHTS = 2,   /* missing, cut short, damaged, or those of another model */
    NARU_BAD_CPU = 3,       /* this CPU has no level that the library has code for */
    NARU_OUT_OF_MEMORY = 4,
    NARU_BAD_SIZES = 5,     /* of inputs: they do not fit the model */
    NARU_BAD_VALUES = 6,    /* of inputs: sizes in them that do not fit, a loop longer than allowed */
    NARU_BUSY = 7,          /* a context that runs on another thread, or is still open */
    NARU_SELFTEST_FAILED = 8,
    NARU_SYSTEM_ERROR = 9   /* of a file; error() has the reason */
} naru_status;

typedef enum naru_dtype {
    NARU_DTYPE_BOOL, NARU_DTYPE_INT8, NARU_DTYPE_INT16, NARU_DTYPE_INT32, NARU_DTYPE_INT64,
    NARU_DTYPE_UINT8, NARU_DTYPE_UINT16, NARU_DTYPE_UINT32, NARU_DTYPE_UINT64,
    NARU_DTYPE_FLOAT16, NARU_DTYPE_BFLOAT16, NARU_DTYPE_FLOAT32, NARU_DTYPE_FLOAT64,
    NARU_DTYPE_OTHER /* one byte an element: 8-bit floats, integers of less than 8 bits */
} naru_dtype;

/* An input or an output. */
typedef struct naru_tensor {
    const char *name;
    const char *dtype_name; /* as numpy and ml_dtypes spell it */
    naru_dtype dtype;
    int32_t item_size;      /* bytes of an element */
    int32_t rank;
    const int64_t *shape;   /* a size, or -1 - k: of symbol k. Of outputs: a size, or -1 where it
                               depends; shape() tells it */
    int32_t optional;       /* an input whose data may be NULL */
    int32_t late;           /* an output whose sizes only a run tells */
    const char *const *labels; /* what an output's classes are called; NULL: nothing */
    int32_t label_count;
    int32_t label_axis;     /* along which the classes lie; -1: the elements are their numbers */
} naru_tensor;

/* A size that inputs bring. */
typedef struct naru_symbol {
    const char *name;
    int64_t low, high;
} naru_symbol;

/* An instruction set that the library has code for. */
typedef struct naru_level {
    const char *name;
    const char *const *features; /* that the CPU must have, as LLVM spells them; NULL at the end */
    size_t code_size;
} naru_level;

/* Runs task(arg, id, threads) for id = 0 .. threads - 1, each on a thread of its own, all of them at
 * the same time, since they wait for each other; returns when all have returned. */
typedef void (*naru_parallel)(void *pool, void (*task)(void *arg, int32_t id, int32_t threads),
                              void *arg, int32_t threads);

/* All may be 0, besides size. */
typedef struct naru_options {
    uint32_t size;            /* sizeof(naru_options) */
    uint32_t flags;           /* of NARU_… below */
    const char *weights;      /* the file. NULL: inside the library, or beside it */
    const void *weights_data; /* or the file's content, at a multiple of 64; outlives the model */
    size_t weights_size;
    const char *level;        /* the name of a level. NULL: the best that this CPU has */
    int32_t threads;          /* most threads of a run: 0, 1: the caller's alone; -1: every core */
    naru_parallel parallel;   /* the caller's threads. NULL: the library's own, made when needed */
    void *pool;               /* for `parallel` */
    void *(*allocate)(void *heap, size_t bytes, size_t alignment); /* NULL: the C library's */
    void (*release)(void *heap, void *memory, size_t bytes);
    void *heap;               /* for `allocate` and `release` */
    int64_t loop_limit;       /* most rounds of any loop of a run, which then fails; 0: no limit */
} naru_options;

#define NARU_UNCHECKED 1u   /* open: the weights are not compared with their digest */
#define NARU_LARGE_PAGES 2u /* open: the weights are copied into memory in large pages */

typedef struct naru_input {
    const void *data; /* at a multiple of the element's size; C order */
    size_t size;      /* bytes */
} naru_input;

/* `data`: where to write. Of a late output NULL, and set by the run to memory that is the context's
 * until its next run, and `size` with it. */
typedef struct naru_output {
    void *data;
    size_t size; /* bytes */
} naru_output;

typedef struct naru_model naru_model;     /* code and weights: shared by any threads */
typedef struct naru_context naru_context; /* what one call in flight owns: one thread at a time */

/* What a library is and does, for programs that open any of them: dlsym(handle, "naru_library")
 * is a function that returns it. The functions are described in the header of a model. */
typedef struct naru_library {
    uint32_t size, version; /* sizeof(naru_library), NARU_LIBRARY_VERSION */
    const char *name;
    const char *compiler;   /* version of naru */
    const char *source;     /* SHA-256 of the model's file */
    int32_t inputs, outputs, symbols, levels;
    const naru_tensor *input, *output;
    const naru_symbol *symbol;
    const naru_level *level;
    size_t weights_size;    /* bytes of the file */
    int32_t embedded;       /* the weights are inside the library */
    naru_status (*open)(const naru_options *options, naru_model **model);
    naru_status (*close)(naru_model *model);
    const char *(*level_of)(const naru_model *model);
    naru_status (*memory)(const naru_model *model, const int64_t *sizes, size_t *bytes);
    naru_status (*new_context)(naru_model *model, const int64_t *sizes, void *memory, size_t bytes,
                               naru_context **context);
    naru_status (*free_context)(naru_context *context);
    naru_status (*resize)(naru_context *context, const int64_t *sizes);
    naru_status (*shape)(const naru_context *context, int32_t output, int64_t *dims);
    naru_status (*run)(naru_context *context, const naru_input *inputs, naru_output *outputs);
    naru_status (*selftest)(naru_model *model, const char *golden, double *error);
    const char *(*error)(void);
} naru_library;

#ifdef __cplusplus
}
#endif
#endif
