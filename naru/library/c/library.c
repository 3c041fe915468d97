/* The library of one model. The tables above say what it is; the header, what the functions do. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PLAN_HEAD = 3, FILE_HEAD = 64, MESSAGE = 512 };

static const naru_library LIBRARY;
static _Thread_local char message[MESSAGE];
static pthread_once_t once = PTHREAD_ONCE_INIT, threads_once = PTHREAD_ONCE_INIT;
static _Atomic int models;      /* that are open */
static _Atomic int pooled;      /* whether there is a pool of threads to stop */
static _Atomic uint64_t seeds;  /* given out */

struct naru_model {
    const naru_library *library; /* whose functions may have it */
    const level_table *level;
    const uint8_t *weights;
    void *copy;                  /* of the weights in large pages, or NULL */
    void *mapped;                /* the file, or NULL */
    size_t mapped_size;
    naru_options options;
    naru_heap heap;
    int threads;
    _Atomic int contexts;        /* that are open */
};

struct naru_context {
    naru_ctx abi; /* first, so that the code's pointer is ours */
    const naru_library *library;
    naru_model *model;
    naru_region region;
    naru_meeting meeting;
    size_t arena_size;
    size_t given;     /* bytes for the arena in the caller's memory; SIZE_MAX: the arena is ours */
    int ready;        /* whether the sizes are known */
    int64_t seed;
    int64_t *plan;
    size_t *sizes;    /* bytes of inputs, then of outputs */
    _Atomic int running;
};

_Static_assert(sizeof(naru_context) <= 512, "the constant _MEMORY of headers counts on it");

__attribute__((format(printf, 2, 3))) static naru_status fail(naru_status status, const char *format,
                                                              ...)
{
    va_list args;
    va_start(args, format);
    int length = vsnprintf(message, sizeof message, format, args);
    va_end(args);
    if (length >= MESSAGE) { /* what is cut short ends with a whole character of UTF-8 */
        size_t end = MESSAGE - 1;
        while (end && (message[end - 1] & 0xc0) == 0x80)
            end--;
        message[end - (end && (message[end - 1] & 0xc0) == 0xc0)] = 0;
    }
    return status;
}

/* The k-th of so many texts that stand one after the other. */
static const char *text_at(const char *texts, int count, int64_t k, const char *otherwise)
{
    if (k < 0 || k >= count)
        return otherwise;
    while (k--)
        texts += strlen(texts) + 1;
    return texts;
}

static naru_status no_memory(const naru_heap *heap, size_t bytes, const char *what)
{
    return fail(NARU_OUT_OF_MEMORY, "%s: no memory for %zu bytes%s", what, bytes,
                heap->allocate ? "; options.allocate gave none, or none at a multiple of 64" : "");
}

static const char *last_error(void) { return message; }

/* ---- weights ---- */

static uint64_t read_u64(const uint8_t *p)
{
    uint64_t value;
    memcpy(&value, p, sizeof value);
    return value;
}

/* Whether the bytes are this model's weights. `where` is for the message. */
static naru_status check_weights(const uint8_t *file, size_t size, const char *where, int digest)
{
    if (size < FILE_HEAD || memcmp(file, "NARUWTS1", 8))
        return fail(NARU_BAD_WEIGHTS, "%s: not a file of weights; expected one of %zu bytes", where,
                    (size_t)WEIGHTS_SIZE + FILE_HEAD);
    if (memcmp(file + 24, WEIGHTS_SHA256, 32))
        return fail(NARU_BAD_WEIGHTS, "%s: the weights of another model or version; expected %s",
                    where, WEIGHTS_FILE " as it was written with this library");
    if (size != (size_t)WEIGHTS_SIZE + FILE_HEAD || read_u64(file + 8) != WEIGHTS_SIZE)
        return fail(NARU_BAD_WEIGHTS, "%s: has %zu bytes, expected %zu: %s", where, size,
                    (size_t)WEIGHTS_SIZE + FILE_HEAD,
                    size < (size_t)WEIGHTS_SIZE + FILE_HEAD ? "cut short?" : "something follows");
    if (digest && naru_digest(file + FILE_HEAD, WEIGHTS_SIZE) != WEIGHTS_DIGEST)
        return fail(NARU_BAD_WEIGHTS, "%s: damaged: it does not match its digest", where);
    return NARU_SUCCESS;
}

