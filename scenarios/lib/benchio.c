/*
 * Direct reads and writes of a file on a mount, or of a disk, for figures: benchio PATH
 *
 * Without a cache in between (O_DIRECT), in calls of 4 KiB to 1 MiB, one after the other: throughput of each, the
 * processor time for each KiB, and the time of one call of 4 KiB. The first round of each kind is warm-up and dropped;
 * what is printed is the median of the others, or the best of them on an emulated processor. What a read returns is
 * compared with what was written: a figure of something else would be worth nothing.
 *
 * The work is done by threads of the kernel as much as by this process, so that what counts as processor time is that
 * of the whole guest: what the host gave it, or, where the host does not tell, the time in which its processors were
 * not idle. Where the other end is in another guest, its work is not in it. With LAB_MODE=instructions the clock counts
 * one instruction as a nanosecond and jumps over whatever time the guest is idle, so that it is the only figure.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "hostclock.h"

enum { LEAST_ROUNDS = 3, MOST_ROUNDS = 9, MOST_S = 8, MOST_BYTES = 8 << 20, LARGEST = 1 << 20 };

static const char *path;
static char *data, *came;
static int number, failed, instructions, emulated, rounds, most_calls;

struct cost { double wall, busy; };

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

/*
 * Return the seconds that all processors together have been idle since boot; -1 where the kernel does not tell.
 *
 * /proc/stat has no more than hundredths of a second, /proc/timer_list nanoseconds. A processor adds to its sum when it
 * ceases to be idle, so that each is visited first. Time in which somebody waits for a disk stands apart, as iowait.
 */
static double idle(void)
{
	double sum = 0, one;
	int found = 0;
	char text[256];
	cpu_set_t all, single;
	FILE *list;

	sched_getaffinity(0, sizeof all, &all);
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
		if (CPU_ISSET(cpu, &all)) {
			CPU_ZERO(&single);
			CPU_SET(cpu, &single);
			sched_setaffinity(0, sizeof single, &single);
		}
	sched_setaffinity(0, sizeof all, &all);
	list = fopen("/proc/timer_list", "r");
	while (list && fgets(text, sizeof text, list))
		if (sscanf(text, " .idle_sleeptime : %lf", &one) == 1 || sscanf(text, " .iowait_sleeptime : %lf", &one) == 1)
			sum += one, found++;
	if (list)
		fclose(list);
	return found ? sum * 1e-9 : -1;
}

/*
 * Processor time: as the host tells it, where it does, and else as much as this guest's processors were not idle. What
 * it takes to find that out is left out of a round, at its beginning and at its end.
 */
static double used(int ending)
{
	double told = instructions ? -1 : host_cpu(), at = now(), rested;

	if (told >= 0)
		return told;
	rested = idle();
	return rested < 0 ? -1 : (ending ? at : now()) * sysconf(_SC_NPROCESSORS_ONLN) - rested;
}

/* Return what a round cost; a wall time of -1 with errno where it failed. */
static struct cost one_round(int reads, size_t size, int calls)
{
	static const struct cost bad = {-1, -1};
	int fd = open(path, O_RDWR | O_CREAT | O_DIRECT, 0600);
	double before = used(0), begin = now(), wall;

	if (fd < 0)
		return bad;
	for (int i = 0; i < calls; i++) {
		ssize_t got = reads ? pread(fd, came, size, i * size) : pwrite(fd, data, size, i * size);
		if (got != (ssize_t)size) {
			errno = got < 0 ? errno : EIO;
			return bad;
		}
		if (reads && memcmp(came, data, size)) {
			errno = EBADMSG;
			return bad;
		}
	}
	if (!reads && fdatasync(fd) < 0)
		return bad;
	wall = now() - begin;
	close(fd);
	return (struct cost){wall, before < 0 ? -1 : used(1) - before};
}

/* The median; on an emulated processor and of counted instructions the least, see bench.c. */
static double typical(double *values, int count)
{
	qsort(values, count, sizeof *values, by_size);
	return values[emulated ? 0 : count / 2];
}

static void transfer(int reads, size_t size)
{
	int calls = (int)(MOST_BYTES / size) < most_calls ? (int)(MOST_BYTES / size) : most_calls;
	const char *way = reads ? "read" : "write";
	double wall[MOST_ROUNDS], busy[MOST_ROUNDS];
	double began = now();
	int told = 1, done = 0;

	/* On a host so busy that a kind takes longer than MOST_S, the rounds that there are must do. */
	for (int i = -1; i < rounds && (i < LEAST_ROUNDS || instructions || now() - began < MOST_S); i++) {
		struct cost cost = one_round(reads, size, calls);
		if (cost.wall < 0) {
			printf("not ok %d %s in calls of %zu KiB: %s\n", ++number, way, size >> 10, strerror(errno));
			failed = 1;
			return;
		}
		told &= cost.busy >= 0;
		if (i >= 0)
			wall[i] = cost.wall, busy[i] = cost.busy, done = i + 1;
	}
	printf("ok %d %s in calls of %zu KiB\n", ++number, way, size >> 10);
	if (told)
		printf("metric cpu:%s:%zuKiB %.6g %s lower\n", way, size >> 10, typical(busy, done) * 1e9 / (calls * size >> 10),
		       instructions ? "instr/KiB" : "ns/KiB");
	if (instructions)
		return;
	printf("metric throughput:%s:%zuKiB %.6g MB/s higher\n", way, size >> 10, calls * size / typical(wall, done) / 1e6);
	if (size == 4096)
		printf("metric latency:%s:4KiB %.6g us lower\n", way, typical(wall, done) / calls * 1e6);
}

int main(int count, char **words)
{
	static const size_t sizes[] = {4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20};
	int kinds = sizeof sizes / sizeof *sizes;
	const char *mode = getenv("LAB_MODE");

	instructions = mode && !strcmp(mode, "instructions");
	emulated = instructions || (getenv("LAB_EMULATED") && *getenv("LAB_EMULATED"));
	rounds = emulated ? MOST_ROUNDS : 5;
	most_calls = emulated && !instructions ? 64 : 256; /* of two guests on a busy host, a call can take 40 ms */
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
