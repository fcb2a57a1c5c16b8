"""BPF programs and maps through bpf(2), without a compiler: a program is a list of `instruction`s put together by hand."""

import ctypes
import os
import struct

_SYSCALL = 321  # x86-64
_MAP_CREATE, _MAP_UPDATE, _PROG_LOAD, _PROG_ATTACH = 0, 2, 5, 8
SOCKMAP = 15
SOCKET_FILTER, SK_SKB, SK_MSG = 1, 14, 16
"""Types of programs."""
SKB_STREAM_PARSER, SKB_STREAM_VERDICT, MSG_VERDICT = 4, 5, 7
"""Where they are attached."""
SK_REDIRECT_MAP, MSG_REDIRECT_MAP, MSG_APPLY_BYTES, MSG_CORK_BYTES = 52, 60, 61, 62
"""Helper functions."""
INGRESS = 1
_libc = ctypes.CDLL(None, use_errno=True)


def instruction(opcode, target=0, source=0, offset=0, value=0):
    """One instruction; registers by number."""
    return struct.pack("=BBhi", opcode, target | source << 4, offset, value)


def set_register(register, value):
    """register = value"""
    return instruction(0xB7, register, value=value)


def set_map(register, descriptor):
    """register = the map with this descriptor (two slots)"""
    return instruction(0x18, register, 1, value=descriptor) + instruction(0)


def load_word(register, base, offset):
    """register = the 32-bit word at base + offset"""
    return instruction(0x61, register, base, offset)


def call(helper):
    """Call a helper function: arguments in registers 1 to 5, result in 0."""
    return instruction(0x85, value=helper)


EXIT = instruction(0x95)


def _bpf(command, attributes):
    attributes = ctypes.create_string_buffer(attributes.ljust(128, b"\0"), 128)
    result = _libc.syscall(_SYSCALL, command, attributes, 128)
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"bpf({command}): {os.strerror(error)}")
    return result


def load(kind, *instructions):
    """Load a program; returns its descriptor.

    Raises:
        AssertionError: the kernel's verifier refuses it; says why.
    """
    code = b"".join(instructions)
    program, license_ = ctypes.create_string_buffer(code, len(code)), ctypes.create_string_buffer(b"GPL")
    log = ctypes.create_string_buffer(65536)
    place = ctypes.addressof
    attributes = struct.pack("=IIQQIIQ", kind, len(code) // 8, place(program), place(license_), 1, len(log), place(log))
    try:
        return _bpf(_PROG_LOAD, attributes)
    except OSError as error:
        raise AssertionError(f"{error}: {log.value.decode(errors='replace')}") from None


def sockmap(entries=8):
    """A map of sockets; returns its descriptor."""
    return _bpf(_MAP_CREATE, struct.pack("=IIIII", SOCKMAP, 4, 4, entries, 0))


def put(map_, key, value):
    """Put a socket's descriptor into a map."""
    key, value = ctypes.c_uint32(key), ctypes.c_uint32(value)
    _bpf(_MAP_UPDATE, struct.pack("=IIQQQ", map_, 0, ctypes.addressof(key), ctypes.addressof(value), 0))


def attach(map_, program, where):
    """Attach a program to a map of sockets."""
    _bpf(_PROG_ATTACH, struct.pack("=IIII", map_, program, where, 0))
