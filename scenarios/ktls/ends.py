"""How records end: at their border, at a file's end, at a full scatterlist, at the end of MSG_MORE and of the stream.

The server sends by steps (`steps`). What comes is opened in user space up to the end of the stream: every byte of it has
to belong to a record that opens, and every record to what was sent.
"""

import itertools

import peer
import records
import steps
from peer import datafile

import ktap
import outcome

FULL = records.MOST
WHOLE = (
    (
        "write, sendfile and splice take turns",
        ("write:13,sendfile:4097,write:1,splice:65537,sendfile:4095,sendfile:7",),
    ),
    ("sendfile of more than the file has", ("eof:1", "eof:5000", "eof:16384", "eof:70000")),
    (
        "sendfile of more than the file has, into an open record",
        ("write:100+,eof:50", "splice:100+,eof:16284", "splice:100+,eof:16285"),
    ),
    (
        "spliced and written pieces share a record",
        (
            "splice:100+,write:50",
            "splice:100+,write:50+,splice:30+,write:9",
            "write:5+,splice:4097+,write:4097+,splice:5+,eof:77",
            f"{'write:3+,splice:5+,' * 7}write:1",
            f"{'splice:3+,write:5+,' * 12}sendfile:1",
        ),
    ),
    (
        "small pieces by one splice each, up to and past a full scatterlist",
        tuple(f"{'splice:3+,' * (count - 1)}splice:3" for count in (16, 17, 18, 35)),
    ),
    (
        "small pieces by one splice, up to and past a full scatterlist",
        tuple(f"pieces:{count}*7" for count in (16, 17, 18, 34, 35, 200)),
    ),
    (
        "a full scatterlist with more to come, then more",
        (
            "pieces:16*7+,write:9",
            "pieces:17*7+,write:9",
            "pieces:17*7+,splice:7",
            "pieces:18*7+,write:100+,splice:9",
            "pieces:17*7+,eof:70",
            "write:100+,pieces:17*7+,kind,write:1",
        ),
    ),
    (
        "a record that is full when its scatterlist is",
        ("pieces:16*964+,splice:960", "pieces:16*964+,splice:959+,write:1", "pieces:17*964", "pieces:64*1024"),
    ),
    (
        "corked, then uncorked, closed or shut down",
        (
            "cork,write:5000,sendfile:3000,uncork",
            "cork,sendfile:20000,splice:9,uncork",
            "cork,write:5000,sendfile:3000,close",
            "cork,write:100+,eof:20000,shutdown",
        ),
    ),
    ("sent at once before the end of the stream", ("sendfile:300000,close", "eof:70000,shutdown")),
)
"""What has to come whole, and while the connection stays open unless the steps end it."""
EXACT = (
    (
        "sendfile up to a record's border, and a byte less and more",
        (
            ("sendfile:16383", (FULL - 1,)),
            ("sendfile:16384", (FULL,)),
            ("sendfile:16385", (FULL, 1)),
            ("sendfile:32768", (FULL, FULL)),
            ("eof:16385", (FULL, 1)),
            ("eof:32768", (FULL, FULL)),
        ),
    ),
    (
        "sendfile up to the border of an open record, and a byte less and more",
        (
            ("write:100+,sendfile:16283", (FULL - 1,)),
            ("write:100+,sendfile:16284", (FULL,)),
            ("write:100+,sendfile:16285", (FULL, 1)),
            ("splice:16384+,sendfile:1", (FULL, 1)),
        ),
    ),
    (
        "an empty sendfile, and one of an empty file",
        (
            ("sendfile:0,write:50", (50,)),
            ("eof:0,write:50", (50,)),
            ("write:100+,sendfile:0,write:50", (150,)),
            ("write:100+,eof:0,write:50", (150,)),
            ("sendfile:16384,eof:0,write:1", (FULL, 1)),
        ),
    ),
    ("MSG_MORE makes one record", (("write:1+,write:100+,write:3000+,write:7+,write:9000", (12_108,)),)),
)
"""What has to come whole, in records of these lengths."""
OTHER_KIND = (
    ("splice:5000+,kind,sendfile:15000", 5000),
    ("write:5000+,kind,write:1", 5000),
    ("splice:16384+,kind,eof:20", 16384),
    ("kind,eof:20", 0),
)
"""Where a record of another type has to stand, in bytes of data before it."""
LEFT_OPEN = {"MSG_MORE": "write:20000+", "SPLICE_F_MORE": "splice:20000+", "both": "write:15000+,splice:5000+"}
OPEN_ENDS = {
    "then close": "close",
    "then a shutdown": "shutdown",
    "while TCP_CORK is set and cleared": "cork,uncork,count,close",
}
"""What the kernel may send then or keep: how much it sent is recorded."""
CHECKS = len(WHOLE) + len(EXACT) + 1 + len(LEFT_OPEN) * len(OPEN_ENDS)


