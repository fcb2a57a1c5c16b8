/*
 * A disk that takes no more, for one process: preloaded, it fails every change of what is below FULL_DISK_BELOW from
 * the FULL_DISK_AFTER-th on with FULL_DISK_ERROR. How many there were is added to the file FULL_DISK_COUNT at the end.
 * EROFS fails all of them, as a disk that turned read-only does; other errors leave what needs no room (unlink, rename).
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char below[PATH_MAX], count_file[PATH_MAX];
static long after;
static int error;
static atomic_long changes;
static pid_t owner;

__attribute__((constructor)) static void begin(void)
{
	snprintf(below, sizeof below, "%s", getenv("FULL_DISK_BELOW") ?: "/nowhere");
	snprintf(count_file, sizeof count_file, "%s", getenv("FULL_DISK_COUNT") ?: "");
	after = atol(getenv("FULL_DISK_AFTER") ?: "0");
	error = atoi(getenv("FULL_DISK_ERROR") ?: "28");
	owner = getpid();
	unsetenv("LD_PRELOAD"); /* children have a disk of their own */
}

__attribute__((destructor)) static void end(void)
{
	if (owner == getpid() && *count_file) {
		FILE *out = fopen(count_file, "w");
		if (out) {
			fprintf(out, "%ld\n", atomic_load(&changes));
			fclose(out);
		}
	}
}

/* Count a change of a path; nonzero with errno set where it fails. */
static int fails(const char *path, int needs_room)
{
	if (getpid() != owner || strncmp(path, below, strlen(below)))
		return 0;
	if (error != EROFS && !needs_room)
		return 0;
	if (atomic_fetch_add(&changes, 1) + 1 < after || !after)
		return 0;
	errno = error;
	return 1;
}

static int fails_at(int dir, const char *name, int needs_room)
{
	char link[64], path[2 * PATH_MAX];
	ssize_t n = 0;

	if (*name != '/') {
		snprintf(link, sizeof link, dir == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", dir);
		n = readlink(link, path, PATH_MAX);
		if (n < 0)
			return 0;
		path[n++] = '/';
	}
	snprintf(path + n, sizeof path - n, "%s", name);
	return fails(path, needs_room);
}

static int fails_fd(int fd)
{
	char link[64], path[PATH_MAX];
	int before = errno;

	snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	ssize_t n = readlink(link, path, sizeof path - 1);
	errno = before;
	if (n < 0)
		return 0;
	path[n] = 0;
	return fails(path, 1);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define OPEN(name) \
	int name(const char *path, int flags, ...) \
	{ \
		va_list rest; \
		va_start(rest, flags); \
		mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
		va_end(rest); \
		int makes = (flags & O_CREAT) && access(path, F_OK); \
		errno = 0; \
		if ((flags & (O_WRONLY | O_RDWR)) && (makes || error == EROFS) && fails_at(AT_FDCWD, path, 1)) \
			return -1; \
		return REAL(name)(path, flags, mode); \
	}
OPEN(open)
OPEN(open64)

#define OPENAT(name) \
	int name(int dir, const char *path, int flags, ...) \
	{ \
		va_list rest; \
		va_start(rest, flags); \
		mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
		va_end(rest); \
		int makes = (flags & O_CREAT) && faccessat(dir, path, F_OK, 0); \
		errno = 0; \
		if ((flags & (O_WRONLY | O_RDWR)) && (makes || error == EROFS) && fails_at(dir, path, 1)) \
			return -1; \
		return REAL(name)(dir, path, flags, mode); \
	}
OPENAT(openat)
OPENAT(openat64)

#define ON_FD(type, name, parameters, arguments) \
	type name parameters \
	{ \
		if (fails_fd(fd)) \
			return -1; \
		return REAL(name) arguments; \
	}
ON_FD(ssize_t, write, (int fd, const void *data, size_t size), (fd, data, size))
ON_FD(ssize_t, pwrite, (int fd, const void *data, size_t size, off_t at), (fd, data, size, at))
ON_FD(ssize_t, pwrite64, (int fd, const void *data, size_t size, off64_t at), (fd, data, size, at))
ON_FD(ssize_t, writev, (int fd, const struct iovec *data, int count), (fd, data, count))
ON_FD(int, ftruncate, (int fd, off_t size), (fd, size))
ON_FD(int, ftruncate64, (int fd, off64_t size), (fd, size))
ON_FD(int, fsync, (int fd), (fd))
ON_FD(int, fdatasync, (int fd), (fd))
ON_FD(ssize_t, sendfile, (int fd, int in, off_t *at, size_t size), (fd, in, at, size))
ON_FD(ssize_t, sendfile64, (int fd, int in, off64_t *at, size_t size), (fd, in, at, size))

#define ON_PATH(name, parameters, dir, path, room, arguments) \
	int name parameters \
	{ \
		if (fails_at(dir, path, room)) \
			return -1; \
		return REAL(name) arguments; \
	}
ON_PATH(mkdir, (const char *path, mode_t mode), AT_FDCWD, path, 1, (path, mode))
ON_PATH(symlink, (const char *to, const char *path), AT_FDCWD, path, 1, (to, path))
ON_PATH(link, (const char *from, const char *path), AT_FDCWD, path, 1, (from, path))
ON_PATH(linkat, (int d, const char *from, int dir, const char *path, int flags), dir, path, 1, (d, from, dir, path, flags))
ON_PATH(rename, (const char *from, const char *path), AT_FDCWD, path, 0, (from, path))
ON_PATH(unlink, (const char *path), AT_FDCWD, path, 0, (path))
ON_PATH(unlinkat, (int dir, const char *path, int flags), dir, path, 0, (dir, path, flags))
ON_PATH(rmdir, (const char *path), AT_FDCWD, path, 0, (path))
ON_PATH(chmod, (const char *path, mode_t mode), AT_FDCWD, path, 0, (path, mode))
