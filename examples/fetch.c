/* Fetch a page from the loopback of a container, without any privilege and without any library.
 *
 *     cc -o fetch examples/fetch.c
 *     ./fetch web 8080 /metrics
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

/* Make one call, and return the descriptor that came with the reply: the caller's to close. */
static int call(const char *path, const char *text)
{
    static char reply[65537];                      /* a message has at most 65536 bytes, and a NUL */
    union { char bytes[CMSG_SPACE(sizeof(int))]; struct cmsghdr aligned; } control;
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    size_t length = 0;
    int fd = -1, broker = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    if (broker < 0 || connect(broker, (struct sockaddr *)&address, sizeof address) < 0)
        fail(path);
    if (send(broker, text, strlen(text) + 1, MSG_NOSIGNAL) < 0)       /* the NUL ends the message */
        fail("send");
    do {                                           /* the descriptor comes with the first byte of the reply */
        struct iovec part = { reply + length, sizeof reply - length };
        struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1,
            .msg_control = control.bytes, .msg_controllen = sizeof control.bytes };
        ssize_t size = recvmsg(broker, &message, MSG_CMSG_CLOEXEC);
        struct cmsghdr *header = size > 0 ? CMSG_FIRSTHDR(&message) : NULL;
        if (size < 0)
            fail("recvmsg");
        if (size == 0) {
            fputs("the broker closed the connection\n", stderr);
            exit(1);
        }
        if (header && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS)
            memcpy(&fd, CMSG_DATA(header), sizeof fd);
        length += size;
    } while (length < sizeof reply && reply[length - 1] != '\0');
    close(broker);
    if (fd < 0) {                                  /* an error has no descriptor */
        fprintf(stderr, "%.*s\n", (int)length, reply);
        exit(1);
    }
    return fd;
}

int main(int count, char **arguments)
{
    const char *address = getenv("NSBROKER_ADDRESS");
    struct sockaddr_in inside = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
    char text[1024], page[4096];
    ssize_t size;
    int fd;

    if (count != 4 || strpbrk(arguments[1], "\"\\")) {
        fputs("usage: fetch CONTAINER PORT PATH\n", stderr);
        return 2;
    }
    snprintf(text, sizeof text, "{\"method\":\"io.nsbroker.Broker.OpenSocket\",\"parameters\":"
        "{\"target\":{\"container\":\"%.255s\"},\"family\":\"inet\",\"type\":\"stream\"}}", arguments[1]);
    fd = call(address && !strncmp(address, "unix:", 5) ? address + 5 : "/run/nsbroker/io.nsbroker.Broker", text);
    inside.sin_port = htons(atoi(arguments[2]));
    if (connect(fd, (struct sockaddr *)&inside, sizeof inside) < 0)
        fail("connect");
    if (dprintf(fd, "GET %s HTTP/1.0\r\n\r\n", arguments[3]) < 0)
        fail("send");
    while ((size = read(fd, page, sizeof page)) > 0)
        fwrite(page, 1, size, stdout);
    if (size < 0)
        fail("read");
    close(fd);
    return 0;
}
