/* The client side of the benchmark: keeps a WebSocket echo server on 127.0.0.1 busy for a while,
   compares every byte that comes back, and prints what it measured as one line of JSON.

     load echo PORT CONNECTIONS SIZE DEPTH SECONDS PID...      messages there and back
     load deflate PORT CONNECTIONS SIZE 1 SECONDS PID...       the same, compressed (RFC 7692)
     load rate PORT CONNECTIONS SIZE RATE SECONDS PID...       the same, on a fixed schedule
     load broadcast PORT CONNECTIONS SIZE 1 SECONDS PID...     messages of one connection to all
     load handshake PORT CONNECTIONS SECONDS PID...            connect, upgrade, closing handshake
     load idle PORT CONNECTIONS PID...                         memory of connections that do nothing

   DEPTH is how many messages each connection has in flight, RATE the messages per second of all
   connections together. PID... are the server's processes:
   their CPU time is read at the very moments between which messages are counted, so that neither
   the connecting nor the warm-up is in it. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define WARM_UP 0.2          /* seconds before the measure */
#define STALL 15             /* seconds without an answer that mean a broken server */
#define SEQUENCE 8           /* hexadecimal digits that begin a message: its number */
#define MAX_HEAD (2 + 8 + 4) /* RFC 6455 section 5.2: a frame's header with a mask */
#define BLOCK 5              /* RFC 1951 section 3.2.4: the header of a block that is stored */
#define MAX_DEPTH 64
#define MAX_SAMPLES (1 << 22)
#define FEW 100 /* connections at which memory is read first: the server has warmed up then */

/* The key of RFC 6455 section 1.3 and its answer, so that no SHA-1 is needed here. */
static const char REQUEST[] =
    "GET /%s HTTP/1.1\r\n"
    "Host: 127.0.0.1:%d\r\n"
    "Upgrade: websocket\r\n"
    "Connection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    "Sec-WebSocket-Version: 13\r\n"
    "%s"
    "\r\n";
static const char OFFER[] =
    "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover;"
    " client_no_context_takeover\r\n";
/* The further headers that Chromium sends. */
static const char BROWSER[] =
    "Origin: http://127.0.0.1:%d\r\n"
    "Pragma: no-cache\r\n"
    "Cache-Control: no-cache\r\n"
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/140.0.0.0\r\n"
    "Accept-Encoding: gzip, deflate, br, zstd\r\n"
    "Accept-Language: en-US,en;q=0.9\r\n"
    "Cookie: session=0123456789abcdef0123456789abcdef\r\n"
    "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n";
static char request[1024];
static const char ACCEPT[] = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/* A Close with 1000 under a mask of zeros, RFC 6455 section 5.5.1. */
static const uint8_t CLOSE[] = {0x88, 0x82, 0, 0, 0, 0, 0x03, 0xE8};

static const uint8_t MASK[4] = {0x37, 0xFA, 0x21, 0x3D};

typedef struct {
    uint8_t bytes[MAX_HEAD + BLOCK + SEQUENCE];
    size_t size;
} prefix;

typedef struct {
    int fd;
    uint32_t sent, received;  /* whole messages */
    uint32_t scheduled;       /* the messages that must be sent by now, if there is a schedule */
    size_t sent_part;         /* bytes of the message that is going out */
    size_t received_part;     /* bytes of the one that is coming in */
    prefix expected;          /* how that one begins */
    int writes_wait;          /* whether epoll watches for room */
    int upgraded;             /* whether the handshake is over */
    double times[MAX_DEPTH];  /* when the messages in flight were sent */
    char head[1024];          /* the response to the handshake; a compressed frame */
    size_t head_size;
} connection;

static struct sockaddr_in address;
static size_t message_size;
static uint32_t depth;
static uint8_t *tail, *masked_tail; /* a message behind its number: as received, as sent */
static size_t sent_tail_size;
static double interval, due; /* seconds between two messages, 0 without a schedule; the next one */
static int deflated, is_broadcast;
static uint64_t delivered; /* the messages of a broadcast that have come back */
static uint8_t buffer[256 << 10];

static clockid_t clocks[64];
static pid_t pids[64];
static int processes;

