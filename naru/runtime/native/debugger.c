/* gdb's interface for code made at run time: a list of ELF images, and a function to break on.
 *
 * The names and layouts are gdb's ("JIT Compilation Interface" in its manual). The GIL guards the
 * list. */
#include "native.h"

#include <stdlib.h>
#include <string.h>

enum { NO_ACTION, REGISTER, UNREGISTER };

typedef struct code_entry {
    struct code_entry *next, *previous;
    const char *elf;
    uint64_t size;
} code_entry;

typedef struct {
    uint32_t version, action;
    code_entry *relevant, *first;
} descriptor;

/* Protected: others in the process, such as LLVM, have symbols of the same names. */
#define FOR_GDB __attribute__((visibility("protected"), used))

FOR_GDB descriptor __jit_debug_descriptor = {1, NO_ACTION, NULL, NULL};

FOR_GDB __attribute__((noinline)) void __jit_debug_register_code(void)
{
    __asm__ volatile("" ::: "memory");
}

static void notify(code_entry *entry, uint32_t action)
{
    __jit_debug_descriptor.relevant = entry;
    __jit_debug_descriptor.action = action;
    __jit_debug_register_code();
    __jit_debug_descriptor.action = NO_ACTION;
}

static void withdraw(PyObject *capsule)
{
    code_entry *entry = PyCapsule_GetPointer(capsule, "naru symbols");
    if (entry->previous)
        entry->previous->next = entry->next;
    else
        __jit_debug_descriptor.first = entry->next;
    if (entry->next)
        entry->next->previous = entry->previous;
    notify(entry, UNREGISTER);
    free(entry);
}

PyObject *naru_announce_symbols(PyObject *elf)
{
    char *data;
    Py_ssize_t size;
    if (PyBytes_AsStringAndSize(elf, &data, &size) < 0)
        return NULL;
    code_entry *entry = malloc(sizeof *entry + (size_t)size);
    if (!entry)
        return PyErr_NoMemory();
    memcpy(entry + 1, data, (size_t)size);
    *entry = (code_entry){__jit_debug_descriptor.first, NULL, (const char *)(entry + 1), (uint64_t)size};
    PyObject *capsule = PyCapsule_New(entry, "naru symbols", withdraw);
    if (!capsule)
        return free(entry), NULL;
    if (entry->next)
        entry->next->previous = entry;
    __jit_debug_descriptor.first = entry;
    notify(entry, REGISTER);
    return capsule;
}
