"""The program's standard streams, closed and full ones as well."""

from __future__ import annotations

import contextlib
import errno
import os
import sys

from kpatchlab.errors import HostError

DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG, errno.EBADF, errno.ESTALE})
"""What a disk, a quota or a stream says that takes no more; whatever was written then, it is the host's fault."""


def occupy() -> None:
    """Let no file that is opened later become a standard stream that the program was started without.

    A closed standard output is then one whose writes fail: what a verb prints does not go nowhere in silence.
    """
    for number, how in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, how)  # the lowest that is free: this one
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - as long as the program
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115


def drop_output(number: int = 1) -> None:
    """Let what is still in the buffer go nowhere, else it is tried again when the interpreter ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), number)


def finish() -> None:
    """Write what is still in the buffers; a reader that has gone is no error.

    Raises:
        HostError: standard output takes no more. The buffers are dropped.
    """
    with contextlib.suppress(ValueError):  # a test's stream that is closed already
        try:
            sys.stderr.flush()
        except OSError:  # there is nowhere to say so
            drop_output(2)
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            drop_output()
        except OSError as error:
            drop_output()
            raise HostError(f"cannot write to standard output: {error.strerror}") from None


def as_host_error(error: OSError) -> HostError | None:
    """Return what a write that failed means for people, None where it is no disk's or stream's fault."""
    if error.errno not in DISK_ERRORS:
        return None
    try:
        finish()
    except HostError as output:
        return output
    if error.filename is None:
        return HostError(f"cannot write: {error.strerror}", hint="is a disk full, or read-only?")
    return HostError(f"cannot write {error.filename}: {error.strerror}", hint="is the disk full, or read-only?")