static int measuring;
static int leaving; /* nothing new is begun; 1 and how many connections are closed */
static uint64_t done;
static double last_done;
static float *samples;
static size_t sample_count;

static void fail(const char *format, ...)
{
    va_list values;
    va_start(values, format);
    vfprintf(stderr, format, values);
    va_end(values);
    fputc('\n', stderr);
    exit(1);
}

/* ------------------------------------------------------------------------------ what is measured */

static double read_clock(clockid_t clock)
{
    struct timespec time;
    if (clock_gettime(clock, &time))
        fail("cannot read the CPU time of the server: has it died?");
    return time.tv_sec + time.tv_nsec / 1e9;
}

static double now(void) { return read_clock(CLOCK_MONOTONIC); }

/* Of all threads of all processes of the server. */
static double server_cpu(void)
{
    double sum = 0;
    int i;
    for (i = 0; i < processes; i++)
        sum += read_clock(clocks[i]);
    return sum;
}

static double server_kib(void)
{
    double sum = 0;
    int i;
    for (i = 0; i < processes; i++) {
        char path[64];
        long size, resident;
        FILE *file;
        snprintf(path, sizeof path, "/proc/%d/statm", (int)pids[i]);
        file = fopen(path, "r");
        if (!file || fscanf(file, "%ld %ld", &size, &resident) != 2)
            fail("cannot read the memory of the server: has it died?");
        fclose(file);
        sum += resident * (sysconf(_SC_PAGESIZE) / 1024.0);
    }
    return sum;
}

static void watch(char **names, int count)
{
    if (count < 1 || count > 64)
        fail("name the 1 to 64 processes of the server");
    for (; processes < count; processes++) {
        pids[processes] = atoi(names[processes]);
        if (clock_getcpuclockid(pids[processes], &clocks[processes]))
            fail("there is no process %s", names[processes]);
    }
}

/* One message, or one connection, has come to its end. */
static void count_one(double since)
{
    last_done = now();
    if (!measuring)
        return;
    done++;
    if (sample_count < MAX_SAMPLES)
        samples[sample_count++] = (float)(last_done - since);
}

static int compare(const void *left, const void *right)
{
    float a = *(const float *)left, b = *(const float *)right;
    return (a > b) - (a < b);
}

static double percentile_us(double part)
{
    return sample_count ? samples[(size_t)(part * (sample_count - 1))] * 1e6 : 0;
}

/* Let `step` run, for the warm-up and then for `seconds`, and print what came of it. */
static void measure(double seconds, void (*step)(void))
{
    double begin = 0, end, server = 0, client = 0;
    samples = malloc(MAX_SAMPLES * sizeof *samples);
    last_done = now();
    end = last_done + WARM_UP;
    for (;;) {
        double time;
        step();
        time = now();
        if (time - last_done > STALL)
            fail("no answer for %d seconds", STALL);
        if (time < end || (measuring && !done))
            continue;
        if (measuring)
            break;
        measuring = 1;
        begin = time;
        end = begin + seconds;
        server = server_cpu();
        client = read_clock(CLOCK_PROCESS_CPUTIME_ID);
    }
    server = server_cpu() - server;
    client = read_clock(CLOCK_PROCESS_CPUTIME_ID) - client;
    seconds = now() - begin;
    qsort(samples, sample_count, sizeof *samples, compare);
    printf("{\"count\": %llu, \"seconds\": %.4f, \"per_second\": %.1f, \"server_us\": %.4f, "
           "\"p50_us\": %.1f, \"p99_us\": %.1f, \"p999_us\": %.1f, \"server_busy\": %.3f, \"client_busy\": %.3f}\n",
           (unsigned long long)done, seconds, done / seconds, server / done * 1e6,
           percentile_us(0.5), percentile_us(0.99), percentile_us(0.999), server / seconds, client / seconds);
}

/* ----------------------------------------------------------------------------------- connecting */

static int connect_socket(int flags)
{
    int on = 1;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);
    if (fd < 0)
        fail("socket: %s", strerror(errno));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) && errno != EINPROGRESS)
        fail("connect: %s", strerror(errno));
    return fd;
}

