"""A node of a DLM cluster of two, without corosync and dlm_controld: configfs, uevents and the lockspaces' devices.

Value blocks are hexadecimal text here, so that everything fits into JSON: the client gives the server's node orders.
"""

import os
import select
import socket
import struct
import sys
import time
import zlib

sys.path.insert(0, os.environ.get("LAB_LIB", "/lab/lib"))
import configfs

SERVER, CLIENT = 1, 2
DEADLINE_S = 30 * float(os.environ.get("LAB_SCALE", "1"))
VALUE_BYTES = 32

NL, PR, EX = 0, 3, 5
NOQUEUE, CANCEL, CONVERT, VALBLK, IVVALBLK = 1, 2, 4, 8, 0x20
VALNOTVALID = 2
ECANCEL, EUNLOCK = 0x10001, 0x10002

_LOCK, _UNLOCK, _CREATE, _REMOVE = 1, 2, 4, 5
_FORCE = 2
_NETLINK_KOBJECT_UEVENT = 15
_HEAD = struct.Struct("=3IBB2x")
_PARAMS = struct.Struct("=BBHIIIQQ5Q32s")
_RESULT = struct.Struct("=3II3QiIB7xQB3xI")
_SMALLEST = _HEAD.size + _PARAMS.size


def request(name, mode, flags=0, value=""):
    """A new lock."""
    return [_LOCK, name, 0, mode, flags, value]


def convert(lock, mode, flags=0, value=""):
    """Another mode for a lock; to NL, with VALBLK: writes the value block."""
    return [_LOCK, "", lock, mode, flags | CONVERT, value]


def unlock(lock, flags=0, value=""):
    """Give a lock up; with CANCEL: give up waiting for it."""
    return [_UNLOCK, "", lock, 0, flags, value]


def _ask(command, rest):
    """What is written to a device of DLM."""
    data = _HEAD.pack(6, 0, 0, command, 1) + rest
    return data + bytes(max(0, _SMALLEST - len(data)))


