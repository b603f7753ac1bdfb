/* UDP echo with many datagrams a call, as fast as C has it.
 *
 *     udp_echo mmsg|gso PORT [ADDRESS]     on 127.0.0.1 or another, until a signal ends it
 *
 * mmsg: recvmmsg and sendmmsg.  gso: these, and each message of them is many datagrams (UDP_GRO,
 * UDP_SEGMENT).
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif

enum { MESSAGES = 64, PIECE = 65536, UDP_BUFFER = 4 << 20 };

static char bytes[MESSAGES][PIECE];
static struct sockaddr_in peers[MESSAGES];
static struct iovec pieces[MESSAGES];
static struct mmsghdr messages[MESSAGES];
static union {
    char bytes[CMSG_SPACE(sizeof(int))];
    struct cmsghdr aligned;
} controls[MESSAGES];

static void check(int outcome, const char *call) {
    if (outcome < 0) {
        fprintf(stderr, "udp_echo: %s: %s\n", call, strerror(errno));
        exit(1);
    }
}

/* The size of the datagrams that were joined into a message; 0: it is one. */
static int joined(struct msghdr *message) {
    int size = 0;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c))
        if (c->cmsg_level == IPPROTO_UDP && c->cmsg_type == UDP_GRO)
            memcpy(&size, CMSG_DATA(c), sizeof size);
    return size;
}

/* Has the message, when sent, cut into datagrams of the size. */
static void cut(struct msghdr *message, uint16_t size) {
    message->msg_controllen = CMSG_SPACE(sizeof size);
    struct cmsghdr *c = CMSG_FIRSTHDR(message);
    c->cmsg_level = IPPROTO_UDP;
    c->cmsg_type = UDP_SEGMENT;
    c->cmsg_len = CMSG_LEN(sizeof size);
    memcpy(CMSG_DATA(c), &size, sizeof size);
}

int main(int argc, char **argv) {
    if (argc != 3 && argc != 4) {
        fprintf(stderr, "usage: udp_echo mmsg|gso PORT [ADDRESS]\n");
        return 2;
    }
    int gso = strcmp(argv[1], "gso") == 0, one = 1, buffer = UDP_BUFFER;
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons(atoi(argv[2])),
                                  .sin_addr.s_addr = inet_addr(argc == 4 ? argv[3] : "127.0.0.1")};
    int socket_ = socket(AF_INET, SOCK_DGRAM, 0);
    check(socket_, "socket");
    setsockopt(socket_, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof buffer);
    if (gso) check(setsockopt(socket_, IPPROTO_UDP, UDP_GRO, &one, sizeof one), "UDP_GRO");
    check(bind(socket_, (void *)&address, sizeof address), "bind");

    for (int i = 0; i < MESSAGES; i++) {
        messages[i].msg_hdr.msg_iov = &pieces[i];
        messages[i].msg_hdr.msg_iovlen = 1;
        messages[i].msg_hdr.msg_name = &peers[i];
    }
    for (int received = MESSAGES;;) {
        for (int i = 0; i < received; i++) {
            pieces[i] = (struct iovec){bytes[i], PIECE};
            messages[i].msg_hdr.msg_namelen = sizeof peers[i];
            messages[i].msg_hdr.msg_control = gso ? controls[i].bytes : NULL;
            messages[i].msg_hdr.msg_controllen = gso ? sizeof controls[i].bytes : 0;
        }
        received = recvmmsg(socket_, messages, MESSAGES, MSG_WAITFORONE, NULL);
        if (received < 0 && errno == EINTR) received = 0;
        check(received, "recvmmsg");
        for (int i = 0; i < received; i++) {
            struct msghdr *message = &messages[i].msg_hdr;
            int size = gso ? joined(message) : 0;
            pieces[i].iov_len = messages[i].msg_len;
            if (size > 0 && (unsigned)size < messages[i].msg_len) cut(message, size);
            else message->msg_control = NULL, message->msg_controllen = 0;
        }
        for (int sent = 0; sent < received;) {
            int count = sendmmsg(socket_, messages + sent, received - sent, 0);
            sent += count > 0 ? count : 1; /* what cannot be sent is lost */
        }
    }
}