/* Take in what has come of the response; whether it is complete. */
static int read_response(connection *c)
{
    ssize_t got = recv(c->fd, c->head + c->head_size, sizeof c->head - 1 - c->head_size, 0);
    if (got < 0 && errno == EAGAIN)
        return 0;
    if (got <= 0)
        fail("the handshake was cut off after %zu bytes", c->head_size);
    c->head_size += got;
    c->head[c->head_size] = 0;
    if (!strstr(c->head, "\r\n\r\n"))
        return 0;
    if (strncmp(c->head, "HTTP/1.1 101 ", 13) || !strstr(c->head, ACCEPT))
        fail("the handshake was answered with\n%s", c->head);
    if (deflated && !strstr(c->head, "permessage-deflate"))
        fail("the server does not compress");
    return 1;
}

static void open_connection(connection *c)
{
    memset(c, 0, sizeof *c);
    c->fd = connect_socket(0);
    if (send(c->fd, request, strlen(request), MSG_NOSIGNAL) != (ssize_t)strlen(request))
        fail("cannot send the handshake");
    while (!read_response(c))
        ;
    if (memcmp(c->head + c->head_size - 4, "\r\n\r\n", 4))
        fail("the server talks first: an echo server does not");
    c->head_size = 0;
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
}

static connection *allocate(int connections)
{
    connection *all = calloc(connections, sizeof *all);
    if (!all)
        fail("not enough memory");
    return all;
}

/* --------------------------------------------------------------------------------------- frames */

/* A text frame up to and with the message's number. */
static void make_prefix(prefix *p, uint32_t number, int masked)
{
    /* In a compressed message, the number is a block of its own, which is only stored. */
    static const uint8_t stored[BLOCK] = {0, SEQUENCE, 0, (uint8_t)~SEQUENCE, 0xFF};
    char start[BLOCK + SEQUENCE + 1];
    size_t block = deflated ? BLOCK : 0, at = 0, i;
    uint64_t size = block + SEQUENCE + sent_tail_size;
    p->bytes[at++] = deflated ? 0xC1 : 0x81;
    if (size < 126)
        p->bytes[at++] = size;
    else if (size < 65536) {
        p->bytes[at++] = 126;
        p->bytes[at++] = size >> 8;
        p->bytes[at++] = size;
    } else {
        int shift;
        p->bytes[at++] = 127;
        for (shift = 56; shift >= 0; shift -= 8)
            p->bytes[at++] = size >> shift;
    }
    if (masked) {
        p->bytes[1] |= 0x80;
        memcpy(p->bytes + at, MASK, 4);
        at += 4;
    }
    memcpy(start, stored, block);
    snprintf(start + block, SEQUENCE + 1, "%08x", number);
    for (i = 0; i < block + SEQUENCE; i++)
        p->bytes[at++] = start[i] ^ (masked ? MASK[i & 3] : 0);
    p->size = at;
}

/* ---------------------------------------------------------------------------------- compression */

/* zlib.h need not be installed: Python brings the library only. */
typedef struct {
    const uint8_t *in;
    unsigned in_left;
    unsigned long in_total;
    uint8_t *out;
    unsigned out_left;
    unsigned long out_total;
    const char *problem;
    void *state, *allocate, *free, *opaque;
    int data_type;
    unsigned long checksum, reserved;
} z_stream;

#define SYNC_FLUSH 2
#define RAW -15 /* the window's bits; negative: without a header */

static z_stream inflater;
static int (*inflate)(z_stream *, int), (*reset)(z_stream *);

static void *zlib(const char *name)
{
    static void *library;
    void *found;
    if (!library)
        library = dlopen("libz.so.1", RTLD_NOW);
    found = library ? dlsym(library, name) : NULL;
    if (!found)
        fail("the scenario with compression needs libz.so.1");
    return found;
}

/* JSON, with numbers that differ. */
static void make_prices(void)
{
    size_t at = 0, size = message_size - SEQUENCE;
    uint32_t random = 1;
    while (at < size) {
        char record[80];
        int length, i;
        random = random * 1664525 + 1013904223;
        length = snprintf(record, sizeof record,
                          "{\"symbol\":\"%c%c%c\",\"bid\":%u.%02u,\"volume\":%u},",
                          'A' + random % 26, 'A' + (random >> 8) % 26, 'A' + (random >> 16) % 26,
                          random >> 25, (random >> 9) % 100, (random >> 12) % 10000);
        for (i = 0; i < length && at < size; i++)
            tail[at++] = record[i];
    }
}

