/*
 * The lab's agent inside a guest: what its files share.
 *
 * agent.c          the channel to the lab and the commands that run on its behalf
 * agent_builtin.c  the commands that are part of the agent (put, get, identify ...)
 * agent_ports.c    the virtio-serial ports and the heartbeat
 * agent_init.c     what process 1 does before: modules, mounts, the root file system
 */
#ifndef KPATCHLAB_AGENT_H
#define KPATCHLAB_AGENT_H

#include <stdint.h>
#include <stdnoreturn.h>

#define PROTOCOL_VERSION 1

/* Print a line on the console and power off (process 1) or exit: there is no channel to report on yet. */
noreturn void die(const char *what, const char *name);
/* Whether this process may change the machine: not when it serves as a stand-in for a guest on a host. */
extern int owns_machine;

/* Bring the machine up from the initramfs: ends with the guest's own root as /. */
void init_machine(void);
/* The same in a guest that runs already: a writable root over the one that it has. */
void attach_machine(void);
/* Write a short text to a file; -1 with errno where that fails. */
int write_text(const char *path, const char *text);
/* Make the folders above `path`. */
void make_parents(const char *path);

/* Open the virtio-serial port with this name; it dies where there is none after some seconds. */
int open_port(const char *name);
/* Start to beat on a file descriptor, from every processor, five times a second. */
void start_beats(int fd);

/* Run a builtin in a forked child, with standard input and output being the command's; returns its exit status. */
int builtin(int argc, char **argv);

#endif
