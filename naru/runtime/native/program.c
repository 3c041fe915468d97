/* The callable: one entry of a bundle, from numpy arrays to numpy arrays.
 *
 * The fast path takes exactly what the entry declares. Whatever it does not accept goes to the method
 * _convert(args, kwargs) of the Python subclass, which answers with a tuple of arrays that the fast
 * path accepts or raises; failures of a run go to _failure(code, a, b, c), which answers with the
 * exception to raise. The first call asks _ready(), which raises where the model must not run.
 */
#define NPY_NO_DEPRECATED_API NPY_2_0_API_VERSION
#define NPY_TARGET_VERSION NPY_2_0_API_VERSION
#include "native.h"

#include <numpy/arrayobject.h>
#include <string.h>
#include <structmember.h>

enum { RELEASE_GIL_NS = 20000, PLAN_HEAD = 3 };

/* Codes for _failure besides those of abi.h. */
enum { TOO_LARGE = -1, NOT_SET = -2, BAD_PLAN = -3, NOT_CONVERTED = -4, EXHAUSTED = -5,
       TOO_SMALL = -6, UNMET = -7 };

typedef struct {
    PyArray_Descr *descr;
    int nd, late;
    int64_t *dims; /* an input's: a size, or ~(2 * symbol + (0: binds it, 1: must equal it)) */
} tensor;

typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    naru_image *image;
    naru_run_fn run;
    naru_plan_fn plan;
    const uint8_t *weights;
    PyObject *names; /* of the inputs, interned; NULL: only by position */
    naru_shape shape;
    int bound;             /* symbols that inputs bind; the rest are kernel-defined */
    int late;              /* whether any output is */
    int threads;           /* the most this program uses; 0: no limit of its own */
    tensor *inputs, *outputs;
    int64_t *low, *high;   /* of each bound symbol */
    int64_t *static_plan;  /* when there are no bound symbols */
    PyTypeObject *result;  /* a tuple type for several outputs, or NULL for one */
    naru_context *idle;    /* last in, first out: the warmest is used next */
} program;

/* ---- contexts; the GIL guards the list ---- */

static naru_context *take_context(program *self)
{
    naru_context *ctx = self->idle;
    if (ctx)
        self->idle = ctx->next;
    else if (!(ctx = naru_context_new(&self->shape, self->weights)))
        PyErr_NoMemory();
    return ctx;
}

static void give_context(program *self, naru_context *ctx)
{
    ctx->next = self->idle;
    self->idle = ctx;
}

/* ---- failures ---- */

static PyObject *fail(program *self, int64_t code, int64_t a, int64_t b, int64_t c)
{
    PyObject *error = PyObject_CallMethod((PyObject *)self, "_failure", "LLLL", (long long)code,
                                          (long long)a, (long long)b, (long long)c);
    if (error) {
        if (PyExceptionInstance_Check(error))
            PyErr_SetObject((PyObject *)Py_TYPE(error), error);
        else
            PyErr_Format(PyExc_RuntimeError, "run failed with code %lld", (long long)code);
        Py_DECREF(error);
    }
    return NULL;
}

/* Python's MemoryError would not say what the memory was for. */
static void exhausted(program *self, int64_t bytes)
{
    if (!PyErr_Occurred() || PyErr_ExceptionMatches(PyExc_MemoryError)) {
        PyErr_Clear();
        fail(self, EXHAUSTED, bytes, 0, 0);
    }
}

/* ---- inputs ---- */

/* What stands for the elements of a tensor that has none: a slice may begin where memory ends. */
static _Alignas(64) uint8_t nothing[64];