static uint8_t *compress_tail(void)
{
    int (*start)(z_stream *, int, int, int, int, int, const char *, int) = zlib("deflateInit2_");
    int (*deflate)(z_stream *, int) = zlib("deflate");
    int (*start_inflater)(z_stream *, int, const char *, int) = zlib("inflateInit2_");
    uint8_t *out = malloc(2 * message_size + 100);
    z_stream stream = {.in = tail, .in_left = message_size - SEQUENCE,
                       .out = out, .out_left = 2 * message_size + 100};
    inflate = zlib("inflate");
    reset = zlib("inflateReset");
    if (start(&stream, 6, 8, RAW, 8, 0, "1", sizeof stream) ||
        deflate(&stream, SYNC_FLUSH) ||
        start_inflater(&inflater, RAW, "1", sizeof inflater))
        fail("zlib does not work");
    sent_tail_size = stream.out_total - 4; /* RFC 7692 section 7.2.1 */
    return out;
}

/* Take in a frame, and compare its message with the one that was sent. */
static void check_deflated(connection *c, const uint8_t *data, size_t size)
{
    static uint8_t message[4096];
    size_t head, length, whole;
    const uint8_t *frame = (uint8_t *)c->head;
    char number[SEQUENCE + 1];
    if (c->head_size + size + 4 > sizeof c->head)
        fail("a compressed answer is too long");
    memcpy(c->head + c->head_size, data, size);
    c->head_size += size;
    if (c->head_size < 4)
        return;
    if (frame[0] != 0xC1)
        fail("the server has not compressed an answer");
    head = frame[1] < 126 ? 2 : 4;
    length = head == 2 ? frame[1] : frame[2] << 8 | frame[3];
    whole = head + length;
    if (c->head_size < whole)
        return;
    if (c->head_size > whole || c->received == c->sent)
        fail("an answer before the message was sent");
    memcpy(c->head + whole, "\0\0\xff\xff", 4); /* RFC 7692 section 7.2.2 */
    reset(&inflater);
    inflater.in = frame + head;
    inflater.in_left = length + 4;
    inflater.out = message;
    inflater.out_left = sizeof message;
    inflate(&inflater, SYNC_FLUSH);
    snprintf(number, sizeof number, "%08x", c->received);
    if (inflater.out_total != message_size || memcmp(message, number, SEQUENCE) ||
        memcmp(message + SEQUENCE, tail, message_size - SEQUENCE))
        fail("message %u came back changed", c->received);
    c->head_size = 0;
    count_one(c->times[c->received++ % depth]);
}

static void make_tail(void)
{
    size_t i, size = message_size - SEQUENCE, skipped = SEQUENCE + (deflated ? BLOCK : 0);
    uint8_t *sent;
    tail = malloc(size + 1);
    for (i = 0; i < size; i++)
        tail[i] = 'a' + i % 23;
    sent = tail;
    sent_tail_size = size;
    if (deflated) {
        make_prices();
        sent = compress_tail();
    }
    masked_tail = malloc(sent_tail_size + 1);
    for (i = 0; i < sent_tail_size; i++)
        masked_tail[i] = sent[i] ^ MASK[(i + skipped) & 3];
}

/* ------------------------------------------------------------------------------------------ echo */

static int poller;
static int timer;
static connection *all;
static int connections;

static void watch_writes(connection *c, int wanted)
{
    struct epoll_event event = {.events = EPOLLIN | (wanted ? EPOLLOUT : 0), .data.ptr = c};
    if (c->writes_wait == wanted)
        return;
    c->writes_wait = wanted;
    epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &event);
}

/* Note that `got` more bytes have left. */
static void advance(connection *c, size_t got, size_t frame_size)
{
    c->sent_part += got;
    while (c->sent_part >= frame_size) {
        c->sent_part -= frame_size;
        c->sent++;
    }
}

