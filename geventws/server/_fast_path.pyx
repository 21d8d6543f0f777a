# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: initializedcheck=False, embedsignature=True
"""The compiled twin of ``fast_path_py.py``, which is the reference.

Differences from the reference: the head is parsed in one pass, line by line, and the caches are
dicts. They are emptied when they are full.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_SetDefault, PyDict_Size
from cpython.unicode cimport PyUnicode_DecodeASCII, PyUnicode_DecodeLatin1
from libc.stdint cimport uint8_t
from libc.string cimport memchr, memcmp


cdef extern from *:
    dict new_dict "__Pyx_PyDict_NewPresized"(Py_ssize_t)

from geventws.protocol.server_handshake import is_websocket_request
from geventws.server.fast_path_py import (
    _CACHED,
    _MAX_CACHED_LINE,
    _MAX_NAME,
    _UNSUPPORTED,
    Request,
    _make_variable,
)
from geventws.server.request_head import HOST, MAX_FIELDS

from urllib.parse import unquote_to_bytes

#: Values of the header Connection that need no parser.
cdef frozenset USUAL_CONNECTIONS = frozenset({"Upgrade", "keep-alive, Upgrade"})

#: As the constructor of a named tuple, which is a function in Python.
cdef object new_tuple = tuple.__new__

cdef frozenset UNSUPPORTED = frozenset(_UNSUPPORTED)

cdef enum:
    # More are for a dict that grows.
    USUAL_VARIABLES = 20
    MAX_ENTRIES = 256
    MAX_RECENT = 32

cdef Py_ssize_t MOST_LINES = MAX_FIELDS
cdef Py_ssize_t MOST_OF_LINE = _MAX_CACHED_LINE
cdef Py_ssize_t MOST_OF_NAME = _MAX_NAME
#: Parsed lines and names.
cdef dict fields = {}
cdef dict names = {}
#: The lines in ``fields`` that were found last, by their places in the request: a client sends its
#: headers in one order.
cdef list recent_fields = [None] * MAX_RECENT
#: The characters of a name, and of a value (see HEADER_LINE), by their codes.
cdef bint[256] IN_NAME
cdef bint[256] IN_VALUE


cdef int fill_tables() except -1:
    cdef int code
    for code in range(256):
        IN_NAME[code] = chr(code).isascii() and chr(code).isalnum() or code in b"!#$%&'*+-.^_`|~"
        IN_VALUE[code] = code == 9 or (code >= 32 and code != 127)
    return 0


fill_tables()


def parse_request(bytes data not None):
    """Return the WebSocket request at the beginning of ``data``.

    Return ``None`` if the head is incomplete, is not for a WebSocket, or needs the general parser.
    """
    cdef const uint8_t* start = <const uint8_t*>PyBytes_AS_STRING(data)
    cdef const uint8_t* end = start + PyBytes_GET_SIZE(data)
    cdef const uint8_t* at
    cdef const uint8_t* stop = line_end(start, end)
    cdef Py_ssize_t size, count, lines = 1
    cdef dict variables
    cdef tuple field
    if stop == NULL or not is_request_line(start, stop):
        return None
    line = PyUnicode_DecodeASCII(<const char*>start, stop - start, NULL)
    target = PyUnicode_DecodeASCII(<const char*>start + 4, stop - start - 13, NULL)
    path, _, query = target.partition("?")
    if "%" in path:
        path = unquote_to_bytes(path).decode("latin-1")
    variables = new_dict(USUAL_VARIABLES)
    variables["REQUEST_METHOD"] = "GET"
    variables["SERVER_PROTOCOL"] = "HTTP/1.1"
    variables["PATH_INFO"] = path
    variables["QUERY_STRING"] = query
    while True:
        at = stop + 2
        stop = line_end(at, end)
        if stop == NULL:
            return None
        if stop == at:
            break
        lines += 1
        size = stop - at
        field = parse_line(at, size, lines) if lines <= MOST_LINES else None
        if field is None:
            return None
        name, value = field
        if not name:
            continue
        count = PyDict_Size(variables)
        earlier = <object>PyDict_SetDefault(variables, name, value)
        if PyDict_Size(variables) == count:
            if name == "HTTP_HOST":
                return None
            separator = "; " if "COOKIE" in name else ","
            variables[name] = f"{earlier}{separator}{value}"
    if (
        variables.get("HTTP_CONNECTION") not in USUAL_CONNECTIONS
        or variables.get("HTTP_UPGRADE") != "websocket"
    ) and not is_websocket_request(variables):
        return None
    return new_tuple(Request, (line, target, variables, stop + 2 - start))


cdef const uint8_t* line_end(const uint8_t* at, const uint8_t* end) noexcept:
    """The CRLF at the end of a line; NULL if there is none, or another CR before it."""
    cdef const uint8_t* stop = <const uint8_t*>memchr(at, b"\r", end - at)
    if stop == NULL or stop + 1 == end or stop[1] != b"\n":
        return NULL
    return stop


cdef bint is_request_line(const uint8_t* at, const uint8_t* stop) noexcept:
    if stop - at < 14 or memcmp(at, b"GET /", 5) or memcmp(stop - 9, b" HTTP/1.1", 9):
        return False
    at += 5
    while at < stop - 9:
        if at[0] < 0x21 or at[0] > 0x7E or at[0] == b"#":
            return False
        at += 1
    return True


cdef tuple parse_line(const uint8_t* line, Py_ssize_t size, Py_ssize_t number):
    """Return the CGI variable and the value of a header line.

    Return ``None`` if the line is malformed, or of a header that needs the general parser. The name
    is empty for a header with an underscore: its variable would be that of another header (X_Y and
    X-Y). gevent's handler ignores such headers, too.
    """
    cdef tuple recent = recent_fields[number % MAX_RECENT]
    if recent is not None and PyBytes_GET_SIZE(recent[0]) == size and memcmp(
        PyBytes_AS_STRING(recent[0]), line, size
    ) == 0:
        return <tuple>recent[1]
    return look_up_line(line, size, number)


cdef tuple look_up_line(const uint8_t* line, Py_ssize_t size, Py_ssize_t number):
    cdef const uint8_t* value
    cdef const uint8_t* stop = line + size
    cdef Py_ssize_t length = 0
    cdef tuple field
    cdef bytes key = line[:size]
    cdef bint is_cached
    found = fields.get(key)
    if found is not None:
        recent_fields[number % MAX_RECENT] = key, found
        return <tuple>found
    while length < size and IN_NAME[line[length]]:
        length += 1
    if length == 0 or length == size or line[length] != b":":
        return None
    value = line + length + 1
    while value < stop and (value[0] == b" " or value[0] == b"\t"):
        value += 1
    while stop > value and ((stop - 1)[0] == b" " or (stop - 1)[0] == b"\t"):
        stop -= 1
    variable, is_cached = name_of(line[:length])
    field = variable, PyUnicode_DecodeLatin1(<const char*>value, stop - value, NULL)
    while value < stop:
        if not IN_VALUE[value[0]]:
            return None
        value += 1
    if variable in UNSUPPORTED:
        return None
    if variable == "HTTP_HOST" and not HOST.fullmatch(field[1]):
        return None
    if is_cached and size <= MOST_OF_LINE:
        if len(fields) >= MAX_ENTRIES:
            fields.clear()
        fields[key] = field
    return field


cdef tuple name_of(bytes name):
    """Return the CGI variable of a header, and whether its lines are cached."""
    found = names.get(name)
    if found is None:
        found = _make_variable(name), name.lower() in _CACHED
        if PyBytes_GET_SIZE(name) <= MOST_OF_NAME:
            if len(names) >= MAX_ENTRIES:
                names.clear()
            names[name] = found
    return <tuple>found