static int accept(const program *self, const tensor *want, PyObject *object, naru_context *ctx,
                  int *empty)
{
    if (!PyArray_CheckExact(object))
        return 0;
    PyArrayObject *array = (PyArrayObject *)object;
    PyArray_Descr *descr = PyArray_DESCR(array);
    if (descr != want->descr
        && (descr->type_num != want->descr->type_num || !PyArray_ISNBO(descr->byteorder)))
        return 0;
    if (PyArray_NDIM(array) != want->nd || !PyArray_IS_C_CONTIGUOUS(array))
        return 0;
    const npy_intp *got = PyArray_DIMS(array);
    int64_t *dims = ctx->abi.dims;
    *empty = 0;
    for (int k = 0; k < want->nd; k++) {
        int64_t code = want->dims[k];
        *empty |= got[k] == 0;
        if (code >= 0) {
            if (got[k] != code)
                return 0;
            continue;
        }
        int64_t symbol = ~code >> 1;
        if (~code & 1) {
            if (got[k] != dims[symbol])
                return 0;
        } else if (got[k] < self->low[symbol] || got[k] > self->high[symbol]) {
            return 0;
        } else {
            dims[symbol] = got[k];
        }
    }
    return 1;
}

static int bind(const program *self, naru_context *ctx, PyObject *const *args)
{
    for (int k = 0; k < self->shape.inputs; k++) {
        int empty;
        if (!accept(self, &self->inputs[k], args[k], ctx, &empty))
            return 0;
        ctx->abi.io[k] = empty ? nothing : PyArray_DATA((PyArrayObject *)args[k]);
    }
    return 1;
}

/* ---- plans ---- */

/* Bytes of an output with these dims, or -1 when a dim is negative or the product overflows. */
static int64_t output_bytes(const tensor *out, const int64_t *dims)
{
    int64_t bytes = PyDataType_ELSIZE(out->descr);
    for (int k = 0; k < out->nd; k++)
        if (dims[k] < 0 || __builtin_mul_overflow(bytes, dims[k], &bytes))
            return -1;
    return bytes;
}

/* Refuses a plan that this machine cannot hold, before anything is allocated. */
static int check_plan(program *self, const int64_t *plan)
{
    int64_t total = plan[0], limit = naru_memory_limit();
    if (total < 0) /* a condition on the input sizes does not hold */
        return fail(self, UNMET, -1 - total, 0, 0), -1;
    const int64_t *dims = plan + PLAN_HEAD;
    int fits = total >= 0 && total <= limit;
    for (int k = 0; fits && k < self->shape.outputs; dims += self->outputs[k++].nd) {
        if (self->outputs[k].late)
            continue;
        for (int axis = 0; axis < self->outputs[k].nd; axis++)
            if (dims[axis] < 0) /* a window that is larger than its input */
                return fail(self, TOO_SMALL, k, axis, dims[axis]), -1;
        int64_t bytes = output_bytes(&self->outputs[k], dims);
        if (bytes < 0 || __builtin_add_overflow(total, bytes, &total))
            total = -1; /* more than can be counted */
        fits = total >= 0 && total <= limit;
    }
    if (!fits)
        fail(self, TOO_LARGE, total, limit, 0);
    return fits ? 0 : -1;
}

static const int64_t *get_plan(program *self, naru_context *ctx)
{
    if (self->static_plan)
        return self->static_plan;
    size_t key = (size_t)self->bound * sizeof(int64_t);
    if (ctx->plan_valid && !memcmp(ctx->plan_key, ctx->abi.dims, key))
        return ctx->plan;
    ctx->plan_valid = 0;
    self->plan(ctx->abi.dims, ctx->plan);
    if (check_plan(self, ctx->plan) < 0)
        return NULL;
    memcpy(ctx->plan_key, ctx->abi.dims, key);
    ctx->plan_valid = 1;
    return ctx->plan;
}

/* ---- outputs ---- */

static PyObject *new_array(const tensor *out, const int64_t *dims)
{
    Py_INCREF(out->descr);
    return PyArray_NewFromDescr(&PyArray_Type, out->descr, out->nd, (const npy_intp *)dims, NULL, NULL,
                                0, NULL);
}

