/* What must never happen to a model's library: bad weights, bad pointers, no memory, many threads.
 *
 *   cc -fsanitize=address,undefined -DHEADER='"cnn.h"' -DTABLE=cnn_library faults.c cnn.c
 *   ./a.out FOLDER [embedded]
 *
 * FOLDER has the files beside the library, and room for others. The machine code of a model is not
 * seen by the sanitizers, so its inputs, outputs, arena and late outputs lie between pages that may
 * not be touched.
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include HEADER

enum { PAGE = 4096, MOST = 16, THREADS = 4 };

static const naru_library *lib;
static const char *folder;
static int embedded;
static const int64_t SIZES[] = {4, 1, 33, 2, 9, 3}; /* of every symbol, in turn */
enum { ROUNDS = sizeof SIZES / sizeof *SIZES };

static void fatal(int line, const char *what, const char *more)
{
    fprintf(stderr, "faults.c:%d: %s: %s\n", line, what, more);
    exit(1);
}

static void expect(int line, naru_status want, naru_status got)
{
    if (want == got)
        return;
    char text[80];
    snprintf(text, sizeof text, "status %d, expected %d", (int)got, (int)want);
    fatal(line, text, lib->error());
}
#define EXPECT(status, call) expect(__LINE__, status, call)
#define CHECK(condition) ((condition) ? (void)0 : fatal(__LINE__, #condition, lib->error()))

/* ---- memory between pages that may not be touched ---- */

typedef struct {
    uint8_t *map, *at;
    size_t mapped, size;
} block;