class Node:
    """This guest."""

    def __init__(self, number):
        self.number = number
        self.root = configfs.folder("dlm")
        self.devices, self.minors, self.creators = {}, {}, {}
        self.tag = 0
        self.answers = {}
        addresses = {SERVER: os.environ["LAB_SERVER"], CLIENT: os.environ["LAB_CLIENT"]}
        cluster = os.path.join(self.root, "cluster")
        os.mkdir(cluster)
        configfs.put(f"{cluster}/recover_timer", 1)  # seconds until a question that nobody answered is asked again
        for other, address in addresses.items():
            folder = f"{cluster}/comms/{other}"
            os.mkdir(folder)
            configfs.put(f"{folder}/nodeid", other)
            if other == number:
                configfs.put(f"{folder}/local", 1)
            # A struct sockaddr_storage, which the kernel takes in one write only.
            data = struct.pack("@HH4s120x", socket.AF_INET, 0, socket.inet_aton(address))
            with open(f"{folder}/addr", "wb", buffering=0) as file:
                file.write(data)
        self.events = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _NETLINK_KOBJECT_UEVENT)
        self.events.bind((0, 1))

    def members(self, space, numbers):
        """Write down which nodes have this lockspace."""
        nodes = f"{self.root}/cluster/spaces/{space}/nodes"
        if not os.path.isdir(nodes):
            os.mkdir(os.path.dirname(nodes))
        for gone in set(map(int, os.listdir(nodes))) - set(numbers):
            os.rmdir(f"{nodes}/{gone}")
        for number in numbers:
            if not os.path.isdir(f"{nodes}/{number}"):
                os.mkdir(f"{nodes}/{number}")
                configfs.put(f"{nodes}/{number}/nodeid", number)

    def stop(self, space):
        """Hold all locks of the lockspace, before the other node joins or leaves it.

        A node that joins would take one that goes on for recovered, and never learn of its locks.
        """
        configfs.put(f"/sys/kernel/dlm/{space}/control", 0)

    def start(self, space, numbers):
        """Go on with these members; the kernel recovers the locks meanwhile."""
        self.members(space, numbers)
        configfs.put(f"/sys/kernel/dlm/{space}/control", 1)

    def join(self, space):
        """Begin to join a lockspace; it is done once the other node joins as well, which `joined` waits for."""
        self._in_child(space, _ask(_CREATE, struct.pack("=II", 0, 0) + space.encode()))
        self._uevent("online", space)
        self.members(space, (SERVER, CLIENT))
        folder = f"/sys/kernel/dlm/{space}"
        configfs.put(f"{folder}/id", zlib.crc32(space.encode()))
        configfs.put(f"{folder}/control", 1)
        configfs.put(f"{folder}/event_done", 0)

    def joined(self, space):
        """Wait until the lockspace can be used, and open it."""
        self.minors[space] = self._child(space, "joining")
        self.devices[space] = os.open(f"/dev/dlm_{space}", os.O_RDWR | os.O_NONBLOCK)

    def leave(self, space):
        """Leave a lockspace, in which others may have locks; the other node must have stopped."""
        os.close(self.devices.pop(space))
        self._in_child(space, _ask(_REMOVE, struct.pack("=II", _FORCE, self.minors.pop(space))))
        self._uevent("offline", space)
        configfs.put(f"/sys/kernel/dlm/{space}/event_done", 0)
        self._child(space, "leaving")
        self.members(space, ())

    def _in_child(self, space, data):
        """Write to the control device where it does not matter if it never returns: nothing can interrupt it."""
        reader, writer = os.pipe()
        if not os.fork():
            nothing = os.open(os.devnull, os.O_RDWR)
            for descriptor in (0, 1, 2):
                os.dup2(nothing, descriptor)
            try:
                result = os.write(os.open("/dev/dlm-control", os.O_RDWR), data)
            except OSError as error:
                result = -error.errno
            os.write(writer, struct.pack("=i", result))
            os._exit(0)
        os.close(writer)
        self.creators[space] = reader

    def _child(self, space, what):
        """Wait for what `_in_child` began, and return the kernel's answer."""
        reader = self.creators.pop(space)
        ready, _, _ = select.select([reader], [], [], DEADLINE_S)
        data = os.read(reader, 4) if ready else b""
        os.close(reader)
        if not data:
            raise AssertionError(f"{what} lockspace {space} took more than {DEADLINE_S:g} s")
        result = struct.unpack("=i", data)[0]
        if result < 0:
            raise AssertionError(f"{what} lockspace {space}: {os.strerror(-result)}")
        return result

    def _uevent(self, action, space):
        wanted = f"{action}@/kernel/dlm/{space}".encode()
        end = time.monotonic() + DEADLINE_S
        while ready := select.select([self.events, self.creators[space]], [], [], max(0, end - time.monotonic()))[0]:
            if self.events not in ready:
                self._child(space, f"the {action} event of")  # the kernel has refused
                break
            if self.events.recv(65536).split(b"\0")[0] == wanted:
                return
        raise AssertionError(f"no {action} event of lockspace {space} within {DEADLINE_S:g} s")

    def begin(self, space, steps):
        """Ask for all of these, and return their tags without waiting."""
        tags = []
        for command, name, lock, mode, flags, value in steps:
            self.tag += 1
            data = _PARAMS.pack(
                mode, len(name), 0, flags, lock, 0, 0, 0, self.tag, 1, 0, 0, 1, bytes.fromhex(value) or bytes(32)
            )
            try:
                os.write(self.devices[space], _ask(command, data + name.encode()))
            except OSError as error:
                raise AssertionError(f"request {command} of mode {mode}, flags {flags:#x}: {error.strerror}") from None
            tags.append(self.tag)
        return tags

    def outcome(self, space, tags, seconds=DEADLINE_S):
        """What has become of them: a list of [lock, status, flags, value block or ""] in the same order.

        One that is not decided when the time is over has None for a status.
        """
        end = time.monotonic() + seconds
        while not self.answers.keys() >= set(tags):
            if not select.select([self.devices[space]], [], [], max(0, end - time.monotonic()))[0]:
                break
            data = os.read(self.devices[space], _RESULT.size + VALUE_BYTES)
            *_, tag, _, status, lock, flags, _, _, value_at = _RESULT.unpack_from(data)
            self.answers[tag] = [lock, status, flags, data[value_at:].hex() if value_at else ""]
        return [self.answers.pop(tag, [0, None, 0, ""]) for tag in tags]

    def do(self, space, steps):
        """Ask for all of these and wait for each; as `outcome`."""
        return self.outcome(space, self.begin(space, steps))
