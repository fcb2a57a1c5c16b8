"""splice, tee, vmsplice and sendfile as the kernel has them, and what tests of them share.

Python's os module has no vmsplice and no tee, and its splice and sendfile begin again after a signal: a call that
was interrupted cannot be told from one that was not.  These here raise InterruptedError as the kernel says it.
"""

import ctypes
import fcntl
import os
import select
import signal
import socket
import struct
import traceback

import datafile
import ktap
import sources

NONBLOCK, MORE, GIFT = 2, 4, 8
"""Flags SPLICE_F_* of splice, tee and vmsplice."""
_SETPIPE_SZ = 1031
_SIOCOUTQNSD = 0x894B

_libc = ctypes.CDLL(None, use_errno=True)
_offset_p = ctypes.POINTER(ctypes.c_int64)
_PROTOTYPES = {
    "splice": (ctypes.c_int, _offset_p, ctypes.c_int, _offset_p, ctypes.c_size_t, ctypes.c_uint),
    "tee": (ctypes.c_int, ctypes.c_int, ctypes.c_size_t, ctypes.c_uint),
    "vmsplice": (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint),
    "sendfile64": (ctypes.c_int, ctypes.c_int, _offset_p, ctypes.c_size_t),
    "fallocate64": (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64),
}
for _name, _types in _PROTOTYPES.items():
    getattr(_libc, _name).argtypes = _types
    getattr(_libc, _name).restype = ctypes.c_ssize_t


class _Vector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def _call(name, *arguments):
    done = getattr(_libc, name)(*arguments)
    if done < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return done


def splice(source, target, count, flags=0, offset=None):
    """Move up to `count` bytes from one descriptor to another, one of them a pipe; `offset` is the source's."""
    if offset is None:
        return _call("splice", source, None, target, None, count, flags)
    place = ctypes.c_int64(offset)
    moved = _call("splice", source, ctypes.byref(place), target, None, count, flags)
    return _behind("splice", offset, moved, place.value)


def tee(source, target, count, flags=0):
    """Copy up to `count` bytes from one pipe to another and leave them in the first."""
    return _call("tee", source, target, count, flags)


def address(memory):
    """Where memory (a writable memoryview) is."""
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def vmsplice(pipe, memory, flags=0, *, stays=True):
    """Put memory (a writable memoryview) into a pipe, or fill it from the pipe's reading end; returns how much.

    `stays`: what is put there is not written to until the check's end, and has to be the same then.
    """
    given = fcntl.fcntl(pipe, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY
    if given and stays and not flags & GIFT:
        sources.memory(memory)
    return _call("vmsplice", pipe, ctypes.byref(_Vector(address(memory), len(memory))), 1, flags)


def sendfile(sock, file, offset, count):
    """Send up to `count` bytes of a file from `offset` on; returns how many went."""
    place = ctypes.c_int64(offset)
    return _behind("sendfile", offset, _call("sendfile64", sock, file, ctypes.byref(place), count), place.value)


def _behind(call, offset, done, place):
    """Return `done`; the offset that the kernel leaves stands behind what it took, also where that is a part."""
    if place != offset + done:
        raise AssertionError(f"{call} took {done} bytes from {offset} on and leaves the offset at {place}")
    return done


def punch_hole(file, offset, count):
    """Turn a part of a file into a hole (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)."""
    _call("fallocate64", file, 3, offset, count)


class Pipe:
    """A pipe with its two ends `reader` and `writer`; closed at the end of a `with`."""

    def __init__(self, size=None):
        self.reader, self.writer = os.pipe()
        if size:
            fcntl.fcntl(self.writer, _SETPIPE_SZ, size)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self.reader)
        os.close(self.writer)

    def drain(self, sock, count, flags=0):
        """Splice `count` bytes that are in the pipe into a socket."""
        while count:
            count -= splice(self.reader, sock.fileno(), count, flags)


def pair(kind, deadline_s, buffer=None):
    """Two connected stream sockets, kind "unix" or "tcp" (on lo); `buffer` limits what they hold."""
    if kind == "unix":
        ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        for end in ends:
            _limit(end, buffer)
    else:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
            _limit(listener, buffer)  # what it accepts inherits it
            listener.bind(("127.0.0.1", 0))
            listener.listen(1)
            near = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            _limit(near, buffer)
            near.connect(listener.getsockname())
            ends = near, listener.accept()[0]
    return [datafile.patient(end, deadline_s) for end in ends]


def _limit(sock, buffer):
    if buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)


def not_sent_yet(sock):
    """How many bytes of a TCP socket have not been sent once (SIOCOUTQNSD)."""
    return struct.unpack("i", fcntl.ioctl(sock, _SIOCOUTQNSD, bytes(4)))[0]


def in_child(function, *arguments, deadline_s):
    """Call a function in a child of ours, which is killed when it is over its deadline; returns what it returns.

    The value must be text or None.  What the function raises is raised here, as an AssertionError.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        for descriptor in (1, 2):  # or whoever reads these would wait for the child as well
            os.dup2(os.open("/dev/null", os.O_WRONLY), descriptor)
        os.write(writer, _outcome(function, arguments).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb", buffering=0) as answer:
        if not select.select([answer], [], [], deadline_s)[0]:
            os.kill(child, signal.SIGKILL)  # it is not waited for: a call may be beyond killing
            raise AssertionError(f"no end within {deadline_s:g} s: a call hangs")
        verdict, _, text = answer.read(65536).decode().partition(" ")
    os.waitpid(child, 0)
    if verdict != "ok":
        raise AssertionError(text or "the child died without a word")
    return text


def _outcome(function, arguments):
    try:
        return f"ok {ktap.call(function, *arguments) or ''}"
    except AssertionError as error:
        return f"no {error}"
    except Exception as error:
        line = traceback.extract_tb(error.__traceback__)[-1]
        return f"no {error} in {line.name}, {os.path.basename(line.filename)}:{line.lineno}"