static int make_outputs(program *self, naru_context *ctx, const int64_t *dims)
{
    void **io = ctx->abi.io + self->shape.inputs;
    for (int k = 0; k < self->shape.outputs; dims += self->outputs[k++].nd) {
        io[k] = NULL;
        if (self->outputs[k].late)
            continue;
        if (!(ctx->outputs[k] = new_array(&self->outputs[k], dims)))
            return exhausted(self, output_bytes(&self->outputs[k], dims)), -1;
        io[k] = PyArray_DATA((PyArrayObject *)ctx->outputs[k]);
    }
    return 0;
}

/* Copies the outputs whose shapes the run found out. */
static int make_late_outputs(program *self, naru_context *ctx)
{
    int64_t small[64] = {0}, *plan = small; /* never what was on the stack */
    if (self->shape.plan > 64 && !(plan = PyMem_Calloc((size_t)self->shape.plan, sizeof *plan)))
        return PyErr_NoMemory(), -1;
    self->plan(ctx->abi.dims, plan);
    const int64_t *dims = plan + PLAN_HEAD;
    int status = 0;
    for (int k = 0; status == 0 && k < self->shape.outputs; dims += self->outputs[k++].nd) {
        const tensor *out = &self->outputs[k];
        if (!out->late)
            continue;
        const void *data = ctx->abi.io[self->shape.inputs + k];
        int64_t bytes = output_bytes(out, dims);
        if (bytes < 0 || bytes > naru_memory_limit())
            fail(self, BAD_PLAN, k, bytes, 0), status = -1;
        else if (bytes > 0 && !data)
            fail(self, NOT_SET, k, bytes, 0), status = -1;
        else if (!(ctx->outputs[k] = new_array(out, dims)))
            exhausted(self, bytes), status = -1;
        else if (bytes > 0)
            memcpy(PyArray_DATA((PyArrayObject *)ctx->outputs[k]), data, (size_t)bytes);
    }
    if (plan != small)
        PyMem_Free(plan);
    return status;
}

static void drop_outputs(program *self, naru_context *ctx)
{
    for (int k = 0; k < self->shape.outputs; k++)
        Py_CLEAR(ctx->outputs[k]);
}

static PyObject *take_result(program *self, naru_context *ctx)
{
    PyObject *result;
    if (!self->result) {
        result = ctx->outputs[0];
        ctx->outputs[0] = NULL;
        return result;
    }
    result = self->result->tp_alloc(self->result, self->shape.outputs);
    if (!result)
        return NULL;
    for (int k = 0; k < self->shape.outputs; k++) {
        PyTuple_SET_ITEM(result, k, ctx->outputs[k]);
        ctx->outputs[k] = NULL;
    }
    return result;
}

/* ---- a run ---- */

static _Thread_local int callers_limit; /* 0: none */

void naru_limit_caller(int threads) { callers_limit = threads; }

static void run_code(program *self, naru_context *ctx, const int64_t *plan)
{
    int64_t want = plan[2] < 1 ? 1 : plan[2] > 1024 ? 1024 : plan[2];
    if (self->threads && want > self->threads)
        want = self->threads;
    if (callers_limit && want > callers_limit)
        want = callers_limit;
    ctx->look_at = 0;
    ctx->saved = plan[1] > RELEASE_GIL_NS ? PyEval_SaveThread() : NULL;
    naru_pool_run(self->run, &ctx->abi, (int)want);
    if (ctx->saved) /* also if a loop gave the GIL away meanwhile */
        PyEval_RestoreThread(ctx->saved);
    ctx->saved = NULL;
}

