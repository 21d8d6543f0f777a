/* What speedups.pyx needs of C itself: masks, UTF-8, frame headers, a clock, the system calls. */
#ifndef GEVENTWS_SPEEDUPS_H
#define GEVENTWS_SPEEDUPS_H

#include <Python.h>
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(_WIN32)
#define DIRECT_IO 0  /* descriptors are no sockets there: Python's sockets do it */
struct iovec {
    void *iov_base;
    size_t iov_len;
};
static Py_ssize_t direct_recv(int fd, uint8_t *buffer, size_t size) { return -1; }
static Py_ssize_t direct_send(int fd, struct iovec *parts, int count) { return -1; }
static int would_block(void) { return 0; }
#else
#define DIRECT_IO 1
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>
#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0  /* Python ignores SIGPIPE anyway */
#endif

/* Neither call blocks, so both keep the GIL. */
static Py_ssize_t direct_recv(int fd, uint8_t *buffer, size_t size)
{
    ssize_t got;
    do
        got = recv(fd, buffer, size, MSG_DONTWAIT);
    while (got < 0 && errno == EINTR);
    return got;
}

static Py_ssize_t direct_send(int fd, struct iovec *parts, int count)
{
    ssize_t sent;
    do {
        if (count == 1)
            sent = send(fd, parts->iov_base, parts->iov_len, MSG_DONTWAIT | MSG_NOSIGNAL);
        else {
            struct msghdr message = {0};
            message.msg_iov = parts;
            message.msg_iovlen = count;
            sent = sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
        }
    } while (sent < 0 && errno == EINTR);
    return sent;
}

static int would_block(void) { return errno == EAGAIN || errno == EWOULDBLOCK; }
#endif

/* The descriptor of a Python socket, -1 once that is closed. CPython's socket objects begin with
   it; the caller compares the answer with fileno() before it relies on that. */
static int descriptor_of(PyObject *sock)
{
    return *(int *)((char *)sock + sizeof(PyObject));
}

/* ------------------------------------------------------------------ masks, RFC 6455 section 5.3 */

#define HIGH_BITS 0x8080808080808080u

/* Eight bytes at a time, wherever they lie; `seen` gets the high bits of what is not ASCII. Where
   nobody looks at it the compiler leaves it out. */
#define XOR_WORDS(out, in, size, mask, seen)                         \
    do {                                                             \
        uint64_t word, key = (uint64_t)(mask) << 32 | (mask);        \
        size_t i = 0;                                                \
        for (; i + 8 <= (size); i += 8) {                            \
            memcpy(&word, (in) + i, 8);                              \
            word ^= key;                                             \
            seen |= word;                                            \
            memcpy((out) + i, &word, 8);                             \
        }                                                            \
        for (; i < (size); i++)                                      \
            seen |= (out)[i] = (in)[i] ^ ((const uint8_t *)&key)[i & 7]; \
    } while (0)

/* Vector loops for what is long. Two versions of each, chosen at load time, where that works. */
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) \
    && !defined(__SANITIZE_ADDRESS__)
#define VECTORS __attribute__((target_clones("avx2", "default")))
#else
#define VECTORS
#endif

VECTORS static void xor_long(uint8_t *out, const uint8_t *in, size_t size, uint32_t mask)
{
    uint64_t seen = 0;
    XOR_WORDS(out, in, size, mask, seen);
}

VECTORS static uint64_t xor_long_seen(
    uint8_t *out, const uint8_t *in, size_t size, uint32_t mask)
{
    uint64_t seen = 0;
    XOR_WORDS(out, in, size, mask, seen);
    return seen;
}

/* out may be in. The mask is four bytes as they lie in memory. */
static inline void apply_mask_to(uint8_t *out, const uint8_t *in, size_t size, uint32_t mask)
{
    uint64_t seen = 0;
    if (size < 64)
        XOR_WORDS(out, in, size, mask, seen);
    else
        xor_long(out, in, size, mask);
}

/* The same, and whether all of it is ASCII: one pass instead of two. */
static inline int apply_mask_to_ascii(
    uint8_t *out, const uint8_t *in, size_t size, uint32_t mask)
{
    uint64_t seen = 0;
    if (size < 64)
        XOR_WORDS(out, in, size, mask, seen);
    else
        seen = xor_long_seen(out, in, size, mask);
    return !(seen & HIGH_BITS);
}

/* The mask that goes on after `size` bytes. */
static inline uint32_t turn_mask(uint32_t mask, size_t size)
{
    uint8_t bytes[4], turned[4];
    int i;
    memcpy(bytes, &mask, 4);
    for (i = 0; i < 4; i++)
        turned[i] = bytes[(i + size) & 3];
    memcpy(&mask, turned, 4);
    return mask;
}

