/* One SPMD thread pool per process, made when first needed.
 *
 * Each worker owns a slot with a ticket. The caller of a run (thread 0) bumps the tickets of the n-1
 * workers it wants, runs its own share, and waits until all have finished. Workers spin for a while
 * after a job, because the next one usually comes soon, then sleep. One run holds the whole pool; a
 * run that finds it held goes on alone, so that every thread of a run is known to be live and the
 * generated code's barriers cannot deadlock. Who holds it leaves each run beside it a core: callers
 * that keep all cores busy then run one thread each, without barriers at which some wait for a core.
 */
#include "host.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
    SPIN_NS = 80000,       /* a worker's wait for the next job before it sleeps */
    SPINS_BEFORE_YIELD = 2000, /* of pause, about 20-100 us: longer than a step's imbalance */
    STACK_BYTES = 8 << 20
};

typedef struct {
    _Alignas(64) _Atomic uint32_t ticket;
    _Atomic int asleep;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    pthread_t thread;
    int64_t tid;
} worker;

static struct {
    _Alignas(64) _Atomic int busy;
    _Atomic int runs; /* under way, that could use several threads */
    _Alignas(64) _Atomic int pending; /* workers that have not finished the job */
    _Alignas(64) naru_meeting meeting;
    _Alignas(64) naru_run_fn run; /* the job; written before the tickets. NULL: go home */
    naru_ctx *ctx;
    int64_t n;
    int workers;
    _Atomic int crowded; /* more threads than CPUs, so that spinning delays the others */
    worker *slot[NARU_MAX_THREADS];
} pool NARU_ZERO;

static _Atomic int setting; /* threads a run may use; 0: not decided yet */

static inline void pause_cpu(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb" ::: "memory");
#endif
}

static inline void wait_a_little(unsigned *spins)
{
    if (!pool.crowded && ++*spins < SPINS_BEFORE_YIELD)
        pause_cpu();
    else
        sched_yield();
}

/* ---- workers ---- */

static int spin_for_ticket(worker *w, uint32_t seen)
{
    if (pool.crowded)
        return 0;
    int64_t end = naru_now_ns() + SPIN_NS;
    do {
        for (int k = 0; k < 32; k++) {
            if (atomic_load_explicit(&w->ticket, memory_order_acquire) != seen)
                return 1;
            pause_cpu();
        }
    } while (naru_now_ns() < end);
    return 0;
}

static uint32_t await_ticket(worker *w, uint32_t seen)
{
    if (!spin_for_ticket(w, seen)) {
        pthread_mutex_lock(&w->lock);
        atomic_store(&w->asleep, 1); /* before the look at the ticket: see start() */
        while (atomic_load(&w->ticket) == seen)
            pthread_cond_wait(&w->wake, &w->lock);
        atomic_store(&w->asleep, 0);
        pthread_mutex_unlock(&w->lock);
    }
    return atomic_load_explicit(&w->ticket, memory_order_acquire);
}

static void *worker_main(void *arg)
{
    worker *w = arg;
    uint32_t seen = 0;
    for (;;) {
        seen = await_ticket(w, seen);
        if (!pool.run)
            return NULL;
        pool.run(pool.ctx, w->tid, pool.n);
        atomic_fetch_sub_explicit(&pool.pending, 1, memory_order_release);
    }
}

static void start(worker *w)
{
    atomic_fetch_add(&w->ticket, 1); /* seq_cst, as asleep: one of the two sees the other */
    if (atomic_load(&w->asleep)) {
        pthread_mutex_lock(&w->lock);
        pthread_cond_signal(&w->wake);
        pthread_mutex_unlock(&w->lock);
    }
}

static int add_worker(void)
{
    worker *w = aligned_alloc(64, (sizeof *w + 63) / 64 * 64);
    if (!w)
        return 0;
    memset(w, 0, sizeof *w);
    w->tid = pool.workers + 1;
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->wake, NULL);

    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, STACK_BYTES);
    sigset_t all, before; /* signals belong to the program, not to our workers */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = pthread_create(&w->thread, &attr, worker_main, w);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    if (failed) {
        pthread_cond_destroy(&w->wake);
        pthread_mutex_destroy(&w->lock);
        free(w);
        return 0;
    }
    pool.slot[pool.workers++] = w;
    return 1;
}

/* ---- fork ---- */

/* The child of a fork has none of the workers. It knows by a number in memory that the kernel wipes
 * for it, or, where the kernel cannot (before Linux 4.14), by the number of the process. Not by
 * pthread_atfork: a library that is unloaded could not always take its function back. */
enum { OWN = 1, CHANGING = -1, PAGE = 4096 };

static _Atomic int32_t number; /* of the process */
static _Atomic int32_t *owner = &number;

static int32_t own_number(void) { return owner == &number ? (int32_t)getpid() : OWN; }

/* Whether the workers are this process's. Those of a parent are forgotten, not freed; 0: another
 * thread is about to. */
