# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: initializedcheck=False, embedsignature=True
"""The compiled twins of some functions of ``server_handshake.py``, which is the reference."""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.dict cimport PyDict_GetItem
from cpython.ref cimport Py_INCREF, PyObject
from cpython.tuple cimport PyTuple_New, PyTuple_SET_ITEM
from libc.stdint cimport uint8_t
from libc.string cimport memcpy


cdef extern from "Python.h":
    int PyUnicode_KIND(str)
    void* PyUnicode_DATA(str)
    Py_ssize_t PyUnicode_GET_LENGTH(str)

try:
    from _sha1 import sha1  # takes a third of the time of OpenSSL's, for a few bytes
except ImportError:
    from hashlib import sha1

cdef bytes GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
cdef const uint8_t* BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

cdef bint[256] IN_BASE64

cdef enum:
    DIGEST_SIZE = 20


cdef void fill_table() noexcept:
    cdef int i
    for i in range(64):
        IN_BASE64[BASE64[i]] = True


fill_table()


def accept_key(str key not None):
    """The value of Sec-WebSocket-Accept for a Sec-WebSocket-Key."""
    cdef bytes digest = sha1(key.encode("latin-1") + GUID).digest()
    cdef uint8_t source[DIGEST_SIZE + 1]
    cdef uint8_t result[28]
    cdef unsigned int group
    cdef int i
    memcpy(source, PyBytes_AS_STRING(digest), DIGEST_SIZE)
    source[DIGEST_SIZE] = 0
    for i in range(7):
        group = source[3 * i] << 16 | source[3 * i + 1] << 8 | source[3 * i + 2]
        result[4 * i] = BASE64[group >> 18]
        result[4 * i + 1] = BASE64[group >> 12 & 63]
        result[4 * i + 2] = BASE64[group >> 6 & 63]
        result[4 * i + 3] = BASE64[group & 63]
    result[27] = b"="
    return (<char*>result)[:28].decode("ascii")


def select(environ, tuple names not None):
    """The values of an environ for some names, ``None`` for what it lacks."""
    cdef Py_ssize_t i, size = len(names)
    cdef PyObject* found
    cdef tuple values
    if type(environ) is not dict:
        return tuple(map(environ.get, names))
    values = PyTuple_New(size)
    for i in range(size):
        found = PyDict_GetItem(<dict>environ, <object>names[i])
        value = None if found == NULL else <object>found
        Py_INCREF(value)
        PyTuple_SET_ITEM(values, i, value)
    return values


def response_head(str status not None, list headers not None):
    """The head of a response of HTTP/1.1, in bytes."""
    cdef tuple header
    cdef bytes head
    cdef char* at
    cdef Py_ssize_t size = len("HTTP/1.1 ") + len(status) + 4
    for header in headers:
        size += len(<str>header[0]) + len(<str>header[1]) + 4
    head = PyBytes_FromStringAndSize(NULL, size)
    at = put(put(PyBytes_AS_STRING(head), "HTTP/1.1 "), status)
    for header in headers:
        at = put(put(put(put(at, "\r\n"), <str>header[0]), ": "), <str>header[1])
    put(at, "\r\n\r\n")
    return head


cdef char* put(char* at, str text) except NULL:
    """Write a text in ISO-8859-1; return its end."""
    cdef Py_ssize_t size = PyUnicode_GET_LENGTH(text)
    if PyUnicode_KIND(text) > 1:
        text.encode("latin-1")  # raises
    memcpy(at, PyUnicode_DATA(text), size)
    return at + size


def is_key(str value not None):
    """Whether a value of Sec-WebSocket-Key is 16 bytes in base64."""
    cdef const uint8_t* at = <const uint8_t*>PyUnicode_DATA(value)
    cdef int i
    if PyUnicode_KIND(value) > 1 or PyUnicode_GET_LENGTH(value) != 24:
        return False
    for i in range(22):
        if not IN_BASE64[at[i]]:
            return False
    return at[22] == b"=" and at[23] == b"="