/* Send in one call what is missing to `depth` messages in flight. */
static void send_messages(connection *c)
{
    static prefix prefixes[MAX_DEPTH];
    struct iovec parts[2 * MAX_DEPTH];
    uint32_t wanted = interval ? c->scheduled : c->received + depth;
    uint32_t missing = leaving ? c->sent_part > 0 : wanted - c->sent;
    size_t frame_size, skip = c->sent_part;
    double time = now();
    ssize_t sent;
    uint32_t i;
    if (!missing)
        return;
    for (i = 0; i < missing; i++) {
        make_prefix(&prefixes[i], c->sent + i, 1);
        parts[2 * i] = (struct iovec){prefixes[i].bytes, prefixes[i].size};
        parts[2 * i + 1] = (struct iovec){masked_tail, sent_tail_size};
        if (!interval && (i || !skip))
            c->times[(c->sent + i) % depth] = time;
    }
    frame_size = prefixes[0].size + sent_tail_size;
    for (i = 0; skip; i++) { /* what has left already */
        size_t part = skip < parts[i].iov_len ? skip : parts[i].iov_len;
        parts[i].iov_base = (uint8_t *)parts[i].iov_base + part;
        parts[i].iov_len -= part;
        skip -= part;
    }
    sent = writev(c->fd, parts, 2 * missing);
    if (sent < 0 && errno != EAGAIN)
        fail("the server is gone: %s", strerror(errno));
    if (sent > 0)
        advance(c, sent, frame_size);
    watch_writes(c, leaving ? c->sent_part > 0 : c->sent < wanted);
}

/* Compare what has come with what must come: the same message, in one frame without a mask. */
static void check(connection *c, const uint8_t *data, size_t size)
{
    while (size) {
        size_t begin = c->expected.size, at = c->received_part, part;
        const uint8_t *wanted;
        if (c->received == c->sent)
            fail("an answer before the message was sent");
        if (at < begin) {
            wanted = c->expected.bytes + at;
            part = begin - at;
        } else {
            wanted = tail + (at - begin);
            part = message_size - SEQUENCE - (at - begin);
        }
        if (part > size)
            part = size;
        if (memcmp(data, wanted, part))
            fail("message %u came back changed at byte %zu to %zu of its frame",
                 c->received, at, at + part);
        data += part;
        size -= part;
        c->received_part += part;
        if (c->received_part == begin + message_size - SEQUENCE) {
            count_one(c->times[c->received % depth]);
            c->received_part = 0;
            delivered++;
            make_prefix(&c->expected, ++c->received, 0);
        }
    }
}

static void receive_messages(connection *c)
{
    ssize_t got = recv(c->fd, buffer, sizeof buffer, 0);
    if (got < 0 && errno == EAGAIN)
        return;
    if (got <= 0)
        fail("the server has left: %s", got ? strerror(errno) : "end of stream");
    if (deflated)
        check_deflated(c, buffer, got);
    else
        check(c, buffer, got);
}

/* Send a message to all, when all have the one before it. */
static void publish(void)
{
    static uint64_t published;
    prefix head;
    struct iovec parts[2];
    int i;
    if (leaving || delivered < published * connections)
        return;
    published++;
    make_prefix(&head, all[0].sent, 1);
    for (i = 0; i < connections; i++) {
        all[i].times[0] = now();
        all[i].sent++;
    }
    parts[0] = (struct iovec){head.bytes, head.size};
    parts[1] = (struct iovec){masked_tail, sent_tail_size};
    if (writev(all[0].fd, parts, 2) != (ssize_t)(head.size + sent_tail_size))
        fail("cannot publish: %s", strerror(errno));
}

/* Send what is due by now, to one connection after the other. */
static void send_scheduled(void)
{
    static int turn;
    uint64_t expirations;
    double time = now();
    if (read(timer, &expirations, sizeof expirations) < 0)
        return;
    for (; due <= time && !leaving; due += interval) {
        connection *c = &all[turn++ % connections];
        if (c->scheduled - c->received == depth)
            fail("the server does not answer as many messages per second");
        c->times[c->scheduled++ % depth] = due;
        send_messages(c);
    }
}