static int own_pool(void)
{
    int32_t mine = own_number(), found = atomic_load_explicit(owner, memory_order_acquire);
    if (found == mine)
        return 1;
    if (found == CHANGING || !atomic_compare_exchange_strong(owner, &found, CHANGING))
        return 0;
    int crowded = pool.crowded;
    memset(&pool, 0, sizeof pool);
    pool.crowded = crowded;
    atomic_store_explicit(owner, mine, memory_order_release);
    return 1;
}

NARU_HOST void naru_pool_init(void)
{
    static int done;
    if (done)
        return;
    done = 1;
#ifdef MADV_WIPEONFORK
    void *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    /* QEMU takes any advice, also one that is none, and does nothing. */
    if (page != MAP_FAILED && madvise(page, PAGE, -1) && !madvise(page, PAGE, MADV_WIPEONFORK))
        owner = page;
    else if (page != MAP_FAILED)
        munmap(page, PAGE);
#endif
    atomic_store(owner, own_number());
}

NARU_HOST void naru_pool_exit(void)
{
    naru_pool_stop();
    if (owner != &number)
        munmap((void *)owner, PAGE);
    owner = &number;
}

/* ---- runs ---- */

/* Takes the pool for up to so many threads; 1: it does not hold it. */
static int hold(int want)
{
    if (want <= 1 || atomic_exchange_explicit(&pool.busy, 1, memory_order_acquire))
        return 1;
    while (pool.workers < want - 1 && add_worker())
        ;
    int n = pool.workers + 1 < want ? pool.workers + 1 : want;
    if (n == 1)
        atomic_store_explicit(&pool.busy, 0, memory_order_release);
    return n;
}

static void run_together(naru_run_fn run, naru_ctx *ctx, int n)
{
    pool.run = run, pool.ctx = ctx, pool.n = n;
    atomic_store_explicit(&pool.pending, n - 1, memory_order_relaxed);
    for (int k = 0; k < n - 1; k++)
        start(pool.slot[k]);
    run(ctx, 0, n);
    unsigned spins = 0;
    while (atomic_load_explicit(&pool.pending, memory_order_acquire) != 0)
        wait_a_little(&spins);
    atomic_store_explicit(&pool.busy, 0, memory_order_release);
}

NARU_HOST int naru_pool_run(naru_run_fn run, naru_ctx *ctx, int want)
{
    int limit = naru_get_threads();
    if (want <= 1 || limit <= 1 || !own_pool()) {
        run(ctx, 0, 1);
        return 1;
    }
    int left = limit - atomic_fetch_add_explicit(&pool.runs, 1, memory_order_relaxed);
    int n = hold(want < left ? want : left);
    if (n > 1)
        run_together(run, ctx, n);
    else
        run(ctx, 0, 1);
    atomic_fetch_sub_explicit(&pool.runs, 1, memory_order_relaxed);
    return n;
}

NARU_HOST void naru_pool_stop(void)
{
    if (!own_pool() || atomic_exchange_explicit(&pool.busy, 1, memory_order_acquire))
        return;
    pool.run = NULL;
    for (int k = 0; k < pool.workers; k++)
        start(pool.slot[k]);
    for (int k = 0; k < pool.workers; k++) {
        pthread_join(pool.slot[k]->thread, NULL);
        pthread_cond_destroy(&pool.slot[k]->wake);
        pthread_mutex_destroy(&pool.slot[k]->lock);
        free(pool.slot[k]);
    }
    pool.workers = 0;
    atomic_store_explicit(&pool.busy, 0, memory_order_release);
}

NARU_HOST void naru_meet(naru_meeting *m, int64_t n)
{
    uint32_t mine = atomic_load_explicit(&m->generation, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&m->arrived, 1, memory_order_acq_rel) == (uint32_t)n - 1) {
        atomic_store_explicit(&m->arrived, 0, memory_order_relaxed);
        atomic_store_explicit(&m->generation, mine + 1, memory_order_release);
        return;
    }
    unsigned spins = 0;
    while (atomic_load_explicit(&m->generation, memory_order_acquire) == mine)
        wait_a_little(&spins);
}

/* Only the run that holds the pool has n > 1, so one meeting serves the process. */
NARU_HOST void naru_barrier(naru_ctx *ctx, int64_t tid, int64_t n)
{
    (void)ctx, (void)tid;
    naru_meet(&pool.meeting, n);
}

/* ---- settings ---- */

NARU_HOST int naru_get_threads(void)
{
    int threads = atomic_load_explicit(&setting, memory_order_relaxed);
    if (threads == 0)
        naru_set_threads(0), threads = atomic_load_explicit(&setting, memory_order_relaxed);
    return threads;
}

NARU_HOST void naru_set_threads(int threads)
{
    if (threads <= 0)
        threads = naru_usable_cores();
    if (threads > NARU_MAX_THREADS)
        threads = NARU_MAX_THREADS;
    pool.crowded = threads > naru_allowed_cpus();
    atomic_store_explicit(&setting, threads, memory_order_relaxed);
}
