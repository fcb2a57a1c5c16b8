"""A configuration with the modules that a search's criterion can need, and no others.

The tree's own localmodconfig (scripts/kconfig/streamline_config.pl) decides, which knows what depends on what and what
selects what. It is made once, from the bad end, and kept for all steps, so that these differ by their commits alone.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from kpatchlab import proc
from kpatchlab.bisect.criterion import Criterion
from kpatchlab.bisect.workspace import Workspace
from kpatchlab.build import BuildContext, lies_built
from kpatchlab.build import config as configuration
from kpatchlab.build.artifact import BOOT_MODULES
from kpatchlab.build.confined import build_fence
from kpatchlab.build.kconfig import Kconfig
from kpatchlab.build.kernel import OBJECTS, author_of_tree
from kpatchlab.fence import Escape, Fence
from kpatchlab.files import put_plain
from kpatchlab.lab.load import Lab
from kpatchlab.lab.recipes import KernelRecipe
from kpatchlab.lab.scenario import Scenario, own_files

SCRIPT = "scripts/kconfig/streamline_config.pl"
SCRIPT_S = 300.0
AUTOLOADED = re.compile(r"(arch/\w+/)?crypto/|lib/|fs/nls/|net/(netfilter|sched|ipv4|ipv6|bridge/netfilter)/")
"""Where the Kconfig files lie of modules that the kernel loads by names which no scenario writes: an algorithm's, a
character set's, a rule's, a kind of tunnel's. They are kept."""
_WORD = re.compile(rb"[A-Za-z][A-Za-z0-9_-]+")


def trimmed(lab: Lab, criterion: Criterion, recipe: KernelRecipe, space: Workspace, bad: str) -> tuple[str, ...]:
    """Return the symbols, modules all of them, that a search does without; () where nothing is to be left out.

    That is so where any module can be what is sought; where the whole configuration lies built already, so that its
    objects cost less than a first build of fewer; and where the tree has no localmodconfig.

    That is so as well where the bad end cannot be configured: its build tells of it.
    """
    ctx = space.ctx
    words = wanted_modules(lab, criterion)
    if words is None or lies_built(recipe, space.path, ctx) or not shutil.which("perl"):
        return ()
    space.checkout(bad)
    if not (space.path / SCRIPT).exists():
        return ()
    obj = Path(tempfile.mkdtemp(prefix=f"{OBJECTS}trim-", dir=space.path))
    try:
        return tuple(_trim(lab, criterion, recipe, space.path, obj, words, ctx))
    except (configuration.CannotConfigure, Escape, proc.CommandFailed):
        return ()
    finally:
        ctx.discard(obj)


def without(recipe: KernelRecipe, symbols: tuple[str, ...]) -> KernelRecipe:
    """Return a recipe whose configuration does without these symbols."""
    given = dict(recipe.config_set or {}) | dict.fromkeys(symbols, "n")
    return recipe.model_copy(update={"config_set": given}) if symbols else recipe


def wanted_modules(lab: Lab, criterion: Criterion) -> set[str] | None:
    """Return names among which are those of all modules that a criterion needs; None: it can need any.

    A scenario's are taken from its files: each word of them that is a module's name counts, that of a comment as well.
    """
    if criterion.kind == "build" and not criterion.module:
        return None
    words = {*BOOT_MODULES, criterion.module}
    for name in lab.choose(criterion.scenarios) if criterion.scenarios else ():
        words |= _words_of(lab.scenarios[name], lab.root / "scenarios/lib")
    return words - {""}


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


def _trim(
    lab: Lab, criterion: Criterion, recipe: KernelRecipe, tree: Path, obj: Path, words: set[str], ctx: BuildContext
) -> Iterator[str]:
    asked = configuration.asked_symbols(recipe, ctx)
    fence = build_fence(ctx, author_of_tree(tree), write=[obj], read=[tree])
    configuration.configure(tree, obj, asked, ctx, fence)
    before = configuration.read_config(obj / ".config")
    modules = [symbol for symbol, value in before.items() if value == "m"]
    after = _localmodconfig(tree, obj, words, fence, ctx)
    scenarios = lab.choose(criterion.scenarios) if criterion.scenarios else ()
    kept = {symbol for name in scenarios for symbol in lab.scenarios[name].needs.symbols_of_config()}
    kconfig = Kconfig(tree, configuration.source_arch(ctx.arch))
    gone = [
        symbol
        for symbol in modules
        if symbol not in after
        and symbol not in kept
        and not any(AUTOLOADED.match(definition.place) for definition in kconfig.symbols.get(symbol, ()))
    ]
    left = _settled(tree, obj, before, gone, fence, ctx)
    if all(symbol in left for symbol in kept if symbol in before):
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


def _localmodconfig(tree: Path, obj: Path, words: set[str], fence: Fence, ctx: BuildContext) -> dict[str, str]:
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
