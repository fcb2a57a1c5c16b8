/*
 * What process 1 does before it listens: load the boot modules (a distribution's kernel has its drivers as
 * modules), mount the root image read-only with a tmpfs over it, and move there. Nothing of the host is
 * mounted, so that a guest can be saved and resumed. In a guest that something else has brought up, the same
 * is done on top of what is there.
 */
#define _GNU_SOURCE
#include "agent.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

noreturn void die(const char *what, const char *name)
{
	int log = open("/dev/kmsg", O_WRONLY | O_CLOEXEC);

	dprintf(log >= 0 ? log : 2, "kpatchlab agent: fatal: %s%s%s: %s\n", what, name ? " " : "", name ? name : "",
		strerror(errno));
	if (getpid() == 1 && owns_machine) {
		sync();
		reboot(RB_POWER_OFF);
	}
	_exit(71);
}

int write_text(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	ssize_t done;

	if (fd < 0)
		return -1;
	done = write(fd, text, strlen(text));
	close(fd);
	return done < 0 ? -1 : 0;
}

void make_parents(const char *path)
{
	char part[4096];

	snprintf(part, sizeof part, "%s", path);
	for (char *slash = strchr(part + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
		*slash = 0;
		mkdir(part, 0755);
		*slash = '/';
	}
}

/* Mount something that every kernel has or may lack; what must be there is checked by the caller. */
static int try_mount(const char *type, const char *at, unsigned long flags, const char *options)
{
	make_parents(at);
	mkdir(at, 0755);
	return mount(type, at, type, flags, options);
}

static void load_boot_modules(void)
{
	char name[512], path[600];
	FILE *order = fopen("/boot-modules/order", "re");

	if (!order)
		return;
	while (fgets(name, sizeof name, order)) {
		name[strcspn(name, "\r\n")] = 0;
		if (!*name)
			continue;
		snprintf(path, sizeof path, "/boot-modules/%s", name);
		int fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) < 0 && errno != EEXIST))
			dprintf(2, "kpatchlab agent: boot module %s: %s\n", name, strerror(errno));
		close(fd);
	}
	fclose(order);
}

/* Find the virtio disk with this serial number; its node's path goes to `node`. */
static int find_disk(const char *serial, char *node, size_t size)
{
	DIR *dir = opendir("/sys/block");
	int found = 0;

	for (struct dirent *entry; dir && !found && (entry = readdir(dir));) {
		char path[300], text[32] = "";
		snprintf(path, sizeof path, "/sys/block/%.200s/serial", entry->d_name);
		int fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			continue;
		if (read(fd, text, sizeof text - 1) < 0)
			text[0] = 0;
		close(fd);
		text[strcspn(text, "\n")] = 0;
		found = !strcmp(text, serial);
		if (found)
			snprintf(node, size, "/dev/%.40s", entry->d_name);
	}
	if (dir)
		closedir(dir);
	return found;
}

static void mount_image(const char *node, const char *at)
{
	static const char *const types[] = {"erofs", "squashfs", "ext4", NULL};

	mkdir(at, 0755);
	for (int i = 0; types[i]; i++)
		if (!mount(node, at, types[i], MS_RDONLY, NULL))
			return;
	die("cannot mount", node);
}

static void wait_for_disk(const char *serial, char *node, size_t size)
{
	for (int i = 0; !find_disk(serial, node, size); i++) {
		if (i == 1000)
			errno = ENODEV, die("no disk with serial number", serial);
		usleep(10000); /* probing may be asynchronous */
	}
}

/* Mount `lower` with a tmpfs over it, /dev, /proc and /sys in it, and the modules if they have a disk, on root/. */
static void assemble_root(const char *lower, unsigned long how)
{
	static const char *const kept[] = {"/dev", "/proc", "/sys", NULL};
	char node[64], text[100];

	if (try_mount("tmpfs", "over", 0, "mode=755"))
		die("cannot mount", "tmpfs");
	mkdir("over/up", 0755);
	mkdir("over/work", 0755);
	mkdir("root", 0755);
	snprintf(text, sizeof text, "lowerdir=%s,upperdir=over/up,workdir=over/work", lower);
	if (mount("overlay", "root", "overlay", 0, text))
		die("cannot mount", "overlay");
	if (find_disk("modules", node, sizeof node)) {
		mount_image(node, "modules");
		make_parents("root/usr/lib/modules/");
		/* The image holds lib/modules/RELEASE, or RELEASE at its top. */
		if (mount("modules/lib/modules", "root/usr/lib/modules", NULL, MS_BIND, NULL) &&
		    mount("modules", "root/usr/lib/modules", NULL, MS_BIND, NULL))
			die("cannot mount", "modules");
	}
	for (int i = 0; kept[i]; i++) {
		snprintf(text, sizeof text, "root%s", kept[i]);
		mkdir(text, 0755);
		if (mount(kept[i], text, NULL, how, NULL))
			die("cannot mount", kept[i]);
	}
	if (chdir("root"))
		die("cannot enter", "root");
}

