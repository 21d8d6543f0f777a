# cython: language_level=3
"""Masks, UTF-8 and frame headers in C; see frames.h."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef extern from "frames.h" nogil:
    int MAX_HEAD
    ctypedef struct utf8_state:
        uint8_t lacking
    void apply_mask_to(uint8_t*, const uint8_t*, size_t, uint32_t)
    bint apply_mask_to_ascii(uint8_t*, const uint8_t*, size_t, uint32_t)
    uint32_t turn_mask(uint32_t, size_t)
    bint utf8_take(utf8_state*, const uint8_t*, size_t)
    int put_head(uint8_t*, int, uint64_t)
    uint64_t get_number(const uint8_t*, int)
