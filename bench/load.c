/* Sends HTTP/1.1 requests to a server on the loopback over kept connections, and checks every answer.

   load PORT CONNECTIONS SECONDS RATE LABELS FIRST REQUESTS LATENCIES ANSWERS

   RATE 0 is a closed loop: a connection sends again as soon as it was answered. Another rate is an open
   loop: request i is due at i/RATE, and its latency counts from then, however late it could be sent.
   REQUESTS holds records of {uint32 length, uint32 slots, uint32 slot[slots], bytes}; into each slot goes
   the number of the request (8 digits, from FIRST on), so that no two bodies are equal.
   An answer counts when its status is 200 and at least LABELS names of a label stand in its body.
   LATENCIES gets a float32 of microseconds for each answer that counts, ANSWERS (or -) its {uint32 number,
   uint32 length, body}. It prints a line when it begins, and the sums as JSON in the end; SIGTERM ends it early. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { DIGITS = 8, MAX_CONNECTIONS = 1024, EVENTS = 256 };
static const double RETRY_SECONDS = 0.02, GRACE_SECONDS = 10;

typedef struct {
    uint32_t length, slots;
    const uint32_t *slot;
    const char *bytes;
} Request;

typedef struct {
    int fd; /* -1: to be connected at retry_at */
    bool connected, busy;
    uint32_t number;
    double due, retry_at;
    char *out, *in;
    size_t length, sent, got, out_room, in_room;
} Connection;

static volatile sig_atomic_t stopped;
static Request *requests;
static size_t request_count;
static Connection connections[MAX_CONNECTIONS];
static int poller, open_connections, port, idle[MAX_CONNECTIONS], idle_count;
static unsigned long labels, first, answered, failed, broken;
static FILE *latencies, *answers;

static void stop(int signal) { (void)signal, stopped = 1; }

static void die(const char *what) {
    fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
    exit(2);
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static char *with_room(char *buffer, size_t *room, size_t wanted) {
    if (wanted <= *room) return buffer;
    *room = wanted * 2;
    if (!(buffer = realloc(buffer, *room))) die("memory");
    return buffer;
}

static void read_requests(const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END)) die(path);
    long size = ftell(file);
    char *bytes = malloc((size_t)size + 1), *end = bytes + size;
    rewind(file);
    if (!bytes || fread(bytes, 1, (size_t)size, file) != (size_t)size) die(path);
    fclose(file);
    for (char *at = bytes; at + 8 <= end;) {
        Request request;
        memcpy(&request.length, at, 4), memcpy(&request.slots, at + 4, 4);
        uint32_t *slot = malloc(4 * (size_t)request.slots + 1);
        if (!slot || !(requests = realloc(requests, (request_count + 1) * sizeof *requests))) die("memory");
        memcpy(slot, at + 8, 4 * (size_t)request.slots);
        request.slot = slot, request.bytes = at + 8 + 4 * (size_t)request.slots;
        requests[request_count++] = request;
        at += 8 + 4 * (size_t)request.slots + request.length;
    }
    if (!request_count) errno = EINVAL, die(path);
}

static void watch(int which, int how, uint32_t events) {
    struct epoll_event event = {.events = events, .data.u32 = (uint32_t)which};
    if (epoll_ctl(poller, how, connections[which].fd, &event)) die("epoll_ctl");
}

static void connect_it(int which) {
    Connection *one = &connections[which];
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if ((one->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)) < 0) die("socket");
    setsockopt(one->fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    if (connect(one->fd, (struct sockaddr *)&address, sizeof address) && errno != EINPROGRESS) {
        close(one->fd), one->fd = -1, one->retry_at = now() + RETRY_SECONDS;
        return;
    }
    watch(which, EPOLL_CTL_ADD, EPOLLOUT);
}

static void disconnect(int which, double retry_at) {
    Connection *one = &connections[which];
    if (one->busy) broken++;
    for (int at = 0; at < idle_count; at++)
        if (idle[at] == which) idle[at--] = idle[--idle_count];
    close(one->fd);
    one->fd = -1, one->connected = one->busy = false, one->retry_at = retry_at;
}