/* The end at a page's end, or the start at a page's start; `align` is a power of two. */
static block guarded(size_t size, size_t align, int at_start)
{
    size_t inside = (size + PAGE - 1) / PAGE * PAGE;
    block b = {NULL, NULL, inside + 2 * PAGE, size};
    b.map = mmap(NULL, b.mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(b.map != MAP_FAILED);
    CHECK(!mprotect(b.map, PAGE, PROT_NONE) && !mprotect(b.map + PAGE + inside, PAGE, PROT_NONE));
    b.at = b.map + PAGE + (at_start ? 0 : (inside - size) / align * align);
    return b;
}

static void release_block(block *b)
{
    if (b->map)
        munmap(b->map, b->mapped);
    b->map = NULL;
}

/* The heap of a model: every block guarded; may fail at the n-th request. */
typedef struct {
    _Atomic long requests, alive;
    long fails_at;
} heap;

static void *take(void *user, size_t bytes, size_t alignment)
{
    heap *h = user;
    CHECK(alignment == 64 && bytes % 64 == 0);
    if (atomic_fetch_add(&h->requests, 1) + 1 == h->fails_at)
        return NULL;
    block b = guarded(bytes, 64, 0);
    memset(b.at, 0xee, bytes); /* nothing is zero by chance */
    atomic_fetch_add(&h->alive, 1);
    return b.at;
}

static void give(void *user, void *memory, size_t bytes)
{
    heap *h = user;
    size_t inside = (bytes + PAGE - 1) / PAGE * PAGE;
    CHECK(!munmap((uint8_t *)memory + bytes - inside - PAGE, inside + 2 * PAGE));
    atomic_fetch_sub(&h->alive, 1);
}

/* ---- feeds ---- */

typedef struct {
    naru_input in[MOST];
    naru_output out[MOST];
    block memory[2 * MOST];
    int64_t sizes[MOST];
} feed;

static void fill(const naru_tensor *t, uint8_t *data, size_t size)
{
    for (size_t k = 0; k * (size_t)t->item_size < size; k++) {
        uint8_t *p = data + k * (size_t)t->item_size;
        float f = k % 5 ? (float)(k % 17) / 17 - 0.3f : 0;
        int64_t i = 3;
        if (t->dtype == NARU_DTYPE_FLOAT32)
            memcpy(p, &f, sizeof f);
        else if (t->dtype == NARU_DTYPE_INT64)
            memcpy(p, &i, sizeof i);
        else
            *p = (uint8_t)(k & 1);
    }
}

/* Inputs, and outputs as the context says that they will be. */
static void prepare(feed *f, const naru_context *context, int64_t size, int at_start)
{
    CHECK(lib->inputs <= MOST && lib->outputs <= MOST && lib->symbols <= MOST);
    for (int k = 0; k < lib->inputs; k++) {
        const naru_tensor *t = &lib->input[k];
        size_t bytes = (size_t)t->item_size;
        for (int axis = 0; axis < t->rank; axis++)
            bytes *= (size_t)(t->shape[axis] < 0 ? size : t->shape[axis]);
        f->memory[k] = guarded(bytes, (size_t)t->item_size, at_start);
        fill(t, f->memory[k].at, bytes);
        f->in[k] = (naru_input){f->memory[k].at, bytes};
    }
    for (int k = 0; k < lib->outputs; k++) {
        const naru_tensor *t = &lib->output[k];
        int64_t dims[MOST];
        f->out[k] = (naru_output){NULL, 0};
        f->memory[MOST + k].map = NULL;
        if (t->late)
            continue;
        EXPECT(NARU_SUCCESS, lib->shape(context, k, dims));
        size_t bytes = (size_t)t->item_size;
        for (int axis = 0; axis < t->rank; axis++)
            bytes *= (size_t)dims[axis];
        f->memory[MOST + k] = guarded(bytes, (size_t)t->item_size, at_start);
        f->out[k] = (naru_output){f->memory[MOST + k].at, bytes};
    }
}

static void discard(feed *f)
{
    for (int k = 0; k < lib->inputs; k++)
        release_block(&f->memory[k]);
    for (int k = 0; k < lib->outputs; k++)
        release_block(&f->memory[MOST + k]);
}

/* A number that tells outputs apart; reads every byte of them. */
static uint64_t hash(const feed *f)
{
    uint64_t h = 14695981039346656037u;
    for (int k = 0; k < lib->outputs; k++)
        for (size_t j = 0; j < f->out[k].size; j++)
            h = (h ^ ((const uint8_t *)f->out[k].data)[j]) * 1099511628211u;
    return h;
}

static void sizes_of(int64_t size, int64_t *sizes)
{
    for (int k = 0; k < MOST; k++)
        sizes[k] = size;
}

static naru_options options_of(heap *h)
{
    naru_options o = {.size = sizeof o};
    if (h)
        o.allocate = take, o.release = give, o.heap = h;
    return o;
}

static uint64_t run_once(naru_model *model, int64_t size)
{
    int64_t sizes[MOST];
    naru_context *context;
    feed f;
    sizes_of(size, sizes);
    EXPECT(NARU_SUCCESS, lib->new_context(model, sizes, NULL, 0, &context));
    prepare(&f, context, size, 0);
    EXPECT(NARU_SUCCESS, lib->run(context, f.in, f.out));
    uint64_t found = hash(&f);
    discard(&f);
    EXPECT(NARU_SUCCESS, lib->free_context(context));
    return found;
}

/* ---- one thread ---- */

static void test_sizes(uint64_t *want)
{
    heap h = {0};
    naru_options o = options_of(&h);
    naru_model *model;
    EXPECT(NARU_SUCCESS, lib->open(&o, &model));
    EXPECT(NARU_SUCCESS, lib->selftest(model, NULL, NULL));
    for (int round = 0; round < 2 * ROUNDS; round++) { /* the arena has exactly what it needs */
        int64_t size = SIZES[round % ROUNDS], sizes[MOST];
        naru_context *context;
        size_t bytes;
        feed f;
        sizes_of(size, sizes);
        EXPECT(NARU_SUCCESS, lib->memory(model, sizes, &bytes));
        block own = guarded(bytes - 63, 64, 0);
        CHECK((uintptr_t)own.at % 64 == 0 || (bytes - 63) % 64);
        size_t skipped = -(uintptr_t)own.at & 63;
        EXPECT(NARU_SUCCESS, lib->new_context(model, sizes, own.at, bytes - 63 + skipped, &context));
        prepare(&f, context, size, round >= ROUNDS);
        for (int again = 0; again < 3; again++) {
            EXPECT(NARU_SUCCESS, lib->run(context, f.in, f.out));
            if (!want[round % ROUNDS])
                want[round % ROUNDS] = hash(&f);
            CHECK(hash(&f) == want[round % ROUNDS]);
        }
        EXPECT(NARU_BUSY, lib->close(model));
        discard(&f);
        EXPECT(NARU_SUCCESS, lib->free_context(context));
        EXPECT(NARU_BAD_ARGUMENT, lib->free_context(context)); /* the memory is ours, so it can tell */
        release_block(&own);
    }
    EXPECT(NARU_SUCCESS, lib->close(model));
    CHECK(!h.alive);
}

static void test_resize(const uint64_t *want)
{
    heap h = {0};
    naru_options o = options_of(&h);
    naru_model *model;
    naru_context *context;
    feed f;
    EXPECT(NARU_SUCCESS, lib->open(&o, &model));
    EXPECT(NARU_SUCCESS, lib->new_context(model, NULL, NULL, 0, &context));
    if (lib->symbols) {
        EXPECT(NARU_BAD_ARGUMENT, lib->run(context, NULL, NULL));
        EXPECT(NARU_BAD_ARGUMENT, lib->shape(context, 0, (int64_t[MOST]){0}));
        EXPECT(NARU_BAD_ARGUMENT, lib->resize(context, NULL));
    }
    for (int round = 0; round < ROUNDS; round++) {
        int64_t sizes[MOST];
        if (lib->symbols) {
            sizes_of(INT64_MAX, sizes);
            EXPECT(NARU_BAD_SIZES, lib->resize(context, sizes));
            sizes_of(-1, sizes);
            EXPECT(NARU_BAD_SIZES, lib->resize(context, sizes));
        }
        sizes_of(SIZES[round], sizes);
        EXPECT(NARU_SUCCESS, lib->resize(context, sizes));
        prepare(&f, context, SIZES[round], 0);
        EXPECT(NARU_SUCCESS, lib->run(context, f.in, f.out));
        CHECK(hash(&f) == want[round]);
        discard(&f);
    }
    EXPECT(NARU_SUCCESS, lib->free_context(context));
    EXPECT(NARU_SUCCESS, lib->close(model));
    CHECK(!h.alive);
}

static void test_arguments(void)
{
    naru_model *model;
    naru_context *context;
    int64_t sizes[MOST];
    size_t bytes;
    feed f;
    sizes_of(4, sizes);
    EXPECT(NARU_SUCCESS, lib->open(NULL, &model));
    EXPECT(NARU_SUCCESS, lib->memory(model, sizes, &bytes));
    uint8_t *few = malloc(bytes);
    CHECK(few);
    for (size_t n = 0; n < bytes - 63; n += 37)
        EXPECT(NARU_OUT_OF_MEMORY, lib->new_context(model, sizes, few + (n & 15), n, &context));
    free(few);
    EXPECT(NARU_SUCCESS, lib->new_context(model, sizes, NULL, 0, &context));
    prepare(&f, context, 4, 0);
    EXPECT(NARU_BAD_ARGUMENT, lib->run(context, f.in, NULL));
    EXPECT(NARU_BAD_ARGUMENT, lib->run(NULL, f.in, f.out));
    for (int k = 0; k < lib->inputs; k++) {
        naru_input good = f.in[k];
        f.in[k].data = NULL;
        EXPECT(NARU_BAD_ARGUMENT, lib->run(context, f.in, f.out));
        f.in[k] = good, f.in[k].size++;
        EXPECT(NARU_BAD_ARGUMENT, lib->run(context, f.in, f.out));
        f.in[k].size = SIZE_MAX;
        EXPECT(NARU_BAD_ARGUMENT, lib->run(context, f.in, f.out));
        f.in[k] = good, f.in[k].data = (const uint8_t *)good.data - 1;
        if (lib->input[k].item_size > 1)
            EXPECT(NARU_BAD_ARGUMENT, lib->run(context, f.in, f.out));
        f.in[k] = good;
    }
    for (int k = 0; k < lib->outputs; k++) {
        naru_output good = f.out[k];
        if (lib->output[k].late)
            continue;
        f.out[k].data = NULL;
        EXPECT(NARU_BAD_ARGUMENT, lib->run(context, f.in, f.out));
        f.out[k] = good, f.out[k].size--;
        EXPECT(NARU_BAD_ARGUMENT, lib->run(context, f.in, f.out));
        f.out[k] = good, f.out[k].data = (void *)(uintptr_t)f.in[0].data;
        EXPECT(NARU_BAD_ARGUMENT, lib->run(context, f.in, f.out));
        f.out[k] = good;
    }
    EXPECT(NARU_BAD_ARGUMENT, lib->shape(context, -1, sizes));
    EXPECT(NARU_BAD_ARGUMENT, lib->shape(context, lib->outputs, sizes));
    EXPECT(NARU_SUCCESS, lib->run(context, f.in, f.out));
    discard(&f);
    EXPECT(NARU_SUCCESS, lib->free_context(context));
    EXPECT(NARU_SUCCESS, lib->close(model));
}

static void test_no_memory(void)
{
    long n = 1;
    for (int failed = 1; failed; n++) {
        heap h = {.fails_at = n};
        naru_options o = options_of(&h);
        o.flags = NARU_LARGE_PAGES;
        naru_model *model;
        naru_context *context = NULL;
        int64_t sizes[MOST];
        feed f;
        naru_status status = lib->open(&o, &model);
        if (status == NARU_SUCCESS) {
            sizes_of(33, sizes);
            status = lib->new_context(model, sizes, NULL, 0, &context);
            if (status == NARU_SUCCESS) {
                prepare(&f, context, 33, 0);
                status = lib->run(context, f.in, f.out);
                discard(&f);
                EXPECT(NARU_SUCCESS, lib->free_context(context));
            }
            if (status == NARU_SUCCESS)
                status = lib->selftest(model, NULL, NULL);
            EXPECT(NARU_SUCCESS, lib->close(model));
        }
        failed = status != NARU_SUCCESS;
        EXPECT(failed ? NARU_OUT_OF_MEMORY : NARU_SUCCESS, status);
        CHECK(!h.alive && n < 100);
    }
    CHECK(n > 4);
}

/* ---- weights ---- */

static void write_file(const char *path, const uint8_t *data, size_t size)
{
    FILE *file = fopen(path, "wb");
    CHECK(file && fwrite(data, 1, size, file) == size && !fclose(file));
}

/* Both ways of giving weights refuse these. */
static void refused(const char *path, const uint8_t *data, size_t size)
{
    naru_model *model;
    naru_options o = {.size = sizeof o, .weights = path};
    write_file(path, data, size);
    EXPECT(NARU_BAD_WEIGHTS, lib->open(&o, &model));
    CHECK(!model);
    block b = guarded(size, 64, 1);
    memcpy(b.at, data, size);
    o = (naru_options){.size = sizeof o, .weights_data = b.at, .weights_size = size};
    EXPECT(NARU_BAD_WEIGHTS, lib->open(&o, &model));
    release_block(&b);
}

/* The weights come from the file beside an equal library that does not embed them. */
static void test_weights(void)
{
    char good_path[4096], path[4096];
    naru_model *model;
    snprintf(good_path, sizeof good_path, "%s/%s.weights", folder, lib->name);
    snprintf(path, sizeof path, "%s/bad.weights", folder);
    int fd = open(good_path, O_RDONLY);
    struct stat info;
    CHECK(fd >= 0 && !fstat(fd, &info) && (size_t)info.st_size == lib->weights_size);
    size_t size = lib->weights_size;
    block b = guarded(size, 64, 1);
    uint8_t *good = b.at;
    CHECK(read(fd, good, size) == (ssize_t)size && !close(fd));
    size_t cuts[] = {0, 1, 8, 63, 64, size / 2, size - 1};
    for (size_t k = 0; k < sizeof cuts / sizeof *cuts; k++)
        if (cuts[k] < size)
            refused(path, good, cuts[k]);
    size_t places[] = {0, 8, 24, 55, 64, (64 + size) / 2, size - 1};
    for (size_t k = 0; k < sizeof places / sizeof *places; k++) {
        if (places[k] > 55 && size == 64)
            continue; /* there is nothing but the head, whose last bytes mean nothing */
        good[places[k]] ^= 4;
        refused(path, good, size);
        good[places[k]] ^= 4;
    }
    unlink(path);
    naru_options o = {.size = sizeof o, .weights = path};
    EXPECT(NARU_BAD_WEIGHTS, lib->open(&o, &model)); /* there is none */
    CHECK(!mkfifo(path, 0600));
    EXPECT(NARU_BAD_WEIGHTS, lib->open(&o, &model)); /* a pipe */
    unlink(path);
    o.weights = folder;
    EXPECT(NARU_BAD_WEIGHTS, lib->open(&o, &model)); /* a folder */
    o = (naru_options){.size = sizeof o, .weights_data = good + 8, .weights_size = size - 8};
    EXPECT(NARU_BAD_ARGUMENT, lib->open(&o, &model));
    o = (naru_options){.size = sizeof o, .weights_data = good, .weights_size = size};
    for (o.flags = 0; o.flags <= (NARU_UNCHECKED | NARU_LARGE_PAGES); o.flags++) {
        EXPECT(NARU_SUCCESS, lib->open(&o, &model));
        run_once(model, 2);
        EXPECT(NARU_SUCCESS, lib->close(model));
    }
    release_block(&b);
}

static void test_golden(void)
{
    char path[4096];
    naru_model *model;
    uint8_t nothing[200] = {0};
    EXPECT(NARU_SUCCESS, lib->open(NULL, &model));
    snprintf(path, sizeof path, "%s/%s.golden", folder, lib->name);
    double error = -1;
    EXPECT(NARU_SUCCESS, lib->selftest(model, path, &error));
    CHECK(error >= 0 && error <= 1);
    FILE *file = fopen(path, "rb");
    CHECK(file);
    uint8_t *good = malloc(1 << 20);
    CHECK(good);
    size_t size = fread(good, 1, 1 << 20, file);
    fclose(file);
    snprintf(path, sizeof path, "%s/bad.golden", folder);
    EXPECT(NARU_BAD_WEIGHTS, lib->selftest(model, path, NULL));
    size_t cuts[] = {0, 63, 64, 100, size - 1};
    for (size_t k = 0; k < sizeof cuts / sizeof *cuts; k++) {
        write_file(path, good, cuts[k]);
        EXPECT(NARU_BAD_WEIGHTS, lib->selftest(model, path, NULL));
    }
    for (size_t at = 0; at < size; at += at < 24 ? 8 : size / 7) { /* rtol, atol are at 24 to 39 */
        good[at] ^= 1;
        write_file(path, good, size);
        EXPECT(NARU_BAD_WEIGHTS, lib->selftest(model, path, NULL));
        good[at] ^= 1;
        at = at == 16 ? 64 : at;
    }
    write_file(path, nothing, sizeof nothing);
    EXPECT(NARU_BAD_WEIGHTS, lib->selftest(model, path, NULL));
    unlink(path);
    free(good);
    EXPECT(NARU_SUCCESS, lib->close(model));
}

/* ---- several threads ---- */

typedef struct {
    void (*task)(void *arg, int32_t id, int32_t threads);
    void *arg;
    int32_t id, threads;
} job;

static void *do_job(void *arg)
{
    job *j = arg;
    j->task(j->arg, j->id, j->threads);
    return NULL;
}

static _Atomic int shared_runs;

static void parallel(void *pool, void (*task)(void *arg, int32_t id, int32_t threads), void *arg,
                     int32_t threads)
{
    pthread_t thread[THREADS];
    job jobs[THREADS];
    CHECK(pool == &shared_runs && threads <= THREADS);
    atomic_fetch_add(&shared_runs, 1);
    for (int32_t k = 1; k < threads; k++) {
        jobs[k] = (job){task, arg, k, threads};
        CHECK(!pthread_create(&thread[k], NULL, do_job, &jobs[k]));
    }
    task(arg, 0, threads);
    for (int32_t k = 1; k < threads; k++)
        pthread_join(thread[k], NULL);
}

static naru_model *common;
static uint64_t wanted[ROUNDS];
static naru_context *fought_over;

static void *use_common(void *arg)
{
    for (int round = 0; round < 12; round++) {
        int k = (round + (int)(intptr_t)arg) % ROUNDS;
        CHECK(run_once(common, SIZES[k]) == wanted[k]);
    }
    return NULL;
}

/* Opens, runs and closes a model of its own; every other one by threads of the library. */
static void *open_and_close(void *arg)
{
    for (int round = 0; round < 12; round++) {
        heap h = {0};
        naru_options o = options_of(&h);
        o.threads = round % 2 ? 2 : 1;
        if (round % 4 == 3)
            o.parallel = parallel, o.pool = &shared_runs;
        naru_model *model;
        int k = (round + (int)(intptr_t)arg) % ROUNDS;
        EXPECT(NARU_SUCCESS, lib->open(&o, &model));
        CHECK(run_once(model, SIZES[k]) == wanted[k]);
        EXPECT(NARU_SUCCESS, lib->close(model));
        CHECK(!h.alive);
        naru_options bad = {.size = sizeof bad, .level = "none"};
        EXPECT(NARU_BAD_ARGUMENT, lib->open(&bad, &model));
        CHECK(strstr(lib->error(), "no level 'none'")); /* this thread's, not another's */
    }
    return NULL;
}

/* One context on several threads: it runs, or it says that it is running. */
static void *fight(void *arg)
{
    feed f;
    (void)arg;
    prepare(&f, fought_over, SIZES[0], 0);
    for (int round = 0; round < 30; round++) {
        naru_status status = lib->run(fought_over, f.in, f.out);
        EXPECT(status ? NARU_BUSY : NARU_SUCCESS, status);
    }
    discard(&f);
    return NULL;
}

static void on_threads(void *(*work)(void *))
{
    pthread_t thread[THREADS];
    for (intptr_t k = 0; k < THREADS; k++)
        CHECK(!pthread_create(&thread[k], NULL, work, (void *)k));
    for (int k = 0; k < THREADS; k++)
        pthread_join(thread[k], NULL);
}

/* What is asked once of a machine is asked by all of them at the same time. */
static void *open_first(void *arg)
{
    naru_model *model;
    (void)arg;
    EXPECT(NARU_SUCCESS, lib->open(NULL, &model));
    EXPECT(NARU_SUCCESS, lib->selftest(model, NULL, NULL));
    EXPECT(NARU_SUCCESS, lib->close(model));
    return NULL;
}

static void test_threads(void)
{
    heap h = {0};
    naru_options o = options_of(&h);
    o.threads = 2;
    int64_t sizes[MOST];
    EXPECT(NARU_SUCCESS, lib->open(&o, &common));
    on_threads(use_common);
    on_threads(open_and_close);
    sizes_of(SIZES[0], sizes);
    EXPECT(NARU_SUCCESS, lib->new_context(common, sizes, NULL, 0, &fought_over));
    on_threads(fight);
    EXPECT(NARU_SUCCESS, lib->free_context(fought_over));
    EXPECT(NARU_SUCCESS, lib->close(common));
    CHECK(!h.alive);
    on_threads(open_and_close); /* now the last model is closed again and again */
}

/* A child has none of the pool's threads. Neither ThreadSanitizer nor QEMU can do it. */
static void test_fork(void)
{
#if !defined(__SANITIZE_THREAD__) && !defined(NO_FORK)
    naru_options o = {.size = sizeof o, .threads = 2};
    naru_model *model;
    EXPECT(NARU_SUCCESS, lib->open(&o, &model));
    CHECK(run_once(model, SIZES[0]) == wanted[0]);
    pid_t child = fork();
    if (!child) {
        CHECK(run_once(model, SIZES[0]) == wanted[0]);
        EXPECT(NARU_SUCCESS, lib->close(model));
        _exit(0);
    }
    int status = 1;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    CHECK(run_once(model, SIZES[0]) == wanted[0]);
    EXPECT(NARU_SUCCESS, lib->close(model));
#endif
}

int main(int argc, char **argv)
{
    lib = TABLE();
    folder = argc > 1 ? argv[1] : ".";
    embedded = argc > 2;
    CHECK(lib->embedded == embedded && lib->version == NARU_LIBRARY_VERSION);
    on_threads(open_first);
    test_sizes(wanted);
    test_resize(wanted);
    test_arguments();
    test_no_memory();
    test_weights();
    test_golden();
    test_threads();
    test_fork();
    printf("%s: no faults; %d runs on threads of ours\n", lib->name, (int)shared_runs);
    return 0;
}
