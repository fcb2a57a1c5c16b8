/*
 * Loops of splice, sendfile and plain writes over sockets, for figures: bench FAMILY [MIB]
 *
 * FAMILY is unix, tcp, udp, tls (kernel TLS over TCP, sent; the other end takes the records as they are) or alg
 * (AF_ALG, sha256). One file of 1 MiB in memory is sent again and again, in calls of 4 KiB to 1 MiB, MIB MiB a round.
 * The first round of each kind is warm-up, shorter, and dropped; what is printed is the median of the others, or the
 * best of them on an emulated processor and in counted instructions. Bytes are counted, not compared: that data arrives
 * whole is what the other scenarios are for.
 *
 * With LAB_MODE=instructions the clock counts one instruction as a nanosecond, and the units say so; all is done
 * in one process. Otherwise the reader is another process, as it is with anybody's program.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/if_alg.h>
#include <linux/tls.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "hostclock.h"

enum { FILE_SIZE = 1 << 20, MOST_ROUNDS = 9 };
enum way { SENDFILE, SPLICE, WRITE, WAYS };
static const char *const way_name[] = {"sendfile", "splice", "write"};

static const char *family;
static int instructions, emulated, rounds, pings, number, failed;
static size_t round_size;
static int file, pipe_ends[2];
static char *data;

struct cost { double wall, cpu; };

static void die(const char *what)
{
	printf("not ok %d %s: %s: %s\n", ++number, family, what, strerror(errno));
	exit(1);
}

static int check(int got, const char *what)
{
	if (got < 0)
		die(what);
	return got;
}

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec * 1e-9;
}

/* Seconds of the host's processors, where it tells; else what the guest believes to have used. */
static double cpu(void)
{
	struct rusage own, ended;
	double told = instructions ? 0 : host_cpu();
	if (told >= 0)
		return told;
	getrusage(RUSAGE_SELF, &own);
	getrusage(RUSAGE_CHILDREN, &ended);
	return own.ru_utime.tv_sec + own.ru_stime.tv_sec + ended.ru_utime.tv_sec + ended.ru_stime.tv_sec +
	       (own.ru_utime.tv_usec + own.ru_stime.tv_usec + ended.ru_utime.tv_usec + ended.ru_stime.tv_usec) * 1e-6;
}

/* A connected pair over IPv4's loopback device. */
static void inet_pair(int type, int ends[2])
{
	struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t size = sizeof at;
	int far = check(socket(AF_INET, type, 0), "socket");

	check(bind(far, (void *)&at, sizeof at), "bind");
	check(getsockname(far, (void *)&at, &size), "getsockname");
	ends[0] = check(socket(AF_INET, type, 0), "socket");
	if (type == SOCK_DGRAM) {
		ends[1] = far;
		check(connect(ends[0], (void *)&at, size), "connect");
		check(getsockname(ends[0], (void *)&at, &size), "getsockname");
		check(connect(far, (void *)&at, size), "connect");
		return;
	}
	check(listen(far, 1), "listen");
	check(connect(ends[0], (void *)&at, size), "connect");
	ends[1] = check(accept(far, NULL, NULL), "accept");
	close(far);
}

static void offload_tls(int fd)
{
	struct tls12_crypto_info_aes_gcm_128 keys = {
		.info = {.version = TLS_1_3_VERSION, .cipher_type = TLS_CIPHER_AES_GCM_128}, .key = "0123456789abcdef",
	};
	check(setsockopt(fd, SOL_TCP, TCP_ULP, "tls", 3), "TCP_ULP");
	check(setsockopt(fd, 282 /* SOL_TLS */, TLS_TX, &keys, sizeof keys), "TLS_TX");
}

static void hash_pair(int ends[2])
{
	struct sockaddr_alg name = {.salg_family = AF_ALG, .salg_type = "hash", .salg_name = "sha256"};
	int listener = check(socket(AF_ALG, SOCK_SEQPACKET, 0), "AF_ALG");

	check(bind(listener, (void *)&name, sizeof name), "sha256");
	ends[0] = check(accept(listener, NULL, NULL), "accept");
	ends[1] = check(dup(ends[0]), "dup");
	close(listener);
}

static void connected(int ends[2])
{
	if (!strcmp(family, "unix"))
		check(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), "socketpair");
	else if (!strcmp(family, "alg"))
		hash_pair(ends);
	else
		inet_pair(strcmp(family, "udp") ? SOCK_STREAM : SOCK_DGRAM, ends);
	if (!strcmp(family, "tls"))
		offload_tls(ends[0]);
}