/* ---------------------------------------------------------------------- UTF-8, RFC 3629 section 4 */

/* Where a text stands: how many bytes its last character lacks, and what the next may be. */
typedef struct {
    uint8_t lacking, least, most;
} utf8_state;

/* Take in the next piece of a text; false as soon as it cannot become UTF-8 any more. */
static int utf8_take(utf8_state *state, const uint8_t *text, size_t size)
{
    size_t i = 0;
    while (i < size) {
        uint8_t byte;
        if (!state->lacking) {
            uint64_t word;
            for (; i + 8 <= size; i += 8) {
                memcpy(&word, text + i, 8);
                if (word & HIGH_BITS)
                    break;
            }
            if (i == size)
                break;
        }
        byte = text[i++];
        if (state->lacking) {
            if (byte < state->least || byte > state->most)
                return 0;
            state->lacking--;
            state->least = 0x80;
            state->most = 0xBF;
        } else if (byte >= 0x80) {
            state->least = 0x80;
            state->most = 0xBF;
            if (byte < 0xC2 || byte > 0xF4)
                return 0;
            if (byte < 0xE0)
                state->lacking = 1;
            else if (byte < 0xF0) {
                state->lacking = 2;
                if (byte == 0xE0)
                    state->least = 0xA0;  /* shorter forms exist */
                else if (byte == 0xED)
                    state->most = 0x9F;  /* surrogates */
            } else {
                state->lacking = 3;
                if (byte == 0xF0)
                    state->least = 0x90;  /* shorter forms exist */
                else if (byte == 0xF4)
                    state->most = 0x8F;  /* beyond U+10FFFF */
            }
        }
    }
    return 1;
}

/* --------------------------------------------------------- frame headers, RFC 6455 section 5.2 */

#define MAX_HEAD 10

/* Write the head of an unmasked frame; returns its size. */
static inline int put_head(uint8_t *out, int first, uint64_t size)
{
    int i;
    out[0] = (uint8_t)first;
    if (size < 126) {
        out[1] = (uint8_t)size;
        return 2;
    }
    if (size < 65536) {
        out[1] = 126;
        out[2] = (uint8_t)(size >> 8);
        out[3] = (uint8_t)size;
        return 4;
    }
    out[1] = 127;
    for (i = 0; i < 8; i++)
        out[2 + i] = (uint8_t)(size >> (56 - 8 * i));
    return MAX_HEAD;
}

static inline uint64_t get_number(const uint8_t *in, int width)
{
    uint64_t number = 0;
    while (width--)
        number = number << 8 | *in++;
    return number;
}

/* --------------------------------------------------------- many descriptors, watched in one go */

/* How many connections are read from before the loop sees to the rest. */
#define MAX_READY 64

#if defined(__linux__)
#include <sys/epoll.h>
#include <unistd.h>

static int poll_open(void) { return epoll_create1(EPOLL_CLOEXEC); }

static void poll_close(int set) { close(set); }

/* The label comes back from poll_ready(). */
static int poll_add(int set, int fd, uint64_t label)
{
    struct epoll_event event;
    event.events = EPOLLIN;
    event.data.u64 = label;
    return epoll_ctl(set, EPOLL_CTL_ADD, fd, &event);
}

static void poll_remove(int set, int fd)
{
    struct epoll_event event;  /* not looked at, but old kernels want one */
    epoll_ctl(set, EPOLL_CTL_DEL, fd, &event);
}

/* The labels of those that can be read now; returns how many, never waits. */
static int poll_ready(int set, uint64_t *labels)
{
    struct epoll_event events[MAX_READY];
    int i, count = epoll_wait(set, events, MAX_READY, 0);
    for (i = 0; i < count; i++)
        labels[i] = events[i].data.u64;
    return count;
}
#else
static int poll_open(void) { return -1; }
static void poll_close(int set) { (void)set; }
static int poll_add(int set, int fd, uint64_t label) { return -1; }
static void poll_remove(int set, int fd) { (void)set; }
static int poll_ready(int set, uint64_t *labels) { return 0; }
#endif

/* Have a cache line ready for later. */
#if defined(__GNUC__)
#define fetch_line(where) __builtin_prefetch(where)
#else
#define fetch_line(where) ((void)(where))
#endif

/* ------------------------------------------------------------------------------------------ clock */

#if defined(_WIN32)
#include <windows.h>
static uint64_t now_us(void) { return GetTickCount64() * 1000u; }
#else
#include <time.h>
static uint64_t now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000u + (uint64_t)now.tv_nsec / 1000u;
}
#endif

#endif