/* A file in memory; the descriptor is closed again. */
static naru_status map_file(const char *path, void **memory, size_t *size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe would be waited for */
    struct stat info;
    if (fd < 0 || fstat(fd, &info) != 0) {
        int why = errno;
        if (fd >= 0)
            close(fd);
        return fail(why == ENOENT ? NARU_BAD_WEIGHTS : NARU_SYSTEM_ERROR, "%s: cannot be read: %s",
                    path, strerror(why));
    }
    if (!S_ISREG(info.st_mode) || info.st_size < FILE_HEAD) {
        close(fd);
        return fail(NARU_BAD_WEIGHTS, "%s: too short, or not a file", path);
    }
    *size = (size_t)info.st_size;
    *memory = mmap(NULL, *size, PROT_READ, MAP_PRIVATE, fd, 0);
    int why = errno;
    close(fd);
    if (*memory != MAP_FAILED)
        return NARU_SUCCESS;
    *memory = NULL;
    return fail(why == ENOMEM ? NARU_OUT_OF_MEMORY : NARU_SYSTEM_ERROR, "%s: cannot be mapped: %s",
                path, strerror(why));
}

/* The folder that this library was in when it was loaded, or "": where that is not known. */
static char home[PATH_MAX] NARU_ZERO;

/* This library's file, as the loader was told it, or the program that it is a part of; empty:
   unknown. */
static void find_self(char path[PATH_MAX])
{
    Dl_info info;
    const char *self = dladdr((const void *)&LIBRARY, &info) ? info.dli_fname : NULL;
    path[0] = 0;
    if (self && strchr(self, '/')) {
        if (strlen(self) < PATH_MAX)
            memcpy(path, self, strlen(self) + 1);
    } else { /* a part of a program that was found on PATH */
        ssize_t length = readlink("/proc/self/exe", path, PATH_MAX - 1);
        path[length > 0 ? length : 0] = 0;
    }
}

static void keep_folder(char *path)
{
    *(strrchr(path, '/') ? strrchr(path, '/') + 1 : path) = 0;
}

/* The path may be relative, and the program go to another folder before it opens a model. */
__attribute__((constructor)) static void remember_home(void)
{
    char path[PATH_MAX];
    find_self(path);
    keep_folder(path);
    if (!path[0] || !realpath(path, home))
        home[0] = 0;
}

static int join(const char *folder, const char *name, char path[PATH_MAX])
{
    int length = snprintf(path, PATH_MAX, "%s/%s", folder, name);
    return length >= 0 && length < PATH_MAX;
}

/* Where a file lies that was written with this library: beside it, or where the library is a link,
   beside the file that it leads to. */
static naru_status beside(const char *name, char path[PATH_MAX])
{
    char self[PATH_MAX], file[PATH_MAX], folder[PATH_MAX];
    find_self(self);
    memcpy(folder, self, sizeof folder);
    keep_folder(folder);
    const char *known = home[0] ? home : folder;
    if (!known[0])
        return fail(NARU_SYSTEM_ERROR, "%s: the library does not know where it lies; give a path",
                    name);
    if (!join(known, name, path))
        return fail(NARU_BAD_ARGUMENT, "%s: the path of the library is too long; give a path", name);
    const char *last = strrchr(self, '/');
    if (!access(path, F_OK) || !last || !join(known, last + 1, file) || !realpath(file, folder))
        return NARU_SUCCESS;
    keep_folder(folder);
    if (join(folder, name, file) && !access(file, F_OK))
        memcpy(path, file, sizeof file);
    return NARU_SUCCESS;
}

static naru_status open_weights(naru_model *model)
{
    const naru_options *o = &model->options;
    int digest = !(o->flags & NARU_UNCHECKED);
    if (o->weights_data) {
        if ((uintptr_t)o->weights_data % 64)
            return fail(NARU_BAD_ARGUMENT, "weights_data: expected an address at a multiple of 64");
        model->weights = (const uint8_t *)o->weights_data + FILE_HEAD;
        return check_weights(o->weights_data, o->weights_size, "weights_data", digest);
    }
    if (EMBEDDED && !o->weights) {
        model->weights = EMBEDDED_WEIGHTS;
        return NARU_SUCCESS; /* as sound as the code */
    }
    char path[PATH_MAX];
    naru_status status = o->weights ? NARU_SUCCESS : beside(WEIGHTS_FILE, path);
    const char *file = o->weights ? o->weights : path;
    if (status == NARU_SUCCESS)
        status = map_file(file, &model->mapped, &model->mapped_size);
    if (status != NARU_SUCCESS)
        return status;
    model->weights = (const uint8_t *)model->mapped + FILE_HEAD;
    return check_weights(model->mapped, model->mapped_size, file, digest);
}

