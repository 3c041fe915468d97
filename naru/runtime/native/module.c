/* naru.runtime._native: the functions; the types are in image.c and program.c. */
#include "native.h"

static PyObject *features(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    PyObject *list = PyList_New(0);
    int present;
    const char *name;
    for (int k = 0; list && (name = naru_cpu_feature(k, &present)); k++) {
        if (!present)
            continue;
        PyObject *text = PyUnicode_FromString(name);
        if (!text || PyList_Append(list, text) < 0)
            Py_CLEAR(list);
        Py_XDECREF(text);
    }
    PyObject *result = list ? PyList_AsTuple(list) : NULL;
    Py_XDECREF(list);
    return result;
}

static PyObject *request_amx(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    return PyBool_FromLong(naru_request_amx());
}

static PyObject *cache_sizes(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    PyObject *result = PyDict_New();
    char name[40];
    long long bytes;
    for (int k = 0; result && k < 16 && naru_cache(k, name, &bytes); k++) {
        PyObject *value = PyLong_FromLongLong(bytes);
        if (!value || PyDict_SetItemString(result, name, value) < 0)
            Py_CLEAR(result);
        Py_XDECREF(value);
    }
    return result;
}

static PyObject *cpu_quota(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    double quota = naru_cpu_quota();
    if (quota <= 0)
        Py_RETURN_NONE;
    return PyFloat_FromDouble(quota);
}

static PyObject *usable_cores(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    return PyLong_FromLong(naru_usable_cores());
}

static PyObject *memory_limit(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    return PyLong_FromLongLong(naru_memory_limit());
}

static PyObject *get_threads(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    return PyLong_FromLong(naru_get_threads());
}

static PyObject *set_threads(PyObject *module, PyObject *arg)
{
    (void)module;
    long threads = 0;
    if (arg != Py_None) {
        threads = PyLong_AsLong(arg);
        if (threads == -1 && PyErr_Occurred())
            return NULL;
        if (threads < 1)
            return PyErr_Format(PyExc_ValueError, "threads must be at least 1, got %ld", threads);
    }
    naru_set_threads(threads > 1 << 20 ? 1 << 20 : (int)threads);
    Py_RETURN_NONE;
}

static PyObject *limit_caller(PyObject *module, PyObject *arg)
{
    (void)module;
    long threads = PyLong_AsLong(arg);
    if (threads == -1 && PyErr_Occurred())
        return NULL;
    if (threads < 0)
        return PyErr_Format(PyExc_ValueError, "threads must be at least 0, got %ld", threads);
    naru_limit_caller(threads > 1 << 20 ? 1 << 20 : (int)threads);
    Py_RETURN_NONE;
}

static PyObject *set_loop_limit(PyObject *module, PyObject *arg)
{
    (void)module;
    long long rounds = PyLong_AsLongLong(arg);
    if (rounds == -1 && PyErr_Occurred())
        return NULL;
    naru_set_loop_limit(rounds);
    Py_RETURN_NONE;
}

/* ---- checksums ---- */

static PyObject *checksum(PyObject *source, uint32_t (*sum)(const uint8_t *, size_t))
{
    Py_buffer view;
    if (PyObject_GetBuffer(source, &view, PyBUF_SIMPLE) < 0)
        return NULL;
    uint32_t result;
    Py_BEGIN_ALLOW_THREADS
    result = sum(view.buf, (size_t)view.len);
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&view);
    return PyLong_FromUnsignedLong(result);
}

static uint32_t plain_crc(const uint8_t *data, size_t size) { return naru_crc32c(0, data, size); }

static PyObject *crc32c(PyObject *module, PyObject *source)
{
    (void)module;
    return checksum(source, plain_crc);
}

static PyObject *digest(PyObject *module, PyObject *source)
{
    (void)module;
    return checksum(source, naru_digest);
}

/* ---- probes ---- */

static PyObject *probe_fma(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    return naru_probe_fma();
}

static PyObject *probe_read(PyObject *module, PyObject *arg)
{
    (void)module;
    size_t bytes = PyLong_AsSize_t(arg);
    if (bytes == (size_t)-1 && PyErr_Occurred())
        return NULL;
    if (bytes == 0 || bytes > (size_t)naru_memory_limit())
        return PyErr_Format(PyExc_ValueError, "cannot read a working set of %zu bytes", bytes);
    double rate;
    Py_BEGIN_ALLOW_THREADS
    rate = naru_probe_read(bytes);
    Py_END_ALLOW_THREADS
    return rate > 0 ? PyFloat_FromDouble(rate) : PyErr_NoMemory();
}

