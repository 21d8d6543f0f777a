# cython: language_level=3, embedsignature=True
"""The memory for the Python frames of greenlets. There is no twin in Python.

Since CPython 3.11, each greenlet has its own stack of frames, 16 KiB that CPython gets from the
kernel and returns at the end of the greenlet: two system calls, and the time to clear the pages.
"""

cdef extern from "frame_stacks.h":
    void keep_frame_stacks()


def keep_memory():
    """Keep the stacks of up to 64 greenlets that have ended, for the next ones.

    This is for the whole process. A later call has no effect.
    """
    keep_frame_stacks()
