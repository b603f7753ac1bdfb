/* Echo over TCP or UDP as one writes it in C: one thread, epoll, level-triggered, no copies.
 *
 *     epoll_echo tcp|udp PORT        on 127.0.0.1, until a signal ends it
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { PIECE = 65536, EVENTS = 256, UDP_BUFFER = 4 << 20 };

/* A connection, and what of it was read and could not be written yet. */
struct connection {
    int socket;
    size_t from, to;
    char bytes[PIECE];
};

static int queue;

static void check(int outcome, const char *call) {
    if (outcome < 0) {
        fprintf(stderr, "epoll_echo: %s: %s\n", call, strerror(errno));
        exit(1);
    }
}

static void watch(int operation, int socket, unsigned events, void *what) {
    struct epoll_event event = {.events = events, .data.ptr = what};
    check(epoll_ctl(queue, operation, socket, &event), "epoll_ctl");
}

static void end(struct connection *connection) {
    close(connection->socket);
    free(connection);
}

static void accept_one(int listener) {
    int one = 1, socket = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (socket < 0) return;
    setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct connection *connection = malloc(sizeof *connection);
    if (!connection) abort();
    connection->socket = socket;
    connection->from = connection->to = 0;
    watch(EPOLL_CTL_ADD, socket, EPOLLIN, connection);
}

/* Reads once, if nothing is left over, and writes what there is. */
static void serve(struct connection *connection) {
    int was_full = connection->to > 0;
    if (!was_full) {
        ssize_t count = read(connection->socket, connection->bytes, PIECE);
        if (count < 0 && errno == EAGAIN) return;
        if (count <= 0) return end(connection);
        connection->to = count;
    }
    ssize_t count = write(connection->socket, connection->bytes + connection->from,
                          connection->to - connection->from);
    if (count < 0 && errno != EAGAIN) return end(connection);
    if (count > 0) connection->from += count;
    if (connection->from == connection->to) connection->from = connection->to = 0;
    int is_full = connection->to > 0;
    if (is_full != was_full)
        watch(EPOLL_CTL_MOD, connection->socket, is_full ? EPOLLOUT : EPOLLIN, connection);
}

static void serve_datagrams(int socket) {
    static char bytes[PIECE];
    struct sockaddr_in peer;
    for (;;) {
        socklen_t length = sizeof peer;
        ssize_t count = recvfrom(socket, bytes, sizeof bytes, 0, (void *)&peer, &length);
        if (count < 0) return;
        sendto(socket, bytes, count, 0, (void *)&peer, length);
    }
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: epoll_echo tcp|udp PORT\n");
        return 2;
    }
    int tcp = strcmp(argv[1], "tcp") == 0, one = 1, buffer = UDP_BUFFER;
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons(atoi(argv[2])),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int socket_ = socket(AF_INET, (tcp ? SOCK_STREAM : SOCK_DGRAM) | SOCK_NONBLOCK, 0);
    check(socket_, "socket");
    setsockopt(socket_, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (!tcp) setsockopt(socket_, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof buffer);
    check(bind(socket_, (void *)&address, sizeof address), "bind");
    if (tcp) check(listen(socket_, 1024), "listen");
    check(queue = epoll_create1(0), "epoll_create1");
    watch(EPOLL_CTL_ADD, socket_, EPOLLIN, NULL);

    struct epoll_event events[EVENTS];
    for (;;) {
        int count = epoll_wait(queue, events, EVENTS, -1);
        if (count < 0 && errno != EINTR) check(count, "epoll_wait");
        for (int i = 0; i < count; i++) {
            if (events[i].data.ptr) serve(events[i].data.ptr);
            else if (tcp) accept_one(socket_);
            else serve_datagrams(socket_);
        }
    }
}
