"""Hostile series: their Makefile does what a stranger's can do, with harmless payloads, and nothing comes of it."""

from __future__ import annotations

import contextlib
import difflib
import os
import socket
import time
from pathlib import Path

import pytest
from build_fixtures import Bench
from conftest import TRUSTS

from kpatchlab import fence
from kpatchlab.build import build_kernel, confined
from kpatchlab.build.patchset import Patch
from kpatchlab.errors import LabWarning
from kpatchlab.fence import NoFence
from kpatchlab.model import Outcome
from kpatchlab.series import checks

pytestmark = pytest.mark.toy

needs_sandbox = pytest.mark.skipif(fence.lacking() is not None, reason=f"no sandbox on this host: {fence.lacking()}")
SECRET = "s3cret-of-the-caller"


@pytest.fixture
def bench(tmp_path, monkeypatch):
    made = Bench(tmp_path)
    home = tmp_path / "home/.ssh"
    home.mkdir(parents=True)
    (home / "id").write_text(SECRET)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KPATCHLAB_SMTP_PASSWORD", SECRET)
    return made


def series_of(bench: Bench, changes: dict[str, str]) -> object:
    """Return a recipe with a series that makes files of the tree what is given."""
    folder = bench.lab / "kernels/patches"
    folder.mkdir(exist_ok=True)
    text = "Do as a stranger does\n\n"
    for name, after in changes.items():
        path = bench.tree / name
        before = path.read_text().splitlines(keepends=True) if path.exists() else []
        ends = (f"a/{name}" if before else "/dev/null", f"b/{name}")
        text += "".join(difflib.unified_diff(before, after.splitlines(keepends=True), *ends))
    (folder / "0001.patch").write_text(text)
    return bench.recipe(series=[{"type": "patches", "path": "patches"}])


def hostile(bench: Bench, script: str, **more: str) -> object:
    """Return a recipe with a series whose Makefile runs a script in every step, before anything else."""
    makefile = (bench.tree / "Makefile").read_text()
    call = "PAYLOAD := $(shell sh $(dir $(lastword $(MAKEFILE_LIST)))payload.sh 1>&2)\n"
    return series_of(bench, {"Makefile": call + makefile, "payload.sh": script + "\n"} | more)


def build(bench, recipe=None, ctx=None):
    return build_kernel(recipe or bench.recipe(), "k", ctx or bench.ctx)


def said(bench, result) -> str:
    """Return all that a build left in words: what was shown, and every text of its artifact."""
    folder = bench.ctx.cache.path("kernel", result.key)
    texts = [path.read_text(errors="replace") for path in folder.glob("*") if path.is_file()]
    return "\n".join([*bench.lines, result.log_tail, result.error, *texts])


@needs_sandbox
def test_a_payload_runs_at_all(bench):
    result = build(bench, hostile(bench, "echo payload was here"))
    assert result.outcome is Outcome.PASS, result
    assert "payload was here" in said(bench, result)


@needs_sandbox
def test_nothing_outside_is_written(bench, tmp_path):
    bench.repository()
    before = bench.snapshot()
    places = [tmp_path / "out", bench.tree / "README", bench.lab / "lab.yaml", tmp_path / "home/.bashrc"]
    places += [bench.ctx.cache.root / "out", bench.ctx.cache.root / "ccache/out", Path("/var/tmp/kpatchlab-canary")]
    recipe = hostile(bench, "\n".join(f"mkdir -p {place.parent}; echo x >{place}" for place in places))
    result = build(bench, recipe)
    assert result.outcome is Outcome.PASS, result
    assert not [place for place in places if place.exists()]
    assert bench.snapshot() == before


@needs_sandbox
def test_no_secret_of_the_caller_is_read(bench, tmp_path):
    places = f"{tmp_path}/home/.ssh/id ~/.ssh/id"
    script = f"env; cat {places}; cat /proc/*/environ | tr '\\0' '\\n'; ls -a {tmp_path} /root /home"
    result = build(bench, hostile(bench, script))
    assert result.outcome is Outcome.PASS, result
    assert SECRET not in said(bench, result)
    assert "SSH_AUTH_SOCK" not in said(bench, result)