static naru_status copy_weights(naru_model *model)
{
    if (!(model->options.flags & NARU_LARGE_PAGES) || !WEIGHTS_SIZE)
        return NARU_SUCCESS;
    model->copy = naru_take_memory(&model->heap, WEIGHTS_SIZE);
    if (!model->copy)
        return no_memory(&model->heap, WEIGHTS_SIZE, "the weights");
    memcpy(model->copy, model->weights, WEIGHTS_SIZE);
    model->weights = model->copy;
    if (model->mapped)
        munmap(model->mapped, model->mapped_size);
    model->mapped = NULL;
    return NARU_SUCCESS;
}

/* ---- models ---- */

/* What the CPU, or the system, lacks for a level; NULL: nothing. */
static const char *lacking(const level_table *level)
{
    const char *amx = NULL;
    for (const char *const *f = level->about.features; *f; f++) {
        if (!naru_cpu_has(*f))
            return *f;
        amx = strncmp(*f, "amx", 3) ? amx : *f;
    }
    return amx && !naru_request_amx() ? amx : NULL;
}

/* The best level that this CPU has, or the one asked for. They stand from the best to the least. */
static naru_status choose_level(naru_model *model)
{
    const char *asked = model->options.level;
    for (int k = 0; k < LEVEL_COUNT; k++) {
        const level_table *level = &LEVELS[k];
        if (asked && strcmp(asked, level->about.name))
            continue;
        const char *lacks = lacking(level);
        if (!lacks) {
            model->level = level;
            return NARU_SUCCESS;
        }
        if (asked)
            return fail(NARU_BAD_CPU, "this CPU lacks %s, which the level %s needs", lacks, asked);
    }
    if (asked)
        return fail(NARU_BAD_ARGUMENT, "there is no level '%s'; expected one of " LEVEL_NAMES, asked);
    return fail(NARU_BAD_CPU, "this CPU has none of the levels of this library: " LEVEL_NAMES);
}

static void discard(naru_model *model)
{
    naru_give_memory(&model->heap, model->copy, WEIGHTS_SIZE);
    if (model->mapped)
        munmap(model->mapped, model->mapped_size);
    naru_heap heap = model->heap;
    naru_give_memory(&heap, model, sizeof *model);
}

static naru_status check_options(const naru_options *o)
{
    if (o->size != sizeof *o)
        return fail(NARU_BAD_ARGUMENT, "options.size: expected %zu, got %u; set it to "
                    "sizeof(naru_options)", sizeof *o, o->size);
    if (o->flags & ~(NARU_UNCHECKED | NARU_LARGE_PAGES))
        return fail(NARU_BAD_ARGUMENT, "options.flags: unknown bits in %#x", o->flags);
    if (o->threads < -1)
        return fail(NARU_BAD_ARGUMENT, "options.threads: expected -1 or more, got %d", (int)o->threads);
    if (o->parallel && o->threads < 0)
        return fail(NARU_BAD_ARGUMENT, "options.threads: how many threads does the pool have?");
    if (o->release && !o->allocate)
        return fail(NARU_BAD_ARGUMENT, "options.release: there is no options.allocate");
    if (o->weights_size && !o->weights_data)
        return fail(NARU_BAD_ARGUMENT, "options.weights_data is NULL, but weights_size is not 0");
    if (o->loop_limit < 0)
        return fail(NARU_BAD_ARGUMENT, "options.loop_limit: expected 0 (none) or more, got %lld",
                    (long long)o->loop_limit);
    return NARU_SUCCESS;
}

