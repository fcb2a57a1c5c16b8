"""One night at a time in a results directory; a second one is told who holds it, and since when.

Nothing is written into the lock file: the kernel knows who holds it (/proc/locks), also after a kill -9.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from kpatchlab.errors import HostError, UserError

FILE = ".nightly.lock"


@contextlib.contextmanager
def held(root: Path) -> Iterator[None]:
    """Hold the lock of a results directory.

    Raises:
        UserError: another night holds it.
        HostError: the directory cannot be written.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(root / FILE, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise HostError(f"cannot lock {root}: {error.strerror}") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            who = _holder(os.fstat(descriptor).st_ino)
            raise UserError(f"another night is running in {root}: {who}", hint="wait for it, or stop it") from None
        except OSError as error:  # a network file system without locks: two nights could not be told apart
            hint = "a results directory on a local disk can be locked"
            raise HostError(f"cannot lock {root}: {error.strerror}", hint=hint) from None
        yield
    finally:
        os.close(descriptor)


def _holder(inode: int) -> str:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/locks").read_text().splitlines():
            words = line.split()
            if "FLOCK" in words and "->" not in words and words[5].rpartition(":")[2] == str(inode) and words[4] != "0":
                return _process(int(words[4]))
    return "a process of another container"


def _process(number: int) -> str:
    stat = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
    ticks = int(stat[19]) / os.sysconf("SC_CLK_TCK")
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks
    since = datetime.fromtimestamp(time.time() - age, UTC)
    owner = Path(f"/proc/{number}").stat().st_uid
    return f"process {number} of user {owner}, since {since:%Y-%m-%d %H:%M:%S} UTC"
