/* Keeps the memory of frame stacks. The GIL protects what is kept. */
#ifndef GEVENTWS_FRAME_STACKS_H
#define GEVENTWS_FRAME_STACKS_H

#include <Python.h>

#define FRAME_STACK_SIZE (16 << 10)  /* DATA_STACK_CHUNK_SIZE of CPython; arenas are larger */
#define MAX_KEPT 64

#if PY_VERSION_HEX >= 0x030D0000
#define CURRENT_THREAD PyThreadState_GetUnchecked
#else
#define CURRENT_THREAD _PyThreadState_UncheckedGet
#endif

static PyObjectArenaAllocator original;
static void *kept[MAX_KEPT];
static int kept_count;

/* Other interpreters may have a GIL of their own, and a thread that ends has none. */
static int is_frame_stack(size_t size)
{
    PyThreadState *thread = CURRENT_THREAD();
    return size == FRAME_STACK_SIZE && thread != NULL
        && PyThreadState_GetInterpreter(thread) == PyInterpreterState_Main();
}

static void *take_memory(void *context, size_t size)
{
    if (kept_count && is_frame_stack(size))
        return kept[--kept_count];
    return original.alloc(original.ctx, size);
}

static void return_memory(void *context, void *memory, size_t size)
{
    if (kept_count < MAX_KEPT && is_frame_stack(size))
        kept[kept_count++] = memory;
    else
        original.free(original.ctx, memory, size);
}

static void keep_frame_stacks(void)
{
    PyObjectArenaAllocator keeping = {NULL, take_memory, return_memory};
    if (original.alloc == NULL) {
        PyObject_GetArenaAllocator(&original);
        PyObject_SetArenaAllocator(&keeping);
    }
}

#endif