static naru_status open_model(const naru_options *given, naru_model **result)
{
    if (!result)
        return fail(NARU_BAD_ARGUMENT, "open: model is NULL");
    *result = NULL;
    naru_options options = {0};
    naru_status status = given ? check_options(given) : NARU_SUCCESS;
    if (status != NARU_SUCCESS)
        return status;
    if (given) /* of the size that is expected, so all of it may be read */
        options = *given;
    pthread_once(&once, naru_crc_init);
    if ((options.threads < 0 || options.threads > 1) && !options.parallel) {
        pthread_once(&threads_once, naru_pool_init);
        atomic_store(&pooled, 1);
    }
    naru_heap heap = {options.allocate, options.release, options.heap};
    naru_model *model = naru_take_memory(&heap, sizeof *model);
    if (!model)
        return no_memory(&heap, sizeof *model, "a model");
    memset(model, 0, sizeof *model);
    model->library = &LIBRARY, model->options = options, model->heap = heap;
    int all = options.threads < 0;
    model->threads = all ? naru_get_threads() : options.threads > 1 ? options.threads : 1;
    status = choose_level(model);
    if (status == NARU_SUCCESS)
        status = open_weights(model);
    if (status == NARU_SUCCESS)
        status = copy_weights(model);
    if (status != NARU_SUCCESS) {
        discard(model);
        return status;
    }
    /* These are the caller's, and may be gone when open returns. */
    model->options.weights = model->options.level = NULL;
    atomic_fetch_add(&models, 1);
    *result = model;
    return NARU_SUCCESS;
}

static naru_status check_model(const naru_model *model)
{
    if (!model)
        return fail(NARU_BAD_ARGUMENT, "the model is NULL");
    if (model->library != &LIBRARY)
        return fail(NARU_BAD_ARGUMENT, "the model is closed, or of another library than %s", NAME);
    return NARU_SUCCESS;
}

static naru_status close_model(naru_model *model)
{
    if (!model)
        return NARU_SUCCESS;
    naru_status status = check_model(model);
    if (status != NARU_SUCCESS)
        return status;
    int open_contexts = atomic_load(&model->contexts);
    if (open_contexts)
        return fail(NARU_BUSY, "%d contexts of the model are still open; free them first",
                    open_contexts);
    model->library = NULL;
    discard(model);
    if (atomic_fetch_sub(&models, 1) == 1 && atomic_load(&pooled))
        naru_pool_stop();
    return NARU_SUCCESS;
}

static const char *level_of(const naru_model *model)
{
    return check_model(model) == NARU_SUCCESS ? model->level->about.name : NULL;
}

/* ---- sizes ---- */

static const char *requirement(int64_t k)
{
    return text_at(REQUIREMENTS, REQUIREMENT_COUNT, k, "a condition does not hold");
}

static int64_t dim_of(const int64_t *dims, int64_t code) { return code >= 0 ? code : dims[-1 - code]; }

static int multiply(int64_t *a, int64_t b) { return b < 0 || __builtin_mul_overflow(*a, b, a); }

/* The bytes of every input and every output that is not late. */
static naru_status count_bytes(const int64_t *dims, const int64_t *plan, size_t *sizes)
{
    int64_t total = plan[0] < 0 ? INT64_MAX : plan[0], limit = naru_memory_limit();
    for (int k = 0; k < INPUT_COUNT; k++) {
        int64_t bytes = INPUTS[k].item_size;
        for (int axis = 0; axis < INPUTS[k].rank; axis++)
            if (multiply(&bytes, dim_of(dims, INPUTS[k].shape[axis])))
                return fail(NARU_BAD_SIZES, "the input '%s' would be too large", INPUTS[k].name);
        sizes[k] = (size_t)bytes;
    }
    const int64_t *shape = plan + PLAN_HEAD;
    for (int k = 0; k < OUTPUT_COUNT; shape += OUTPUTS[k++].rank) {
        int64_t bytes = OUTPUTS[k].item_size;
        sizes[INPUT_COUNT + k] = 0;
        if (OUTPUTS[k].late)
            continue;
        for (int axis = 0; axis < OUTPUTS[k].rank; axis++) {
            if (shape[axis] < 0)
                return fail(NARU_BAD_SIZES, "these sizes are too small: dim %d of the output '%s' "
                            "would be %lld", axis, OUTPUTS[k].name, (long long)shape[axis]);
            if (multiply(&bytes, shape[axis]))
                return fail(NARU_BAD_SIZES, "the output '%s' would be too large", OUTPUTS[k].name);
        }
        sizes[INPUT_COUNT + k] = (size_t)bytes;
        if (__builtin_add_overflow(total, bytes, &total))
            total = INT64_MAX;
    }
    if (total > limit)
        return fail(NARU_OUT_OF_MEMORY, "these sizes need %lld bytes of memory, the machine has %lld",
                    (long long)total, (long long)limit);
    return NARU_SUCCESS;
}

