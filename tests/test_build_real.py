"""A real, small kernel with two modules that do not compile."""

from __future__ import annotations

from pathlib import Path

import pytest

from kpatchlab.build import BuildContext, build_kernel
from kpatchlab.cache import Cache
from kpatchlab.lab.recipes import KernelRecipe
from kpatchlab.model import Outcome

LAB = Path(__file__).parent.parent
BREAK = """{name}: break it, for the lab's own test

--- a/{file}
+++ b/{file}
@@ -1,1 +1,2 @@
+#error {name} does not compile
 {first}
"""


@pytest.mark.build
@pytest.mark.mirror
def test_two_modules_break_and_the_kernel_stands(tmp_path, tiny_base):
    for name, file, first in (
        ("inet_diag", "net/ipv4/inet_diag.c", "// SPDX-License-Identifier: GPL-2.0-or-later"),
        ("tls", "net/tls/tls_sw.c", "/*"),
    ):
        (tmp_path / f"{name}.patch").write_text(BREAK.format(name=name, file=file, first=first))
    given = tiny_base.model_dump(by_alias=True)
    recipe = KernelRecipe.model_validate(given | {"series": [{"type": "patches", "path": str(tmp_path)}]})
    cache = Cache()
    result = build_kernel(recipe, "tiny", BuildContext(cache, LAB))
    assert result.outcome is Outcome.PASS, result.log_tail
    assert {(f.module, f.source, f.line, f.dependents) for f in result.module_failures} == {
        ("inet_diag", "net/ipv4/inet_diag.c", 1, ("tcp_diag", "udp_diag")),
        ("tls", "net/tls/tls_sw.c", 1, ()),
    }
    folder = cache.path("kernel", result.key)
    left = {Path(line.split(":")[0]).name for line in (folder / "modules.dep").read_text().splitlines()}
    assert {"dummy.ko", "veth.ko", "unix_diag.ko"} <= left
    assert not {"inet_diag.ko", "tcp_diag.ko", "udp_diag.ko", "tls.ko"} & left
    assert (folder / "vmlinuz").stat().st_size > 1 << 20
    assert not result.config_misses
