/*
 * Commands that are part of the agent. Each runs in a forked child with the streams, the deadline and the exit
 * status of any other command, so that one that blocks (a file on a dead mount) does not block the agent.
 */
#define _GNU_SOURCE
#include "agent.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/random.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static char chunk[65536];

static int fail(const char *what, const char *name)
{
	dprintf(2, "%s %s: %s\n", what, name, strerror(errno));
	return 1;
}

static int write_all(int fd, const char *data, size_t size)
{
	while (size) {
		ssize_t done = write(fd, data, size);
		if (done < 0 && errno == EINTR)
			continue;
		if (done < 0)
			return -1;
		data += done;
		size -= done;
	}
	return 0;
}

/* get PATH LIMIT: the file's first LIMIT bytes; sysfs and procfs files have no size, so it is read to its end. */
static int get(const char *path, unsigned long long limit)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return fail("cannot open", path);
	while (limit) {
		ssize_t got = read(fd, chunk, limit < sizeof chunk ? limit : sizeof chunk);
		if (got < 0)
			return fail("cannot read", path);
		if (!got)
			return 0;
		if (write_all(1, chunk, got))
			return fail("cannot send", path);
		limit -= got;
	}
	return 0;
}

/* put: files from standard input, each "MODE SIZE PATH\0" (octal, decimal) and its bytes. */
static int put(void)
{
	static char head[4200]; /* its last byte stays 0 */
	char path[4096];
	unsigned mode;
	unsigned long long size;

	for (;;) {
		size_t n = 0;
		int c;
		while (n < sizeof head - 1 && (c = getchar_unlocked()) != EOF && (head[n++] = c)) {}
		if (!n)
			return 0;
		if (sscanf(head, "%o %llu %4095[^\n]", &mode, &size, path) != 3) {
			dprintf(2, "malformed head of a file\n");
			return 1;
		}
		/* The path is taken whole, a line feed in it included. */
		snprintf(path, sizeof path, "%s", strchr(strchr(head, ' ') + 1, ' ') + 1);
		make_parents(path);
		int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);
		if (fd < 0)
			return fail("cannot create", path);
		while (size) {
			size_t got = fread(chunk, 1, size < sizeof chunk ? size : sizeof chunk, stdin);
			if (!got)
				return fail("too few bytes for", path);
			if (write_all(fd, chunk, got))
				return fail("cannot write", path);
			size -= got;
		}
		fchmod(fd, mode); /* past the umask; a file of procfs refuses, and rightly */
		if (close(fd))
			return fail("cannot write", path);
	}
}

static int set_link(const char *device, const char *mac, const char *address)
{
	struct ifreq request = {0};
	struct sockaddr_in *in = (struct sockaddr_in *)&request.ifr_addr;
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), bits = 24;
	char host[64], *slash;

	snprintf(request.ifr_name, IFNAMSIZ, "%s", device);
	if (*mac) {
		unsigned char *b = (unsigned char *)request.ifr_hwaddr.sa_data;
		request.ifr_hwaddr.sa_family = ARPHRD_ETHER;
		if (sscanf(mac, "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx", b, b + 1, b + 2, b + 3, b + 4, b + 5) != 6)
			return errno = EINVAL, fail("cannot read the address", mac);
		if (ioctl(fd, SIOCSIFHWADDR, &request))
			return fail("cannot set the hardware address of", device);
	}
	if (*address) {
		snprintf(host, sizeof host, "%s", address);
		if ((slash = strchr(host, '/'))) {
			bits = atoi(slash + 1);
			*slash = 0;
		}
		in->sin_family = AF_INET;
		if (inet_pton(AF_INET, host, &in->sin_addr) != 1 || bits < 1 || bits > 32)
			return errno = EINVAL, fail("cannot read the address", address);
		if (ioctl(fd, SIOCSIFADDR, &request))
			return fail("cannot set the address of", device);
		in->sin_addr.s_addr = htonl(0xffffffffu << (32 - bits));
		if (ioctl(fd, SIOCSIFNETMASK, &request))
			return fail("cannot set the netmask of", device);
	}
	if (ioctl(fd, SIOCGIFFLAGS, &request))
		return fail("no device", device);
	request.ifr_flags |= IFF_UP;
	return ioctl(fd, SIOCSIFFLAGS, &request) ? fail("cannot bring up", device) : 0;
}

/* Two guests resumed from one saved guest have one random generator's state until each is given its own seed. */
static int reseed(const char *hex)
{
	struct {
		struct rand_pool_info info;
		unsigned char data[64];
	} pool = {0};
	int fd = open("/dev/urandom", O_RDWR | O_CLOEXEC), n = 0;

	for (; n < (int)sizeof pool.data && sscanf(hex + 2 * n, "%2hhx", pool.data + n) == 1; n++) {}
	pool.info.buf_size = n;
	pool.info.entropy_count = 8 * n;
	if (fd < 0 || ioctl(fd, RNDADDENTROPY, &pool))
		return fail("cannot seed", "/dev/urandom");
	ioctl(fd, RNDRESEEDCRNG); /* since 4.14; an older kernel reseeds by itself within minutes */
	return 0;
}