/* From bound inputs to the result. The context is not given back. */
static PyObject *run_bound(program *self, naru_context *ctx)
{
    for (int k = self->bound; k < self->shape.symbols; k++)
        ctx->abi.dims[k] = 0;
    memset(ctx->abi.error, 0, sizeof ctx->abi.error);
    const int64_t *plan = get_plan(self, ctx);
    if (!plan)
        return NULL;
    int64_t arena = plan[0] > 64 ? plan[0] : 64;
    if (arena > ctx->arena_size && !naru_context_grow(ctx, arena))
        return exhausted(self, arena), NULL;
    PyObject *result = NULL;
    if (make_outputs(self, ctx, plan + PLAN_HEAD) == 0) {
        run_code(self, ctx, plan);
        const int64_t *error = ctx->abi.error;
        if (error[0] == NARU_INTERRUPTED && PyErr_Occurred())
            ; /* what the signal's handler raised */
        else if (error[0] != NARU_OK)
            fail(self, error[0], error[1], error[2], error[3]);
        else if (!self->late || make_late_outputs(self, ctx) == 0)
            result = take_result(self, ctx);
    }
    if (!result)
        drop_outputs(self, ctx);
    naru_region_reset(&ctx->region);
    return result;
}

/* ---- calls ---- */

static PyObject *pack_names(PyObject *const *values, PyObject *names)
{
    PyObject *dict = PyDict_New();
    for (Py_ssize_t k = 0; dict && names && k < PyTuple_GET_SIZE(names); k++)
        if (PyDict_SetItem(dict, PyTuple_GET_ITEM(names, k), values[k]) < 0)
            Py_CLEAR(dict);
    return dict;
}

/* What _convert makes of the arguments: a tuple of arrays, one an input. New reference. */
static PyObject *convert(program *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    PyObject *tuple = PyTuple_New(count), *dict = pack_names(args + count, names), *result = NULL;
    for (Py_ssize_t k = 0; tuple && k < count; k++)
        PyTuple_SET_ITEM(tuple, k, Py_NewRef(args[k]));
    if (tuple && dict)
        result = PyObject_CallMethod((PyObject *)self, "_convert", "OO", tuple, dict);
    Py_XDECREF(tuple);
    Py_XDECREF(dict);
    if (result && (!PyTuple_Check(result) || PyTuple_GET_SIZE(result) != self->shape.inputs)) {
        PyErr_SetString(PyExc_TypeError, "_convert must return a tuple with an array for each input");
        Py_CLEAR(result);
    }
    return result;
}

/* The value of an input among keywords, whose names are interned as ours are; NULL: it is not there,
 * or has a name that is equal but not the same. Borrowed. */
static PyObject *keyword(PyObject *name, PyObject *const *values, PyObject *names)
{
    for (Py_ssize_t k = 0; k < PyTuple_GET_SIZE(names); k++)
        if (PyTuple_GET_ITEM(names, k) == name)
            return values[k];
    return NULL;
}

/* The arguments in the order of the inputs, from one dict or from keywords, as a tuple that keeps
 * them alive. New reference; NULL without an exception where they are not these: _convert says what is
 * wrong. NULL with one where looking for a name raised it. */
static PyObject *by_name(program *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    int inputs = self->shape.inputs;
    PyObject *dict = !names && count == 1 && PyDict_CheckExact(args[0]) ? args[0] : NULL;
    if (!self->names || (dict ? PyDict_GET_SIZE(dict) != inputs
                              : !names || count + PyTuple_GET_SIZE(names) != inputs))
        return NULL;
    PyObject *found = PyTuple_New(inputs);
    for (int k = 0; found && k < inputs; k++) {
        PyObject *name = PyTuple_GET_ITEM(self->names, k);
        PyObject *value = dict        ? PyDict_GetItemWithError(dict, name)
                          : k < count ? args[k]
                                      : keyword(name, args + count, names);
        if (value)
            PyTuple_SET_ITEM(found, k, Py_NewRef(value));
        else
            Py_CLEAR(found);
    }
    return found;
}

