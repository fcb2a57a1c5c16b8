"""A kernel's configuration: virtme-ng's curated set, the recipe's fragments on top, and a check of the result."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from kpatchlab.build import failures, git
from kpatchlab.build.context import BuildContext
from kpatchlab.build.kconfig import Kconfig
from kpatchlab.cache import content_key
from kpatchlab.errors import UserError
from kpatchlab.fence import Fence, read_left
from kpatchlab.files import put_plain
from kpatchlab.jsonable import from_json, to_json
from kpatchlab.lab.recipes import GCC, KernelRecipe
from kpatchlab.model import ConfigMiss

CONFIGURE_S = 600.0
STAMP = "kpatchlab.configured"
"""What a configuration came of, beside it."""
_SET = re.compile(r"^(?:CONFIG_)?([A-Za-z0-9_]+)=(.*)$")
_UNSET = re.compile(r"^# CONFIG_([A-Za-z0-9_]+) is not set")


@dataclass(frozen=True, slots=True)
class Asked:
    """One symbol as a recipe asks for it: y, m, n, a number or a quoted string; `where` is fragment:line."""

    value: str
    where: str


class CannotConfigure(UserError):
    """The tree's own Kconfig refuses: its fault as much as a file that does not compile; `fault` says where."""

    def __init__(self, at_fault: str, details: tuple[str, ...]) -> None:
        hint = "make allnoconfig in the tree shows it"
        super().__init__(f"the tree cannot be configured: {at_fault}", hint=hint, details=details)
        place = re.match(r"(\S+):(\d{1,9}): *(.*)", at_fault)
        file, line, text = place.groups() if place else ("", "0", at_fault)
        self.fault = failures.BuildError(file, int(line), f"the tree cannot be configured: {text}")


def asked_symbols(recipe: KernelRecipe, ctx: BuildContext) -> dict[str, Asked]:
    """Return what the recipe's fragments and `config_set` ask for, the later word winning.

    Raises:
        UserError: a fragment is not there, or a line of it is neither an assignment nor a comment.
    """
    asked: dict[str, Asked] = {}
    for name in recipe.config:
        try:
            text = ctx.path(name).read_text(encoding="utf-8")
        except OSError as error:
            raise UserError(
                f"configuration fragment {name}: {error.strerror}", hint=f"paths start at {ctx.kernels_dir}"
            ) from None
        for number, line in enumerate(text.splitlines(), 1):
            where = f"{name}:{number}"
            if match := _UNSET.match(line):
                asked[match[1]] = Asked("n", where)
            elif match := _SET.match(line.strip()):
                asked[match[1]] = Asked(match[2].strip(), where)
            elif line.strip() and not line.startswith("#"):
                raise UserError(
                    f"{where}: not a configuration line: {line.strip()!r}", hint="CONFIG_NAME=y, m, n or a value"
                )
    for symbol, value in recipe.config_set.items():
        asked[symbol.removeprefix("CONFIG_")] = Asked(_word(value), "config_set")
    return asked


def _word(value: Any) -> str:
    if isinstance(value, bool):  # YAML's y and n, where the reader takes them for true and false
        return "y" if value else "n"
    text = str(value)
    plain = text in {"y", "m", "n"} or re.fullmatch(r"-?\d+|0x[0-9a-fA-F]+|\".*\"", text)
    return text if plain else f'"{text}"'


def fragment_text(asked: Mapping[str, Asked]) -> str:
    """Return the merged fragment, as it is handed to virtme-ng."""
    lines = [
        f"# CONFIG_{symbol} is not set" if want.value == "n" else f"CONFIG_{symbol}={want.value}"
        for symbol, want in asked.items()
    ]
    return "\n".join(lines) + "\n"


def key(asked: Mapping[str, Asked]) -> dict[str, str]:
    """Return what decides about the configuration, besides the tree: the fragment and virtme-ng's version."""
    return {"fragment": fragment_text(asked), "virtme-ng": importlib.metadata.version("virtme-ng")}


def configure(
    tree: Path, obj: Path, asked: Mapping[str, Asked], ctx: BuildContext, fence: Fence
) -> tuple[ConfigMiss, ...]:
    """Write `obj`/.config for `tree` and return what came out otherwise than asked.

    An `obj` below `tree` is handed over as a relative path: all paths in the build are then relative, and the
    compiler cache serves every tree from the objects of any other.

    Raises:
        CannotConfigure: the tree's own configuration step fails; with its last lines.
    """
    obj.mkdir(parents=True, exist_ok=True)
    fragment = obj / "kpatchlab.config"
    put_plain(fragment, fragment_text(asked).encode())
    words, needed = _configkernel(fence)
    words += ["--allnoconfig", "--arch", ctx.arch, "--custom", fence.inside(fragment), f"O={object_path(tree, obj)}"]
    # The program's own --cross-compile sets nothing (virtme-ng 1.42): it looks for a gcc behind two dashes.
    words += [f"CROSS_COMPILE={ctx.cross}"] if ctx.cross else []
    words += [] if ctx.compiler == GCC else [f"CC={ctx.program}"]
    result = fence.adding(read=needed).run(
        words, timeout_s=CONFIGURE_S, check=False, cwd=tree, cancel=ctx.cancel, on_line=ctx.verbose
    )
    ctx.check_cancel()
    config = obj / ".config"
    if result.status != 0 or not config.exists():
        lines = [line for line in (result.stdout + result.stderr).splitlines() if line.strip()]
        at_fault = next((line for line in lines if re.search(r":\d+: |\*\*\* ", line)), "no reason given")
        raise CannotConfigure(at_fault.strip(), tuple(lines[-15:]))
    (obj / "include/config").mkdir(parents=True, exist_ok=True)
    return verify(asked, read_config(config), tree, ctx)


