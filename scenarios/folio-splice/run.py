#!/usr/bin/python3
"""Large folios into sockets: a tmpfs with huge=always, XFS on a loop device, huge pages of a process."""

import mmap
import os
import struct
import subprocess
import sys

sys.path.insert(0, os.environ.get("LAB_LIB", "/lab/lib"))
import datafile
import ktap
import splicecalls
from splicecalls import GIFT, MORE, Pipe

DEADLINE_S = 20 * float(os.environ.get("LAB_SCALE", "1"))
TMP = os.environ.get("LAB_TMP", "/tmp")
KINDS = ("unix", "tcp")
HOWS = ("sendfile", "splice")
PAGE, HUGE = datafile.PAGE, 2 << 20
PIPE = 16 * PAGE
SIZE = 2 * HUGE + 65537
OFFSETS = (4095, 65535, HUGE - 1, HUGE - PAGE - 1, HUGE + 1)
SIZES = (2, 4098, 65538)
SEEDS = {"tmpfs": 11, "xfs": 12, "memory": 31}
FILES = ("tmpfs", "xfs")
CONTENT = {}
COMPOUND_HEAD, COMPOUND_TAIL = 1 << 15, 1 << 16  # bits of /proc/kpageflags


def command(*words):
    """Run a command that must succeed."""
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode:
        raise AssertionError(f"{' '.join(words)} ended with {done.returncode}: {done.stderr.decode().strip()}")


def say(path, text):
    """Write to a control file of the kernel."""
    with open(path, "w") as file:
        file.write(text)


def memory_figure(name):
    """A line of /proc/meminfo in KiB; None where it has no such line."""
    with open("/proc/meminfo") as file:
        found = [line.split()[1] for line in file if line.startswith(f"{name}:")]
    return int(found[0]) if found else None


def folder(system):
    """Where a file system is mounted."""
    return os.path.join(TMP, f"on-{system}")


def prepare_tmpfs():
    """Mount a tmpfs that takes huge pages where it can, and make the file on it."""
    os.mkdir(folder("tmpfs"))
    command("mount", "-t", "tmpfs", "-o", "huge=always", "none", folder("tmpfs"))
    say("/proc/sys/vm/compact_memory", "1")  # a guest that has just booted may lack free memory in 2 MiB pieces
    before = memory_figure("ShmemHugePages")
    datafile.make(data("tmpfs"), SIZE, SEEDS["tmpfs"])
    if before is None:
        raise ktap.Skip("/proc/meminfo has no ShmemHugePages")
    grown = memory_figure("ShmemHugePages") - before
    if grown < 2 * HUGE >> 10:
        raise AssertionError(f"the file has {grown} KiB in huge pages, {2 * HUGE >> 10} KiB or more expected")


def prepare_xfs():
    """Make an XFS, and a file on it that is read into the page cache through a mapping that asks for huge pages."""
    image = os.path.join(TMP, "xfs.image")
    with open(image, "wb") as file:
        file.truncate(320 << 20)
    os.mkdir(folder("xfs"))
    command("mkfs.xfs", "-q", image)
    subprocess.run(["modprobe", "loop"], check=False, capture_output=True)  # nothing to load where it is built in
    command("mount", "-t", "xfs", "-o", "loop", image, folder("xfs"))
    datafile.make(data("xfs"), SIZE, SEEDS["xfs"])
    file = os.open(data("xfs"), os.O_RDONLY)
    os.fsync(file)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    area = mmap.mmap(file, SIZE, prot=mmap.PROT_READ)
    area.madvise(mmap.MADV_HUGEPAGE)
    large, largest, pages = folios(file, area)
    if largest < 16:
        raise AssertionError(f"{large} of {pages} pages are in large folios, the largest has {largest} pages")
    print(f"xfs: {large} of {pages} pages in large folios, the largest has {largest}", file=sys.stderr)