/* Symbols' values into dims, and what the code says of them into plan and sizes. */
static naru_status make_plan(const naru_model *model, const int64_t *values, int64_t *dims,
                             int64_t *plan, size_t *sizes)
{
    if (SYMBOL_COUNT && !values)
        return fail(NARU_BAD_ARGUMENT, "sizes is NULL; expected the values of the symbols (%d)", SYMBOL_COUNT);
    memset(dims, 0, sizeof *dims * DIM_COUNT);
    for (int k = 0; k < SYMBOL_COUNT; k++) {
        const naru_symbol *s = &SYMBOLS[k];
        if (values[k] < s->low || values[k] > s->high)
            return fail(NARU_BAD_SIZES, "%s: got a size of %lld, expected %lld to %lld", s->name,
                        (long long)values[k], (long long)s->low, (long long)s->high);
        dims[k] = values[k];
    }
    naru_plan_fn plan_sizes = (naru_plan_fn)(uintptr_t)(model->level->code + model->level->plan);
    plan_sizes(dims, plan);
    if (plan[0] < 0)
        return fail(NARU_BAD_SIZES, "these sizes do not fit the model: %s", requirement(-1 - plan[0]));
    plan[0] = plan[0] > 64 ? plan[0] : 64; /* so much code may read of a tensor without elements */
    return count_bytes(dims, plan, sizes);
}

/* ---- contexts ---- */

enum { POINTERS = INPUT_COUNT + OUTPUT_COUNT + POINTER_COUNT };

/* Bytes of a context without its arena. */
static size_t context_size(void)
{
    size_t bytes = sizeof(naru_context) + sizeof(int64_t) * (DIM_COUNT + PLAN_COUNT)
                   + sizeof(void *) * POINTERS + sizeof(size_t) * (INPUT_COUNT + OUTPUT_COUNT);
    return (bytes + 63) & ~(size_t)63;
}

static naru_status memory_for(const naru_model *model, const int64_t *sizes, size_t *bytes)
{
    int64_t dims[DIM_COUNT + 1], plan[PLAN_COUNT];
    size_t io[INPUT_COUNT + OUTPUT_COUNT];
    if (!bytes)
        return fail(NARU_BAD_ARGUMENT, "memory: bytes is NULL");
    *bytes = 0;
    naru_status status = check_model(model);
    if (status == NARU_SUCCESS)
        status = make_plan(model, sizes, dims, plan, io);
    if (status == NARU_SUCCESS)
        *bytes = context_size() + (size_t)plan[0] + 63; /* wherever it starts */
    return status;
}

static void *context_alloc(naru_ctx *abi, int64_t bytes)
{
    return naru_region_alloc(&((naru_context *)abi)->region, bytes);
}

static void context_barrier(naru_ctx *abi, int64_t tid, int64_t n)
{
    (void)tid;
    naru_meet(&((naru_context *)abi)->meeting, n);
}

static int64_t go_on(naru_ctx *abi, int64_t round)
{
    int64_t limit = ((naru_context *)abi)->model->options.loop_limit;
    return limit && round >= limit ? NARU_TOO_LONG : NARU_OK;
}

static const naru_host OWN_POOL = {NARU_ABI_VERSION, sizeof OWN_POOL, context_alloc,
                                   naru_barrier,     naru_now_ns,     go_on};
static const naru_host OTHER_POOL = {NARU_ABI_VERSION, sizeof OTHER_POOL, context_alloc,
                                     context_barrier,  naru_now_ns,       go_on};

static naru_status check_context(const naru_context *ctx)
{
    if (!ctx)
        return fail(NARU_BAD_ARGUMENT, "the context is NULL");
    if (ctx->library != &LIBRARY)
        return fail(NARU_BAD_ARGUMENT, "the context is freed, or of another library than %s", NAME);
    return NARU_SUCCESS;
}

