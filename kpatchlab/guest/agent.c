/*
 * The lab's agent inside a guest: process 1 of a guest of the lab's own, or an ordinary program.
 *
 *   /init                    process 1: brings the machine up, then serves
 *   agent --attach           serves in a guest that something else has brought up
 *   agent --fd CTL BEAT      serves on two inherited sockets: a stand-in for a guest, on a host
 *
 * It serves on the virtio-serial port kpatchlab.ctl, and beats on kpatchlab.beat: one byte, the number of the
 * processor, from each processor five times a second. The frames are described in kpatchlab/guest/wire.py.
 *
 * A command ends when its process ends and what its pipes hold at that moment has been sent. A daemon that it
 * left behind is not waited for; what it prints from then on is read and dropped, so that it does not get SIGPIPE.
 */
#define _GNU_SOURCE
#include "agent.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#define MAGIC 0xA5
#define HEADER 12	    /* magic, type, two zeros, id, length of what follows; little endian */
#define FRAME_MAX (1 << 20) /* what the lab may send in one frame */
#define PIECE 32768	    /* what a virtio-serial port takes in one write */
#define EXEC_TTY 1
#define EXEC_BUILTIN 2

struct command {
	struct command *next;
	uint32_t id;
	pid_t pid;	   /* 0 once it has ended and the lab knows */
	int in, out, err;  /* our ends, -1 when closed; with a terminal, in and out are two copies of the master */
	int tty, in_ended;
	char *input;	   /* standard input that did not go through yet */
	size_t input_at, input_size;
};

int owns_machine = 1;
static struct command *commands;
static int ctl = -1;
static sigset_t unblocked;
static unsigned char frame[PIECE], *const frame_data = frame + HEADER;

static uint32_t read32(const unsigned char *p)
{
	return p[0] | p[1] << 8 | p[2] << 16 | (uint32_t)p[3] << 24;
}

static void write32(unsigned char *p, uint32_t value)
{
	for (int i = 0; i < 4; i++)
		p[i] = value >> (8 * i);
}

/* Send `size` bytes of frame_data. */
static void send_filled(int type, uint32_t id, size_t size)
{
	size_t at = 0, whole = HEADER + size;

	frame[0] = MAGIC;
	frame[1] = type;
	write32(frame + 4, id);
	write32(frame + 8, size);
	while (at < whole) {
		ssize_t done = write(ctl, frame + at, whole - at);
		if (done > 0)
			at += done;
		else if (done < 0 && errno == EPIPE)
			usleep(100000); /* the lab's end of the port is closed: a saved guest is between two lives */
		else if (done < 0 && errno != EINTR && errno != EAGAIN)
			die("cannot write to", "kpatchlab.ctl");
	}
}

static void send_frame(int type, uint32_t id, const void *data, size_t size)
{
	memcpy(frame_data, data, size);
	send_filled(type, id, size);
}

static void hello(int type, uint32_t id)
{
	struct utsname names;
	char text[300];

	uname(&names);
	snprintf(text, sizeof text, "%d %s", PROTOCOL_VERSION, names.release);
	send_frame(type, id, text, strlen(text));
}

