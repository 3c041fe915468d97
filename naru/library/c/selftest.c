/* The self-test of a model's library; follows library.c. */

/* The file of the golden vector: a head of 64 bytes (magic "NARUGOLD", bytes of the whole, digest of
 * what follows the head, 0, rtol, atol), the sizes of the symbols, then of each input and output its
 * bytes and its data; every part starts at a multiple of 64. */
typedef struct {
    const uint8_t *at, *end;
} cursor;

static const uint8_t *take(cursor *c, uint64_t bytes)
{
    const uint8_t *start = c->at;
    if (bytes > (uint64_t)(c->end - c->at))
        return NULL;
    uint64_t whole = (bytes + 63) & ~(uint64_t)63, left = (uint64_t)(c->end - c->at);
    c->at += whole < left ? whole : left;
    return start;
}

static const uint8_t *take_array(cursor *c, size_t *bytes)
{
    const uint8_t *head = take(c, 8);
    if (!head)
        return NULL;
    uint64_t count = read_u64(head);
    *bytes = (size_t)count;
    return take(c, count);
}

static double as_double(const naru_tensor *t, const uint8_t *p)
{
    uint16_t h;
    uint32_t w;
    float f;
    double d;
    switch (t->dtype) {
    case NARU_DTYPE_FLOAT64:
        memcpy(&d, p, 8);
        return d;
    case NARU_DTYPE_FLOAT32:
        memcpy(&f, p, 4);
        return (double)f;
    case NARU_DTYPE_BFLOAT16:
        memcpy(&h, p, 2);
        w = (uint32_t)h << 16;
        memcpy(&f, &w, 4);
        return (double)f;
    default: /* float16 */
        memcpy(&h, p, 2);
        int exponent = h >> 10 & 31, fraction = h & 1023;
        d = exponent == 31 ? (fraction ? (double)NAN : (double)INFINITY)
            : exponent ? ldexp(1024 + fraction, exponent - 25) : ldexp(fraction, -24);
        return h >> 15 ? -d : d;
    }
}

/* How far an output is off, as a multiple of what is allowed. */
static double distance(const naru_tensor *t, const uint8_t *got, const uint8_t *want, size_t bytes,
                       const double tolerance[2])
{
    if (t->dtype < NARU_DTYPE_FLOAT16 || t->dtype == NARU_DTYPE_OTHER)
        return memcmp(got, want, bytes) ? (double)INFINITY : 0;
    double error = 0, size = 0, largest = 1;
    size_t count = 0;
    for (size_t k = 0; k < bytes; k += (size_t)t->item_size)
        if (isfinite(as_double(t, want + k)))
            largest = fmax(largest, fabs(as_double(t, want + k)));
    for (size_t k = 0; k < bytes; k += (size_t)t->item_size) {
        double a = as_double(t, got + k), b = as_double(t, want + k);
        double off = a / largest - b / largest; /* squares of large numbers are infinite */
        if (isfinite(a) && isfinite(b))
            error += off * off, size += b / largest * (b / largest), count++;
        else if (!(a == b || (isnan(a) && isnan(b))))
            return (double)INFINITY;
    }
    if (!count)
        return 0;
    return sqrt(error / (double)count)
           / (tolerance[1] / largest + tolerance[0] * sqrt(size / (double)count));
}

static naru_status compare(naru_context *ctx, cursor *golden, const double tolerance[2], double *worst)
{
    naru_input inputs[INPUT_COUNT + 1];
    naru_output outputs[OUTPUT_COUNT];
    for (int k = 0; k < INPUT_COUNT; k++)
        if (!(inputs[k].data = take_array(golden, &inputs[k].size)))
            return fail(NARU_BAD_WEIGHTS, "the golden vector is cut short");
    size_t total = 0;
    for (int k = 0; k < OUTPUT_COUNT; k++)
        total += (ctx->sizes[INPUT_COUNT + k] + 63) & ~(size_t)63;
    uint8_t *memory = naru_take_memory(&ctx->model->heap, total ? total : 1), *at = memory;
    if (!memory)
        return no_memory(&ctx->model->heap, total, "outputs");
    for (int k = 0; k < OUTPUT_COUNT; k++) {
        size_t bytes = ctx->sizes[INPUT_COUNT + k];
        outputs[k].data = at, outputs[k].size = bytes;
        at += (bytes + 63) & ~(size_t)63;
    }
    naru_status status = run_model(ctx, inputs, outputs);
    for (int k = 0; k < OUTPUT_COUNT && status == NARU_SUCCESS; k++) {
        size_t bytes;
        const uint8_t *want = take_array(golden, &bytes);
        if (!want)
            status = fail(NARU_BAD_WEIGHTS, "the golden vector is cut short");
        else if (bytes != outputs[k].size)
            status = fail(NARU_SELFTEST_FAILED, "the output '%s' has %zu bytes, expected %zu",
                          OUTPUTS[k].name, outputs[k].size, bytes);
        else {
            double off = distance(&OUTPUTS[k], outputs[k].data, want, bytes, tolerance);
            *worst = off > *worst ? off : *worst;
            if (!(off <= 1))
                status = fail(NARU_SELFTEST_FAILED, "the output '%s' is off by %.3g times what is "
                              "allowed", OUTPUTS[k].name, off);
        }
    }
    naru_give_memory(&ctx->model->heap, memory, total ? total : 1);
    return status;
}

static naru_status test_with(naru_model *model, const uint8_t *file, size_t size, const char *where,
                             double *worst)
{
    uint32_t digest;
    if (size < FILE_HEAD || memcmp(file, "NARUGOLD", 8) || read_u64(file + 8) != size)
        return fail(NARU_BAD_WEIGHTS, "%s: not a golden vector of this model, or cut short", where);
    memcpy(&digest, file + 16, 4);
    if (digest != GOLDEN_DIGEST || naru_digest(file + FILE_HEAD, size - FILE_HEAD) != digest)
        return fail(NARU_BAD_WEIGHTS, "%s: damaged, or of another model", where);
    double tolerance[2];
    memcpy(tolerance, file + 24, sizeof tolerance);
    cursor golden = {file + FILE_HEAD, file + size};
    const int64_t *sizes = (const int64_t *)(const void *)take(&golden, sizeof(int64_t) * SYMBOL_COUNT);
    naru_context *ctx = NULL;
    naru_status status = sizes ? new_context(model, sizes, NULL, 0, &ctx)
                               : fail(NARU_BAD_WEIGHTS, "%s: cut short", where);
    if (status == NARU_SUCCESS)
        status = compare(ctx, &golden, tolerance, worst);
    free_context(ctx);
    return status;
}

static naru_status selftest(naru_model *model, const char *path, double *error)
{
    double worst = 0;
    naru_status status = check_model(model);
    if (status != NARU_SUCCESS)
        return status;
    if (!GOLDEN_SIZE)
        return fail(NARU_SELFTEST_FAILED, "the model was built without a golden vector");
    if (EMBEDDED && !path) {
        status = test_with(model, EMBEDDED_GOLDEN, GOLDEN_SIZE, "the library", &worst);
    } else {
        char found[PATH_MAX];
        void *file = NULL;
        size_t size = 0;
        status = path ? NARU_SUCCESS : beside(GOLDEN_FILE, found);
        if (status == NARU_SUCCESS)
            status = map_file(path ? path : found, &file, &size);
        if (status == NARU_SUCCESS)
            status = test_with(model, file, size, path ? path : found, &worst);
        if (file)
            munmap(file, size);
    }
    if (error)
        *error = worst;
    return status;
}