/* The sizes are known to fit: makes room for them. */
static naru_status make_room(naru_context *ctx, size_t bytes)
{
    if (ctx->given != SIZE_MAX)
        return bytes <= ctx->given ? NARU_SUCCESS
                                   : fail(NARU_OUT_OF_MEMORY, "these sizes need %zu bytes more than "
                                          "the context was given", bytes - ctx->given);
    if (bytes <= ctx->arena_size)
        return NARU_SUCCESS;
    naru_give_memory(&ctx->model->heap, ctx->abi.arena, ctx->arena_size);
    ctx->arena_size = 0;
    ctx->abi.arena = naru_take_memory(&ctx->model->heap, bytes);
    if (!ctx->abi.arena)
        return no_memory(&ctx->model->heap, bytes, "a context");
    ctx->arena_size = bytes;
    return NARU_SUCCESS;
}

static naru_status enter(naru_context *ctx)
{
    naru_status status = check_context(ctx);
    if (status == NARU_SUCCESS && atomic_exchange_explicit(&ctx->running, 1, memory_order_acquire))
        return fail(NARU_BUSY, "the context is in use on another thread; each thread needs its own");
    return status;
}

static naru_status leave(naru_context *ctx, naru_status status)
{
    atomic_store_explicit(&ctx->running, 0, memory_order_release);
    return status;
}

static naru_status resize(naru_context *ctx, const int64_t *sizes)
{
    naru_status status = enter(ctx);
    if (status != NARU_SUCCESS)
        return status;
    ctx->ready = 0;
    status = make_plan(ctx->model, sizes, ctx->abi.dims, ctx->plan, ctx->sizes);
    if (status == NARU_SUCCESS)
        status = make_room(ctx, (size_t)ctx->plan[0]);
    ctx->ready = status == NARU_SUCCESS;
    return leave(ctx, status);
}

static void lay_out(naru_context *ctx, naru_model *model)
{
    memset(ctx, 0, context_size());
    ctx->library = &LIBRARY, ctx->model = model;
    ctx->abi.host = model->options.parallel ? &OTHER_POOL : &OWN_POOL;
    ctx->abi.weights = model->weights;
    ctx->region.heap = &model->heap;
    int64_t *numbers = (int64_t *)(ctx + 1);
    ctx->abi.dims = numbers;
    ctx->plan = numbers + DIM_COUNT;
    ctx->abi.io = (void **)(ctx->plan + PLAN_COUNT);
    ctx->sizes = (size_t *)(ctx->abi.io + POINTERS);
}

static naru_status free_context(naru_context *ctx)
{
    if (!ctx)
        return NARU_SUCCESS;
    naru_status status = enter(ctx);
    if (status != NARU_SUCCESS)
        return status;
    naru_model *model = ctx->model;
    naru_region_free(&ctx->region);
    ctx->library = NULL;
    if (ctx->given == SIZE_MAX) {
        naru_give_memory(&model->heap, ctx->abi.arena, ctx->arena_size);
        naru_give_memory(&model->heap, ctx, context_size());
    }
    atomic_fetch_sub(&model->contexts, 1);
    return NARU_SUCCESS;
}

static naru_status new_context(naru_model *model, const int64_t *sizes, void *memory, size_t bytes,
                               naru_context **result)
{
    if (!result)
        return fail(NARU_BAD_ARGUMENT, "new_context: context is NULL");
    *result = NULL;
    naru_status status = check_model(model);
    if (status != NARU_SUCCESS)
        return status;
    naru_context *ctx;
    if (memory) {
        size_t skipped = -(uintptr_t)memory & 63;
        if (bytes < skipped + context_size())
            return fail(NARU_OUT_OF_MEMORY, "the memory for a context has %zu bytes; memory() says "
                        "how many it takes", bytes);
        ctx = (naru_context *)((uint8_t *)memory + skipped);
        lay_out(ctx, model);
        ctx->given = bytes - skipped - context_size();
        ctx->abi.arena = (uint8_t *)ctx + context_size();
    } else {
        ctx = naru_take_memory(&model->heap, context_size());
        if (!ctx)
            return no_memory(&model->heap, context_size(), "a context");
        lay_out(ctx, model);
        ctx->given = SIZE_MAX;
    }
    atomic_fetch_add(&model->contexts, 1);
    if (sizes || !SYMBOL_COUNT)
        status = resize(ctx, sizes);
    if (status != NARU_SUCCESS) {
        free_context(ctx);
        return status;
    }
    *result = ctx;
    return NARU_SUCCESS;
}