def _configkernel(fence: Fence) -> tuple[list[str], list[Path]]:
    """Return virtme-ng's command that configures, and what it needs behind the fence beside the system.

    Of this program's own environment, which may lie in a home, that is one package. It imports nothing but itself and
    the standard library (virtme-ng 1.33 to 1.40).
    """
    from virtme import architectures

    package = Path(architectures.__file__).parent
    start = f"import sys; sys.path.insert(0, {str(package.parent)!r}); "
    start += "from virtme.commands.configkernel import main; sys.exit(main())"
    if fence.root:  # it has a Python of its own
        return ["python3", "-I", "-S", "-c", start], [package]
    python = os.path.realpath(sys.executable)
    # -I: the tree is the working directory, and its folders are not Python packages
    return [python, "-I", "-S", "-c", start], [package, Path(sys.base_prefix)]


def configure_anew(
    tree: Path, obj: Path, asked: Mapping[str, Asked], ctx: BuildContext, fence: Fence, compiler: str
) -> tuple[ConfigMiss, ...]:
    """As `configure`, but leave a configuration that is there and came of the same: 5 to 15 s of each warm build.

    The same are what is asked, the compiler, and all files of the tree that Kconfig reads or runs.
    """
    stamp = obj / STAMP
    origin = content_key(key(asked), ctx.arch, compiler, _read_by_kconfig(tree, source_arch(ctx.arch)))
    try:
        kept = json.loads(stamp.read_text())
        if (kept["origin"], kept["config"]) == (origin, _digest(obj / ".config")):
            return tuple(from_json(ConfigMiss, miss) for miss in kept["misses"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # none yet, or one that was cut off by a kill
    stamp.unlink(missing_ok=True)
    misses = configure(tree, obj, asked, ctx, fence)
    made = {"origin": origin, "config": _digest(obj / ".config"), "misses": to_json(misses)}
    put_plain(stamp, json.dumps(made).encode())
    return misses


def decides(name: str, arch: str) -> bool:
    """Whether a file of the tree decides about its configuration, as `_read_by_kconfig` has it.

    >>> [decides(name, "x86_64") for name in ("net/Kconfig", "arch/x86/Makefile", "net/Makefile")]
    [True, True, False]
    """
    # fnmatch's star passes a slash
    globs = (f"/{glob}".replace("/**/", "*/") for glob in _deciding(source_arch(arch)))
    return any(fnmatchcase(f"/{name}", glob) for glob in globs)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _deciding(arch: str) -> list[str]:
    """Return globs of the files that decide about a configuration.

    Kconfig files, the Makefiles that call Kconfig and name the version, and the scripts that Kconfig's macros run.
    """
    own = [f"scripts/{name}*" for name in ("Kconfig", "kconfig/")] + ["scripts/*.sh", "scripts/*.py"]
    return ["**/Kconfig*", *own, "Makefile", f"arch/{arch}/Makefile*", f"arch/{arch}/configs/*", "kernel/configs/*"]


def _read_by_kconfig(tree: Path, arch: str) -> str:
    """Return a digest of the files that decide about a configuration."""
    globs = _deciding(arch)
    if not (tree / ".git").exists():
        found = (path for glob in globs for path in tree.glob(glob) if path.is_file())
        return _digests(tree, found)
    # What git has of them takes no reading: its index knows their content, and what differs from it.
    repository = git.Repository(tree)
    paths = [f":(glob){glob}" for glob in globs]
    listed = repository.git("ls-files", "--stage", "--", *paths).stdout
    words = ("ls-files", "-z", "--modified", "--others", "--exclude-standard", "--", *paths)
    names = [name for name in repository.git(*words).stdout.split("\0") if name]
    return content_key(listed, _digests(tree, [tree / name for name in names if (tree / name).is_file()]))


def _digests(tree: Path, paths: Iterable[Path]) -> str:
    return content_key([(str(path.relative_to(tree)), _digest(path)) for path in sorted(set(paths))])


def object_path(tree: Path, obj: Path) -> str:
    """Return `obj` as kbuild's O= takes it: relative where it is below the tree."""
    return str(obj.relative_to(tree)) if obj.is_relative_to(tree) else str(obj)


def read_config(path: Path) -> dict[str, str]:
    """Return what a .config sets, without the CONFIG_; what is not set is not in it.

    Raises:
        FileNotFoundError, Escape: as `fence.read_left`.
    """
    found = (_SET.match(line) for line in read_left(path).splitlines())
    return {match[1]: match[2] for match in found if match}


def verify(
    asked: Mapping[str, Asked], values: Mapping[str, str], tree: Path, ctx: BuildContext
) -> tuple[ConfigMiss, ...]:
    """Return every symbol that is not as asked, with the reason from the tree's Kconfig files."""
    missed = [
        (symbol, want, values.get(symbol, "n"))
        for symbol, want in asked.items()
        if want.value.strip('"') != values.get(symbol, "n").strip('"')
    ]
    if not missed:
        return ()
    kconfig = Kconfig(tree, source_arch(ctx.arch))
    return tuple(
        ConfigMiss(symbol, want.value, got, want.where, kconfig.why(symbol, want.value, values))
        for symbol, want, got in missed
    )


def source_arch(arch: str) -> str:
    """Return kbuild's name of an architecture, by virtme-ng's table: x86 for x86_64."""
    from virtme import architectures

    return str(architectures.get(arch).linuxname)


def describe(misses: Iterable[ConfigMiss]) -> list[str]:
    """Return one line for each miss."""
    return [f"{miss.where}: {miss.symbol}: asked {miss.asked}, got {miss.got}: {miss.reason}" for miss in misses]