@needs_sandbox
def test_no_listener_is_reached(bench):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        port = server.getsockname()[1]
        code = f'import socket; socket.create_connection(("127.0.0.1", {port}), 2).send(b"x")'
        result = build(bench, hostile(bench, f"python3 -c '{code}'"))
        assert result.outcome is Outcome.PASS, result
        with pytest.raises(BlockingIOError):
            server.accept()


@needs_sandbox
def test_no_daemon_is_left(bench):
    name = f"kpatchlab-canary-{os.getpid()}"
    script = f"setsid sh -c 'exec -a {name} sleep 300 || sleep 300' >/dev/null 2>&1 </dev/null &"
    result = build(bench, hostile(bench, script.replace("sh -c", "bash -c")))
    assert result.outcome is Outcome.PASS, result
    time.sleep(0.3)
    running = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            running.append(path.read_bytes())
    assert not [line for line in running if name.encode() in line]


@needs_sandbox
def test_no_other_kernels_artifact_is_changed(bench):
    base = build(bench)
    folder = bench.ctx.cache.path("kernel", base.key)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    script = f"for f in $(find {bench.ctx.cache.root} -name vmlinuz -o -name build.json); do echo x >$f; done"
    result = build(bench, hostile(bench, script))
    assert result.outcome is Outcome.PASS, result
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@needs_sandbox
def test_objects_that_a_series_plants_reach_no_later_kernel(bench):
    if not fence.which("ccache"):
        pytest.skip("no ccache on this host")
    base = build(bench)
    stores = 'shared=$(echo "${CCACHE_REMOTE_STORAGE#file:}" | cut -d "|" -f 1)\n'
    poison = 'find "$CCACHE_DIR" "$shared" -type f | while read -r f; do echo poison >"$f"; done'
    changed = (bench.tree / "core/net.c").read_text().replace("return -1;", "return -2;")  # else nothing is compiled
    assert build(bench, hostile(bench, stores + poison, **{"core/net.c": changed})).outcome is Outcome.PASS
    bench.ctx.cache.drop("kernel", base.key)
    own = [path for path in bench.ctx.cache.root.glob("compiled/*/objects") if path.parent.name != "bases"]
    assert [path for path in own[0].rglob("*") if path.is_file() and path.read_bytes() == b"poison\n"]
    for store in (bench.ctx.cache.root / "ccache", bench.ctx.cache.path("compiled", "bases")):
        files = [path for path in store.rglob("*") if path.is_file()]
        assert files
        assert not [path for path in files if path.read_bytes() == b"poison\n"]


@needs_sandbox
@pytest.mark.parametrize(
    "trap",
    [
        'ln -sf {home}/.ssh/id "$obj/System.map"',
        'rm -f "$obj/vmlinux"; ln -sf {home}/.ssh/id "$obj/vmlinux"',
        'mkdir -p "$obj/include/config"; ln -sf {home}/.ssh/id "$obj/include/config/kernel.release"',
        'rm -f "$obj/.config"; mkfifo "$obj/.config"',
    ],
)
def test_links_in_what_was_built_bring_no_file_of_the_host(bench, tmp_path, trap):
    makefile = (bench.tree / "Makefile").read_text()
    line = "\tobj=. ; " + trap.replace("$obj", ".").format(home=tmp_path / "home") + "\n"
    changed = makefile.replace("modules_install:\n", "modules_install:\n" + line)
    result = build(bench, series_of(bench, {"Makefile": changed}))
    assert result.outcome is Outcome.BLOCKED
    assert "tried to leave its folders" in result.error
    assert SECRET not in said(bench, result)


