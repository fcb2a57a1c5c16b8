/*
 * The virtio-serial ports: how they are found, and the heartbeat.
 */
#define _GNU_SOURCE
#include "agent.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static int beat;

/* Find the device node of a virtio-serial port by its name; udev would have made a link. */
int open_port(const char *name)
{
	char path[400], text[64];

	for (int try = 0; try < 1000; try++, usleep(10000)) {
		DIR *dir = opendir("/sys/class/virtio-ports");
		for (struct dirent *entry; dir && (entry = readdir(dir));) {
			snprintf(path, sizeof path, "/sys/class/virtio-ports/%s/name", entry->d_name);
			int fd = open(path, O_RDONLY | O_CLOEXEC);
			if (fd < 0)
				continue;
			ssize_t got = read(fd, text, sizeof text - 1);
			close(fd);
			text[got > 0 ? got : 0] = 0;
			text[strcspn(text, "\n")] = 0;
			snprintf(path, sizeof path, "/dev/%s", entry->d_name);
			if (!strcmp(text, name) && (fd = open(path, O_RDWR | O_CLOEXEC)) >= 0) {
				closedir(dir);
				return fd;
			}
		}
		if (dir)
			closedir(dir);
	}
	errno = ENODEV;
	die("no port", name);
}

static void *beat_on(void *argument)
{
	const struct timespec pause = {.tv_nsec = 200000000};
	unsigned char number = (uintptr_t)argument;

	while (write(beat, &number, 1) == 1 || owns_machine)
		nanosleep(&pause, NULL);
	return NULL;
}

/* One thread a processor, each bound to its own: a processor that hangs with interrupts off is then told apart. */
void start_beats(int fd)
{
	beat = fd;
	long count = owns_machine ? sysconf(_SC_NPROCESSORS_ONLN) : 1;

	for (long i = 0; i < count && i < 64; i++) {
		const struct sched_param highest = {.sched_priority = 90};
		pthread_attr_t attributes;
		pthread_t thread;
		cpu_set_t set;

		pthread_attr_init(&attributes);
		pthread_attr_setstacksize(&attributes, 65536);
		if (owns_machine) {
			CPU_ZERO(&set);
			CPU_SET(i, &set);
			pthread_attr_setaffinity_np(&attributes, sizeof set, &set);
			pthread_attr_setinheritsched(&attributes, PTHREAD_EXPLICIT_SCHED);
			pthread_attr_setschedpolicy(&attributes, SCHED_RR);
			pthread_attr_setschedparam(&attributes, &highest);
		}
		if (pthread_create(&thread, &attributes, beat_on, (void *)(uintptr_t)i))
			die("cannot start", "a heartbeat");
	}
}
