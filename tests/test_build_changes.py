"""Whose line is whose after the last patch, and which functions each patch changes; git itself is the judge."""

from __future__ import annotations

import random
import subprocess

import pytest

from kpatchlab.build import diffs
from kpatchlab.build.changes import AddedLine, Changes, Named, Replay, read, write
from kpatchlab.build.functions import Function, functions_in
from kpatchlab.build.patchset import Patch, split_mbox

SOURCE = """\
#include <linux/net.h>

static __always_inline int one(struct sock *sk)
{
	return sk->a;
}

/* about two */
int two(struct sock *sk,
	int flags) __acquires(sk)
{
	list_for_each_entry(a, b, c) {
		one(sk);
	}
	return 0;
}

static const struct proto_ops ops = {
	.owner = THIS_MODULE,
	.two = two,
};

#ifdef CONFIG_THREE
static void three(void) { two(NULL, 0); }
#endif

SYSCALL_DEFINE2(four, int, fd, const struct iovec __user *, vec)
{
	return 0;
}
"""


class Repo:
    """A repository whose commits are a series."""

    def __init__(self, root):
        self.root = root
        self.git("init", "-q")
        self.commit("base", {"net/a.c": SOURCE})
        self.base = self.git("rev-parse", "HEAD").strip()

    def git(self, *words, data=None):
        who = ["-c", "user.name=A U Thor", "-c", "user.email=a@example.com", "-c", "init.defaultBranch=main"]
        done = subprocess.run(["git", *who, "-C", str(self.root), *words], check=True, capture_output=True, input=data)
        return done.stdout.decode("utf-8", "surrogateescape")

    def commit(self, title, files):
        for name, text in files.items():
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if text is None:
                path.unlink()
            else:
                path.write_bytes(text if isinstance(text, bytes) else text.encode())
        self.git("add", "-A")
        self.git("commit", "-q", "-m", title)

    def sub(self, title, old, new, name="net/a.c"):
        text = (self.root / name).read_text()
        assert text.count(old) == 1
        self.commit(title, {name: text.replace(old, new)})

    def at(self, revision):
        def content(name):
            words = ["git", "-C", str(self.root), "show", f"{revision}:{name}"]
            done = subprocess.run(words, check=False, capture_output=True)
            return done.stdout if done.returncode == 0 else None

        return content

    def changes(self, *options):
        mbox = self.git("format-patch", "--stdout", "--binary", *options, self.base)
        patches = split_mbox(mbox.encode("utf-8", "surrogateescape"), "series")
        return Replay(patches, self.at(self.base)).run(self.at("HEAD"))


@pytest.fixture
def repo(tmp_path):
    return Repo(tmp_path)


def functions(changes, number):
    return [(f.name, f.gone) for f in changes.patches[number - 1].functions]


def test_functions_of_c_as_the_kernel_writes_it():
    assert functions_in(SOURCE.encode()) == [
        Function("one", 3, 6), Function("two", 9, 16), Function("three", 24, 24), Function("__x64_sys_four", 27, 30),
    ]  # fmt: skip


def test_a_file_that_is_no_c_breaks_nothing():
    assert functions_in(b"\xff\x00 }}}} ((( int") == []


def test_each_patch_has_its_functions_static_ones_and_the_removed(repo):
    repo.sub("change one", "return sk->a;", "return sk->a + 1;")
    repo.sub("only the table", "\t.two = two,\n", "")
    repo.sub("add five, remove three", "static void three(void) { two(NULL, 0); }", "int five(void)\n{\n\treturn 5;\n}")
    repo.sub("a signature and a system call", "int flags) __acq", "long flags) __acq")
    changes = repo.changes()
    assert functions(changes, 1) == [("one", False)]
    assert functions(changes, 2) == []
    assert functions(changes, 3) == [("three", True), ("five", False)]
    assert functions(changes, 4) == [("two", False)]
    assert [patch.title for patch in changes.patches][:2] == ["change one", "only the table"]
    assert not any(patch.unread for patch in changes.patches)
    assert changes.sources == ["net/a.c"]


def test_lines_follow_what_later_patches_move_and_lose_what_they_replace(repo):
    repo.sub("first", "\treturn sk->a;\n", "\tint kept = 1;\n\tint replaced = 2;\n\treturn kept;\n")
    repo.sub("second", "\tint replaced = 2;\n", "\tint other = 3;\n")
    repo.sub(
        "third", "#include <linux/net.h>\n", "#include <linux/net.h>\n#include <linux/a.h>\n#include <linux/b.h>\n"
    )
    first, second, third = repo.changes().patches
    assert first.hunks[0].lines == (AddedLine(7, "\tint kept = 1;"), AddedLine(9, "\treturn kept;"))
    assert first.hunks[0].added == 3
    assert second.hunks[0].lines == (AddedLine(8, "\tint other = 3;"),)
    assert [line.number for line in third.hunks[0].lines] == [2, 3]


def test_a_function_that_moves_to_another_file_is_known_there(repo):
    repo.sub("change", "return sk->a;", "return sk->b;")
    text = (repo.root / "net/a.c").read_text()
    start, end = text.index("static __always_inline"), text.index("/* about two */")
    repo.commit("move", {"net/a.c": text[:start] + text[end:], "net/b.h": text[start:end]})
    changes = repo.changes()
    assert changes.patches[0].functions == (Named("one", "net/b.h"),)
    assert changes.patches[0].hunks[0].lines == ()