/* Send `size` bytes of the file from `from` on. */
static void send_once(int to, enum way way, size_t from, size_t size)
{
	loff_t offset = from;

	for (size_t sent = 0; sent < size;) {
		ssize_t got;
		if (way == SENDFILE)
			got = sendfile(to, file, &offset, size - sent);
		else if (way == WRITE)
			got = write(to, data + from + sent, size - sent);
		else {
			size_t filled = check(splice(file, &offset, pipe_ends[1], NULL, size - sent, 0), "splice in"), left = filled;
			while (left) {
				got = check(splice(pipe_ends[0], NULL, to, NULL, left, 0), "splice out");
				left -= got;
			}
			got = filled;
		}
		sent += check(got, way_name[way]);
	}
}

/*
 * Both ends in turn in one process: datagrams must not be dropped, a hash is asked for after each call, and where
 * instructions are counted nobody's turn may be the scheduler's choice (of two processes, 6.12 gave figures that
 * differed by 1 to 3 % from fork to fork; of one, by 0.5 % at the most in rounds a fourth as long).
 */
static size_t in_turn(int ends[2], enum way way, size_t size, size_t total)
{
	static char buffer[1 << 16];
	size_t came = 0, from = 0;

	for (size_t done = 0; done < total; done += size, from = (from + size) % FILE_SIZE) {
		send_once(ends[0], way, from, size);
		if (!strcmp(family, "alg"))
			came += check(read(ends[1], buffer, 32), "digest") == 32 ? size : 0;
		else
			for (size_t end = came + size; came < end;)
				came += check(recv(ends[1], buffer, sizeof buffer, 0), "recv");
	}
	return came;
}

/* One round in a pair of its own. */
static struct cost one_round(enum way way, size_t size, size_t total)
{
	int ends[2], status = 0, stream = !instructions && strcmp(family, "udp") && strcmp(family, "alg");
	size_t wanted = total - (getenv("LAB_BREAK") ? size : 0), from = 0;
	struct cost begin, cost;
	pid_t reader = 0;

	connected(ends);
	if (!stream)
		for (int i = 0; i < 2; i++) {
			int room = 8 << 20;
			setsockopt(ends[i], SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof room);
			setsockopt(ends[i], SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room);
		}
	begin.cpu = cpu(); /* takes long: it asks the host */
	begin.wall = now();
	if (!stream) {
		if (in_turn(ends, way, size, wanted) < total)
			status = 1;
	} else {
		reader = check(fork(), "fork");
		if (!reader) {
			static char buffer[1 << 18];
			size_t came = 0;
			ssize_t got;
			close(ends[0]);
			while ((got = read(ends[1], buffer, sizeof buffer)) > 0)
				came += got;
			_exit(got < 0 || came < total);
		}
		close(ends[1]);
		ends[1] = -1;
		for (size_t done = 0; done < wanted; done += size, from = (from + size) % FILE_SIZE)
			send_once(ends[0], way, from, size);
		shutdown(ends[0], SHUT_WR);
		waitpid(reader, &status, 0);
	}
	cost.wall = now() - begin.wall;
	cost.cpu = cpu() - begin.cpu;
	close(ends[0]);
	if (ends[1] >= 0)
		close(ends[1]);
	if (status)
		cost.wall = -1;
	return cost;
}

