/*
 * The processor time that the host spent on this guest.
 *
 * A guest cannot tell the time in which it ran from the time in which the host let something else run: on a busy host,
 * what it takes for processor time is the clock's. The host knows: a byte written to a port of its own is answered
 * with the processor time of this guest's QEMU, in ns.
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int host_clock_port(void)
{
	char path[300], name[32] = "";
	DIR *ports = opendir("/sys/class/virtio-ports");
	int port = -1;

	for (struct dirent *entry; ports && port < 0 && (entry = readdir(ports));) {
		snprintf(path, sizeof path, "/sys/class/virtio-ports/%s/name", entry->d_name);
		FILE *file = fopen(path, "r");
		if (file && fgets(name, sizeof name, file) && !strncmp(name, "kpatchlab.clock", 15)) {
			snprintf(path, sizeof path, "/dev/%s", entry->d_name);
			port = open(path, O_RDWR | O_CLOEXEC);
		}
		if (file)
			fclose(file);
	}
	if (ports)
		closedir(ports);
	return port;
}

/* Seconds, from any point of time on; -1 where nobody tells. */
static double host_cpu(void)
{
	static int port = -2;
	uint64_t ns;

	if (port == -2)
		port = host_clock_port();
	if (port < 0 || write(port, "?", 1) != 1 || read(port, &ns, sizeof ns) != sizeof ns)
		return -1;
	return ns * 1e-9;
}