def check_all(kind):
    """All checks with one version and cipher."""
    name = f"TLS {kind[0]}"
    seeds = itertools.count(300, 10)
    for title, texts in WHOLE:
        ktap.check(f"{name}: {title}", _whole, [(text, ()) for text in texts], next(seeds), kind)
    for title, cases in EXACT:
        ktap.check(f"{name}: {title}", _whole, cases, next(seeds), kind)
    ktap.check(f"{name}: a record of another type after data with more to come", _other_kind, next(seeds), kind)
    for (flag, text), (title, end) in itertools.product(LEFT_OPEN.items(), OPEN_ENDS.items()):
        outcome.record(f"{name}: 20000 bytes with {flag}, {title}", _sent_of, f"{text},{end}", next(seeds), kind)


def _take(text, seed, kind):
    """What the server sends by its steps: records (type, data), and the wire's bytes up to the end of each."""
    plan = steps.parse(text)
    size, stays = _size(plan), plan[-1].name not in steps.ENDS
    taken, wire, data = [], [], bytearray()
    with peer.connect("steps", size, 0, seed, text, kind) as sock:
        stream = records.Stream(*kind, seed + peer.BACK)
        while True:
            if stays and len(data) == size:
                sock.sendall(b".")  # the server goes on to close
                stays = False
            try:
                record = stream.take(sock)
            except BlockingIOError:
                reason = f"{len(data)} bytes of {size} came in {len(taken)} records, then nothing more"
                raise AssertionError(f"{text}: {reason}") from None
            if record is None:
                break
            taken.append(record)
            wire.append(stream.wire)
            if record[0] == records.DATA:
                data += record[1]
    _compare(text, data, datafile.content(size, seed))
    return taken, wire


def _compare(text, data, right):
    try:
        datafile.same(data, right[: len(data)])
    except AssertionError as error:
        raise AssertionError(f"{text}: {error}") from None


def _size(plan):
    return sum(step.total for step in plan)


def _lengths(taken):
    return tuple(len(data) for type_, data in taken if type_ == records.DATA)


def _whole(cases, seed, kind):
    """All comes before the end of the stream, in no empty record; in records of these lengths where they are given."""
    for number, (text, right) in enumerate(cases):
        lengths = _lengths(_take(text, seed + number, kind)[0])
        if (size := _size(steps.parse(text))) != sum(lengths):
            raise AssertionError(f"{text}: {sum(lengths)} bytes came before the end of the stream, {size} were sent")
        if 0 in lengths:
            raise AssertionError(f"{text}: an empty record among {lengths}")
        if right and lengths != right:
            raise AssertionError(f"{text}: records of {lengths} bytes, not {right}")


def _other_kind(seed, kind):
    """A record of another type comes between the data where it was sent, whole and alone."""
    for number, (text, right) in enumerate(OTHER_KIND):
        taken, _ = _take(text, seed + number, kind)
        others = [
            (type_, bytes(data), sum(_lengths(taken[:place])))
            for place, (type_, data) in enumerate(taken)
            if type_ != records.DATA
        ]
        if others != [(records.HANDSHAKE, steps.OTHER, right)]:
            raise AssertionError(f"{text}: other records (type, data, bytes before) are {others}")


def _sent_of(text, seed, kind):
    """How many bytes of data the kernel sent: up to the end, or before the steps counted."""
    taken, wire = _take(text, seed, kind)
    if "count" not in text:
        return sum(_lengths(taken))
    counted = int(taken.pop()[1].removeprefix(steps.COUNTED)) - len(f"{peer.READY}\n")
    for place, up_to in enumerate([0, *wire]):
        if up_to == counted:
            return sum(_lengths(taken[:place]))
    raise AssertionError(f"{text}: TCP had {counted} bytes, which is the end of no record: they end at {wire}")
