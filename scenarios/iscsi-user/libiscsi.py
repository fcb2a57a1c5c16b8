"""An iSCSI session by way of libiscsi, which is an initiator in user space."""

import ctypes
import os
import sys

sys.path.insert(0, os.environ["LAB_LIB"])
import blockcheck
from iscsi_target import NAME, PORT

SECTOR = blockcheck.SECTOR
REQUEST = blockcheck.REQUEST
_NORMAL_SESSION = 2
_DIGEST = {False: 0, True: 3}  # ISCSI_HEADER_DIGEST_NONE and _CRC32C; those of data have the same numbers

_pointer, _int = ctypes.c_void_p, ctypes.c_int
_lba, _length, _text = ctypes.c_uint64, ctypes.c_uint32, ctypes.c_char_p


class _Task(ctypes.Structure):
    """What a struct scsi_task begins with."""

    _fields_ = (("status", _int),)


class _Vector(ctypes.Structure):
    """A struct scsi_iovec."""

    _fields_ = (("base", _pointer), ("length", ctypes.c_size_t))


_task = ctypes.POINTER(_Task)
_FUNCTIONS = {
    "iscsi_create_context": (_pointer, _text),
    "iscsi_destroy_context": (_int, _pointer),
    "iscsi_get_error": (_text, _pointer),
    "iscsi_set_timeout": (_int, _pointer, _int),
    "iscsi_set_targetname": (_int, _pointer, _text),
    "iscsi_set_session_type": (_int, _pointer, _int),
    "iscsi_set_header_digest": (_int, _pointer, _int),
    "iscsi_full_connect_sync": (_int, _pointer, _text, _int),
    "iscsi_logout_sync": (_int, _pointer),
    "iscsi_read16_iov_sync": (_task, _pointer, _int, _lba, _length, *[_int] * 6, ctypes.POINTER(_Vector), _int),
    "iscsi_write16_sync": (_task, _pointer, _int, _lba, _pointer, _length, *[_int] * 6),
    "iscsi_synchronizecache16_sync": (_task, _pointer, _int, _lba, _length, _int, _int),
    "scsi_free_scsi_task": (None, _task),
}


def _load():
    library = ctypes.CDLL("libiscsi.so.7")
    for function, (result, *arguments) in _FUNCTIONS.items():
        getattr(library, function).restype = result
        getattr(library, function).argtypes = arguments
    if hasattr(library, "iscsi_set_data_digest"):
        library.iscsi_set_data_digest.argtypes = [_pointer, _int]
    return library


_library = _load()
HAS_DATA_DIGEST = hasattr(_library, "iscsi_set_data_digest")
"""Whether this libiscsi has digests of data: older ones have those of headers alone."""


class Session:
    """A session with LUN 0 of the target, as a file of bytes; sectors are read where a write begins inside one."""

    def __init__(self, header_digest, data_digest):
        self._context = _library.iscsi_create_context(b"iqn.1993-08.org.debian:01:kpatchlab-user")
        _library.iscsi_set_timeout(self._context, int(blockcheck.DEADLINE_S))
        _library.iscsi_set_targetname(self._context, NAME.encode())
        _library.iscsi_set_session_type(self._context, _NORMAL_SESSION)
        self._must("header digest", _library.iscsi_set_header_digest(self._context, _DIGEST[header_digest]))
        if HAS_DATA_DIGEST:
            self._must("data digest", _library.iscsi_set_data_digest(self._context, _DIGEST[data_digest]))
        portal = f"{os.environ['LAB_SERVER']}:{PORT}"
        self._must("login", _library.iscsi_full_connect_sync(self._context, portal.encode(), 0))

    def close(self):
        """Log out."""
        try:
            self._must("logout", _library.iscsi_logout_sync(self._context))
        finally:
            _library.iscsi_destroy_context(self._context)

    def abandon(self):
        """Close the connection without a word."""
        _library.iscsi_destroy_context(self._context)

    def _must(self, what, status):
        if status:
            said = _library.iscsi_get_error(self._context) or b""
            raise AssertionError(f"{what} failed: {said.decode(errors='replace')}")

    def _done(self, what, task):
        self._must(what, 0 if task else 1)
        status = task.contents.status
        _library.scsi_free_scsi_task(task)
        self._must(f"{what} (SCSI status {status})", status)

    def _read(self, first, count):
        data = ctypes.create_string_buffer(count)
        for start in range(0, count, REQUEST):
            part = min(REQUEST, count - start)
            vector = _Vector(ctypes.addressof(data) + start, part)
            lba = (first + start) // SECTOR
            task = _library.iscsi_read16_iov_sync(
                self._context, 0, lba, part, SECTOR, 0, 0, 0, 0, 0, ctypes.byref(vector), 1
            )
            self._done("READ(16)", task)
        return memoryview(data)

    def read(self, offset, size):
        """Read bytes."""
        first = offset // SECTOR * SECTOR
        count = -(-(offset + size) // SECTOR) * SECTOR - first
        return self._read(first, count).cast("B")[offset - first : offset - first + size]

    def write(self, offset, data):
        """Write bytes, and flush."""
        first = offset // SECTOR * SECTOR
        end = -(-(offset + len(data)) // SECTOR) * SECTOR
        whole = bytearray(end - first)
        if offset != first:
            whole[:SECTOR] = self._read(first, SECTOR)
        if offset + len(data) != end:
            whole[-SECTOR:] = self._read(end - SECTOR, SECTOR)
        whole[offset - first : offset - first + len(data)] = data
        memory = (ctypes.c_char * len(whole)).from_buffer(whole)
        for start in range(0, len(whole), REQUEST):
            part = min(REQUEST, len(whole) - start)
            address, lba = ctypes.addressof(memory) + start, (first + start) // SECTOR
            task = _library.iscsi_write16_sync(self._context, 0, lba, address, part, SECTOR, 0, 0, 0, 0, 0)
            self._done("WRITE(16)", task)
        self._done("SYNCHRONIZE CACHE(16)", _library.iscsi_synchronizecache16_sync(self._context, 0, 0, 0, 0, 0))
