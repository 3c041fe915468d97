/* The table of a model's library and the functions of its header; follows selftest.c. */

static const naru_library LIBRARY = {
    sizeof(naru_library), NARU_LIBRARY_VERSION, NAME, COMPILER, SOURCE,
    INPUT_COUNT, OUTPUT_COUNT, SYMBOL_COUNT, LEVEL_COUNT,
    INPUTS, OUTPUTS, SYMBOLS, LEVEL_TABLE, (size_t)WEIGHTS_SIZE + FILE_HEAD, EMBEDDED,
    open_model, close_model, level_of, memory_for, new_context, free_context, resize, shape_of,
    run_model, selftest, last_error,
};

/* What the header declares, under the model's name. */
#define EXPORT __attribute__((visibility("default")))

EXPORT const naru_library *OF_MODEL(library)(void) { return &LIBRARY; }

EXPORT naru_status OF_MODEL(open)(const naru_options *options, naru_model **model)
{
    return open_model(options, model);
}

EXPORT naru_status OF_MODEL(close)(naru_model *model) { return close_model(model); }

EXPORT const char *OF_MODEL(level)(const naru_model *model) { return level_of(model); }

EXPORT naru_status OF_MODEL(memory)(const naru_model *model, const int64_t *sizes, size_t *bytes)
{
    return memory_for(model, sizes, bytes);
}

EXPORT naru_status OF_MODEL(new_context)(naru_model *model, const int64_t *sizes, void *memory,
                                         size_t bytes, naru_context **context)
{
    return new_context(model, sizes, memory, bytes, context);
}

EXPORT naru_status OF_MODEL(free_context)(naru_context *context) { return free_context(context); }

EXPORT naru_status OF_MODEL(resize)(naru_context *context, const int64_t *sizes)
{
    return resize(context, sizes);
}

EXPORT naru_status OF_MODEL(shape)(const naru_context *context, int32_t output, int64_t *dims)
{
    return shape_of(context, output, dims);
}

EXPORT naru_status OF_MODEL(run)(naru_context *context, const naru_input *inputs,
                                 naru_output *outputs)
{
    return run_model(context, inputs, outputs);
}

EXPORT naru_status OF_MODEL(selftest)(naru_model *model, const char *golden, double *error)
{
    return selftest(model, golden, error);
}

EXPORT const char *OF_MODEL(error)(void) { return last_error(); }

#ifdef NARU_SHARED
/* Threads must not run on in a library that is unloaded. When a program ends, models may be open, and
 * be running. */
__attribute__((destructor)) static void unload(void)
{
    if (atomic_load(&models))
        naru_pool_stop();
    else
        naru_pool_exit();
}

/* In a static library, two models would both define it. */
EXPORT const naru_library *naru_library_of(void) __asm__("naru_library");
EXPORT const naru_library *naru_library_of(void) { return &LIBRARY; }
#endif
