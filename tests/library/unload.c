/* Opens a library (argv[1], of the model `wide`), runs it on threads, forks, unloads it, forks: three
 * times. argv[2]: whether its models are "closed" before, or left "open". */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "wide.h"

enum { ROWS = 256, COLUMNS = 512 };
static float x[ROWS * COLUMNS], y[ROWS * COLUMNS];

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "unload.c:%d: %s\n", __LINE__, #condition);                            \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

static int threads(void)
{
    int count = 0;
    char line[256];
    FILE *file = fopen("/proc/self/status", "r");
    CHECK(file);
    while (fgets(line, sizeof line, file))
        sscanf(line, "Threads: %d", &count);
    fclose(file);
    return count;
}

/* Whether there are n: one that was joined is still counted for a moment. */
static int has_threads(int n)
{
    for (int k = 0; k < 1000 && threads() != n; k++)
        usleep(1000);
    return threads() == n;
}

static int child_ends_well(pid_t child)
{
    int status = 1;
    return waitpid(child, &status, 0) == child && status == 0;
}

int main(int argc, char **argv)
{
    CHECK(argc == 3);
    int cores = (int)sysconf(_SC_NPROCESSORS_ONLN);
    for (int round = 0; round < 3; round++) {
        void *handle = dlopen(argv[1], RTLD_NOW);
        CHECK(handle);
        const naru_library *(*of)(void);
        *(void **)&of = dlsym(handle, "naru_library");
        CHECK(of);
        const naru_library *lib = of();
        naru_options options = {.size = sizeof options, .threads = 2};
        naru_model *model;
        naru_context *context;
        int64_t sizes[] = {ROWS};
        naru_input in = {x, sizeof x};
        naru_output out = {y, sizeof y};
        CHECK(!lib->open(&options, &model) && !lib->new_context(model, sizes, NULL, 0, &context));
        CHECK(!lib->run(context, &in, &out));
        CHECK(has_threads(2) || cores == 1);
        pid_t child = fork();
        if (!child) {
            int failed = lib->run(context, &in, &out) || (!has_threads(2) && cores > 1)
                         || lib->free_context(context) || lib->close(model) || !has_threads(1);
            _exit(failed);
        }
        CHECK(child_ends_well(child));
        if (!strcmp(argv[2], "closed"))
            CHECK(!lib->free_context(context) && !lib->close(model) && has_threads(1));
        CHECK(!dlclose(handle) && has_threads(1));
        CHECK(!dlopen(argv[1], RTLD_NOW | RTLD_NOLOAD)); /* it is gone */
        child = fork();
        if (!child)
            _exit(0);
        CHECK(child_ends_well(child));
    }
    puts("unloaded");
    return 0;
}
