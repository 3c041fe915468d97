/* What bench/libraries.py times in C: calls of a library, and what it takes to open one.
 *
 *   open PATH.so        nanoseconds of dlopen, open, new_context and the first run
 *   many FILE           the same for each path in FILE, all open at once; resident memory
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include LIBRARY_HEADER

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

/* Nanoseconds of a call, the mean of `calls`. */
double time_calls(const naru_library *library, naru_context *context, const naru_input *inputs,
                  naru_output *outputs, int calls)
{
    double start = now();
    for (int k = 0; k < calls; k++)
        if (library->run(context, inputs, outputs) != NARU_SUCCESS)
            return -1;
    return (now() - start) / calls;
}

static size_t bytes_of(const naru_tensor *t, const int64_t *dims)
{
    size_t bytes = (size_t)t->item_size;
    for (int k = 0; k < t->rank; k++)
        bytes *= (size_t)(dims[k] >= 0 ? dims[k] : 1);
    return bytes;
}

/* Opens a library and runs it once, all symbols 1, inputs zero. */
static void open_and_run(const char *path)
{
    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!handle)
        exit(fprintf(stderr, "%s\n", dlerror()));
    const naru_library *(*of)(void);
    *(void **)&of = dlsym(handle, "naru_library");
    const naru_library *library = of();
    int64_t ones[64];
    for (int k = 0; k < 64; k++)
        ones[k] = 1;
    naru_model *model;
    naru_context *context;
    naru_input inputs[16];
    naru_output outputs[16];
    if (library->open(NULL, &model) || library->new_context(model, ones, NULL, 0, &context))
        exit(fprintf(stderr, "%s: %s\n", path, library->error()));
    for (int k = 0; k < library->inputs; k++) {
        inputs[k].size = bytes_of(&library->input[k], library->input[k].shape);
        inputs[k].data = calloc(1, inputs[k].size);
    }
    for (int k = 0; k < library->outputs; k++) {
        int64_t dims[32];
        library->shape(context, k, dims);
        outputs[k].size = bytes_of(&library->output[k], dims);
        outputs[k].data = malloc(outputs[k].size);
    }
    if (library->run(context, inputs, outputs))
        exit(fprintf(stderr, "%s: %s\n", path, library->error()));
}

int main(int count, char **args)
{
    double start = now();
    if (count == 3 && !strcmp(args[1], "open")) {
        open_and_run(args[2]);
        printf("%.0f\n", now() - start);
        return 0;
    }
    if (count != 3 || strcmp(args[1], "many"))
        return 2;
    FILE *list = fopen(args[2], "r");
    char line[4096];
    while (list && fgets(line, sizeof line, list)) {
        line[strcspn(line, "\n")] = 0;
        open_and_run(line);
    }
    printf("%.0f\n", now() - start);
    return 0;
}
