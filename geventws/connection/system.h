/* System calls for the compiled transport: recv, send, epoll, a clock. */
#ifndef GEVENTWS_SYSTEM_H
#define GEVENTWS_SYSTEM_H

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
static Py_ssize_t direct_send(int fd, struct iovec *parts, int count, int is_last) { return -1; }
static int would_block(void) { return 0; }
#else
#define DIRECT_IO 1
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>
#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0  /* Python ignores SIGPIPE anyway */
#endif
#ifndef MSG_MORE
#define MSG_MORE 0  /* the last data and the FIN take two packets */
#endif

/* Neither call blocks, so both keep the GIL. */
static Py_ssize_t recv_or_peek(int fd, uint8_t *buffer, size_t size, int peek)
{
    ssize_t got;
    do
        got = recv(fd, buffer, size, MSG_DONTWAIT | (peek ? MSG_PEEK : 0));
    while (got < 0 && errno == EINTR);
    return got;
}

static Py_ssize_t direct_recv(int fd, uint8_t *buffer, size_t size)
{
    return recv_or_peek(fd, buffer, size, 0);
}

/* The last data before shutdown() waits for it: both take one packet then. */
static Py_ssize_t direct_send(int fd, struct iovec *parts, int count, int is_last)
{
    ssize_t sent;
    int flags = MSG_DONTWAIT | MSG_NOSIGNAL | (is_last ? MSG_MORE : 0);
    do {
        if (count == 1)
            sent = send(fd, parts->iov_base, parts->iov_len, flags);
        else {
            struct msghdr message = {0};
            message.msg_iov = parts;
            message.msg_iovlen = count;
            sent = sendmsg(fd, &message, flags);
        }
    } while (sent < 0 && errno == EINTR);
    return sent;
}

static int would_block(void) { return errno == EAGAIN || errno == EWOULDBLOCK; }
#endif

#if defined(__linux__)
#include <arpa/inet.h>
#include <netinet/in.h>
#include <unistd.h>
int accept4(int, struct sockaddr *, socklen_t *, int);

/* Accept a connection whose descriptor does not block. Returns -1 for an error. */
static int accept_connection(int listener, struct sockaddr_storage *from)
{
    socklen_t size = sizeof *from;
    return accept4(listener, (struct sockaddr *)from, &size, SOCK_NONBLOCK | SOCK_CLOEXEC);
}

static int close_descriptor(int fd)
{
    return close(fd) < 0 && errno != ECONNRESET ? -1 : 0;  /* as in Python */
}

static int set_option(int fd, int level, int option, int value)
{
    return setsockopt(fd, level, option, &value, sizeof value);
}

/* The address of a client, as in Python. */
static PyObject *address_of(const struct sockaddr_storage *from)
{
    char host[INET6_ADDRSTRLEN];
    if (from->ss_family == AF_INET6) {
        const struct sockaddr_in6 *six = (const void *)from;
        inet_ntop(AF_INET6, &six->sin6_addr, host, sizeof host);
        return Py_BuildValue("siII", host, ntohs(six->sin6_port), ntohl(six->sin6_flowinfo),
                             six->sin6_scope_id);
    }
    const struct sockaddr_in *four = (const void *)from;
    inet_ntop(AF_INET, &four->sin_addr, host, sizeof host);
    return Py_BuildValue("si", host, ntohs(four->sin_port));
}
#endif

/* The descriptor of a Python socket, -1 once that is closed. CPython's socket objects begin with
   it; the caller compares the answer with fileno() before it relies on that. */
static int descriptor_of(PyObject *sock)
{
    return *(int *)((char *)sock + sizeof(PyObject));
}

/* The weak references to an object, if there are any. */
static void *weak_references(PyObject *object)
{
    Py_ssize_t offset = Py_TYPE(object)->tp_weaklistoffset;
    return offset ? *(void **)((char *)object + offset) : NULL;
}

/* Whether the running greenlet has set a context variable. */
static int has_context(void) { return PyThreadState_Get()->context != NULL; }

/* --------------------------------------------------------- many descriptors, watched in one go */

/* How many connections are read from before the loop calls its other watchers. */
#define MAX_READY 64

#if defined(__linux__)
#include <sys/epoll.h>
#include <unistd.h>

static int poll_open(void) { return epoll_create1(EPOLL_CLOEXEC); }

static void poll_close(int set)
{
    if (set >= 0)
        close(set);
}

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
    struct epoll_event event;  /* ignored, but old kernels require the argument */
    epoll_ctl(set, EPOLL_CTL_DEL, fd, &event);
}

/* Get the labels of the readable descriptors. Returns their number. Never waits. */
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

/* Prefetch a cache line. */
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