static void echo_step(void)
{
    struct epoll_event events[256];
    int i, count = epoll_wait(poller, events, 256, 100);
    for (i = 0; i < count; i++) {
        connection *c = events[i].data.ptr;
        if (c == NULL) {
            send_scheduled();
            continue;
        }
        if (events[i].events & ~EPOLLOUT)
            receive_messages(c);
        if (!is_broadcast)
            send_messages(c);
    }
    if (is_broadcast)
        publish();
}

static void start_timer(void)
{
    struct timespec period = {(time_t)interval, (long)((interval - (time_t)interval) * 1e9)};
    struct itimerspec times = {period, period};
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    due = now() + interval; /* never after the timer: a message would wait for its next expiration */
    timerfd_settime(timer, 0, &times, NULL);
    epoll_ctl(poller, EPOLL_CTL_ADD, timer, &event);
}

static void open_all(int from, int to)
{
    for (; from < to; from++) {
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = &all[from]};
        open_connection(&all[from]);
        make_prefix(&all[from].expected, 0, 0);
        epoll_ctl(poller, EPOLL_CTL_ADD, all[from].fd, &event);
    }
}

static int unanswered(void)
{
    int i, count = 0;
    for (i = 0; i < connections; i++)
        count += all[i].sent != all[i].received || all[i].sent_part;
    return count;
}

/* Part as friends: what the server does about lost peers would disturb the next measure. */
static void leave(void)
{
    struct timeval second = {1, 0};
    double limit = now() + STALL;
    int i;
    leaving = 1;
    while (unanswered() && now() < limit)
        echo_step();
    for (i = 0; i < connections; i++)
        send(all[i].fd, CLOSE, sizeof CLOSE, MSG_NOSIGNAL);
    for (i = 0; i < connections; i++) {
        fcntl(all[i].fd, F_SETFL, 0);
        setsockopt(all[i].fd, SOL_SOCKET, SO_RCVTIMEO, &second, sizeof second);
        while (recv(all[i].fd, buffer, sizeof buffer, 0) > 0)
            ;
        close(all[i].fd);
    }
}

static void echo(double seconds)
{
    int i;
    open_all(0, connections);
    if (interval)
        start_timer();
    for (i = 0; i < connections && !is_broadcast; i++)
        send_messages(&all[i]);
    if (is_broadcast)
        publish();
    measure(seconds, echo_step);
    leave();
}

/* ------------------------------------------------------------------------------------- handshake */

static void restart(connection *c)
{
    struct epoll_event event = {.events = EPOLLOUT, .data.ptr = c};
    memset(c, 0, sizeof *c);
    c->times[0] = now();
    c->fd = connect_socket(SOCK_NONBLOCK);
    epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &event);
}

static void send_whole(connection *c, const void *data, size_t size)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    if (send(c->fd, data, size, MSG_NOSIGNAL) != (ssize_t)size)
        fail("cannot send the handshake: %s", strerror(errno));
    epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &event);
}

/* RFC 6455 section 7.1.1: the server, having answered the Close, is the one to drop TCP. */
static void receive_close(connection *c)
{
    ssize_t got = recv(c->fd, c->head + c->head_size, sizeof c->head - c->head_size, 0);
    if (got < 0 && errno == EAGAIN)
        return;
    if (got < 0)
        fail("the server cut the closing handshake off: %s", strerror(errno));
    c->head_size += got;
    if (got)
        return;
    /* The code comes back "typically", section 5.5.1: some leave it out. */
    if (c->head_size < 2 || (uint8_t)c->head[0] != 0x88 || c->head_size != 2u + c->head[1])
        fail("the Close was not answered with a Close");
    close(c->fd);
    count_one(c->times[0]);
    if (leaving)
        leaving++;
    else
        restart(c);
}

static void handshake_step(void)
{
    struct epoll_event events[256];
    int i, count = epoll_wait(poller, events, 256, 100);
    for (i = 0; i < count; i++) {
        connection *c = events[i].data.ptr;
        if (events[i].events & EPOLLOUT)
            send_whole(c, request, strlen(request));
        else if (c->upgraded)
            receive_close(c);
        else if (read_response(c)) {
            c->upgraded = 1;
            c->head_size = 0;
            send_whole(c, CLOSE, sizeof CLOSE);
        }
    }
}

