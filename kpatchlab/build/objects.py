"""Which objects and folders of kbuild files are compiled into, as an object directory has them."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

INCLUDERS = 8
"""Objects that a changed header is looked at in, the nearest ones: its own warnings are the same in all others."""
CODE = (".c", ".S")
"""Endings of what the compiler is given."""
_MAKEFILES = ("Makefile", "Kbuild")
_NOT_KERNEL = ("tools", "scripts", "samples", "Documentation")


def folders_of(files: Iterable[str], tree: Path) -> list[str]:
    """Return the folders that kbuild can be asked for, with a trailing slash, for files of the kernel proper.

    A folder without a Makefile is compiled by the nearest one above it that has one, in the tree or among `files`.
    """
    files = set(files)
    folders = {Path(file).parent for file in files if file.endswith((*CODE, ".h"))}
    found = set()
    for folder in folders:
        # All of drivers/ is not what a patch to drivers/new/ asks for.
        above = [folder, *(one for one in folder.parents if len(one.parts) > 1)]
        makes = (one for one in above if any(f"{one}/{name}" in files for name in _MAKEFILES) or is_built(tree / one))
        if folder.parts and folder.parts[0] not in _NOT_KERNEL and (nearest := next(makes, None)):
            found.add(f"{nearest}/")
    return sorted(found)


def is_built(folder: Path) -> bool:
    """Whether kbuild has a Makefile for a folder of a tree."""
    return any((folder / name).exists() for name in _MAKEFILES)


def objects_of(files: Iterable[str], obj: Path) -> tuple[list[str], list[str], list[str]]:
    """Return the objects that `files` go into, as an object directory has them, the files that go into none, and notes.

    A file without an object of its own (a header, a .c that others include) is followed to what includes it:
    to its `INCLUDERS` nearest.
    """
    found: dict[str, None] = {}
    lost, notes = [], []
    others = []
    for file in files:
        own = f"{os.path.splitext(file)[0]}.o"
        if file.endswith(CODE) and command_file(obj / own).exists():
            found[own] = None
        elif file.endswith((*CODE, ".h")):
            others.append(file)
    for file, users in _includers(others, obj).items():
        if not users:
            lost.append(file)
        near = sorted(users, key=lambda user: (user not in found, -_shared(user, file), user))
        found |= dict.fromkeys(near[:INCLUDERS])
        if len(users) > INCLUDERS:
            notes.append(f"{file} was looked at in {INCLUDERS} of {len(users)} objects that include it")
    return list(found), lost, notes


def inside_tree(path: str) -> str:
    """Return a path as compilers print it as one inside the tree.

    >>> inside_tree("../drivers/tty/serial/8250/../serial_mctrl_gpio.h")
    'drivers/tty/serial/serial_mctrl_gpio.h'
    """
    text = os.path.normpath(path)
    while text.startswith("../"):  # the compiler stands in the object directory
        text = text[3:]
    return text


def unbuilt(files: Iterable[str], tree: Path, obj: Path) -> tuple[str, ...]:
    """Return those of `files` that are code of the kernel proper in `tree` and go into no object."""
    there = [file for file in files if file.split("/")[0] not in _NOT_KERNEL and os.path.lexists(tree / file)]
    return tuple(objects_of(there, obj)[1])


def command_file(target: Path) -> Path:
    """Return where kbuild keeps the command that made an object."""
    return target.with_name(f".{target.name}.cmd")


def _shared(one: str, other: str) -> int:
    pairs = zip(one.split("/"), other.split("/"), strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def _includers(files: Sequence[str], obj: Path) -> dict[str, list[str]]:
    """Return file -> objects that were compiled from it, by the dependencies that kbuild keeps of each."""
    users: dict[str, list[str]] = {file: [] for file in files}
    if not files:
        return users
    ends = tuple(os.fsencode(f"/{os.path.basename(file)}") for file in files)
    for folder, subfolders, there in os.walk(obj):
        if folder == str(obj):
            subfolders[:] = [name for name in subfolders if name not in {"scripts", "tools", "include", "usr"}]
        for name in there:
            if name.startswith(".") and name.endswith(".o.cmd") and not name.endswith(".mod.o.cmd"):
                path = os.path.join(folder, name)
                target = os.path.relpath(os.path.join(folder, name[1:-4]), obj)
                with open(path, "rb") as handle:
                    words = {os.fsdecode(word) for word in handle.read().split() if word.endswith(ends)}
                # The compiler writes a path as the source has it, ../drivers/a/../b.h.
                for file in {inside_tree(word) for word in words} & users.keys():
                    users[file].append(target)
    return users