@needs_sandbox
def test_paths_that_a_build_names_stay_in_its_objects(bench, tmp_path):
    victim = tmp_path / "home/victim.o"
    victim.write_text("precious")
    record = "../x.c '\"m\"' module boom >$KPATCHLAB_FAILURES"
    up = "../" * 12
    script = f"printf '%s\\n' {victim} {record}/x; printf '%s\\n' {up}{victim} {record}/y; :"
    lines = {
        "> include/config/kernel.release\n": "> include/config/kernel.release; "
        f"echo {up}home/x > include/config/kernel.release\n",
        "echo $$ko >> modules.order; done": f"echo $$ko >> modules.order; done; echo {up}{victim} >> modules.order",
    }
    makefile = (bench.tree / "Makefile").read_text()
    for old, new in lines.items():
        assert old in makefile
        makefile = makefile.replace(old, new)
    bench.write("Makefile", makefile)
    result = build(bench, hostile(bench, script))
    assert victim.read_text() == "precious"
    assert (result.outcome, result.error) == (Outcome.BLOCKED, "make wrote no release that is a name")


@needs_sandbox
def test_an_artifact_that_was_altered_is_not_served(bench):
    first = build(bench)
    image = bench.ctx.cache.path("kernel", first.key) / "vmlinuz"
    right = image.read_bytes()
    assert build(bench).cached
    image.chmod(0o644)
    image.write_bytes(right + b"more")
    with pytest.warns(LabWarning, match="somebody wrote to it"):
        again = build(bench)
    assert (again.cached, image.read_bytes()) == (False, right)


@needs_sandbox
@pytest.mark.parametrize("script", ["checkpatch.pl", "kernel-doc", "coccicheck"])
def test_the_trees_own_checks_are_confined(bench, tmp_path, script):
    out = tmp_path / "out"
    if script == "checkpatch.pl":
        text = f'open(F, ">", "{out}"); print "-:1: ERROR:X: $ENV{{KPATCHLAB_SMTP_PASSWORD}} ran\\n"; exit 1;\n'
    else:
        text = f'#!/bin/sh\ntouch {out}\necho "drivers/delta.c:1:2: warning: it ran $KPATCHLAB_SMTP_PASSWORD" >&2\n'
        text += 'echo "./drivers/delta.c:1:2-3: WARNING: it ran $KPATCHLAB_SMTP_PASSWORD"\n'
    bench.write(f"scripts/{script}", text)
    (bench.tree / f"scripts/{script}").chmod(0o755)
    looked = {
        "checkpatch.pl": lambda: checks.checkpatch(bench.tree, Patch("p", "s", b"--- a/x\n"), bench.ctx),
        "kernel-doc": lambda: checks.kernel_doc(bench.tree, ["drivers/delta.c"], bench.ctx),
        "coccicheck": lambda: checks.coccicheck(bench.tree, ["drivers/delta.c"], bench.ctx),
    }[script]()
    assert "ran" in str(looked)
    assert SECRET not in str(looked)
    assert not out.exists()


@needs_sandbox
def test_a_build_that_lies_about_what_it_made_is_blocked(bench):
    makefile = (bench.tree / "Makefile").read_text()
    result = build(bench, series_of(bench, {"Makefile": makefile.replace("\t@cp $< $@\n", "\t@:\n")}))
    assert (result.outcome, "bzImage" in result.error) == (Outcome.BLOCKED, True)
    makefile = makefile.replace("modules_install:\n", "modules_install:\n\t@echo no >&2; exit 1\n")
    result = build(bench, series_of(bench, {"Makefile": makefile}))
    assert result.outcome is Outcome.BLOCKED


def test_without_a_sandbox_a_series_is_built_only_where_the_user_trusts_it(bench, monkeypatch):
    lack = fence.Lack("bubblewrap is not installed", "apt-get install bubblewrap")
    monkeypatch.setattr(fence, "lacking", lambda: lack)
    monkeypatch.setattr(confined, "trusts", TRUSTS)
    assert build(bench).outcome is Outcome.PASS
    recipe = hostile(bench, "env")
    with pytest.raises(NoFence, match="a series is not built outside a sandbox: bubblewrap is not") as caught:
        build(bench, recipe)
    assert caught.value.hint.startswith("apt-get install bubblewrap; or --trust")
    result = build(bench, recipe, bench.context(trust=True))
    assert result.outcome is Outcome.PASS
    assert SECRET not in said(bench, result)