static void handshake(double seconds)
{
    int i;
    for (i = 0; i < connections; i++)
        restart(&all[i]);
    measure(seconds, handshake_step);
    leaving = 1;
    while (leaving <= connections)
        handshake_step();
}

/* ------------------------------------------------------------------------------------------ idle */

/* Open connections, let each echo one message, and give the server a moment to settle. */
static double kib_with(int from, int to)
{
    struct timespec moment = {0, 300000000};
    uint64_t wanted = to - from;
    double stalled = now() + STALL;
    int i;
    measuring = 1;
    done = 0;
    open_all(from, to);
    for (i = from; i < to; i++)
        send_messages(&all[i]);
    while (done < wanted) {
        struct epoll_event events[256];
        int count = epoll_wait(poller, events, 256, 100);
        for (i = 0; i < count; i++)
            receive_messages(events[i].data.ptr);
        if (now() > stalled)
            fail("no answer for %d seconds", STALL);
    }
    nanosleep(&moment, NULL);
    return server_kib();
}

static void idle(void)
{
    double few, many;
    if (connections <= FEW)
        fail("more than %d connections, please", FEW);
    samples = malloc(MAX_SAMPLES * sizeof *samples);
    few = kib_with(0, FEW);
    many = kib_with(FEW, connections);
    printf("{\"connections\": %d, \"kib\": %.3f, \"server_kib\": %.0f}\n",
           connections, (many - few) / (connections - FEW), many);
    leave();
}

/* ------------------------------------------------------------------------------------------ main */

static double number(char *text, double least, double most)
{
    char *end;
    double value = strtod(text, &end);
    if (*end || end == text || value < least || value > most)
        fail("%s is not between %g and %g", text, least, most);
    return value;
}

int main(int count, char **arguments)
{
    const char *mode = count > 1 ? arguments[1] : "";
    int is_handshake = !strcmp(mode, "handshake"), has_schedule = !strcmp(mode, "rate"), first;
    char more[768] = "";
    deflated = !strcmp(mode, "deflate");
    is_broadcast = !strcmp(mode, "broadcast");
    first = !strcmp(mode, "echo") || deflated || is_broadcast || has_schedule ? 7 : is_handshake ? 5 : 4;
    if (count <= first || (first == 4 && strcmp(mode, "idle")))
        fail("usage: load echo PORT CONNECTIONS SIZE DEPTH SECONDS PID...\n"
             "       load deflate PORT CONNECTIONS SIZE 1 SECONDS PID...\n"
             "       load rate PORT CONNECTIONS SIZE RATE SECONDS PID...\n"
             "       load broadcast PORT CONNECTIONS SIZE 1 SECONDS PID...\n"
             "       load handshake PORT CONNECTIONS SECONDS PID...\n"
             "       load idle PORT CONNECTIONS PID...");
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons((uint16_t)number(arguments[2], 1, 65535));
    connections = (int)number(arguments[3], 1, 100000);
    watch(arguments + first, count - first);
    all = allocate(connections);
    poller = epoll_create1(EPOLL_CLOEXEC);
    message_size = first == 7 ? (size_t)number(arguments[4], SEQUENCE, deflated ? 1200 : 1 << 24)
                              : 32;
    if (has_schedule) {
        interval = 1 / number(arguments[5], 1, 1000000);
        depth = MAX_DEPTH;
    } else
        depth = first == 7 ? (uint32_t)number(arguments[5], 1, deflated || is_broadcast ? 1 : MAX_DEPTH)
                           : 1;
    make_tail();
    if (is_handshake)
        snprintf(more, sizeof more, BROWSER, ntohs(address.sin_port));
    else if (deflated)
        strcpy(more, OFFER);
    snprintf(request, sizeof request, REQUEST, is_broadcast ? "broadcast" : "echo",
             ntohs(address.sin_port), more);
    if (first == 4) {
        alarm(120);
        idle();
    } else {
        double seconds = number(arguments[first - 1], 0.05, 60);
        alarm((unsigned)seconds + 60); /* whatever happens */
        if (first == 7)
            echo(seconds);
        else
            handshake(seconds);
    }
    return 0;
}