static void go_on_sending(int which) {
    Connection *one = &connections[which];
    while (one->sent < one->length) {
        ssize_t sent = send(one->fd, one->out + one->sent, one->length - one->sent, MSG_NOSIGNAL);
        if (sent < 0 && errno == EAGAIN) {
            watch(which, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
            return;
        }
        if (sent < 0) { /* what the server said before it closed is still to be read */
            watch(which, EPOLL_CTL_MOD, EPOLLIN);
            return;
        }
        one->sent += (size_t)sent;
    }
}

static void ask(int which, uint32_t number, double due) {
    Connection *one = &connections[which];
    const Request *request = &requests[number % request_count];
    char digits[DIGITS + 1];
    snprintf(digits, sizeof digits, "%0*lu", DIGITS, (first + number) % 100000000ul);
    one->out = with_room(one->out, &one->out_room, request->length);
    memcpy(one->out, request->bytes, request->length);
    for (uint32_t at = 0; at < request->slots; at++) memcpy(one->out + request->slot[at], digits, DIGITS);
    one->length = request->length, one->sent = one->got = 0;
    one->busy = true, one->number = number, one->due = due;
    go_on_sending(which);
}

/* The length of the whole answer, 0 while some of it is missing; `body` is where its body begins. */
static size_t whole(Connection *one, size_t *body, bool *last) {
    one->in[one->got] = 0;
    char *end = strstr(one->in, "\r\n\r\n");
    if (!end) return 0;
    *body = (size_t)(end - one->in) + 4;
    *end = 0;
    const char *length = strcasestr(one->in, "\ncontent-length:");
    *last = strcasestr(one->in, "\nconnection: close") != NULL;
    *end = '\r';
    if (length) {
        size_t size = *body + strtoul(length + 16, NULL, 10);
        return one->got >= size ? size : 0;
    }
    return one->got >= *body + 5 && !memcmp(one->in + one->got - 5, "0\r\n\r\n", 5) ? one->got : 0;
}

static unsigned long labels_in(const char *at, const char *end) {
    unsigned long found = 0;
    for (; (at = memchr(at, '"', (size_t)(end - at))); at++)
        found += end - at > 9 && (!memcmp(at, "\"Positive", 9) || !memcmp(at, "\"Negative", 9) || !memcmp(at, "\"Neutral", 8));
    return found;
}

static void take(int which, size_t body, size_t length) {
    Connection *one = &connections[which];
    const char *text = one->in + body;
    size_t size = length - body;
    one->busy = false;
    if (strncmp(one->in + 8, " 200", 4) || labels_in(text, one->in + length) < labels) {
        if (!failed++) fprintf(stderr, "load: not expected: %.400s\n", one->in);
        return;
    }
    float us = (float)((now() - one->due) * 1e6);
    answered++;
    fwrite(&us, sizeof us, 1, latencies);
    if (answers) {
        uint32_t head[] = {(uint32_t)((first + one->number) % 100000000ul), (uint32_t)size};
        fwrite(head, sizeof head, 1, answers), fwrite(text, 1, size, answers);
    }
}

static void happened(int which, uint32_t events) {
    Connection *one = &connections[which];
    if (!one->connected) {
        int fault = 0;
        getsockopt(one->fd, SOL_SOCKET, SO_ERROR, &fault, &(socklen_t){sizeof fault});
        if (fault || events & (EPOLLERR | EPOLLHUP)) {
            disconnect(which, now() + RETRY_SECONDS);
            return;
        }
        watch(which, EPOLL_CTL_MOD, EPOLLIN);
        one->connected = true, idle[idle_count++] = which;
        return;
    }
    if (events & EPOLLOUT && one->busy) {
        watch(which, EPOLL_CTL_MOD, EPOLLIN);
        go_on_sending(which);
    }
    if (!(events & (EPOLLIN | EPOLLERR | EPOLLHUP))) return;
    one->in = with_room(one->in, &one->in_room, one->got + 65536 + 1);
    ssize_t got = recv(one->fd, one->in + one->got, one->in_room - one->got - 1, 0);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0 || !one->busy) {
        disconnect(which, now());
        return;
    }
    one->got += (size_t)got;
    size_t body = 0, length;
    bool last = false;
    if (!(length = whole(one, &body, &last))) return;
    take(which, body, length);
    if (last) disconnect(which, now());
    else idle[idle_count++] = which;
}

int main(int count, char **given) {
    if (count != 10) {
        fprintf(stderr, "usage: load PORT CONNECTIONS SECONDS RATE LABELS FIRST REQUESTS LATENCIES ANSWERS\n");
        return 2;
    }
    port = atoi(given[1]), open_connections = atoi(given[2]);
    double seconds = atof(given[3]), rate = atof(given[4]);
    labels = strtoul(given[5], NULL, 10), first = strtoul(given[6], NULL, 10);
    if (open_connections < 1 || open_connections > MAX_CONNECTIONS) errno = EINVAL, die(given[2]);
    read_requests(given[7]);
    if (!(latencies = fopen(given[8], "wb"))) die(given[8]);
    if (strcmp(given[9], "-") && !(answers = fopen(given[9], "wb"))) die(given[9]);
    signal(SIGTERM, stop);
    if ((poller = epoll_create1(EPOLL_CLOEXEC)) < 0) die("epoll");
    for (int which = 0; which < open_connections; which++) connections[which].fd = -1;
    puts("begins"), fflush(stdout);

    double start = now(), end = start + seconds, due = start;
    uint32_t number = 0;
    for (;;) {
        double time = now(), wake = end + GRACE_SECONDS;
        if (stopped && end > time) end = time;
        int busy = 0, connected = 0;
        for (int which = 0; which < open_connections; which++) {
            Connection *one = &connections[which];
            if (one->fd < 0 && time >= one->retry_at) connect_it(which);
            if (one->fd < 0 && one->retry_at < wake) wake = one->retry_at;
        }
        while (idle_count && (due = rate > 0 ? start + number / rate : time) < end && due <= time)
            ask(idle[--idle_count], number++, due);
        for (int which = 0; which < open_connections; which++)
            busy += connections[which].busy, connected += connections[which].connected;
        due = rate > 0 ? start + number / rate : time;
        if ((due >= end && !busy) || (stopped && !connected) || time > end + GRACE_SECONDS) break;
        if (idle_count && due < wake) wake = due;
        if (time < end && end < wake) wake = end;
        double wait = wake > time ? wake - time : 0;
        struct timespec limit = {(time_t)wait, (long)((wait - (double)(time_t)wait) * 1e9)};
        struct epoll_event events[EVENTS];
        int found = epoll_pwait2(poller, events, EVENTS, &limit, NULL);
        for (int at = 0; at < found; at++) happened((int)events[at].data.u32, events[at].events);
    }
    for (int which = 0; which < open_connections; which++) broken += connections[which].busy;
    unsigned long unsent = 0;
    if (rate > 0 && due < end) unsent = (unsigned long)((end - due) * rate);
    fclose(latencies);
    if (answers) fclose(answers);
    printf("{\"answered\": %lu, \"failed\": %lu, \"broken\": %lu, \"unsent\": %lu, \"seconds\": %.3f}\n", answered, failed,
           broken, unsent, now() - start);
    return 0;
}