static PyObject *call_traced(program *self, PyObject *const *args, size_t flags, PyObject *names,
                             PyObject **trace)
{
    if (!self->run)
        return PyErr_SetString(PyExc_RuntimeError, "the program is not initialised"), NULL;
    naru_context *ctx = take_context(self);
    if (!ctx)
        return NULL;
    Py_ssize_t count = PyVectorcall_NARGS(flags);
    PyObject *converted = NULL, *result = NULL;
    int bound = 0;
    if ((converted = by_name(self, args, count, names)))
        bound = bind(self, ctx, ((PyTupleObject *)converted)->ob_item);
    else if (!PyErr_Occurred())
        bound = !names && count == self->shape.inputs && bind(self, ctx, args);
    if (!bound && !PyErr_Occurred())
        Py_XSETREF(converted, convert(self, args, count, names));
    if (!bound && converted && !PyErr_Occurred()) {
        bound = bind(self, ctx, ((PyTupleObject *)converted)->ob_item);
        if (!bound)
            fail(self, NOT_CONVERTED, 0, 0, 0);
    }
    if (bound)
        result = run_bound(self, ctx);
    if (result && trace) {
        npy_intp length = self->shape.trace;
        if ((*trace = PyArray_SimpleNew(1, &length, NPY_INT64)))
            memcpy(PyArray_DATA((PyArrayObject *)*trace), ctx->abi.trace,
                   (size_t)length * sizeof(int64_t));
        else
            Py_CLEAR(result);
    }
    give_context(self, ctx);
    Py_XDECREF(converted);
    return result;
}

static PyObject *program_call(PyObject *self, PyObject *const *args, size_t flags, PyObject *names)
{
    return call_traced((program *)self, args, flags, names, NULL);
}

/* The first call asks the Python subclass whether all is well; the others go straight on. */
static PyObject *first_call(PyObject *self, PyObject *const *args, size_t flags, PyObject *names)
{
    if (((program *)self)->run) { /* it is initialised */
        PyObject *asked = PyObject_CallMethod(self, "_ready", NULL);
        if (!asked)
            return NULL;
        Py_DECREF(asked);
        ((program *)self)->vectorcall = program_call;
    }
    return program_call(self, args, flags, names);
}

static PyObject *program_traced(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    PyObject *trace = NULL;
    if (((program *)self)->shape.trace == 0)
        return PyErr_SetString(PyExc_TypeError, "this entry keeps no times"), NULL;
    PyObject *result = call_traced((program *)self, args, (size_t)count, NULL, &trace);
    return result ? Py_BuildValue("NN", result, trace) : NULL;
}

/* ---- construction ---- */

/* Reads (dtype, dims, late) tuples. On failure an exception is set and what was read is returned. */
static tensor *read_tensors(PyObject *tuple, int count)
{
    tensor *tensors = PyMem_Calloc((size_t)count + 1, sizeof *tensors);
    if (!tensors)
        return (tensor *)PyErr_NoMemory();
    for (int k = 0; k < count; k++) {
        PyObject *dtype, *dims;
        if (!PyArg_ParseTuple(PyTuple_GET_ITEM(tuple, k), "OO!p", &dtype, &PyTuple_Type, &dims,
                              &tensors[k].late)
            || !PyArray_DescrConverter(dtype, &tensors[k].descr))
            return tensors; /* the exception tells */
        tensors[k].nd = (int)PyTuple_GET_SIZE(dims);
        tensors[k].dims = PyMem_New(int64_t, (size_t)tensors[k].nd + 1);
        if (!tensors[k].dims)
            return PyErr_NoMemory(), tensors;
        for (int axis = 0; axis < tensors[k].nd; axis++)
            tensors[k].dims[axis] = PyLong_AsLongLong(PyTuple_GET_ITEM(dims, axis));
        if (PyErr_Occurred())
            return tensors;
        if (tensors[k].nd > NPY_MAXDIMS)
            return PyErr_SetString(PyExc_ValueError, "too many dimensions"), tensors;
    }
    return tensors;
}

