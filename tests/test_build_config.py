"""Configuration: fragments are read strictly, and every miss has a reason that a person can act on."""

from __future__ import annotations

import pytest
from build_fixtures import FAKE, Bench
from pydantic import ValidationError

from kpatchlab.build import config
from kpatchlab.build.kconfig import NO_SUCH, Kconfig, level, unmet_terms
from kpatchlab.build.unknown import unknown_symbols
from kpatchlab.errors import UserError
from kpatchlab.lab.recipes import KernelRecipe
from kpatchlab.model import BuildResult, ConfigMiss, Outcome


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def test_the_later_word_wins_and_places_are_kept(bench):
    (bench.lab / "kernels/config/more.config").write_text("# off again\n\n# CONFIG_NET is not set\nCONFIG_HZ=250\n")
    recipe = bench.recipe(config=["config/all.config", "config/more.config"], config_set={"ALPHA": "n", "NAME": "lab"})
    asked = config.asked_symbols(recipe, bench.ctx)
    assert asked["NET"] == config.Asked("n", "config/more.config:3")
    assert asked["HZ"] == config.Asked("250", "config/more.config:4")
    assert asked["ALPHA"] == config.Asked("n", "config_set")
    assert asked["NAME"].value == '"lab"'
    assert "# CONFIG_NET is not set\n" in config.fragment_text(asked)


@pytest.mark.parametrize(
    ("text", "message"), [("CONFIG_NET y\n", "all.config:1: not a configuration line"), (None, "No such file")]
)
def test_mistakes_in_fragments(bench, text, message):
    path = bench.lab / "kernels/config/all.config"
    path.unlink()
    if text:
        path.write_text(text)
    with pytest.raises(UserError, match=message):
        config.asked_symbols(bench.recipe(), bench.ctx)


@pytest.mark.parametrize(
    ("symbol", "asked", "values", "reason"),
    [
        ("BETA", "m", {"NET": "y"}, "depends on ALPHA=n"),
        ("BETA", "y", {"NET": "y", "ALPHA": "m"}, "depends on ALPHA=m"),
        ("GAMMA", "m", {}, "depends on NET=n, ALPHA=n, BETA=n"),
        ("EPSILON", "y", {"NET": "y", "ALPHA": "m"}, "depends on (ABSENT || DELTA=y) (ABSENT=n, DELTA=n)"),
        ("NET", "m", {}, "cannot be a module"),
        ("HIDDEN", "y", {"NET": "y"}, "has no prompt: only other symbols can turn it on"),
        ("LOOKS_LIKE_ONE", "y", {}, "no such symbol in this tree"),
    ],
)
def test_reasons(symbol, asked, values, reason):
    assert Kconfig(FAKE, "x86").why(symbol, asked, values) == reason


@pytest.mark.parametrize(("also", "told"), [((), True), (("GONE",), False)])
def test_a_symbol_that_no_kernel_of_the_lab_has_is_told(bench, tmp_path, also, told):
    other = tmp_path / "other"
    other.mkdir()
    (other / "Makefile").touch()
    (other / "Kconfig").write_text("".join(f"config {name}\n\tbool\n" for name in ("NET", *also)))
    fragment = bench.lab / "kernels/config/more.config"
    fragment.write_text("CONFIG_NET=y\nCONFIG_GONE=y\n# CONFIG_GONE_TOO is not set\n")
    fake, older = (
        KernelRecipe(source={"type": "dir", "path": str(path)}, config=["config/more.config"]) for path in (FAKE, other)
    )
    image = {"type": "debian-image", "package": "linux-image-amd64", "suite": "bookworm"}
    kernels = {"new": fake, "old": older, "prebuilt": KernelRecipe(source=image)}
    line = "kernels/config/more.config:2: no kernel of this lab has CONFIG_GONE"
    assert unknown_symbols(kernels, {}, bench.ctx) == [line] * told
    elsewhere = KernelRecipe(
        source={"type": "git", "url": "https://example.org/l.git", "revision": "v1"}, config=fake.config
    )
    kernels["elsewhere"] = elsewhere
    assert unknown_symbols(kernels, {}, bench.ctx) == [], "of one kernel nobody can tell"
    miss = ConfigMiss("GONE", "y", "n", "config/more.config:2", NO_SUCH)
    built = {"elsewhere": BuildResult("elsewhere", Outcome.PASS, config_misses=(miss,))}
    assert unknown_symbols(kernels, built, bench.ctx) == [line] * told


