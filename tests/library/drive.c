/* Runs a model on the files in.0, in.1, … and writes out.0, out.1, …; all symbols are argv[1].
 *
 *   cc -DHEADER='"m.h"' -DTABLE=m_library drive.c m.a
 */
#include <stdio.h>
#include <stdlib.h>

#include HEADER

enum { MOST = 16, BYTES = 1 << 20 };

static int failed(const naru_library *lib, const char *what)
{
    fprintf(stderr, "%s: %s\n", what, lib->error());
    return 1;
}

int main(int argc, char **argv)
{
    const naru_library *lib = TABLE();
    naru_model *model;
    naru_context *context;
    naru_input in[MOST];
    naru_output out[MOST];
    int64_t sizes[MOST];
    char path[32];
    naru_options options = {.size = sizeof options, .threads = 2};
    double error = -1;
    for (int k = 0; k < MOST; k++)
        sizes[k] = argc > 1 ? atoll(argv[1]) : 1;
    if (lib->open(&options, &model) || lib->selftest(model, NULL, &error))
        return failed(lib, "open");
    if (lib->new_context(model, sizes, NULL, 0, &context))
        return failed(lib, "new_context");
    for (int k = 0; k < lib->inputs; k++) {
        void *data = aligned_alloc(64, BYTES);
        snprintf(path, sizeof path, "in.%d", k);
        FILE *file = fopen(path, "rb");
        if (!file || !data)
            return failed(lib, path);
        in[k].data = data, in[k].size = fread(data, 1, BYTES, file);
        fclose(file);
    }
    for (int k = 0; k < lib->outputs; k++) {
        int64_t dims[MOST];
        out[k].data = NULL, out[k].size = 0;
        if (lib->output[k].late)
            continue;
        if (lib->shape(context, k, dims))
            return failed(lib, "shape");
        out[k].size = (size_t)lib->output[k].item_size;
        for (int axis = 0; axis < lib->output[k].rank; axis++)
            out[k].size *= (size_t)dims[axis];
        out[k].data = malloc(out[k].size);
    }
    if (lib->run(context, in, out))
        return failed(lib, "run");
    for (int k = 0; k < lib->outputs; k++) {
        snprintf(path, sizeof path, "out.%d", k);
        FILE *file = fopen(path, "wb");
        if (!file || fwrite(out[k].data, 1, out[k].size, file) != out[k].size || fclose(file))
            return failed(lib, path);
    }
    printf("%s on %s, self-test %.3g\n", lib->name, lib->level_of(model), error);
    return lib->free_context(context) || lib->close(model);
}