static int check_symbols(const program *self)
{
    for (int k = 0; k < self->shape.inputs; k++)
        for (int axis = 0; axis < self->inputs[k].nd; axis++) {
            int64_t code = self->inputs[k].dims[axis];
            if (code < 0 && ~code >> 1 >= self->bound)
                return PyErr_SetString(PyExc_ValueError, "an input names an unknown symbol"), -1;
        }
    return 0;
}

static int read_ranges(program *self, PyObject *ranges)
{
    self->bound = (int)PyTuple_GET_SIZE(ranges);
    self->low = PyMem_New(int64_t, (size_t)self->bound + 1);
    self->high = PyMem_New(int64_t, (size_t)self->bound + 1);
    if (!self->low || !self->high)
        return PyErr_NoMemory(), -1;
    for (int k = 0; k < self->bound; k++) {
        long long low, high;
        if (!PyArg_ParseTuple(PyTuple_GET_ITEM(ranges, k), "LL", &low, &high))
            return -1;
        self->low[k] = low, self->high[k] = high;
    }
    return 0;
}

/* The plan of an entry without input symbols never changes. */
static int make_static_plan(program *self)
{
    if (self->bound)
        return 0;
    int64_t *dims = PyMem_Calloc((size_t)self->shape.symbols + 1, sizeof *dims);
    int64_t *plan = PyMem_Calloc((size_t)self->shape.plan, sizeof *plan);
    if (!dims || !plan) {
        PyMem_Free(dims), PyMem_Free(plan);
        return PyErr_NoMemory(), -1;
    }
    self->plan(dims, plan);
    PyMem_Free(dims);
    self->static_plan = plan;
    return check_plan(self, plan);
}

static int set_addresses(program *self, Py_ssize_t run, Py_ssize_t plan)
{
    const naru_image *image = self->image;
    if (!image->code)
        return PyErr_SetString(PyExc_ValueError, "the image's code is not enabled"), -1;
    if (run < 0 || plan < 0 || (size_t)run >= image->code_size || (size_t)plan >= image->code_size)
        return PyErr_SetString(PyExc_ValueError, "an entry lies outside the code"), -1;
    self->run = (naru_run_fn)(uintptr_t)(image->code + run);
    self->plan = (naru_plan_fn)(uintptr_t)(image->code + plan);
    return 0;
}

static int program_init(PyObject *object, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"image",  "weights", "run",   "plan",    "inputs", "outputs",
                            "ranges", "symbols", "trace", "threads", "result", "pointers", "names",
                            NULL};
    program *self = (program *)object;
    PyObject *image, *inputs, *outputs, *ranges, *result = Py_None, *input_names = NULL;
    Py_ssize_t weights, run, plan;
    int symbols, trace, threads, pointers = 0;
    if (self->image)
        return PyErr_SetString(PyExc_RuntimeError, "the program is initialised already"), -1;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!nnnO!O!O!iii|OiO!:Program", names, &naru_image_type,
                                     &image, &weights, &run, &plan, &PyTuple_Type, &inputs,
                                     &PyTuple_Type, &outputs, &PyTuple_Type, &ranges, &symbols,
                                     &trace, &threads, &result, &pointers, &PyTuple_Type, &input_names))
        return -1;
    self->image = (naru_image *)Py_NewRef(image);
    self->shape.inputs = (int)PyTuple_GET_SIZE(inputs);
    self->shape.outputs = (int)PyTuple_GET_SIZE(outputs);
    self->shape.symbols = symbols;
    self->shape.trace = trace;
    self->shape.pointers = pointers;
    self->threads = threads;
    if (weights < 0 || (size_t)weights > self->image->size || symbols < PyTuple_GET_SIZE(ranges)
        || trace < 0 || pointers < 0 || pointers > 65536 || (result == Py_None ? self->shape.outputs != 1
                                           : !PyType_Check(result)
                                                 || !PyType_IsSubtype((PyTypeObject *)result,
                                                                      &PyTuple_Type)))
        return PyErr_SetString(PyExc_ValueError, "inconsistent arguments for a program"), -1;
    self->weights = naru_image_at(self->image, (size_t)weights);
    if (input_names && PyTuple_GET_SIZE(input_names) != self->shape.inputs)
        return PyErr_SetString(PyExc_ValueError, "expected a name for each input"), -1;
    self->names = Py_XNewRef(input_names);
    if (result != Py_None)
        self->result = (PyTypeObject *)Py_NewRef(result);
    self->inputs = read_tensors(inputs, self->shape.inputs);
    if (PyErr_Occurred() || !(self->outputs = read_tensors(outputs, self->shape.outputs))
        || PyErr_Occurred() || read_ranges(self, ranges) < 0 || check_symbols(self) < 0)
        return -1;
    self->shape.plan = PLAN_HEAD;
    for (int k = 0; k < self->shape.outputs; k++) {
        self->shape.plan += self->outputs[k].nd;
        self->late |= self->outputs[k].late;
    }
    if (set_addresses(self, run, plan) < 0 || make_static_plan(self) < 0)
        return self->run = NULL, -1;
    return 0;
}

