"""Setting a kernel's targets up through configfs."""

import ctypes
import os

_MOUNT = "/sys/kernel/config"


def folder(name):
    """The folder of a subsystem that is loaded, as in folder("nvmet"); mounts configfs where nobody has.

    Raises:
        SystemExit: the kernel has none of that name.
    """
    if not os.path.ismount(_MOUNT):
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mount(b"configfs", _MOUNT.encode(), b"configfs", 0, None):
            raise SystemExit(f"mounting configfs: {os.strerror(ctypes.get_errno())}")
    path = os.path.join(_MOUNT, name)
    if not os.path.isdir(path):
        raise SystemExit(f"{path} is not there: is the module loaded?")
    return path


def put(path, value):
    """Write an attribute; the kernel's refusal names it."""
    try:
        with open(path, "w") as file:
            file.write(str(value))
    except OSError as error:
        raise SystemExit(f"writing {value} to {path}: {error.strerror}") from None
