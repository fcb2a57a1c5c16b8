"""Data whose file is changed while it is under way: each byte that arrives is one that the file had at its place.

A request is "changed SIZE OLD NEW ZEROES": the seeds of what the file had before and has now, and whether a part of it was
cut off or punched out, where zeroes may stand.  The answer is "right", or what is wrong.
"""

import datafile

VERB = "changed"


def request(size, old, new, *, zeroes):
    """The line that asks the server to take and judge `size` bytes."""
    return f"{VERB} {size} {old} {new} {int(zeroes)}\n".encode()


def answer(sock, line):
    """The server's part: take the bytes, and say what is wrong with them."""
    size, old, new, zeroes = map(int, line.split()[1:])
    sock.sendall(b"ready\n")
    got = datafile.receive(sock, size)
    allowed = [datafile.content(size, seed) for seed in (old, new)]
    if zeroes:
        allowed.append(bytes(size))
    sock.sendall(f"{_wrong(got, allowed, size)}\n".encode())


def _wrong(got, allowed, size):
    if len(got) != size:
        return f"{len(got)} bytes came, {size} were sent"
    for start in range(0, size, datafile.PAGE):
        part = got[start : start + datafile.PAGE]
        choices = [data[start : start + datafile.PAGE] for data in allowed]
        if part in choices:
            continue
        for at, byte in enumerate(part):
            if byte not in (choice[at] for choice in choices):
                return f"byte {start + at} of {size} is {byte:#04x}, and the file never had that there"
    return "right"
