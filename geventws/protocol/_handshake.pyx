# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: initializedcheck=False, embedsignature=True
"""The compiled twins of some functions of ``server_handshake.py``, which is the reference."""
from cpython.bytes cimport PyBytes_AS_STRING
from cpython.dict cimport PyDict_GetItem
from cpython.ref cimport Py_INCREF, PyObject
from cpython.tuple cimport PyTuple_New, PyTuple_SET_ITEM
from libc.stdint cimport uint8_t
from libc.string cimport memcpy

try:
    from _sha1 import sha1  # takes a third of the time of OpenSSL's, for a few bytes
except ImportError:
    from hashlib import sha1

cdef bytes GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
cdef const uint8_t* BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

cdef enum:
    DIGEST_SIZE = 20


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
    cdef list parts = ["HTTP/1.1 ", status, "\r\n"]
    cdef tuple header
    for header in headers:
        parts.append(header[0])
        parts.append(": ")
        parts.append(header[1])
        parts.append("\r\n")
    parts.append("\r\n")
    return "".join(parts).encode("latin-1")
