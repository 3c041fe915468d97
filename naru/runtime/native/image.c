/* A bundle in memory: mapped from its file (pages shared by processes) or copied from a buffer. */
#include "native.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static size_t page_size(void) { return (size_t)sysconf(_SC_PAGESIZE); }

static size_t whole_pages(size_t bytes) { return (bytes + page_size() - 1) & ~(page_size() - 1); }

static int map_file(naru_image *self, int fd)
{
    struct stat info;
    if (fstat(fd, &info) != 0)
        return PyErr_SetFromErrno(PyExc_OSError), -1;
    if (info.st_size <= 0)
        return PyErr_SetString(PyExc_ValueError, "the file is empty"), -1;
    void *base = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (base == MAP_FAILED)
        return PyErr_SetFromErrno(PyExc_OSError), -1;
    self->base = base;
    self->size = self->mapped = (size_t)info.st_size;
    return 0;
}

static int copy_buffer(naru_image *self, PyObject *source)
{
    Py_buffer view;
    if (PyObject_GetBuffer(source, &view, PyBUF_SIMPLE) < 0)
        return -1;
    if (view.len == 0) {
        PyBuffer_Release(&view);
        return PyErr_SetString(PyExc_ValueError, "the buffer is empty"), -1;
    }
    size_t size = (size_t)view.len, mapped = whole_pages(size);
    void *base = mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED) {
        PyBuffer_Release(&view);
        return PyErr_NoMemory(), -1;
    }
    memcpy(base, view.buf, size);
    mprotect(base, mapped, PROT_READ);
    PyBuffer_Release(&view);
    self->base = base, self->size = size, self->mapped = mapped;
    return 0;
}

static PyObject *image_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"source", NULL};
    PyObject *source;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O:Image", names, &source))
        return NULL;
    naru_image *self = (naru_image *)type->tp_alloc(type, 0);
    if (!self)
        return NULL;
    int failed;
    if (PyLong_Check(source)) {
        int fd = PyObject_AsFileDescriptor(source);
        failed = fd < 0 || map_file(self, fd) < 0;
    } else {
        failed = copy_buffer(self, source) < 0;
    }
    if (failed)
        Py_CLEAR(self);
    return (PyObject *)self;
}

static void image_dealloc(PyObject *object)
{
    naru_image *self = (naru_image *)object;
    if (self->copied)
        munmap(self->code, self->copied);
    if (self->base)
        munmap(self->base, self->mapped);
    naru_give_memory(NULL, self->weights, self->weights_size);
    Py_TYPE(object)->tp_free(object);
}

/* Where files may not be executed (a noexec mount) the code is copied; it is small. */
static int copy_code(naru_image *self, size_t offset, size_t size)
{
    size_t mapped = whole_pages(size);
    void *copy = mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (copy == MAP_FAILED)
        return -1;
    memcpy(copy, self->base + offset, size);
    if (mprotect(copy, mapped, PROT_READ | PROT_EXEC) != 0) {
        munmap(copy, mapped);
        return -1;
    }
    self->code = copy, self->copied = mapped;
    return 0;
}

static PyObject *image_code_address(PyObject *object, void *unused)
{
    (void)unused;
    return PyLong_FromVoidPtr(((naru_image *)object)->code);
}

static PyObject *image_enable_code(PyObject *object, PyObject *args)
{
    naru_image *self = (naru_image *)object;
    Py_ssize_t offset, size;
    int copy = 0;
    if (!PyArg_ParseTuple(args, "nn|p:enable_code", &offset, &size, &copy))
        return NULL;
    if (self->code && offset == self->code_offset && (size_t)size == self->code_size)
        Py_RETURN_NONE;
    if (self->code)
        return PyErr_SetString(PyExc_ValueError, "other code is enabled already"), NULL;
    if (offset < 0 || size <= 0 || offset % 4096 || (size_t)offset > self->size
        || (size_t)size > self->size - (size_t)offset)
        return PyErr_SetString(PyExc_ValueError, "the code lies outside the image"), NULL;
    uintptr_t from = (uintptr_t)(self->base + offset) & ~(uintptr_t)(page_size() - 1);
    size_t length = (size_t)((uintptr_t)(self->base + offset + size) - from);
    if (!copy && mprotect((void *)from, length, PROT_READ | PROT_EXEC) == 0)
        self->code = self->base + offset;
    else if (copy_code(self, (size_t)offset, (size_t)size) < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    self->code_offset = offset, self->code_size = (size_t)size;
#if defined(__aarch64__)
    __builtin___clear_cache((char *)self->code, (char *)self->code + size);
#endif
    Py_RETURN_NONE;
}

/* Pages of files are small, and a core knows few of them at a time: weights that are read from end
 * to end in each run come faster from large ones. */
static PyObject *image_copy_weights(PyObject *object, PyObject *args)
{
    naru_image *self = (naru_image *)object;
    Py_ssize_t offset, size;
    if (!PyArg_ParseTuple(args, "nn:copy_weights", &offset, &size))
        return NULL;
    if (offset < 0 || size < 0 || (size_t)offset > self->size
        || (size_t)size > self->size - (size_t)offset)
        return PyErr_SetString(PyExc_ValueError, "the weights lie outside the image"), NULL;
    if (self->weights || !size)
        Py_RETURN_NONE;
    uint8_t *copy = naru_take_memory(NULL, (size_t)size);
    if (!copy)
        return PyErr_NoMemory();
    Py_BEGIN_ALLOW_THREADS
    memcpy(copy, self->base + offset, (size_t)size);
    Py_END_ALLOW_THREADS
    if (self->weights) { /* another thread was faster */
        naru_give_memory(NULL, copy, (size_t)size);
        Py_RETURN_NONE;
    }
    self->weights_offset = (size_t)offset, self->weights_size = (size_t)size;
    self->weights = copy;
    Py_RETURN_NONE;
}

const uint8_t *naru_image_at(const naru_image *image, size_t offset)
{
    if (image->weights && offset == image->weights_offset)
        return image->weights;
    return image->base + offset;
}

static int image_getbuffer(PyObject *object, Py_buffer *view, int flags)
{
    naru_image *self = (naru_image *)object;
    return PyBuffer_FillInfo(view, object, self->base, (Py_ssize_t)self->size, 1, flags);
}

static PyBufferProcs image_buffer = {.bf_getbuffer = image_getbuffer};

static PyMethodDef image_methods[] = {
    {"enable_code", image_enable_code, METH_VARARGS,
     "enable_code(offset, size, copy=False): makes that part executable, or a copy of it in memory "
     "without a file; Programs' offsets count from it."},
    {"copy_weights", image_copy_weights, METH_VARARGS,
     "copy_weights(offset, size): Programs made from now on read that part from a copy in large "
     "pages."},
    {0},
};

static PyGetSetDef image_getset[] = {
    {"code_address", image_code_address, NULL, "Where the enabled code lies; 0 before.", NULL},
    {0},
};

PyTypeObject naru_image_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = NARU_MODULE ".Image",
    .tp_doc = "Image(source): read-only memory of a bundle, from a file descriptor or a buffer.",
    .tp_basicsize = sizeof(naru_image),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = image_new,
    .tp_dealloc = image_dealloc,
    .tp_as_buffer = &image_buffer,
    .tp_methods = image_methods,
    .tp_getset = image_getset,
};