static void close_end(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

/* Send (or, once the command has ended, drop) up to `limit` bytes of one stream. */
static void pump_output(struct command *c, int *fd, int type, size_t limit)
{
	while (*fd >= 0 && limit) {
		ssize_t got = read(*fd, frame_data, limit < PIECE - HEADER ? limit : PIECE - HEADER);
		if (got < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (got <= 0) { /* a terminal whose last user has gone gives EIO */
			close_end(fd);
			return;
		}
		if (c->pid)
			send_filled(type, c->id, got);
		limit -= got;
	}
}

static void pump_input(struct command *c)
{
	while (c->in >= 0 && c->input_at < c->input_size) {
		ssize_t done = write(c->in, c->input + c->input_at, c->input_size - c->input_at);
		if (done < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (done < 0) { /* it does not read any more */
			close_end(&c->in);
			break;
		}
		c->input_at += done;
	}
	c->input_at = c->input_size = 0;
	if (c->in_ended && !c->tty)
		close_end(&c->in);
}

static void take_input(struct command *c, const char *data, size_t size)
{
	if (!size)
		c->in_ended = 1;
	if (c->input_at) {
		memmove(c->input, c->input + c->input_at, c->input_size -= c->input_at);
		c->input_at = 0;
	}
	if (size && c->in >= 0) {
		c->input = realloc(c->input, c->input_size + size);
		if (!c->input)
			die("no memory for", "standard input");
		memcpy(c->input + c->input_size, data, size);
		c->input_size += size;
	}
	pump_input(c);
}

static void child(char **words, uint32_t argc, const char *cwd, char **env, int flags, const int fds[3])
{
	setsid();
	for (int i = 0; i < 3; i++)
		if (dup2(fds[i], i) < 0)
			_exit(126);
	if (flags & EXEC_TTY)
		ioctl(0, TIOCSCTTY, 0);
	for (int sig = 1; sig < NSIG; sig++)
		signal(sig, SIG_DFL);
	sigprocmask(SIG_SETMASK, &unblocked, NULL);
	if (owns_machine)
		write_text("/proc/self/oom_score_adj", "0");
	if (flags & EXEC_BUILTIN) {
		/* No exec closes our ends for it, and with those of its own input open it would never see the end. */
		if (syscall(SYS_close_range, 3, ~0u, 0))
			for (int fd = 3; fd < 1024; fd++) /* before Linux 5.9 */
				close(fd);
		_exit(builtin(argc, words));
	}
	if (chdir(cwd)) {
		dprintf(2, "kpatchlab agent: cannot enter %s: %s\n", cwd, strerror(errno));
		_exit(126);
	}
	environ = env;
	execvp(words[0], words);
	dprintf(2, "kpatchlab agent: cannot execute %s: %s\n", words[0], strerror(errno));
	_exit(errno == ENOENT ? 127 : 126);
}

/* Make the streams of a command: ours are `mine`, the child's are `its`. */
static int make_streams(int tty, const unsigned char *size, int mine[3], int its[3])
{
	int in[2], out[2], err[2];

	if (tty) {
		struct winsize window = {.ws_row = size[0] | size[1] << 8, .ws_col = size[2] | size[3] << 8};
		mine[0] = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
		if (mine[0] < 0 || grantpt(mine[0]) || unlockpt(mine[0]))
			return -1;
		ioctl(mine[0], TIOCSWINSZ, &window);
		its[0] = its[1] = its[2] = open(ptsname(mine[0]), O_RDWR | O_NOCTTY | O_CLOEXEC);
		mine[1] = fcntl(mine[0], F_DUPFD_CLOEXEC, 0);
		mine[2] = -1;
		return its[0];
	}
	if (pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC) || pipe2(err, O_CLOEXEC))
		return -1;
	mine[0] = in[1], its[0] = in[0];
	mine[1] = out[0], its[1] = out[1];
	mine[2] = err[0], its[2] = err[1];
	return 0;
}

static void not_started(uint32_t id, const char *why)
{
	char text[300];
	unsigned char status[5] = {0, 126};

	snprintf(text, sizeof text, "kpatchlab agent: %s: %s\n", why, strerror(errno));
	send_frame('E', id, text, strlen(text));
	send_frame('D', id, status, sizeof status);
}

/* EXEC: flags, rows and columns, number of arguments and of variables, then strings: cwd, arguments, variables. */
static void start(uint32_t id, unsigned char *data, size_t size)
{
	uint32_t flags, argc, envc, count = 0;
	int mine[3] = {-1, -1, -1}, its[3] = {-1, -1, -1};
	char *at = (char *)data + 16, *end = (char *)data + size, *cwd = at;

	errno = EBADMSG;
	if (size < 20 || end[-1])
		return not_started(id, "malformed command");
	flags = read32(data), argc = read32(data + 8), envc = read32(data + 12);
	if (argc < 1 || argc > size || envc > size)
		return not_started(id, "malformed command");
	char **words = calloc(argc + envc + 3, sizeof *words);
	struct command *c = calloc(1, sizeof *c);
	if (!words || !c)
		die("no memory for", "a command");
	for (at += strlen(at) + 1; at < end && count < argc + envc; at += strlen(at) + 1, count++)
		words[count + (count >= argc)] = at; /* a NULL stays after the arguments, and one after the variables */
	if (count != argc + envc || make_streams(flags & EXEC_TTY, data + 4, mine, its) < 0) {
		not_started(id, "cannot start a command");
		free(words);
		free(c);
		return;
	}
	pid_t pid = fork();
	if (!pid)
		child(words, argc, cwd, words + argc + 1, flags, its);
	for (int i = 0; i < 3; i++)
		if (its[i] >= 0 && (!i || its[i] != its[0]))
			close(its[i]);
	free(words);
	for (int i = 0; i < 3; i++)
		if (mine[i] >= 0)
			fcntl(mine[i], F_SETFL, fcntl(mine[i], F_GETFL) | O_NONBLOCK);
	*c = (struct command){commands, id, pid, mine[0], mine[1], mine[2], flags & EXEC_TTY, 0, NULL, 0, 0};
	if (pid < 0) {
		for (int i = 0; i < 3; i++)
			close_end(&mine[i]);
		free(c);
		return not_started(id, "cannot fork");
	}
	commands = c;
}

/* Signal a command with everything that descends from it or shares its session. */
static void kill_tree(pid_t root, int sig)
{
	enum { MOST = 8192 };
	static struct { pid_t pid, parent; int hit; } all[MOST];
	int count = 0, more = 1;
	DIR *proc = opendir("/proc");

	for (struct dirent *entry; proc && count < MOST && (entry = readdir(proc));) {
		char path[300], text[600];
		pid_t pid = atoi(entry->d_name), parent, group, session;
		snprintf(path, sizeof path, "/proc/%s/stat", entry->d_name);
		int fd = pid > 1 ? open(path, O_RDONLY | O_CLOEXEC) : -1;
		if (fd < 0)
			continue;
		ssize_t got = read(fd, text, sizeof text - 1);
		close(fd);
		text[got > 0 ? got : 0] = 0;
		char *rest = strrchr(text, ')');
		if (!rest || sscanf(rest + 1, " %*c %d %d %d", &parent, &group, &session) != 3)
			continue;
		all[count].pid = pid, all[count].parent = parent;
		all[count++].hit = pid == root || session == root;
	}
	if (proc)
		closedir(proc);
	while (more) {
		more = 0;
		for (int i = 0; i < count; i++)
			for (int j = 0; !all[i].hit && j < count; j++)
				if (all[j].hit && all[j].pid == all[i].parent)
					all[i].hit = more = 1;
	}
	for (int i = 0; i < count; i++)
		if (all[i].hit)
			kill(all[i].pid, sig);
	kill(root, sig);
}

static void handle(int type, uint32_t id, unsigned char *data, size_t size)
{
	struct command *c = commands;

	if (type == 'P')
		return hello('P', id);
	if (type == 'X')
		return start(id, data, size);
	while (c && (c->id != id || !c->pid))
		c = c->next;
	if (!c)
		return; /* it has just ended */
	if (type == 'I')
		take_input(c, (char *)data, size);
	else if (type == 'K' && size == 4)
		kill_tree(c->pid, read32(data));
	else if (type == 'W' && size == 4 && c->tty) {
		struct winsize window = {.ws_row = data[0] | data[1] << 8, .ws_col = data[2] | data[3] << 8};
		ioctl(c->out, TIOCSWINSZ, &window);
	}
}

static void receive(void)
{
	static unsigned char buffer[HEADER + FRAME_MAX];
	static size_t filled;
	ssize_t got = read(ctl, buffer + filled, sizeof buffer - filled);
	size_t at = 0;

	if (got < 0 && (errno == EINTR || errno == EAGAIN))
		return;
	if (got <= 0) {
		if (!owns_machine)
			exit(0);
		usleep(100000); /* the lab's end is closed: it will be back, or the machine goes with it */
		return;
	}
	filled += got;
	while (filled - at >= HEADER) {
		size_t size = read32(buffer + at + 8);
		errno = EBADMSG;
		if (buffer[at] != MAGIC || size > FRAME_MAX)
			die("malformed frame on", "kpatchlab.ctl");
		if (filled - at < HEADER + size)
			break;
		handle(buffer[at + 1], read32(buffer + at + 4), buffer + at + HEADER, size);
		at += HEADER + size;
	}
	memmove(buffer, buffer + at, filled -= at);
}

static void ended(struct command *c, int status)
{
	unsigned char text[5] = {WIFSIGNALED(status)};
	int left = 0;

	if (c->out >= 0 && !ioctl(c->out, FIONREAD, &left))
		pump_output(c, &c->out, 'O', left);
	if (c->err >= 0 && !ioctl(c->err, FIONREAD, &left))
		pump_output(c, &c->err, 'E', left);
	for (int i = 0; c->tty && c->out >= 0 && i < 20; i++, usleep(10000))
		pump_output(c, &c->out, 'O', FRAME_MAX); /* a terminal's last bytes come by way of a kernel thread */
	write32(text + 1, WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
	send_frame('D', c->id, text, sizeof text);
	c->pid = 0;
	close_end(&c->in);
	if (c->tty)
		close_end(&c->out);
}

static void reap(int signals)
{
	struct signalfd_siginfo info;
	int status;

	while (read(signals, &info, sizeof info) > 0) {}
	for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;)
		for (struct command *c = commands; c; c = c->next)
			if (c->pid == pid)
				ended(c, status);
	for (struct command **link = &commands; *link;) {
		struct command *c = *link;
		if (c->pid || c->out >= 0 || c->err >= 0) {
			link = &c->next;
			continue;
		}
		*link = c->next;
		free(c->input);
		free(c);
	}
}

static noreturn void serve(int signals)
{
	static struct pollfd fds[2 + 3 * 1024];

	for (;;) {
		int count = 2, pumped = 0;
		fds[0] = (struct pollfd){ctl, POLLIN, 0};
		fds[1] = (struct pollfd){signals, POLLIN, 0};
		for (struct command *c = commands; c && count < (int)(sizeof fds / sizeof *fds) - 3; c = c->next) {
			fds[count++] = (struct pollfd){c->input_at < c->input_size ? c->in : -1, POLLOUT, 0};
			fds[count++] = (struct pollfd){c->out, POLLIN, 0};
			fds[count++] = (struct pollfd){c->err, POLLIN, 0};
		}
		if (poll(fds, count, -1) < 0 && errno != EINTR)
			die("cannot poll", NULL);
		/* Streams first: a command's entry may go in reap, and a new one comes at the list's head in receive. */
		struct command *c = commands;
		for (int i = 2; i < count; i += 3, c = c->next) {
			if (fds[i].revents)
				pump_input(c);
			if (fds[i + 1].revents)
				pump_output(c, &c->out, 'O', PIECE - HEADER);
			if (fds[i + 2].revents)
				pump_output(c, &c->err, 'E', PIECE - HEADER);
			pumped |= fds[i + 1].revents | fds[i + 2].revents;
		}
		if (pumped)
			usleep(1000); /* or each write of a command would wake us up, and be a frame of its own */
		reap(signals); /* each time: an ended command whose daemon closed its pipes goes as well */
		if (fds[0].revents)
			receive();
	}
}

int main(int argc, char **argv)
{
	const struct sched_param high = {.sched_priority = 50};
	int beat = -1;
	sigset_t mask;

	if (argc == 4 && !strcmp(argv[1], "--fd")) {
		owns_machine = 0;
		ctl = atoi(argv[2]);
		beat = atoi(argv[3]);
		fcntl(ctl, F_SETFD, FD_CLOEXEC);
		fcntl(beat, F_SETFD, FD_CLOEXEC);
	} else if (getpid() == 1) {
		init_machine();
	} else if (argc == 2 && !strcmp(argv[1], "--attach")) {
		attach_machine();
	} else {
		dprintf(2, "usage: agent --attach | --fd CTL BEAT\n");
		return 64;
	}
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	sigemptyset(&mask);
	sigaddset(&mask, SIGCHLD);
	sigprocmask(SIG_BLOCK, &mask, &unblocked);
	signal(SIGPIPE, SIG_IGN);
	int signals = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
	if (owns_machine) {
		ctl = open_port("kpatchlab.ctl");
		beat = open_port("kpatchlab.beat");
		/* A guest that is busy, or short of memory, is not to be taken for one that hangs. */
		write_text("/proc/self/oom_score_adj", "-1000");
		mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT);
		sched_setscheduler(0, SCHED_RR | SCHED_RESET_ON_FORK, &high);
	}
	hello('H', 0);
	start_beats(beat);
	serve(signals);
}
