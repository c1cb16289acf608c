/* The lower bound: a client and a server process that do only the system calls of one Open.
 *
 * usage: pair PID ROUNDS
 * The server pins the process, opens its network namespace and sends it; the client receives and closes it.
 * Prints the user and system CPU time of the server in nanoseconds, and then the time of each round, one per line.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static int open_network_namespace(int pid)
{
	int pidfd = syscall(SYS_pidfd_open, pid, 0);
	char path[64];
	int fd;

	if (pidfd < 0)
		die("pidfd_open");
	snprintf(path, sizeof path, "/proc/%d/ns/net", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		die(path);
	close(pidfd);
	return fd;
}

static void serve(int sock, int pid)
{
	char request[256], control[CMSG_SPACE(sizeof(int))];
	struct epoll_event event = { .events = EPOLLIN };
	int epoll = epoll_create1(EPOLL_CLOEXEC);

	epoll_ctl(epoll, EPOLL_CTL_ADD, sock, &event);
	for (;;) {
		struct iovec part = { request, sizeof request };
		struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control };
		struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
		ssize_t count;
		int fd;

		epoll_wait(epoll, &event, 1, -1);
		count = recv(sock, request, sizeof request, 0);
		if (count <= 0)
			exit(0);
		fd = open_network_namespace(pid);
		rights->cmsg_level = SOL_SOCKET;
		rights->cmsg_type = SCM_RIGHTS;
		rights->cmsg_len = CMSG_LEN(sizeof fd);
		memcpy(CMSG_DATA(rights), &fd, sizeof fd);
		part.iov_len = count;
		if (sendmsg(sock, &message, MSG_NOSIGNAL) < 0)
			exit(0);
		close(fd);
	}
}

static void ask(int sock)
{
	char request[128] = "open", control[CMSG_SPACE(sizeof(int))];
	struct iovec part = { request, sizeof request };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control };
	int fd;

	if (send(sock, request, sizeof request, MSG_NOSIGNAL) < 0)
		die("send");
	if (recvmsg(sock, &message, MSG_CMSG_CLOEXEC) <= 0)
		die("recvmsg");
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
	close(fd);
}

static long nanoseconds(struct timeval time)
{
	return time.tv_sec * 1000000000L + time.tv_usec * 1000L;
}

int main(int argc, char **argv)
{
	struct rusage usage;
	int pair[2], rounds;
	long *times;

	if (argc != 3)
		return 2;
	rounds = atoi(argv[2]);
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		die("socketpair");
	if (fork() == 0) {
		close(pair[0]);
		serve(pair[1], atoi(argv[1]));
	}
	close(pair[1]);
	times = calloc(rounds, sizeof *times);
	if (times == NULL)
		die("calloc");
	for (int round = 0; round < rounds; round++) {
		struct timespec from, to;

		clock_gettime(CLOCK_MONOTONIC, &from);
		ask(pair[0]);
		clock_gettime(CLOCK_MONOTONIC, &to);
		times[round] = (to.tv_sec - from.tv_sec) * 1000000000L + to.tv_nsec - from.tv_nsec;
	}
	close(pair[0]);
	wait(NULL);
	getrusage(RUSAGE_CHILDREN, &usage);
	printf("%ld %ld\n", nanoseconds(usage.ru_utime), nanoseconds(usage.ru_stime));
	for (int round = 0; round < rounds; round++)
		printf("%ld\n", times[round]);
	return 0;
}
