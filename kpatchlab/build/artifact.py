"""The files of a finished kernel in the cache: those that a guest boots from, and those that decode a splat."""

from __future__ import annotations

import contextlib
import json
import lzma
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from kpatchlab import proc
from kpatchlab.build.failures import normal
from kpatchlab.errors import HostError, LabError
from kpatchlab.fence import read_left, tool
from kpatchlab.files import link_or_copy
from kpatchlab.jsonable import to_json
from kpatchlab.model import BuildResult, ModuleFailure

PACK_S = 900.0
BOOT_MODULES = (
    *("virtio_pci", "virtio_mmio", "virtio_blk", "virtio_net", "virtio_console", "virtio_rng"),
    *("erofs", "overlay", "pvpanic-pci", "pvpanic-mmio", "i6300esb", "af_packet"),
)
"""What a guest's initramfs needs of a distribution's kernel, where it is not built in."""
NOTES = "gcno"
"""The folder of a kernel that was built for gcov."""
SUFFIXES = (".ko", ".ko.xz", ".ko.zst", ".ko.gz")


class DependencyCycle(LabError):
    """Modules of a kernel need each other in a circle: the kernel's fault."""

    def __init__(self, message: str, lines: Sequence[str]) -> None:
        super().__init__(message, details=tuple(lines))


def modules_of(folder: Path) -> dict[str, Path]:
    """Return every module file below `folder`, by the name that modprobe takes."""
    return {
        normal(path.name.split(".ko")[0]): path
        for path in sorted(folder.rglob("*.ko*"))
        if path.name.endswith(SUFFIXES) and path.is_file()
    }


def finish_modules(root: Path, release: str, system_map: Path | None) -> Path:
    """Run depmod on `root`/lib/modules/`release` and drop what points at the build; returns that directory.

    Raises:
        DependencyCycle: modules need each other, which depmod refuses.
        CommandFailed: depmod fails otherwise.
    """
    folder = root / "lib/modules" / release
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("build", "source"):
        (folder / name).unlink(missing_ok=True)
    for name in ("modules.order", "modules.builtin"):
        if not (folder / name).exists():
            (folder / name).touch()
    extra = ["-F", str(system_map)] if system_map else []
    try:
        inside = tool(*([system_map] if system_map else []), write=[root])
        inside.run([_sbin("depmod"), "-b", str(root), *extra, release], timeout_s=PACK_S)
    except proc.CommandFailed as failed:
        lines = failed.result.stderr.splitlines()
        if not any("dependency cycle" in line for line in lines):
            raise
        first = next((line for line in lines if "Cycle detected" in line), lines[0])
        raise DependencyCycle(f"modules need each other: {first.removeprefix('depmod: ERROR: ')}", lines) from None
    return folder


def pack_modules(root: Path, image: Path, config: Path) -> None:
    """Write an erofs image whose top is `root`/lib/modules; the same bytes for the same files.

    Raises:
        HostError: mkfs.erofs is not there or fails.
    """
    compress = ["-zlz4hc"] if "CONFIG_EROFS_FS_ZIP=y" in read_left(config) else []
    words = [_sbin("mkfs.erofs"), "--quiet", "--all-root", "-T0", "-U00000000-0000-0000-0000-000000000000", *compress]
    image.touch()  # it alone is writable
    tool(root, write=[image]).run([*words, str(image), str(root / "lib/modules")], timeout_s=PACK_S)


def keep_notes(obj: Path, place: str, work: Path) -> None:
    """Keep what gcov needs to read a guest's counters: each object's .gcno, and where the object directory was.

    Args:
        place: where `obj` was for make.
    """
    for path in obj.rglob("*.gcno"):
        link_or_copy(path, work / NOTES / path.relative_to(obj))
    (work / NOTES).mkdir(exist_ok=True)
    (work / NOTES / "objects").write_text(f"{place}\n")


def _sbin(program: str) -> str:
    """Return a program that is in /sbin or /usr/sbin, which a user's PATH may lack."""
    path = shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin:/usr/local/sbin")
    if not path:
        raise HostError(f"{program}: not found", hint="kpatchlab doctor names the package")
    return path


