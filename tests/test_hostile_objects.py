"""What a hostile build leaves where the lab reads: it costs its own kernel, and neither the lab nor its memory."""

from __future__ import annotations

import os
import resource
from contextlib import contextmanager
from pathlib import Path

import pytest
from build_fixtures import Bench
from test_build_attacks import build, needs_sandbox, series_of

from kpatchlab import fence
from kpatchlab.build.artifact import read_dependencies
from kpatchlab.model import Outcome

pytestmark = pytest.mark.toy

MORE_BYTES = 1 << 30
DEEP = "i=0; while [ $i -lt 1200 ]; do mkdir d && cd d; i=$((i+1)); done"
READ = ("System.map", "modules.order", "Module.symvers", "kpatchlab-ccache.log", "$KPATCHLAB_FAILURES/x")


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


@contextmanager
def bounded_memory():
    """Bound what this process may take beside what it has: a file of any size that it reads whole is an error then."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (now + MORE_BYTES, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def leaving(bench, script):
    """Return a recipe with a series whose make runs a script in its objects, when it has made and when it installs."""
    makefile = (bench.tree / "Makefile").read_text()
    call = "\t@[ -z '$(INSTALL_MOD_PATH)' ] || export ROOT=$(INSTALL_MOD_PATH); sh $(srctree)/payload.sh\n"
    places = ["\t@for ko in $(mods-m); do to=", "modules_install:\n"]
    changed = makefile.replace(places[0], call + places[0])
    changed = changed.replace('EXPORT_SYMBOL\t,p"; done > $@\n', 'EXPORT_SYMBOL\t,p"; done > $@\n' + call)
    assert changed.count("payload.sh") == 2
    return series_of(bench, {"Makefile": changed, "payload.sh": script + "\n"})


LEFT = {
    "odd bytes": (
        f"for f in ${{ROOT:+.config}} {' '.join(READ)}; do printf '\\377 \\377\\n\\n' >>$f; done",
        Outcome.PASS,
    ),
    **{
        f"a huge {name}": (f"truncate -s 12G {name}", Outcome.BLOCKED)
        for name in ("modules.order", "include/config/kernel.release", "$KPATCHLAB_FAILURES/x")
    },
    **{
        f"no {name}": (f"rm -rf {name}; {instead} {name}", Outcome.BLOCKED)
        for name, instead in {
            "System.map": "ln -s nowhere", "vmlinux": "mkdir", "arch/x86/boot/bzImage": "ln -s bzImage",
            "drivers/alpha.ko": "mkdir",
        }.items()
    },
    "a link for vmlinux": ("[ -e v ] || { mv vmlinux v; ln -s v vmlinux; }", Outcome.PASS),
    "deep folders": (DEEP, Outcome.BLOCKED),
    "deep folders to install": (f"[ -z $ROOT ] || {{ mkdir -p $ROOT; cd $ROOT; {DEEP}; }}", Outcome.BLOCKED),
    "a file for a folder": ("[ -z $ROOT ] || { mkdir -p $ROOT; touch $ROOT/lib; exit 0; }", Outcome.BLOCKED),
    "an odd name": (
        "[ -z $ROOT ] || { cd $ROOT; mkdir -p lib/modules/6.0.0-fake; : >lib/modules/*/$(printf 'a\\377').ko; }",
        Outcome.BLOCKED,
    ),
    "a link with a line feed": ("ln -s \"$(printf '/etc/a\\nb\\033[31m')\" x", Outcome.BLOCKED),
}  # fmt: skip


@needs_sandbox
@pytest.mark.parametrize("name", LEFT)
def test_what_a_build_leaves_costs_its_own_kernel_alone(bench, name):
    script, outcome = LEFT[name]
    recipe = leaving(bench, script)
    with bounded_memory():
        result = build(bench, recipe)
    if name == "an odd name":  # depmod of kmod 30 dies of it
        assert result.outcome in {Outcome.PASS, Outcome.BLOCKED}
        return
    assert result.outcome is outcome, (result.error, result.log_tail)
    assert result.error.isprintable()
    folder = bench.ctx.cache.path("kernel", result.key)
    assert not [path for path in folder.rglob("*") if path.is_symlink()]
    if outcome is Outcome.PASS:
        (folder / "System.map").read_text()
        assert read_dependencies(folder)


@needs_sandbox
@pytest.mark.parametrize(
    ("name", "outcome"),
    [("cc.sh", Outcome.PASS), ("kpatchlab.config", Outcome.PASS), ("kpatchlab-ccache.log", Outcome.BLOCKED)],
)
def test_folders_where_the_lab_writes_cost_the_kernel_alone(bench, name, outcome):
    if outcome is Outcome.BLOCKED and not fence.which("ccache"):
        pytest.skip("no ccache on this host")
    makefile = (bench.tree / "Makefile").read_text()
    call = f"PAYLOAD := $(shell [ -e {name} ] || mkdir -p {name}/x 2>/dev/null)\n"
    assert build(bench, series_of(bench, {"Makefile": call + makefile})).outcome is outcome
