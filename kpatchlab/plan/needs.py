"""What a scenario needs of a kernel and a root, checked against what was built. Pure, but for reading the artifact."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path

from kpatchlab.lab.scenario import OR, Needs
from kpatchlab.model import BuildResult, Outcome


def lacking_packages(needs: Needs, packages: Collection[str]) -> str:
    """Return why a root with these Debian packages will not do; "" where it does."""
    lacking = [name for name in needs.packages if name not in packages]
    return f"the root lacks {', '.join(lacking)}" if lacking else ""


def refusal(needs: Needs, build: BuildResult, artifact: Path) -> tuple[Outcome, str] | None:
    """Say why a kernel cannot run a scenario: BLOCKED where it does not build, SKIP for what it lacks; None: it can.

    Args:
        artifact: the kernel's directory in the cache; not looked at where it does not build.
    """
    if build.outcome is not Outcome.PASS:
        return Outcome.BLOCKED, f"kernel {build.kernel} does not build: {build.error}"
    for failure in build.module_failures:
        hit = [m for m in needs.modules if _same(m, failure.module) or any(_same(m, d) for d in failure.dependents)]
        if hit:
            where = f"{failure.source}:{failure.line}" if failure.line else failure.source
            through = "" if _same(hit[0], failure.module) else f"{hit[0]} needs "
            return (
                Outcome.BLOCKED,
                f"{through}{failure.module} of kernel {build.kernel} does not build: {where}: {failure.error}",
            )
    if lacks := _lacks(artifact, needs):
        return Outcome.SKIP, f"lacks {', '.join(lacks)}"
    return None


def _same(a: str, b: str) -> bool:
    return a.replace("-", "_") == b.replace("-", "_")


def lacking_config(needs: Needs, has: Callable[[str], bool]) -> list[str]:
    """Return what of the configuration is lacking: CONFIG_A, or "CONFIG_A or CONFIG_B" where one would be enough."""
    wanted = (alternatives.split(OR) for alternatives in needs.config)
    return [" or ".join(f"CONFIG_{name}" for name in names) for names in wanted if not any(map(has, names))]


def switched_off(symbols: Iterable[str], kernel: Path) -> list[str]:
    """Return those of some configuration symbols that a kernel, by its directory in the cache, has neither y nor m."""
    on = _enabled_in(kernel)
    return [symbol for symbol in symbols if symbol not in on]


def _lacks(kernel: Path, needs: Needs) -> list[str]:
    on = _enabled_in(kernel)
    lacking = lacking_config(needs, on.__contains__)
    if needs.modules and not lacking and (kernel / "modules.builtin").exists():
        have = _modules_of(kernel)
        lacking = [f"module {m}" for m in needs.modules if m.replace("-", "_") not in have]
    return lacking or _lacking_symbols(kernel / "System.map", needs.symbols)


# An artifact never changes, and a survey asks each for every scenario.
@functools.cache
def _enabled_in(kernel: Path) -> frozenset[str]:
    pairs = (line.partition("=") for line in (kernel / "config").read_text(errors="replace").splitlines())
    return frozenset(name.removeprefix("CONFIG_") for name, _, value in pairs if value in {"y", "m"})


@functools.cache
def _modules_of(kernel: Path) -> frozenset[str]:
    return frozenset(
        Path(line.split(":")[0]).name.split(".ko")[0].replace("-", "_")
        for name in ("modules.dep", "modules.builtin")
        for line in (kernel / name).read_text().splitlines()
    )


def _lacking_symbols(system_map: Path, symbols: Sequence[str]) -> list[str]:
    """A kernel that Debian built comes without its map: whether it has a symbol shows when it runs."""
    if not symbols or not system_map.exists():
        return []
    have = {word for line in system_map.read_text().splitlines() for word in line.split()[-1:]}
    return [f"the symbol {' or '.join(names)}" for one in symbols if have.isdisjoint(names := one.split(OR))]
