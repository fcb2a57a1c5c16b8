"""RDMA verbs between two guests: a queue pair, lines of text by SEND, and one area of memory that both ends reach.

In the verbs scenario the client asks, the server answers with one line:
  "area" ADDRESS RKEY LENGTH   the client's area            -> the same of the server
  "fill" AT SIZE SEED          put data into the area        -> "ready"
  "sum" AT SIZE                what does the area hold?      -> its SHA-256
  "take" AT SIZE               take the next SEND there      -> "ready", and after that SEND its length
  "give" AT SIZE SEED FLAGS    send data                     -> nothing but the data
  "write" AT SIZE SEED THERE   write data into my area       -> "written"
"""

import os
import resource
import subprocess
import time

from pyverbs import cm_enums, enums
from pyverbs.cmid import ConnParam
from pyverbs.cq import CQ
from pyverbs.mr import MR
from pyverbs.qp import QP, QPCap, QPInitAttr
from pyverbs.wr import SGE, RecvWR, SendWR

import datafile

PORT = "7471"
TCP = cm_enums.RDMA_PS_TCP
LONG = 4 << 20
AREA = LONG + 4 * datafile.PAGE
LINE = 256
DEPTH = 16
PIECES = 4
DEADLINE_S = 15 * float(os.environ.get("LAB_SCALE", "1"))
SIGNALLED = enums.IBV_SEND_SIGNALED
UNSIGNALLED = 0
SEND, WRITE, READ = enums.IBV_WR_SEND, enums.IBV_WR_RDMA_WRITE, enums.IBV_WR_RDMA_READ

# Soft-iWARP makes a packet of each segment: with 9000 bytes each has whole pages, with 1500 parts of pages.
LARGE_MTU, SMALL_MTU = 9000, 1500

_ACCESS = enums.IBV_ACCESS_LOCAL_WRITE | enums.IBV_ACCESS_REMOTE_WRITE | enums.IBV_ACCESS_REMOTE_READ
_RECEIVED = enums.IBV_WC_RECV
_COUNTED = {WRITE: "a write", READ: "a read"}
"""Work whose completions say how many bytes it was; soft-iWARP sets it for writes as well."""


def use_mtu(size):
    """Set the size of packets on the link between the guests, for connections to come."""
    subprocess.run(["ip", "link", "set", os.environ["LAB_DEV"], "mtu", str(size)], check=True)


def take_packets_at_once():
    """Take packets in where they arrive, and not by a thread: what prepare/siw.sh keeps from the other scenarios."""
    with open(f"/sys/class/net/{os.environ['LAB_DEV']}/threaded", "w") as file:
        file.write("0")


class Closed(AssertionError):
    """The other end has closed the connection."""


class Late(AssertionError):
    """The other end did not answer in time."""


class Link:
    """One connection: a queue pair with its completions, the area, and a page for lines of text."""

    def __init__(self, context, domain):
        # What is registered counts as locked memory.
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        self._queue = CQ(context, 4 * DEPTH, None, None, 0)
        cap = QPCap(max_send_wr=DEPTH, max_recv_wr=DEPTH, max_send_sge=PIECES, max_recv_sge=1)
        self._pair = QP(
            domain, QPInitAttr(qp_type=enums.IBV_QPT_RC, scq=self._queue, rcq=self._queue, cap=cap, sq_sig_all=0)
        )
        self.area = MR(domain, AREA, _ACCESS)
        self._text = MR(domain, 2 * LINE, enums.IBV_ACCESS_LOCAL_WRITE)
        self._received, self._sent = [], 0
        self._number, self._posted = 0, {}
        self._far_area = self._far_key = 0

    def close(self):
        """Give everything back."""
        for part in (self._pair, self.area, self._text, self._queue):
            part.close()

    def parameters(self):
        """What the connection manager needs to know of the queue pair."""
        return ConnParam(resources=DEPTH, depth=DEPTH, qp_num=self._pair.qp_num)

    def far(self, address, key):
        """Where the other end's area is."""
        self._far_area, self._far_key = int(address), int(key)

    def post(self, opcode, pieces, there=0, flags=SIGNALLED):
        """Hand in a piece of work on parts of the area, (offset, length) each; `there`: offset in the other's area."""
        parts = [SGE(self.area.buf + at, length, self.area.lkey) for at, length in pieces]
        if opcode in _COUNTED:
            self._posted[self._number + 1] = opcode, sum(length for _, length in pieces)
        self._post(opcode, parts, there, flags)

    def _post(self, opcode, parts, there, flags):
        self._number += 1
        work = SendWR(wr_id=self._number, opcode=opcode, num_sge=len(parts), sg=parts, send_flags=flags)
        if opcode != SEND:
            work.set_wr_rdma(self._far_key, self._far_area + there)
        self._pair.post_send(work)

    def await_data(self, at, size):
        """Let the next SEND of the other end go into the area."""
        self._pair.post_recv(RecvWR(num_sge=1, sg=[SGE(self.area.buf + at, size, self.area.lkey)]))

    def await_line(self):
        """Let the next SEND of the other end be a line."""
        self._pair.post_recv(RecvWR(num_sge=1, sg=[SGE(self._text.buf, LINE, self._text.lkey)]))

    def send_line(self, *words):
        """Send one line of text."""
        text = " ".join(str(word) for word in words).encode()
        self._text.write(text, len(text), LINE)
        self._post(SEND, [SGE(self._text.buf + LINE, len(text), self._text.lkey)], 0, SIGNALLED)
        self.done()

    def line(self, deadline_s=DEADLINE_S):
        """The words of a line that was awaited."""
        return self._text.read(self.received(deadline_s), 0).decode().split()

    def done(self, count=1):
        """Wait until so many signalled pieces of work are done."""
        self._poll(lambda: self._sent >= count, DEADLINE_S, "work that was handed in is not done")
        self._sent -= count

    def received(self, deadline_s=DEADLINE_S):
        """Wait for the next SEND of the other end; its length."""
        self._poll(lambda: self._received, deadline_s, "nothing arrived")
        return self._received.pop(0)

    def _poll(self, enough, deadline_s, what):
        end = time.monotonic() + deadline_s
        while not enough():
            count, completions = self._queue.poll(DEPTH)
            for one in completions:
                if one.status == enums.IBV_WC_WR_FLUSH_ERR:
                    raise Closed("the connection ended")
                if one.status != enums.IBV_WC_SUCCESS:
                    raise AssertionError(f"a piece of work ended with status {one.status}")
                if one.opcode & _RECEIVED:
                    self._received.append(one.byte_len)
                else:
                    self._sent += 1
                    self._compare(one)
            if not count:
                if time.monotonic() > end:
                    raise Late(f"{what} for {deadline_s:g} s")
                time.sleep(0.0005)

    def _compare(self, completion):
        """Hold the bytes that a completion counts against those of its work."""
        opcode, size = self._posted.pop(completion.wr_id, (None, 0))
        if opcode is not None and completion.byte_len != size:
            raise AssertionError(f"the completion of {_COUNTED[opcode]} of {size} bytes says {completion.byte_len}")

    def fill(self, at, size, seed):
        """Put what is sent into the area."""
        self.area.write(bytes(datafile.sent(size, seed)), size, at)

    def holds(self, at, size, seed):
        """Compare what the area holds with the right content."""
        try:
            datafile.same(self.area.read(size, at), datafile.content(size, seed))
        except AssertionError as error:
            raise AssertionError(f"{size} bytes: {error}") from None