def test_renamed_copied_new_and_deleted_files(repo):
    repo.sub("change", "return sk->a;", "return sk->b;")
    repo.git("mv", "net/a.c", "net/z.c")
    repo.commit("rename alone", {})
    repo.sub("change again", "return sk->b;", "return sk->b + 1;", "net/z.c")
    repo.commit("new", {"net/new.c": "int n(void)\n{\n\treturn 1;\n}"})  # no newline at its end
    repo.commit("longer", {"net/new.c": "int n(void)\n{\n\treturn 1;\n}\nint m(void) { return 2; }\n"})
    repo.commit("delete", {"net/new.c": None})
    changes = repo.changes("-M")
    assert changes.patches[0].files == ("net/z.c",)
    assert changes.patches[0].functions == (Named("one", "net/z.c"),)
    assert changes.patches[2].hunks[0].lines == (AddedLine(5, "\treturn sk->b + 1;"),)
    assert functions(changes, 4) == [("n", True)]
    assert functions(changes, 5) == [("n", True), ("m", True)]
    assert not any(patch.unread for patch in changes.patches)


def test_bytes_that_are_no_utf8_and_line_ends_of_dos(repo):
    repo.commit("base two", {"net/l1.c": b"int a(void)\r\n{\r\n\treturn '\xe9';\r\n}\r\n\x0cint b;\r\n"})
    repo.base = repo.git("rev-parse", "HEAD").strip()
    repo.commit("change", {"net/l1.c": b"int a(void)\r\n{\r\n\treturn '\xe8';\r\n}\r\n\x0cint c;\r\n"})
    (patch,) = repo.changes().patches
    assert [line.number for line in patch.hunks[0].lines] == [3, 5]
    assert [f.name for f in patch.functions] == ["a"]


def test_empty_lines_behind_a_hunk_are_none_of_it_and_those_inside_are_blank_ones(repo):
    repo.sub("change", "return sk->a;\n}\n\n", "return sk->b;\n}\n\n")
    diff = repo.git("diff", repo.base).replace("\n \n", "\n\n").encode()
    assert b"\n \n" not in diff
    for behind in (b"", b"\n", b"\n\n"):
        patches = [Patch("a.patch", "", diff + behind)]
        (patch,) = Replay(patches, repo.at(repo.base)).run(repo.at("HEAD")).patches
        assert not patch.unread
        assert [line.text for line in patch.hunks[0].lines] == ["\treturn sk->b;"]


def test_a_tree_that_the_patches_do_not_make_is_told_and_gives_no_lines(repo):
    repo.sub("change", "return sk->a;", "return sk->b;")
    mbox = repo.git("format-patch", "--stdout", repo.base)
    patches = split_mbox(mbox.encode(), "series")
    (patch,) = Replay(patches, repo.at(repo.base)).run(lambda name: b"something else\n").patches
    assert patch.unread == ("net/a.c: the tree's file is another one than the patches make of it",)
    assert patch.hunks[0].lines == ()
    (patch,) = Replay(patches, lambda name: None).run(lambda name: None).patches
    assert patch.unread == ("net/a.c: the tree has no such file",)


@pytest.mark.parametrize("seed", range(3))
def test_random_series_agree_with_git_blame(tmp_path, seed):
    """Each line of the final tree belongs to the patch that `git blame` names."""
    dice = random.Random(seed)
    repo = Repo(tmp_path)
    lines = [f"line {i}" for i in range(200)]
    repo.commit("base two", {"f.c": "\n".join(lines) + "\n"})
    repo.base = repo.git("rev-parse", "HEAD").strip()
    for number in range(8):
        for _ in range(dice.randrange(1, 6)):
            place = dice.randrange(len(lines))
            lines[place : place + dice.randrange(0, 4)] = [f"new {dice.random()}" for _ in range(dice.randrange(0, 4))]
        lines[0] = f"head {number}"
        repo.commit(f"patch {number}", {"f.c": "\n".join(lines) + "\n"})
    changes = repo.changes()
    mine = {line.number: (p.number, line.text) for p in changes.patches for h in p.hunks for line in h.lines}
    blame = repo.git("blame", "-s", "-l", f"{repo.base}..HEAD", "f.c").splitlines()
    order = repo.git("rev-list", "--reverse", f"{repo.base}..HEAD").split()
    theirs = {
        number: (order.index(words.split()[0]) + 1, words.partition(") ")[2])
        for number, words in enumerate(blame, 1)
        if not words.startswith("^")
    }
    assert mine == theirs
    assert len(mine) > 10


def test_what_is_written_is_read_back(tmp_path, repo):
    repo.sub("change one", "return sk->a;", "return sk->a + 1;")
    changes = repo.changes()
    write(changes, tmp_path)
    assert read(tmp_path) == changes != Changes()


def test_a_message_that_quotes_a_diffs_header_changes_no_file(tmp_path):
    """What a quoted header names is no file of the patch, as git says."""
    repo = Repo(tmp_path)
    text = "Change it\n\nThe mail had\n--- a/never.c\n+++ b/never.c\nand\n  diff --git a/other.c b/other.c\nin it."
    repo.commit(text, {"net/a.c": SOURCE.replace("flags", "words")})
    mail = repo.git("format-patch", "--stdout", "-1").encode()
    assert diffs.files_of(mail) == ["net/a.c"]
    assert repo.git("apply", "--reverse", "--numstat", data=mail).split()[2:] == ["net/a.c"]