def folios(file, area):
    """(pages in large folios, pages of the largest folio, pages) of a mapped file, from /proc/kpageflags."""
    pages = (SIZE + PAGE - 1) // PAGE
    for page in range(pages):
        area[page * PAGE]  # noqa: B018 - maps the page
    address = address_of(file)
    try:
        with (
            open("/proc/self/pagemap", "rb", buffering=0) as map_file,
            open("/proc/kpageflags", "rb", buffering=0) as flags,
        ):
            entries = struct.unpack(f"{pages}Q", os.pread(map_file.fileno(), 8 * pages, address // PAGE * 8))
            numbers = [entry & ((1 << 55) - 1) for entry in entries if entry >> 63]
            bits = [struct.unpack("Q", os.pread(flags.fileno(), 8, 8 * number))[0] for number in numbers]
    except FileNotFoundError as error:
        raise ktap.Skip(f"{error.filename} is not there: the sizes of folios cannot be seen") from None
    large = largest = run = 0
    for flag in bits:
        run = 1 if flag & COMPOUND_HEAD else run + 1 if flag & COMPOUND_TAIL and run else 0
        large += bool(flag & (COMPOUND_HEAD | COMPOUND_TAIL))
        largest = max(largest, run)
    return large, largest, pages


def address_of(file):
    """Where a file is mapped: a read-only mapping gives Python no pointer."""
    inode = str(os.fstat(file).st_ino)
    with open("/proc/self/maps") as maps:
        lines = [line.split() for line in maps]
    return next(int(words[0].split("-")[0], 16) for words in lines if words[4] == inode and words[-1] == data("xfs"))


def data(system):
    """The file on a file system."""
    return os.path.join(folder(system), "file")


def send_file(system, kind, how, offset, size):
    """Send a part of the file over sockets of its own."""
    near, far = splicecalls.pair(kind, DEADLINE_S)
    with near, far:
        got, _ = datafile.while_reading(far, size, "recv", lambda: datafile.send(near, data(system), offset, size, how))
    compare(got, system, offset, size)


def compare(got, whose, offset, size):
    """Hold what came against that part of the content."""
    try:
        datafile.same(got, CONTENT[whose][offset : offset + size])
    except AssertionError as error:
        raise AssertionError(f"{size} bytes from {offset}: {error}") from None


def file_borders(system, kind, how):
    """Parts that cross the borders of pages and folios."""
    for offset in OFFSETS:
        for size in SIZES:
            send_file(system, kind, how, offset, size)
    send_file(system, kind, how, HUGE - 13, (1 << 20) + 13)


def hole(system, kind, how):
    """A file whose second huge page is a hole, from before it to behind it."""
    size, path = 3 * HUGE, os.path.join(folder(system), f"hole-{kind}-{how}")
    edge = HUGE + 4097
    content = datafile.content(edge, 21)
    with open(path, "wb", buffering=0) as file:
        file.write(datafile.sent(edge, 21))
        file.truncate(size)
    near, far = splicecalls.pair(kind, DEADLINE_S)
    first, count = edge - 65539, 65539 + 300_000
    with near, far:
        got, _ = datafile.while_reading(far, count, "recv", lambda: datafile.send(near, path, first, count, how))
    os.unlink(path)
    datafile.same(got, bytes(content[first:]) + bytes(300_000))


def huge_area():
    """(mapping, where a huge page begins in it, KiB of it in huge pages): memory filled with data."""
    area = mmap.mmap(-1, SIZE + 2 * HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    view = memoryview(area)
    area.madvise(mmap.MADV_HUGEPAGE)
    address = splicecalls.address(view)
    start = -address % HUGE
    view[start : start + SIZE] = datafile.sent(SIZE, SEEDS["memory"])
    with open("/proc/self/smaps") as file:
        inside, found = False, None
        for line in file:
            words = line.split()
            if "-" in words[0]:
                first, end = (int(part, 16) for part in words[0].split("-"))
                inside = first <= address + start < end
            elif inside and words[0] == "AnonHugePages:":
                found = int(words[1])
    return view, start, found


def huge_pages():
    """The kernel gives a process huge pages when it asks for them."""
    _, _, found = huge_area()
    if found is None:
        raise AssertionError("no AnonHugePages in /proc/self/smaps")
    if found < 2 * HUGE >> 10:
        raise AssertionError(f"the memory has {found} KiB in huge pages, {2 * HUGE >> 10} KiB or more expected")


def memory_borders(kind, flags):
    """vmsplice of parts that cross borders; a gift is whole pages, which are not touched before the child's end."""
    view, start, _ = huge_area()
    offsets = (0, 65536, HUGE - PAGE, HUGE) if flags & GIFT else OFFSETS
    for offset in offsets:
        for size in SIZES:
            send_memory(kind, view[start + offset : start + offset + size], flags, offset)
    send_memory(kind, view[start : start + SIZE], flags, 0)


def send_memory(kind, part, flags, offset):
    """One transfer of memory over sockets of its own."""
    near, far = splicecalls.pair(kind, DEADLINE_S)

    def send():
        done = 0
        with Pipe() as pipe:
            while done < len(part):
                filled = splicecalls.vmsplice(pipe.writer, part[done : done + PIPE], flags)
                done += filled
                pipe.drain(near, filled, MORE if done < len(part) else 0)

    with near, far:
        got, _ = datafile.while_reading(far, len(part), "recv", send)
    compare(got, "memory", offset, len(part))


def in_child(check, *arguments):
    """A call that never comes back costs its own check, and not those after it."""
    return splicecalls.in_child(check, *arguments, deadline_s=3 * DEADLINE_S)


def main():
    ktap.plan(3 + len(FILES) * len(KINDS) * len(HOWS) * 3 + 2 * len(KINDS))
    for name, seed in SEEDS.items():  # once, and not in each child
        CONTENT[name] = memoryview(datafile.content(SIZE, seed))
    ktap.check("tmpfs: the file is in huge pages", prepare_tmpfs)
    ktap.check("xfs: the file is in large folios", prepare_xfs)
    ktap.check("memory of a process is in huge pages", in_child, huge_pages)
    for system in FILES:
        for kind in KINDS:
            for how in HOWS:
                title = f"{system}: {how} to {kind}"
                ktap.check(f"{title}, across borders", in_child, file_borders, system, kind, how)
                ktap.check(f"{title}, across a hole's border", in_child, hole, system, kind, how)
                ktap.check(f"{title}, whole file", in_child, send_file, system, kind, how, 0, SIZE)
    for kind in KINDS:
        for name, flags in (("vmsplice", 0), ("vmsplice with SPLICE_F_GIFT", GIFT)):
            ktap.check(f"huge pages: {name} to {kind}, across borders and whole", in_child, memory_borders, kind, flags)


main()