static void mount_rest(void)
{
	try_mount("devpts", "/dev/pts", 0, "ptmxmode=666,mode=620");
	try_mount("tmpfs", "/dev/shm", MS_NOSUID | MS_NODEV, "mode=1777");
	try_mount("mqueue", "/dev/mqueue", 0, NULL);
	try_mount("hugetlbfs", "/dev/hugepages", 0, NULL);
	try_mount("tmpfs", "/run", MS_NOSUID | MS_NODEV, "mode=755");
	try_mount("tmpfs", "/tmp", MS_NOSUID | MS_NODEV, "mode=1777");
	try_mount("tmpfs", "/lab", 0, "mode=755");
	mkdir("/run/lock", 01777);
	mkdir("/tmp/lab", 0755);
	mkdir("/lab/attach", 0755);
	mount("debugfs", "/sys/kernel/debug", "debugfs", 0, NULL);
	mount("tracefs", "/sys/kernel/tracing", "tracefs", 0, NULL);
	mount("configfs", "/sys/kernel/config", "configfs", 0, NULL);
	mount("securityfs", "/sys/kernel/security", "securityfs", 0, NULL);
	mount("cgroup2", "/sys/fs/cgroup", "cgroup2", 0, NULL);
	mount("bpf", "/sys/fs/bpf", "bpf", 0, NULL);
	/* What udev would have made. */
	if (symlink("/proc/self/fd", "/dev/fd") || symlink("/proc/self/fd/0", "/dev/stdin") ||
	    symlink("/proc/self/fd/1", "/dev/stdout") || symlink("/proc/self/fd/2", "/dev/stderr"))
		errno = 0; /* they are there */
}

static void loopback_up(void)
{
	struct ifreq request = {.ifr_name = "lo"};
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return;
	if (!ioctl(fd, SIOCGIFFLAGS, &request)) {
		request.ifr_flags |= IFF_UP;
		ioctl(fd, SIOCSIFFLAGS, &request);
	}
	close(fd);
}

/* Give the first network card the name that it has where no udev renames it. */
static void name_card(void)
{
	struct ifreq request = {.ifr_newname = "eth0"};
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	DIR *dir = opendir("/sys/class/net");

	for (struct dirent *entry; dir && (entry = readdir(dir));) {
		char path[300];
		snprintf(path, sizeof path, "/sys/class/net/%.200s/device", entry->d_name);
		if (access(path, F_OK)) /* not a card: lo, a tunnel */
			continue;
		snprintf(request.ifr_name, IFNAMSIZ, "%.15s", entry->d_name);
		ioctl(fd, SIOCSIFNAME, &request);
		break;
	}
	if (dir)
		closedir(dir);
	close(fd);
}

static void settle(void)
{
	mount_rest();
	loopback_up();
	/* An oops is to be seen and reported with the guest still there; only a panic ends it. */
	write_text("/proc/sys/kernel/panic_on_oops", "0");
	write_text("/proc/sys/kernel/sysrq", "1");
	setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 1);
}

void init_machine(void)
{
	char node[64];

	umask(022);
	try_mount("proc", "/proc", MS_NOSUID | MS_NOEXEC | MS_NODEV, NULL);
	try_mount("sysfs", "/sys", MS_NOSUID | MS_NOEXEC | MS_NODEV, NULL);
	if (try_mount("devtmpfs", "/dev", 0, "mode=755") && errno != EBUSY)
		die("cannot mount", "devtmpfs");
	int console = open("/dev/console", O_RDWR | O_NOCTTY);
	for (int fd = 0; console >= 0 && fd < 3; fd++)
		dup2(console, fd);
	if (console > 2)
		close(console);
	load_boot_modules();
	wait_for_disk("root", node, sizeof node);
	mount_image(node, "image");
	assemble_root("image", MS_MOVE);
	if (mount(".", "/", NULL, MS_MOVE, NULL) || chroot(".") || chdir("/"))
		die("cannot enter", "root");
	settle();
}

void attach_machine(void)
{
	umask(022);
	if (try_mount("tmpfs", "/run/kpatchlab", 0, "mode=755") || chdir("/run/kpatchlab"))
		die("cannot mount", "/run/kpatchlab");
	assemble_root("/", MS_BIND | MS_REC);
	if (chroot(".") || chdir("/"))
		die("cannot enter", "root");
	name_card();
	settle();
}
