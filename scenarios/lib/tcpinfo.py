"""What TCP itself counts of a connection (struct tcp_info of linux/tcp.h)."""

import socket
import struct
from typing import NamedTuple

_LAYOUT = struct.Struct("@24xI72xI16xQQ8xI52xQQ")


class Counts(NamedTuple):
    """Packets and bytes of one end; `sent` counts what was sent again as well, `resent` that alone."""

    unacknowledged_packets: int
    resent_packets: int
    acknowledged: int
    received: int
    not_sent: int
    sent: int
    resent: int

    @property
    def queued(self):
        """How many bytes TCP was given to send."""
        return self.sent - self.resent + self.not_sent


def counts(sock):
    """The counts of a TCP socket at this moment."""
    return Counts(*_LAYOUT.unpack(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAYOUT.size)))