/* identify DEVICE HOSTNAME MAC ADDRESS MACHINE-ID SEED-IN-HEX UNIX-NANOSECONDS; what is "" is left as it is. */
static int identify(char **a)
{
	if (*a[1] && (sethostname(a[1], strlen(a[1])) < 0))
		return fail("cannot set the host name", a[1]);
	if (*a[1]) {
		int fd = open("/etc/hostname", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
		dprintf(fd, "%s\n", a[1]);
	}
	if (*a[4]) {
		int fd = open("/etc/machine-id", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0444);
		if (fd < 0 || dprintf(fd, "%s\n", a[4]) < 0)
			return fail("cannot write", "/etc/machine-id");
	}
	if (*a[5] && reseed(a[5]))
		return 1;
	if (*a[6]) {
		long long ns = atoll(a[6]);
		struct timespec now = {.tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000};
		if (clock_settime(CLOCK_REALTIME, &now))
			return fail("cannot set the", "clock");
	}
	return *a[2] || *a[3] ? set_link(a[0], a[2], a[3]) : 0;
}

/* When a process started, in clock ticks since the boot: field 22 of proc_pid_stat(5). 0: it is gone. */
static unsigned long long started(int pid)
{
	char name[64], *end = NULL;
	ssize_t got = -1;

	snprintf(name, sizeof name, "/proc/%d/stat", pid);
	int fd = open(name, O_RDONLY | O_CLOEXEC);
	if (fd >= 0) {
		got = read(fd, chunk, sizeof chunk - 1);
		close(fd);
	}
	if (got > 0) {
		chunk[got] = 0;
		end = strrchr(chunk, ')'); /* a program's name may hold blanks and brackets */
	}
	for (int field = 2; end && field < 22; field++)
		end = strchr(end + 1, ' ');
	return end ? strtoull(end, NULL, 10) : 0;
}

/*
 * Send SIGKILL to the processes that started after the agent; returns to how many. The agent is process 1, or the
 * grandchild of one that brought the machine up and turns it off when the agent ends. Kernel threads have no program.
 */
static int kill_later(void)
{
	DIR *proc = opendir("/proc");
	struct dirent *entry;
	char link[64], program[2];
	int killed = 0;
	unsigned long long agent = started(getppid());

	while (proc && (entry = readdir(proc))) {
		int pid = atoi(entry->d_name);
		if (pid < 2 || pid == getpid() || started(pid) <= agent)
			continue;
		snprintf(link, sizeof link, "/proc/%d/exe", pid);
		if (readlink(link, program, sizeof program) > 0 && !kill(pid, SIGKILL))
			killed++;
	}
	if (proc)
		closedir(proc);
	return killed;
}

/* settle: end the scripts' processes, half a second at most, and wait for a grace period of RCU. */
static int settle(void)
{
	for (int tries = 25; tries && kill_later(); tries--)
		usleep(20000);
	syscall(SYS_membarrier, 1 /* MEMBARRIER_CMD_GLOBAL: synchronize_rcu() */, 0, 0);
	return 0;
}

/* look keep|drop FILE...: drop the caches, then of each file that there is "\0PATH\0" and its bytes. */
static int look(char **paths)
{
	if (!strcmp(*paths++, "drop"))
		write_text("/proc/sys/vm/drop_caches", "7"); /* 3 without a word in the log */
	for (; *paths; paths++) {
		int fd = open(*paths, O_RDONLY | O_CLOEXEC);
		ssize_t got;
		if (fd < 0)
			continue;
		if (write_all(1, "", 1) || write_all(1, *paths, strlen(*paths) + 1))
			return fail("cannot send", *paths);
		while ((got = read(fd, chunk, sizeof chunk)) > 0)
			if (write_all(1, chunk, got))
				return fail("cannot send", *paths);
		close(fd);
	}
	return 0;
}

int builtin(int argc, char **argv)
{
	if (!strcmp(argv[0], "get") && argc == 3)
		return get(argv[1], strtoull(argv[2], NULL, 10));
	if (!strcmp(argv[0], "put") && argc == 1)
		return put();
	errno = EPERM;
	if (!owns_machine)
		return fail("refused on a host:", argv[0]);
	if (!strcmp(argv[0], "identify") && argc == 8)
		return identify(argv + 1);
	if (!strcmp(argv[0], "settle") && argc == 1)
		return settle();
	if (!strcmp(argv[0], "look") && argc > 1)
		return look(argv + 1);
	if (!strcmp(argv[0], "sysrq") && argc == 2)
		return write_text("/proc/sysrq-trigger", argv[1]) ? fail("cannot write", "sysrq-trigger") : 0;
	if (!strcmp(argv[0], "poweroff"))
		return sync(), reboot(RB_POWER_OFF);
	errno = EINVAL;
	return fail("no such builtin:", argv[0]);
}