/* Seconds of the best of some rounds with that many threads; None when the pool is busy or smaller. */
static PyObject *probe_pool(PyObject *arg, double (*probe)(int, int))
{
    long threads = PyLong_AsLong(arg);
    if (threads == -1 && PyErr_Occurred())
        return NULL;
    if (threads < 2 || threads > 1024)
        return PyErr_Format(PyExc_ValueError, "a probe takes 2 to 1024 threads, got %ld", threads);
    double best;
    Py_BEGIN_ALLOW_THREADS
    best = probe((int)threads, 200);
    Py_END_ALLOW_THREADS
    if (best <= 0)
        Py_RETURN_NONE;
    return PyFloat_FromDouble(best * 1e-9);
}

static PyObject *probe_fork_join(PyObject *module, PyObject *arg)
{
    (void)module;
    return probe_pool(arg, naru_probe_fork_join);
}

static PyObject *probe_barrier(PyObject *module, PyObject *arg)
{
    (void)module;
    return probe_pool(arg, naru_probe_barrier);
}

static PyObject *announce_symbols(PyObject *module, PyObject *elf)
{
    (void)module;
    return naru_announce_symbols(elf);
}

static PyMethodDef functions[] = {
    {"features", features, METH_NOARGS, "LLVM names of the CPU features that can be used here."},
    {"request_amx", request_amx, METH_NOARGS, "Asks the kernel for AMX; whether it is granted."},
    {"cache_sizes", cache_sizes, METH_NOARGS, "Bytes of each cache level of CPU 0."},
    {"cpu_quota", cpu_quota, METH_NOARGS, "CPUs the control group allows, or None."},
    {"usable_cores", usable_cores, METH_NOARGS, "Physical cores this process may use."},
    {"memory_limit", memory_limit, METH_NOARGS, "Bytes of physical memory and swap."},
    {"get_threads", get_threads, METH_NOARGS, "The most threads that one run uses."},
    {"limit_caller", limit_caller, METH_O, "The same for runs that this thread calls; 0: no limit."},
    {"set_threads", set_threads, METH_O, "Sets it for this process; None: the usable cores."},
    {"set_loop_limit", set_loop_limit, METH_O, "The most rounds of a loop in this process; 0: any."},
    {"announce_symbols", announce_symbols, METH_O,
     "Tells gdb of an ELF image (bytes); a capsule, with which it ends."},
    {"crc32c", crc32c, METH_O, "CRC32C of a buffer."},
    {"digest", digest, METH_O, "CRC32C of the CRC32Cs of a buffer's 1 MiB chunks."},
    {"probe_fma", probe_fma, METH_NOARGS, "fp32 GFLOP/s of one core, by instruction set."},
    {"probe_read", probe_read, METH_O, "GB/s of one core reading a working set of that many bytes."},
    {"probe_fork_join", probe_fork_join, METH_O, "Seconds of an empty run on that many threads."},
    {"probe_barrier", probe_barrier, METH_O, "Seconds of one barrier of that many threads."},
    {0},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = NARU_MODULE,
    .m_doc = "Runs bundles: mapping, calls, threads; and what this machine is.",
    .m_size = -1,
    .m_methods = functions,
};

static int add_type(PyObject *module, const char *name, PyTypeObject *type)
{
    return PyType_Ready(type) < 0 ? -1 : PyModule_AddObjectRef(module, name, (PyObject *)type);
}

PyMODINIT_FUNC PyInit__native(void)
{
    naru_crc_init();
    naru_pool_init();
    if (naru_program_init() < 0)
        return NULL;
    PyObject *module = PyModule_Create(&definition);
    if (!module || add_type(module, "Image", &naru_image_type) < 0
        || add_type(module, "Program", &naru_program_type) < 0
        || PyModule_AddIntConstant(module, "ABI_VERSION", NARU_ABI_VERSION) < 0
        || PyModule_AddIntConstant(module, "OLDEST_ABI", NARU_ABI_OLDEST) < 0)
        Py_CLEAR(module);
    return module;
}