static naru_status shape_of(const naru_context *ctx, int32_t output, int64_t *dims)
{
    naru_status status = check_context(ctx);
    if (status != NARU_SUCCESS)
        return status;
    if (output < 0 || output >= OUTPUT_COUNT || !dims)
        return fail(NARU_BAD_ARGUMENT, "shape: expected an output of 0 to %d and where to write its dims",
                    OUTPUT_COUNT - 1);
    if (!ctx->ready)
        return fail(NARU_BAD_ARGUMENT, "shape: the context has no sizes yet; call resize first");
    const int64_t *shape = ctx->plan + PLAN_HEAD;
    for (int k = 0; k < output; k++)
        shape += OUTPUTS[k].rank;
    memcpy(dims, shape, sizeof *dims * (size_t)OUTPUTS[output].rank);
    return NARU_SUCCESS;
}

/* ---- a run ---- */

static int overlap(const void *a, size_t a_size, const void *b, size_t b_size)
{
    uintptr_t x = (uintptr_t)a, y = (uintptr_t)b;
    return a_size && b_size && x < y + b_size && y < x + a_size;
}

static naru_status bind_one(const naru_tensor *t, const char *kind, const void *data, size_t size,
                            size_t wanted)
{
    if (size != wanted)
        return fail(NARU_BAD_ARGUMENT, "the %s '%s' has %zu bytes, expected %zu", kind, t->name, size,
                    wanted);
    if (!data && wanted)
        return fail(NARU_BAD_ARGUMENT, "the data of the %s '%s' are NULL", kind, t->name);
    if ((uintptr_t)data % (uintptr_t)t->item_size)
        return fail(NARU_BAD_ARGUMENT, "the data of the %s '%s' (%s) are not at a multiple of %d bytes",
                    kind, t->name, t->dtype_name, (int)t->item_size);
    return NARU_SUCCESS;
}

static naru_status bind(naru_context *ctx, const naru_input *inputs, naru_output *outputs)
{
    naru_status status = NARU_SUCCESS;
    if (!ctx->ready)
        return fail(NARU_BAD_ARGUMENT, "the context has no sizes yet; call resize first");
    if ((INPUT_COUNT && !inputs) || !outputs)
        return fail(NARU_BAD_ARGUMENT, "run: %s is NULL", outputs ? "inputs" : "outputs");
    static _Alignas(64) uint8_t nothing[64]; /* code may read it of tensors without elements */
    void **io = ctx->abi.io;
    for (int k = 0; k < INPUT_COUNT && status == NARU_SUCCESS; k++) {
        io[k] = (void *)(uintptr_t)inputs[k].data;
        if (INPUTS[k].optional && !inputs[k].data) {
            ctx->seed = naru_now_ns() ^ (int64_t)(atomic_fetch_add(&seeds, 1) << 32);
            io[k] = &ctx->seed;
        } else {
            status = bind_one(&INPUTS[k], "input", io[k], inputs[k].size, ctx->sizes[k]);
            io[k] = ctx->sizes[k] ? io[k] : nothing;
        }
    }
    for (int k = 0; k < OUTPUT_COUNT && status == NARU_SUCCESS; k++) {
        naru_output *out = &outputs[k];
        io[INPUT_COUNT + k] = OUTPUTS[k].late ? NULL : out->data;
        if (OUTPUTS[k].late) {
            out->data = NULL, out->size = 0; /* what it held is of the run before */
            continue;
        }
        status = bind_one(&OUTPUTS[k], "output", out->data, out->size, ctx->sizes[INPUT_COUNT + k]);
        for (int j = 0; j < INPUT_COUNT + k && status == NARU_SUCCESS; j++) {
            size_t size = j < INPUT_COUNT ? inputs[j].size : outputs[j - INPUT_COUNT].size;
            if (overlap(out->data, out->size, io[j], size))
                status = fail(NARU_BAD_ARGUMENT, "the memory of the output '%s' overlaps that of '%s'",
                              OUTPUTS[k].name,
                              j < INPUT_COUNT ? INPUTS[j].name : OUTPUTS[j - INPUT_COUNT].name);
        }
    }
    return status;
}