static int by_size(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

/*
 * The median; of counted instructions the least, since whatever else the guest does can only add to them. Emulated, as
 * well: what a busy host does to a round (the guest's timer ticks while it waits, caches are cold when it goes on) can
 * only make it longer, and of short rounds some go undisturbed.
 */
static double typical(double *values, int count)
{
	qsort(values, count, sizeof *values, by_size);
	return values[emulated ? 0 : count / 2];
}

static const char *size_name(size_t size)
{
	static char name[32];
	snprintf(name, sizeof name, size < 1 << 20 ? "%zuKiB" : "%zuMiB", size < 1 << 20 ? size >> 10 : size >> 20);
	return name;
}

static void transfer(enum way way, size_t size)
{
	double wall[MOST_ROUNDS], busy[MOST_ROUNDS];
	int bad = 0;

	for (int i = -1; i < rounds; i++) {
		struct cost cost = one_round(way, size, i < 0 && round_size > 4 << 20 ? 4 << 20 : round_size);
		bad |= cost.wall < 0;
		if (i >= 0)
			wall[i] = cost.wall, busy[i] = cost.cpu;
	}
	printf("%sok %d %s in calls of %zu KiB%s\n", bad ? "not " : "", ++number, way_name[way], size >> 10,
	       bad ? ": bytes are missing" : "");
	failed |= bad;
	if (bad)
		return;
	printf("metric throughput:%s:%s %.6g %s higher\n", way_name[way], size_name(size),
	       round_size / typical(wall, rounds) / 1e6, instructions ? "B/kinstr" : "MB/s");
	if (!instructions) /* there it says the same, less exactly: the kernel's accounting differs by up to 1 % */
		printf("metric cpu:%s:%s %.6g ns/KiB lower\n", way_name[way], size_name(size),
		       typical(busy, rounds) * 1e9 / (round_size >> 10));
}

static void pass_on(int from, int to)
{
	char buffer[64];
	check(recv(from, buffer, sizeof buffer, MSG_WAITALL) == sizeof buffer ? 0 : -1, "recv");
	check(send(to, buffer, sizeof buffer, 0), "send");
}

/* 64 bytes there and back, between two processes; where instructions are counted, in one, without the scheduler. */
static void latency(void)
{
	double each[MOST_ROUNDS], busy[MOST_ROUNDS];
	char buffer[64] = "ping";
	int ends[2], status;

	for (int i = -1; i < rounds; i++) {
		connected(ends);
		pid_t echo = instructions ? 0 : check(fork(), "fork");
		if (!instructions && !echo) {
			for (int n = 0; n < pings; n++)
				pass_on(ends[1], ends[1]);
			_exit(0);
		}
		double used = cpu(), begin = now();
		for (int n = 0; n < pings; n++) {
			check(send(ends[0], buffer, sizeof buffer, 0), "ping");
			if (instructions)
				pass_on(ends[1], ends[1]);
			check(recv(ends[0], buffer, sizeof buffer, MSG_WAITALL), "pong");
		}
		double took = now() - begin;
		if (echo) {
			waitpid(echo, &status, 0);
			failed |= status != 0;
		}
		if (i >= 0)
			each[i] = took / pings * 1e9, busy[i] = (cpu() - used) / pings * 1e9;
		close(ends[0]);
		close(ends[1]);
	}
	printf("ok %d 64 bytes there and back\nmetric latency:64B %.6g %s lower\n", ++number, typical(each, rounds),
	       instructions ? "instr" : "ns");
	if (!instructions)
		printf("metric cpu:latency:64B %.6g ns lower\n", typical(busy, rounds));
}

int main(int count, char **words)
{
	static const size_t stream[] = {4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20}, datagram[] = {4 << 10, 16 << 10, 32 << 10};
	const char *mode = getenv("LAB_MODE");

	family = count > 1 ? words[1] : "unix";
	instructions = mode && !strcmp(mode, "instructions");
	emulated = instructions || (getenv("LAB_EMULATED") && *getenv("LAB_EMULATED"));
	rounds = instructions ? 3 : emulated ? MOST_ROUNDS : 5;
	pings = instructions ? 4000 : emulated ? 400 : 2000;
	int ciphers = !strcmp(family, "tls") || !strcmp(family, "alg"); /* a byte takes 40 to 100 times as long */
	/* Emulated, a round of 4 MiB takes some 20 ms. */
	int mib = ciphers ? (emulated ? 1 : 4) : instructions ? 8 : emulated ? 4 : 32;
	round_size = (size_t)(count > 2 ? atoi(words[2]) : mib) << 20;
	setvbuf(stdout, NULL, _IOLBF, 0);

	int udp = !strcmp(family, "udp"), answers = strcmp(family, "alg") && strcmp(family, "tls");
	const size_t *sizes = udp ? datagram : stream;
	int kinds = udp ? sizeof datagram / sizeof *datagram : sizeof stream / sizeof *stream;

	printf("TAP version 13\n1..%d\n", kinds * WAYS + !!answers);
	file = check(memfd_create("data", 0), "memfd_create");
	check(ftruncate(file, FILE_SIZE), "ftruncate");
	data = mmap(NULL, FILE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, file, 0);
	if (data == MAP_FAILED)
		die("mmap");
	for (int i = 0; i < FILE_SIZE; i++)
		data[i] = i * 2654435761u >> 13;
	check(pipe(pipe_ends), "pipe");
	check(fcntl(pipe_ends[0], F_SETPIPE_SZ, FILE_SIZE), "F_SETPIPE_SZ");
	for (int i = 0; i < kinds; i++)
		for (enum way way = 0; way < WAYS; way++)
			transfer(way, sizes[i]);
	if (answers)
		latency();
	return failed;
}
