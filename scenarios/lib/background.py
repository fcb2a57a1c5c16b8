"""Servers of scenarios: a set-up script starts one, which goes on in the background once it can be asked.

It leaves its number in server.pid, for `server-end.sh`, and what it prints in server.log among the attachments.
"""

import os


def detach():
    """Go on as a child; the parent ends with success. For a server that listens already."""
    detach_first()()


def detach_first():
    """Go on as a child before there is anything to ask, where that belongs to a process: a keyring, an RDMA device.

    The parent waits for the child to call what is returned, and fails with the child's words where it ends without.
    """
    log_path = os.path.join(os.environ["LAB_ATTACH"], "server.log")
    ready, told = os.pipe()
    if child := os.fork():
        os.close(told)
        if not os.read(ready, 1):
            with open(log_path) as log:
                raise SystemExit(log.read() or "the server ended before it listened")
        with open("server.pid", "w") as file:
            file.write(str(child))
        raise SystemExit
    os.setsid()
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for descriptor in (0, 1, 2):
        os.dup2(log, descriptor)

    def listens():
        os.write(told, b"1")
        os.close(told)

    return listens
