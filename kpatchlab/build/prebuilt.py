"""The files of a kernel that a distribution built, wherever its packages put them."""

from __future__ import annotations

import re
from pathlib import Path

from kpatchlab.errors import HostError
from kpatchlab.textclean import one_line

HOMES = ("lib/modules", "usr/lib/modules")


def take(unpacked: Path, what: str, work: Path, root: Path) -> str:
    """Move a kernel's image, configuration and symbols to `work`, its modules to `root`/lib/modules.

    Either the image is boot/vmlinuz-RELEASE, with config-RELEASE and System.map-RELEASE beside it (Debian until
    trixie), or all lie beside the modules, without the release in their names (Debian from forky on, Fedora). That of
    riscv64 is called vmlinux, and is the image all the same.

    Args:
        unpacked: where the packages' files are, as below /.
        what: what they are, for people.

    Returns:
        Its release.

    Raises:
        HostError: there is no image, or there are no modules of its release.
    """
    release, image = _image(unpacked, what)
    home = next((unpacked / name for name in HOMES if (unpacked / name / release).is_dir()), None)
    if home is None:
        raise HostError(f"{what}: no modules of {release} in it")
    of_image = image.name.partition("-")[0]
    for part, kept in ((of_image, "vmlinuz"), ("config", "config"), ("System.map", "System.map")):
        path = image.with_name(image.name.replace(of_image, part, 1))
        if path.exists() and not (kept == "System.map" and _is_placeholder(path)):
            path.rename(work / kept)
        if path.parent != unpacked / "boot":
            path.unlink(missing_ok=True)  # it is no part of the modules' image
    (root / "lib").mkdir(parents=True)
    home.rename(root / "lib/modules")
    return release


def compiler(config: Path) -> str:
    """Return the compiler that a kernel was built with, as its configuration has it since 4.20; "" where it is not."""
    match = re.search(r'^CONFIG_CC_VERSION_TEXT="(.*)"$', config.read_text(errors="replace"), re.MULTILINE)
    return one_line(match[1], 200) if match else ""


def _image(unpacked: Path, what: str) -> tuple[str, Path]:
    """Return the release and the image."""
    for path in sorted((unpacked / "boot").glob("vmlinu[xz]-*")):
        return path.name.partition("-")[2], path
    for home in HOMES:
        for path in sorted((unpacked / home).glob("*/vmlinu[xz]")):
            return path.parent.name, path
    raise HostError(f"{what}: no kernel image in it")


def _is_placeholder(system_map: Path) -> bool:
    """Whether it is the one line with which Debian's packages point at the -dbg package."""
    with system_map.open("rb") as lines:
        return b"The real System.map" in lines.readline()