typedef struct {
    naru_run_fn run;
    naru_ctx *ctx;
} share;

static void run_share(void *arg, int32_t id, int32_t threads)
{
    const share *s = arg;
    s->run(s->ctx, id, threads);
}

static void run_code(naru_context *ctx)
{
    const naru_model *model = ctx->model;
    naru_run_fn run = (naru_run_fn)(uintptr_t)(model->level->code + model->level->run);
    int64_t useful = ctx->plan[2];
    int want = useful < 1 ? 1 : useful < model->threads ? (int)useful : model->threads;
    if (want > 1 && model->options.parallel) {
        share all = {run, &ctx->abi};
        model->options.parallel(model->options.pool, run_share, &all, want);
        return;
    }
    naru_pool_run(run, &ctx->abi, want);
}

static naru_status run_failure(const naru_heap *heap, const int64_t *error)
{
    const char *step = text_at(STEPS, STEP_COUNT, error[1], "a step");
    long long a = error[1], b = error[2], c = error[3];
    switch (error[0]) {
    case NARU_OUT_OF_RANGE:
        return fail(NARU_BAD_VALUES, "%s: index %lld is out of range for a size of %lld", step, b, c);
    case NARU_NO_MEMORY:
        return no_memory(heap, (size_t)b, step);
    case NARU_BAD_DIM:
        return fail(NARU_BAD_VALUES, "%s: got a size of %lld, the most is %lld", step, b, c);
    case NARU_TOO_SMALL:
        return fail(NARU_BAD_VALUES, "%s: got a size of %lld, the least is %lld", step, b, c);
    case NARU_BROKEN:
        return fail(NARU_BAD_VALUES, "the values of these inputs do not fit the model: %s",
                    requirement(a));
    case NARU_TOO_LONG:
        return fail(NARU_BAD_VALUES, "%s: it goes on after %lld rounds, the most that are allowed",
                    step, b);
    default:
        return fail(NARU_BAD_VALUES, "%s: the code reported failure %lld", step, (long long)error[0]);
    }
}

/* Outputs whose sizes the run found out. */
static naru_status give_late(naru_context *ctx, naru_output *outputs)
{
    naru_plan_fn plan = (naru_plan_fn)(uintptr_t)(ctx->model->level->code + ctx->model->level->plan);
    plan(ctx->abi.dims, ctx->plan);
    const int64_t *shape = ctx->plan + PLAN_HEAD;
    for (int k = 0; k < OUTPUT_COUNT; shape += OUTPUTS[k++].rank) {
        int64_t bytes = OUTPUTS[k].item_size;
        if (!OUTPUTS[k].late)
            continue;
        for (int axis = 0; axis < OUTPUTS[k].rank; axis++)
            if (multiply(&bytes, shape[axis]))
                return fail(NARU_BAD_VALUES, "the output '%s' would be too large", OUTPUTS[k].name);
        outputs[k].data = ctx->abi.io[INPUT_COUNT + k];
        outputs[k].size = (size_t)bytes;
        if (bytes && !outputs[k].data)
            return fail(NARU_BAD_VALUES, "the code did not give the output '%s'", OUTPUTS[k].name);
    }
    return NARU_SUCCESS;
}

static naru_status run_model(naru_context *ctx, const naru_input *inputs, naru_output *outputs)
{
    naru_status status = enter(ctx);
    if (status != NARU_SUCCESS)
        return status;
    status = bind(ctx, inputs, outputs);
    if (status != NARU_SUCCESS)
        return leave(ctx, status);
    naru_region_reset(&ctx->region); /* late outputs lived until now */
    for (int k = SYMBOL_COUNT; k < DIM_COUNT; k++)
        ctx->abi.dims[k] = 0;
    memset(ctx->abi.error, 0, sizeof ctx->abi.error);
    run_code(ctx);
    if (ctx->abi.error[0] != NARU_OK)
        status = run_failure(&ctx->model->heap, ctx->abi.error);
    else if (LATE)
        status = give_late(ctx, outputs);
    return leave(ctx, status);
}