def test_reasons_of_the_other_kconfig_constructs(tmp_path):
    (tmp_path / "Kconfig").write_text(
        'choice\n\tprompt "Pick"\nconfig ONE\n\tbool "One"\nconfig TWO\n\tbool "Two"\nendchoice\n'
        'menu "M"\n\tdepends on ONE\nconfig INNER\n\tbool "Inner" if EXPERT\nendmenu\n'
        'config WILLING\n\ttristate "W"\n\tselect FORCED if ONE\n'
        'config FORCED\n\ttristate\n\tprompt "F"\n'
        'source "arch/$(SRCARCH)/Kconfig"\n'
    )
    (tmp_path / "arch/x86").mkdir(parents=True)
    (tmp_path / "arch/x86/Kconfig").write_text(
        'config MACRO\n\tbool "Macro"\n\tdepends on $(cc-option,-mfoo,$(x)) && ONE\n'
    )
    kconfig = Kconfig(tmp_path, "x86")
    assert kconfig.why("TWO", "y", {"ONE": "y"}) == "another member of its choice is set"
    assert kconfig.why("INNER", "y", {}) == "depends on ONE=n"
    assert kconfig.why("INNER", "y", {"ONE": "y"}) == "can be asked for only if EXPERT=n"
    assert kconfig.why("FORCED", "n", {"FORCED": "m", "WILLING": "m", "ONE": "y"}) == "selected by WILLING"
    assert kconfig.why("MACRO", "y", {}) == "depends on ONE=n"


def test_expressions():
    values = {"A": "y", "B": "m", "N": "250", "S": '"text"'}
    for text, want in {
        "A": 2, "B": 1, "C": 0, "!C": 2, "!B": 1, "A && B": 1, "A && !(B || C)": 1, "B=m": 2, "A!=y": 0,
        "N >= 250": 2, "N < 100": 0, 'S = "text"': 2, "": 2, "((": 2,
    }.items():  # fmt: skip
        assert level(text, values) == want, text
    assert unmet_terms("A || B", {}, "m") == ["A || B (A=n, B=n)"]
    assert unmet_terms("!A && B", values, "m") == ["!A (A=y)"]


@pytest.mark.parametrize("value", ["64\nCONFIG_MODULE_SIG=n", "a\rb", "x\x00", "\x1b[2J", "a\u2028b"])
def test_a_value_cannot_set_another_symbol(bench, value):
    with pytest.raises(ValidationError, match="one line of printable characters"):
        bench.recipe(config_set={"LOCALVERSION": value})


DEPENDING = """\
config WANTED
	tristate "Wanted"
	depends on MODULAR && PLAIN && HIDDEN && (ONE || OTHER) && !FORBIDDEN
	depends on PICKED
if AROUND
config INNER
	bool "Inner" if EXPERT
endif
config MODULAR
	tristate "Modular"
config PLAIN
	bool "Plain"
	depends on DEEPER
config DEEPER
	bool "Deeper"
	depends on WANTED
config HIDDEN
	bool
config ONE
	bool "One"
config OTHER
	bool "Other"
config FORBIDDEN
	bool "Forbidden"
config AROUND
	bool "Around"
config EXPERT
	bool "Expert"
config OVER
	bool "Over"
	depends on DERIVED && EXPERT
config DERIVED
	def_bool y
	depends on BELOW
config BELOW
	bool "Below"
choice
config PICKED
	bool "Picked"
endchoice
"""


def test_a_symbol_is_asked_for_with_what_it_depends_on(tmp_path):
    (tmp_path / "Kconfig").write_text(DEPENDING)
    tree = Kconfig(tmp_path, "x86")
    assert tree.with_dependencies({"WANTED": "m", "GONE": "y"}, ()) == {
        "WANTED": "m",
        "MODULAR": "m",
        "PLAIN": "y",
        "DEEPER": "y",
    }
    assert tree.with_dependencies({"WANTED": "y"}, ("PLAIN",)) == {"WANTED": "y", "MODULAR": "y"}
    assert tree.with_dependencies({"INNER": "y"}, ()) == {"INNER": "y", "AROUND": "y"}
    assert tree.with_dependencies({"INNER": "y"}, ("INNER",)) == {}
    assert tree.with_dependencies({"DERIVED": "y"}, ()) == {"BELOW": "y"}
    assert tree.with_dependencies({"OVER": "y"}, ()) == {"OVER": "y", "BELOW": "y"}
