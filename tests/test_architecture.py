"""The map in docs/architecture.md is held by the imports: no room imports from one above it, and none is left out."""

import ast
import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent
PACKAGE = PROJECT / "kpatchlab"
ROOMS = re.findall(r"^\| `(\w+)/?` \|", (PROJECT / "docs/architecture.md").read_text(), re.MULTILINE)
MODULES = {
    ".".join(path.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


def imports(path):
    """Yield (line, module of ours) for every import of a file, those inside functions included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "kpatchlab":
            for name in node.names:
                whole = f"{node.module}.{name.name}"
                yield node.lineno, whole if whole in MODULES else node.module
        elif isinstance(node, ast.Import):
            yield from ((node.lineno, name.name) for name in node.names if name.name.split(".")[0] == "kpatchlab")


def room(module):
    return module.split(".")[1] if "." in module else ""


def test_every_room_is_on_the_map_once():
    built = {path.stem if path.is_file() else path.name for path in PACKAGE.iterdir() if path.suffix in {".py", ""}}
    assert sorted(ROOMS) == sorted(built - {"__init__", "__main__", "__pycache__", "schemas"})


@pytest.mark.parametrize("name", [name for name in MODULES if room(name) in ROOMS])
def test_no_import_runs_upwards(name):
    below = set(ROOMS[ROOMS.index(room(name)) :])
    wrong = [f"{MODULES[name]}:{line}: {to}" for line, to in imports(MODULES[name]) if room(to) not in {*below, ""}]
    assert not wrong


def test_no_modules_import_each_other_in_a_circle():
    left = {name: {to for _, to in imports(path)} - {name, "kpatchlab"} for name, path in MODULES.items()}
    while free := [name for name, wanted in left.items() if not wanted & left.keys()]:
        for name in free:
            del left[name]
    assert not left


OUTSIDE_THE_FENCE = {
    "bisect/workspace": "git", "build/b4": "b4", "build/base": "git", "build/git": "git", "build/gitview": "git",
    "build/mails": "git", "build/patchset": "git", "series/tree": "git",
    "build/built": "--version", "build/confined": "ccache on the lab's stores", "build/context": "rm",
    "build/kselftest": "pkg-config", "build/toolchain": "--version", "build/origin": "tar",
    "build/roots": "mmdebstrap, fsck.erofs on what it made",
    "build/warm": "cp, chmod", "fence": "itself, rm", "guest/initrd": "gcc on the agent",
    "guest/jail": "QEMU", "guest/vm": "QEMU", "host/accel": "gcc on a probe, QEMU", "host/debian": "apt and dpkg-deb",
    "host/emulation": "true",
    "host/packages": "apt", "host/qemu": "QEMU", "hosts/wheels": "pip", "lab/bounded": "itself", "lab/scripts": "sh -n",
    "nightly/notify": "sendmail", "run/cluster/launch": "a worker of the lab's", "run/process": "a worker of the lab's",
}  # fmt: skip
"""Who starts processes without `fence`, and which: none that runs code of a tree, or reads what such code made."""


def test_nothing_of_a_tree_is_run_outside_the_fence():
    def starts(path):
        return any(
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and (node.value.id, node.attr) in {("proc", "run"), ("proc", "spawn")}
            for node in ast.walk(ast.parse(path.read_text()))
        )

    found = {str(path.relative_to(PACKAGE).with_suffix("")) for path in MODULES.values() if starts(path)}
    assert found == set(OUTSIDE_THE_FENCE)
