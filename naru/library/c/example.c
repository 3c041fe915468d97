/* Runs @NAME@ on made-up inputs, and prints what it gives. (Integers are 0 here; a model to which
 * they are sizes may refuse that.)
 *
 *   cc -O2 example.c -o example ./@NAME@.so -Wl,-rpath,'$ORIGIN' && ./example
 */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 199309L /* clock_gettime */
#endif
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "@NAME@.h"

static void check(naru_status status)
{
    if (status == NARU_SUCCESS)
        return;
    fprintf(stderr, "failed (%d): %s\n", (int)status, @PREFIX@_error());
    exit(1);
}

/* Elements of a tensor with these dims. */
static size_t count(int32_t rank, const int64_t *dims)
{
    size_t elements = 1;
    for (int32_t k = 0; k < rank; k++)
        elements *= (size_t)dims[k];
    return elements;
}

static void fill(const naru_tensor *t, void *data, size_t elements)
{
    memset(data, 0, elements * (size_t)t->item_size); /* zero of every dtype */
    for (size_t k = 0; k < elements && t->dtype == NARU_DTYPE_FLOAT32; k++)
        ((float *)data)[k] = (float)(k % 17) / 17;
}

static void print(const naru_tensor *t, const void *data, size_t elements)
{
    printf("%s: %s, %zu elements:", t->name, t->dtype_name, elements);
    for (size_t k = 0; k < elements && k < 10; k++) {
        if (t->dtype == NARU_DTYPE_FLOAT32)
            printf(" %.6g", (double)((const float *)data)[k]);
        else if (t->dtype == NARU_DTYPE_FLOAT64)
            printf(" %.6g", ((const double *)data)[k]);
        else if (t->dtype == NARU_DTYPE_INT64)
            printf(" %" PRId64, ((const int64_t *)data)[k]);
        else if (t->dtype == NARU_DTYPE_INT32)
            printf(" %" PRId32, ((const int32_t *)data)[k]);
        else if (t->dtype == NARU_DTYPE_INT8)
            printf(" %d", ((const int8_t *)data)[k]);
        else if (t->dtype == NARU_DTYPE_UINT8 || t->dtype == NARU_DTYPE_BOOL)
            printf(" %d", ((const uint8_t *)data)[k]);
        else /* its bytes, the lowest last */
            for (int32_t b = t->item_size; b-- > 0;)
                printf("%s%02x", b == t->item_size - 1 ? " 0x" : "",
                       ((const uint8_t *)data)[k * (size_t)t->item_size + (size_t)b]);
    }
    printf(elements > 10 ? " ...\n" : "\n");
}

int main(void)
{
    const naru_library *library = @PREFIX@_library();
    const int64_t sizes[] = {@SIZES@}; /* of the symbols, if there are any */
    naru_model *model;
    naru_context *context;
    check(@PREFIX@_open(NULL, &model));
    check(@PREFIX@_new_context(model, sizes, NULL, 0, &context));

    naru_input inputs[@UPPER@_INPUTS + 1] = {{NULL, 0}};
    naru_output outputs[@UPPER@_OUTPUTS] = {{NULL, 0}};
    size_t elements[@UPPER@_OUTPUTS] = {0};
    for (int k = 0; k < @UPPER@_INPUTS; k++) {
        const naru_tensor *t = &library->input[k];
        int64_t dims[32];
        for (int axis = 0; axis < t->rank; axis++)
            dims[axis] = t->shape[axis] >= 0 ? t->shape[axis] : sizes[-1 - t->shape[axis]];
        size_t n = count(t->rank, dims);
        void *data = malloc(n * (size_t)t->item_size + 1);
        if (!data)
            return 1;
        fill(t, data, n);
        inputs[k].data = data, inputs[k].size = n * (size_t)t->item_size;
    }
    for (int k = 0; k < @UPPER@_OUTPUTS; k++) {
        int64_t dims[32];
        if (library->output[k].late) /* the library gives the memory */
            continue;
        check(@PREFIX@_shape(context, k, dims));
        elements[k] = count(library->output[k].rank, dims);
        outputs[k].size = elements[k] * (size_t)library->output[k].item_size;
        outputs[k].data = malloc(outputs[k].size + 1);
        if (!outputs[k].data)
            return 1;
    }

    check(@PREFIX@_run(context, inputs, outputs));
    struct timespec a, b;
    clock_gettime(CLOCK_MONOTONIC, &a);
    check(@PREFIX@_run(context, inputs, outputs));
    clock_gettime(CLOCK_MONOTONIC, &b);

    printf("%s on %s: %.1f us\n", library->name, @PREFIX@_level(model),
           (double)(b.tv_sec - a.tv_sec) * 1e6 + (double)(b.tv_nsec - a.tv_nsec) / 1e3);
    for (int k = 0; k < @UPPER@_OUTPUTS; k++) {
        const naru_tensor *t = &library->output[k];
        print(t, outputs[k].data, outputs[k].size / (size_t)t->item_size);
        if (!t->late)
            free(outputs[k].data);
    }
    for (int k = 0; k < @UPPER@_INPUTS; k++)
        free((void *)(uintptr_t)inputs[k].data);
    check(@PREFIX@_free_context(context));
    check(@PREFIX@_close(model));
    return 0;
}
