"""A configuration with the modules that some scenarios can need, and no others.

The tree's own localmodconfig (scripts/kconfig/streamline_config.pl) decides, which knows what depends on what and what
selects what.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kpatchlab import proc
from kpatchlab.build import config as configuration
from kpatchlab.build.artifact import BOOT_MODULES
from kpatchlab.build.confined import TRUSTED, build_fence
from kpatchlab.build.context import BuildContext
from kpatchlab.build.kconfig import Kconfig
from kpatchlab.build.origin import Source
from kpatchlab.build.trees import OBJECTS
from kpatchlab.cache import content_key
from kpatchlab.fence import Escape, Fence
from kpatchlab.files import put_plain
from kpatchlab.lab.load import Lab
from kpatchlab.lab.recipes import KernelRecipe
from kpatchlab.lab.scenario import Scenario, own_files
from kpatchlab.lab.selftests import PREFIX

KIND = "trim"
"""Of the artifacts that say which symbols are left out of a tree's configuration."""
VERSION = 1
"""Part of their keys: raise it when the same inputs are to leave out others."""
SCRIPT = "scripts/kconfig/streamline_config.pl"
SCRIPT_S = 300.0
AUTOLOADED = re.compile(r"(arch/\w+/)?crypto/|lib/|fs/nls/|net/(netfilter|sched|ipv4|ipv6|bridge/netfilter)/")
"""Where the Kconfig files lie of modules that the kernel loads by names which no scenario writes: an algorithm's, a
character set's, a rule's, a kind of tunnel's. They are kept."""
_WORD = re.compile(rb"[A-Za-z][A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a configuration has to keep.

    Attributes:
        words: among them are the names of all modules that are needed.
        symbols: what scenarios need of the configuration.
    """

    words: frozenset[str]
    symbols: frozenset[str]

    @classmethod
    def by(cls, lab: Lab, scenarios: Collection[str], modules: Iterable[str] = ()) -> Wanted | None:
        """Return what these scenarios can need, and these modules; None: they can need any module.

        A scenario's modules are taken from its files: each word of them that is a module's name counts, that of a
        comment as well. A collection of selftests that is named alone has its files in each kernel's tree.
        """
        if any(name.startswith(PREFIX) for name in scenarios):
            return None
        words, symbols = {*BOOT_MODULES, *modules}, set[str]()
        for name in scenarios:
            words |= _words_of(lab.scenario(name), lab.root / "scenarios/lib")
            symbols |= set(lab.scenario(name).needs.symbols_of_config())
        return cls(frozenset(words - {""}), frozenset(symbols))


def without(recipe: KernelRecipe, symbols: tuple[str, ...]) -> KernelRecipe:
    """Return a recipe whose configuration does without these symbols."""
    given = dict(recipe.config_set or {}) | dict.fromkeys(symbols, "n")
    return recipe.model_copy(update={"config_set": given}) if symbols else recipe


def left_out(recipe: KernelRecipe, wanted: Wanted, origin: Source[Any], ctx: BuildContext) -> tuple[str, ...]:
    """Return the symbols, modules all of them, that a base's configuration does without; see `unneeded`.

    The tree is unpacked for it once; what came of it is kept in the cache.

    Raises:
        UserError, HostError: the source cannot be had.
    """
    asked = sorted((symbol, item.value) for symbol, item in configuration.asked_symbols(recipe, ctx).items())
    parts = [VERSION, ctx.arch, recipe.compiler, origin.tree_key, asked]
    parts += [recipe.toolchain] if recipe.toolchain else []
    key = content_key([*parts, sorted(wanted.words), sorted(wanted.symbols)])

    def make(work: Path) -> None:
        tree = work / "tree"
        tree.mkdir()
        origin.write_tree(tree)
        found = unneeded(recipe, wanted, tree, TRUSTED, ctx)
        ctx.discard(tree)
        (work / "symbols.json").write_text(json.dumps(found))

    path = ctx.cache.get(KIND, key, make, label=f"modules that {origin.describe()} does without")
    return tuple(json.loads((path / "symbols.json").read_text()))


def unneeded(recipe: KernelRecipe, wanted: Wanted, tree: Path, author: str, ctx: BuildContext) -> tuple[str, ...]:
    """Return the symbols, modules all of them, that a tree's configuration does without.

    () where nothing is to be left out: the tree has no localmodconfig, or it cannot be configured, of which its build
    tells.

    Args:
        author: of the tree, as `confined.build_fence` takes it.
    """
    if not shutil.which("perl") or not (tree / SCRIPT).exists():
        return ()
    obj = Path(tempfile.mkdtemp(prefix=f"{OBJECTS}trim-", dir=tree))
    try:
        return tuple(_unneeded(recipe, wanted, tree, obj, author, ctx))
    except (configuration.CannotConfigure, Escape, proc.CommandFailed):
        return ()
    finally:
        ctx.discard(obj)


def _words_of(scenario: Scenario, lib: Path) -> set[str]:
    """Return the words of a scenario's files, and of those of the library that are named there, or in these."""
    texts = [path.read_bytes() for _, path in own_files(scenario.folder)]
    rest = dict(own_files(lib)) if lib.is_dir() else {}
    words: set[str] = set()
    while texts:
        words |= {match.decode() for text in texts for match in _WORD.findall(text)}
        named = [name for name in rest if {Path(name).stem, Path(name).name} & words]
        texts = [rest.pop(name).read_bytes() for name in named]
    return words


def _unneeded(
    recipe: KernelRecipe, wanted: Wanted, tree: Path, obj: Path, author: str, ctx: BuildContext
) -> Iterator[str]:
    ctx, asked = ctx.compiling(recipe), configuration.asked_symbols(recipe, ctx)
    fence = build_fence(ctx, author, write=[obj], read=[tree])
    configuration.configure(tree, obj, asked, ctx, fence)
    before = configuration.read_config(obj / ".config")
    after = _localmodconfig(tree, obj, wanted.words, fence, ctx)
    kconfig = Kconfig(tree, configuration.source_arch(ctx.arch))
    gone = [
        symbol
        for symbol, value in before.items()
        if value == "m"
        and symbol not in after
        and symbol not in wanted.symbols
        and not any(AUTOLOADED.match(definition.place) for definition in kconfig.symbols.get(symbol, ()))
    ]
    left = _settled(tree, obj, before, gone, fence, ctx)
    if all(symbol in left for symbol in wanted.symbols if symbol in before):
        yield from (symbol for symbol in gone if symbol not in left)  # the others are selected by what stays


def _settled(
    tree: Path, obj: Path, values: Mapping[str, str], gone: list[str], fence: Fence, ctx: BuildContext
) -> dict[str, str]:
    """Return what Kconfig makes of a configuration without some symbols: what selects one keeps it."""
    lines = [f"CONFIG_{symbol}={value}\n" for symbol, value in values.items() if symbol not in gone]
    lines += [f"# CONFIG_{symbol} is not set\n" for symbol in gone]
    put_plain(obj / ".config", "".join(lines).encode())
    words = ["make", f"O={configuration.object_path(tree, obj)}", f"ARCH={configuration.source_arch(ctx.arch)}"]
    fence.run([*words, "olddefconfig"], timeout_s=SCRIPT_S, cwd=tree, cancel=ctx.cancel)
    ctx.check_cancel()
    return configuration.read_config(obj / ".config")


def _localmodconfig(tree: Path, obj: Path, words: Iterable[str], fence: Fence, ctx: BuildContext) -> dict[str, str]:
    """Return the configuration of `obj` as localmodconfig has it where exactly these modules are loaded."""
    loaded = obj / "loaded"
    listed = "Module Size Used by\n" + "".join(f"{word} 1 0\n" for word in sorted(words))
    put_plain(loaded, listed.encode())
    arch = configuration.source_arch(ctx.arch)
    more = {"LSMOD": str(loaded), "SRCARCH": arch, "HEADER_ARCH": arch, "srctree": str(tree)}
    with tempfile.NamedTemporaryFile() as handle:
        command = ["perl", str(tree / SCRIPT), "--localmodconfig", str(tree), "Kconfig"]
        fence.adding(more).run(command, timeout_s=SCRIPT_S, cwd=obj, cancel=ctx.cancel, stdout_to=handle.file)
        ctx.check_cancel()
        return configuration.read_config(Path(handle.name))
