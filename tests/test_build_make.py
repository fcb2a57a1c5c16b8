"""What make announces, as a person sees it."""

from __future__ import annotations

import pytest
from build_fixtures import Bench

from kpatchlab.build import make


@pytest.fixture
def seen(tmp_path):
    """Return a function that takes lines of make, for an estimated number of objects, and what was told of them."""

    def play(lines, estimate):
        told = []
        ctx = Bench(tmp_path).context(progress=told.append)
        counter = make._Seen("k", ctx, estimate, 0)
        for line in lines:
            counter.line(line)
        return [(step.phase, step.done, step.total_estimate) for step in told]

    return play


def test_an_estimate_that_is_passed_grows(seen):
    told = seen([f"  CC      net/f{n}.o" for n in range(120)], 100)
    assert told[0] == ("compile", 0, 100)
    assert all(total > done for _, done, total in told)
    assert told[-1][2] == 127


def test_at_the_link_nothing_is_left_to_count(seen):
    told = seen(["  CC      a.o", "  LD      vmlinux.o", "  MODPOST Module.symvers", "  CC [M]  net/tls/tls.mod.o"], 10)
    assert told[-1] == ("link", 0, 0)
    assert ("compile", 2, 10) not in told, "what modpost wrote is none of the kernel's objects"


def test_compiled_are_only_objects_that_are_counted():
    log = ["# net/a.c", "cache_miss", "direct_cache_miss", "# net/tls.mod.c", "cache_miss", "# b.c", "direct_cache_hit"]
    assert make.misses(log) == 1