static PyObject *program_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    (void)args, (void)kwargs;
    program *self = (program *)type->tp_alloc(type, 0);
    if (!self)
        return NULL;
    self->vectorcall = first_call;
#if PY_VERSION_HEX < 0x030C0000
    /* Before 3.12 a Python subclass does not inherit the flag, although it inherits all the rest. */
    if (type->tp_call == PyVectorcall_Call)
        type->tp_flags |= Py_TPFLAGS_HAVE_VECTORCALL;
#endif
    return (PyObject *)self;
}

/* ---- destruction ---- */

static void free_tensors(tensor *tensors, int count)
{
    for (int k = 0; tensors && k < count; k++) {
        Py_XDECREF(tensors[k].descr);
        PyMem_Free(tensors[k].dims);
    }
    PyMem_Free(tensors);
}

static int program_traverse(PyObject *object, visitproc visit, void *arg)
{
    Py_VISIT(((program *)object)->result);
    return 0;
}

static void program_dealloc(PyObject *object)
{
    program *self = (program *)object;
    PyObject_GC_UnTrack(object);
    for (naru_context *ctx = self->idle, *next; ctx; ctx = next) {
        next = ctx->next;
        naru_context_free(ctx);
    }
    free_tensors(self->inputs, self->shape.inputs);
    free_tensors(self->outputs, self->shape.outputs);
    PyMem_Free(self->low);
    PyMem_Free(self->high);
    PyMem_Free(self->static_plan);
    Py_XDECREF(self->result);
    Py_XDECREF(self->names);
    Py_XDECREF(self->image);
    Py_TYPE(object)->tp_free(object);
}

static PyMethodDef program_methods[] = {
    {"_traced", (PyCFunction)(void (*)(void))program_traced, METH_FASTCALL,
     "_traced(*arrays): (result, int64 times before each step and at the end)."},
    {0},
};

PyTypeObject naru_program_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = NARU_MODULE ".Program",
    .tp_doc = "One entry of a bundle, callable with numpy arrays. Subclasses define _ready, _convert and _failure.",
    .tp_basicsize = sizeof(program),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC
                | Py_TPFLAGS_HAVE_VECTORCALL,
    .tp_new = program_new,
    .tp_init = program_init,
    .tp_dealloc = program_dealloc,
    .tp_traverse = program_traverse,
    .tp_call = PyVectorcall_Call,
    .tp_vectorcall_offset = offsetof(program, vectorcall),
    .tp_methods = program_methods,
};

int naru_program_init(void)
{
    import_array1(-1);
    return PyType_Ready(&naru_program_type);
}
