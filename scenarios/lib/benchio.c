/*
 * Direct reads and writes of a file on a mount, or of a disk, for figures: benchio PATH
 *
 * Without a cache in between (O_DIRECT), in calls of 4 KiB to 1 MiB, one after the other: throughput of each, and the
 * time of one call of 4 KiB. The first round of each kind is warm-up and dropped; what is printed is the median of
 * the others. What a read returns is compared with what was written: a figure of something else would be worth nothing.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { ROUNDS = 3, MOST_CALLS = 256, MOST_BYTES = 8 << 20, LARGEST = 1 << 20 };

static const char *path;
static char *data, *came;
static int number, failed;

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec * 1e-9;
}

static int by_size(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

/* Return the seconds of a round, or -1 with errno. */
static double one_round(int reads, size_t size, int calls)
{
	int fd = open(path, O_RDWR | O_CREAT | O_DIRECT, 0600);
	double begin = now();

	if (fd < 0)
		return -1;
	for (int i = 0; i < calls; i++) {
		ssize_t got = reads ? pread(fd, came, size, i * size) : pwrite(fd, data, size, i * size);
		if (got != (ssize_t)size) {
			errno = got < 0 ? errno : EIO;
			return -1;
		}
		if (reads && memcmp(came, data, size)) {
			errno = EBADMSG;
			return -1;
		}
	}
	if (!reads && fdatasync(fd) < 0)
		return -1;
	begin = now() - begin;
	close(fd);
	return begin;
}

static void transfer(int reads, size_t size)
{
	int calls = MOST_BYTES / size < MOST_CALLS ? MOST_BYTES / size : MOST_CALLS;
	const char *way = reads ? "read" : "write";
	double seconds[ROUNDS];

	for (int i = -1; i < ROUNDS; i++) {
		double took = one_round(reads, size, calls);
		if (took < 0) {
			printf("not ok %d %s in calls of %zu KiB: %s\n", ++number, way, size >> 10, strerror(errno));
			failed = 1;
			return;
		}
		if (i >= 0)
			seconds[i] = took;
	}
	qsort(seconds, ROUNDS, sizeof *seconds, by_size);
	printf("ok %d %s in calls of %zu KiB\n", ++number, way, size >> 10);
	printf("metric throughput:%s:%zuKiB %.6g MB/s higher\n", way, size >> 10, calls * size / seconds[ROUNDS / 2] / 1e6);
	if (size == 4096)
		printf("metric latency:%s:4KiB %.6g us lower\n", way, seconds[ROUNDS / 2] / calls * 1e6);
}

int main(int count, char **words)
{
	static const size_t sizes[] = {4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20};
	int kinds = sizeof sizes / sizeof *sizes;

	path = count > 1 ? words[1] : "data";
	setvbuf(stdout, NULL, _IOLBF, 0);
	printf("TAP version 13\n1..%d\n", 2 * kinds);
	if (posix_memalign((void **)&data, 4096, LARGEST) || posix_memalign((void **)&came, 4096, LARGEST))
		return 1;
	for (int i = 0; i < LARGEST; i++)
		data[i] = i * 2654435761u >> 13;
	for (int i = 0; i < kinds; i++) {
		transfer(0, sizes[i]);
		if (getenv("LAB_BREAK"))
			data[17] ^= 1;
		transfer(1, sizes[i]);
	}
	return failed;
}