def read_dependencies(folder: Path) -> dict[str, list[str]]:
    """Return modules.dep: module path -> paths of what must be loaded before it, in modules.dep's own order."""
    lines = read_left(folder / "modules.dep").splitlines()
    return {left: right.split() for left, _, right in (line.partition(":") for line in lines)}


def boot_modules(folder: Path, into: Path, wanted: Sequence[str] = BOOT_MODULES) -> list[str]:
    """Copy what a guest needs to reach its root, unpacked, and write `order`: one file name a line, in load order.

    What is built in, or does not exist in that kernel, is left out. crc32c is a soft dependency of erofs and of
    virtio's users (`libcrc32c` asks for it by crypto alias), hence the look at modules.softdep.
    """
    into.mkdir(parents=True, exist_ok=True)
    dependencies = read_dependencies(folder)
    by_name = {normal(Path(path).name.split(".ko")[0]): path for path in dependencies}
    soft = _soft_dependencies(folder)
    order: list[str] = []

    def add(path: str, above: tuple[str, ...] = ()) -> None:
        if path in order or path in above:
            return
        name = normal(Path(path).name.split(".ko")[0])
        for other in soft.get(name, ()):
            if other in by_name:
                add(by_name[other], (*above, path))
        for other in reversed(dependencies[path]):  # depmod lists the direct ones first, their own after them
            add(other, (*above, path))
        if path not in order:
            order.append(path)

    for name in wanted:
        if normal(name) in by_name:
            add(by_name[normal(name)])
    names = []
    for path in order:
        name = Path(path).name.split(".ko")[0] + ".ko"
        (into / name).write_bytes(_unpacked(folder / path))
        names.append(name)
    (into / "order").write_text("".join(f"{name}\n" for name in names))
    return names


def _soft_dependencies(folder: Path) -> dict[str, list[str]]:
    with contextlib.suppress(FileNotFoundError):
        aliases = _aliases(folder)
        found: dict[str, list[str]] = {}
        for line in read_left(folder / "modules.softdep").splitlines():
            words = line.split()
            if words[:1] == ["softdep"] and len(words) > 3 and words[2] == "pre:":
                names = [word for word in words[3:] if not word.endswith(":")]
                found.setdefault(normal(words[1]), []).extend(
                    real for name in names for real in aliases.get(normal(name), [normal(name)])
                )
        return found
    return {}


def _aliases(folder: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in read_left(folder / "modules.alias").splitlines():
        words = line.split()
        if len(words) == 3 and words[0] == "alias" and not re.search(r"[*?\[]", words[1]):
            found.setdefault(normal(words[1]), []).append(normal(words[2]))
    return found


def _unpacked(path: Path) -> bytes:
    if path.suffix == ".xz":
        return lzma.decompress(path.read_bytes())
    if path.suffix == ".ko":
        return path.read_bytes()
    program = {".zst": "zstd", ".gz": "gzip"}[path.suffix]
    plain = path.parent / f"{path.stem}.unpacked"
    try:
        with plain.open("wb") as handle:
            tool(path).run([program, "-dc", str(path)], timeout_s=PACK_S, stdout_to=handle)
        return plain.read_bytes()
    finally:
        plain.unlink(missing_ok=True)


def write_records(work: Path, result: BuildResult, failures: Sequence[ModuleFailure]) -> None:
    """Write build.json and module-failures.json."""
    (work / "module-failures.json").write_text(json.dumps(to_json(tuple(failures)), indent=1) + "\n")
    (work / "build.json").write_text(json.dumps(to_json(result), indent=1) + "\n")


def drop_modules(root: Path, names: Mapping[str, object] | set[str]) -> Iterator[str]:
    """Delete modules from an installed tree; yields each name that was there."""
    for name, path in modules_of(root).items():
        if name in names:
            path.unlink()
            yield name


def keep_lists(folder: Path, work: Path) -> None:
    """Copy the lists of modules, loadable and built in, to where they can be read without the image."""
    for name in ("modules.dep", "modules.builtin"):
        if (folder / name).exists():
            (work / name).write_text(read_left(folder / name))
