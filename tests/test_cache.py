"""Artifacts by content key: made once, whole or not at all, pruned by age and size."""

import mmap
import os
import threading
import time

import pytest

from kpatchlab import cache as cache_module
from kpatchlab.cache import META, SAVED, Artifact, Cache, Folder, content_key, prunable, tree_digest
from kpatchlab.errors import HostError, LabWarning


def test_equal_parts_give_equal_keys_whatever_the_order_of_a_dict():
    assert content_key({"a": 1, "b": 2}) == content_key({"b": 2, "a": 1})
    assert content_key("a", "b") != content_key("ab")


def test_an_artifact_is_made_once(tmp_path):
    cache, calls = Cache(tmp_path), []

    def make(work):
        calls.append(work)
        (work / "file").write_text("x")

    first = cache.get("kind", "key", make, label="thing")
    assert cache.get("kind", "key", make) == first
    assert len(calls) == 1
    assert [e.label for e in cache.entries()] == ["thing"]


def test_two_at_once_make_it_once(tmp_path):
    calls = []

    def make(work):
        calls.append(1)
        time.sleep(0.2)
        (work / "file").write_text("x")

    threads = [threading.Thread(target=lambda: Cache(tmp_path).get("k", "key", make)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls == [1]


def test_a_failed_make_leaves_nothing(tmp_path):
    cache = Cache(tmp_path)

    def make(work):
        (work / "half").write_text("x")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        cache.get("kind", "key", make)
    assert not cache.has("kind", "key")
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_kept_working_folder_is_gone_on_with(tmp_path):
    cache = Cache(tmp_path)

    def fail(work):
        (work / "half").write_text("x")
        raise ValueError("killed")

    with pytest.raises(ValueError, match="killed"):
        cache.get("kernel", "key", fail, keep_partial=True)
    seen = []
    path = cache.get("kernel", "key", lambda work: seen.extend(p.name for p in work.iterdir()), keep_partial=True)
    assert seen == ["half"]
    assert (path / "half").exists()


def test_a_full_disk_is_one_clear_line(tmp_path):
    def make(_):
        raise OSError(28, "No space left on device")

    with pytest.raises(HostError, match="no space left") as caught:
        Cache(tmp_path).get("kernel", "key", make)
    assert "clean" in caught.value.hint


def test_a_cache_that_cannot_be_written_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError, match="cannot write"):
        Cache(tmp_path / "file" / "below").get("kind", "key", lambda _: None)


def test_a_tree_digest_sees_names_modes_links_and_bytes(tmp_path):
    digests = set()
    (tmp_path / "a").write_text("1")
    digests.add(tree_digest(tmp_path))
    (tmp_path / "a").chmod(0o755)
    digests.add(tree_digest(tmp_path))
    (tmp_path / "a").write_text("2")
    digests.add(tree_digest(tmp_path))
    (tmp_path / "b").symlink_to("a")
    digests.add(tree_digest(tmp_path))
    assert len(digests) == 4


def entry(key, days, gib, tmp_path, kind="kernel"):
    return Artifact(kind, key, tmp_path / key, int(gib * (1 << 30)), 1e6 - days * 86400, "")


def test_pruning_takes_the_old_first_then_what_is_too_much(tmp_path):
    entries = [entry("old", 30, 1, tmp_path), entry("mid", 5, 4, tmp_path), entry("new", 1, 4, tmp_path)]
    assert [e.key for e in prunable(entries, 10, None, now=1e6)] == ["old"]
    assert [e.key for e in prunable(entries, None, 5, now=1e6)] == ["old", "mid"]
    assert [e.key for e in prunable(entries, 10, 4, now=1e6)] == ["old", "mid"]
    assert prunable(entries, None, None, now=1e6) == []


def test_a_kernel_stays_as_long_as_there_are_saved_guests_to_prune(tmp_path):
    """A matrix leaves more guests, all younger, than the limit has room for; each kernel behind them took a build."""
    guests = [entry(f"guest {n}", 2 - n, 4, tmp_path, SAVED) for n in range(3)]
    entries = [entry("kernel", 9, 1, tmp_path), *guests]
    assert [e.key for e in prunable(entries, None, 5, now=1e6)] == ["guest 0", "guest 1"]
    assert [e.key for e in prunable(entries, None, 0.5, now=1e6)] == ["guest 0", "guest 1", "guest 2", "kernel"]


def test_use_is_remembered(tmp_path):
    cache = Cache(tmp_path)
    path = cache.get("kind", "a", lambda work: None)
    os.utime(path / ".meta.json", (1, 1))
    cache.get("kind", "a", lambda work: None)
    assert cache.entries()[0].used > 1e9


def test_removing_takes_the_mark_first(tmp_path):
    cache = Cache(tmp_path)
    cache.get("kind", "a", lambda work: None)
    cache.remove(cache.entries()[0])
    assert not cache.has("kind", "a")
    assert cache.entries() == []


# --- upstream


def kernel(work):
    (work / "deep").mkdir()
    (work / "deep/vmlinuz").write_text("kernel")
    (work / "deep/vmlinuz").chmod(0o755)
    (work / "link").symlink_to("deep/vmlinuz")


def refuse(_):
    raise AssertionError("it is to be had from upstream")


@pytest.fixture
def caches(tmp_path):
    upstream = Cache(tmp_path / "upstream")
    upstream.get("kernel", "key", kernel, label="a kernel")
    return Cache(tmp_path / "here", Folder(upstream.root)), upstream


def test_what_is_not_here_is_taken_from_upstream(caches):
    here, upstream = caches
    os.utime(upstream.path("kernel", "key") / META, (1, 1))
    path = here.get("kernel", "key", refuse)
    assert tree_digest(path) == tree_digest(upstream.path("kernel", "key"))
    assert [(e.kind, e.key, e.label) for e in here.entries()] == [("kernel", "key", "a kernel")]
    assert upstream.entries()[0].used > 1, "pruning leaves what is used"
    assert list((here.root / "tmp").iterdir()) == []
    upstream.drop("kernel", "key")
    assert here.need("kernel", "key") == path


def test_what_nobody_has_is_made_here_or_the_labs_fault(caches):
    here, upstream = caches
    assert here.get("kernel", "other", kernel) == here.path("kernel", "other")
    assert not upstream.has("kernel", "other")
    with pytest.raises(HostError, match="no kernel gone in the cache"):
        here.need("kernel", "gone")


def test_saved_guests_do_not_travel(caches):
    here, upstream = caches
    upstream.get(SAVED, "key", kernel)
    with pytest.raises(HostError, match="no saved key in the cache"):
        here.need(SAVED, "key")


def test_what_is_deleted_meanwhile_is_not_there(caches, monkeypatch):
    here, upstream = caches

    def link(source, target):
        upstream.drop("kernel", "key")
        raise FileNotFoundError(2, "No such file or directory", source)

    monkeypatch.setattr("kpatchlab.cache.link_or_copy", link)
    assert here.get("kernel", "key", kernel) == here.path("kernel", "key")


def test_what_cannot_be_copied_says_why(caches, monkeypatch):
    def link(source, target):
        raise OSError(28, "No space left on device", str(target))

    monkeypatch.setattr("kpatchlab.cache.link_or_copy", link)
    with pytest.raises(HostError, match=r"cannot copy kernel key from .*: .*No space left"):
        caches[0].need("kernel", "key")
    assert not caches[0].has("kernel", "key")


def test_what_is_in_use_is_not_taken_for_what_a_killed_lab_left(tmp_path):
    cache = Cache(tmp_path)
    job, left = cache.scratch("job"), cache.scratch("job")

    def clean():
        for entry in cache.entries(leftovers=True):
            cache.remove(entry)

    with cache.using(job):
        clean()
        assert job.is_dir()
        assert not left.exists()
    clean()
    assert not job.exists()


def test_an_artifact_that_is_made_under_another_name_is_left_alone(tmp_path):
    cache = Cache(tmp_path)

    def make(work):
        for entry in cache.entries(leftovers=True):
            cache.remove(entry)
        (work / "file").write_text("x")

    assert (cache.get("initrd", "a" * 64, make) / "file").read_text() == "x"


def relinked(link, target):
    """Do what `ln -sfn` does."""
    link.unlink(missing_ok=True)
    link.symlink_to(target)


def test_what_is_published_is_read_only_and_what_was_altered_is_made_anew(tmp_path):
    cache = Cache(tmp_path)
    key = content_key("k")

    def make(work):
        (work / "sub").mkdir()
        (work / "sub/image").write_text("right")
        (work / "run").write_text("#!/bin/sh")
        (work / "run").chmod(0o755)
        (work / "cur").symlink_to("sub")  # a link to a folder
        (work / "other").mkdir()

    folder = cache.get("kernel", key, make)
    image = folder / "sub/image"
    assert [oct(path.stat().st_mode & 0o777) for path in (image, folder / "run")] == ["0o444", "0o555"]
    assert cache.usable("kernel", key)
    for alter in (
        lambda: (image.chmod(0o644), image.write_text("wrong")),
        lambda: (folder / "more").write_text(""),
        image.unlink,
        lambda: (folder / "run").chmod(0o644),
        lambda: relinked(folder / "cur", "other"),
        lambda: relinked(folder / "more", "sub"),
    ):
        assert cache.usable("kernel", key)  # and so its stamps are kept
        alter()  # and nothing else: each is seen by itself
        assert not cache.usable("kernel", key)
        with pytest.warns(LabWarning, match="somebody wrote to it; it is made anew"):
            assert cache.get("kernel", key, make) == folder
        assert (image.read_text(), (folder / "more").exists()) == ("right", False)
    image.chmod(0o644)
    stamp = image.stat()
    image.write_text("WRONG")
    os.utime(image, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # as who hides it does
    with pytest.raises(HostError, match="no kernel"), pytest.warns(LabWarning):
        cache.need("kernel", key)


def later(monkeypatch) -> list:
    """Be another process, some seconds later; returns what it reads whole."""
    now, read = time.time_ns(), []
    digest = cache_module.tree_digest
    monkeypatch.setattr(cache_module, "_intact", {})
    monkeypatch.setattr(cache_module.time, "time_ns", lambda: now + 2 * cache_module.SETTLED_NS)
    monkeypatch.setattr(cache_module, "tree_digest", lambda root, leave="": read.append(root) or digest(root, leave))
    return read


def test_an_artifact_is_read_whole_once_by_all_processes(tmp_path, monkeypatch):
    cache, key = Cache(tmp_path), content_key("k")
    folder = cache.get("kernel", key, lambda work: (work / "image").write_text("right"))
    assert cache.usable("kernel", key)
    with monkeypatch.context() as patched:  # what was made just now may change again within a tick of the clock
        patched.setattr(cache_module, "_intact", {})
        read = []
        digest = cache_module.tree_digest
        patched.setattr(cache_module, "tree_digest", lambda *words: read.append(words) or digest(*words))
        assert cache.usable("kernel", key)
        assert read
    for times in (1, 0, 0):
        with monkeypatch.context() as patched:
            read = later(patched)
            assert Cache(tmp_path).usable("kernel", key)
            assert read == [folder] * times
    cache.drop("kernel", key)
    assert not list((tmp_path / cache_module.SEEN).iterdir())


@pytest.mark.parametrize("how", ["written", "replaced", "linked", "more", "mode", "mapped", "relinked"])
def test_another_process_sees_what_was_altered_whatever_its_size_and_time(tmp_path, monkeypatch, how):
    cache, key = Cache(tmp_path), content_key("k")

    def make(work):
        (work / "image").write_text("right")
        for name in "ab":
            (work / name).mkdir()
        (work / "current").symlink_to("a")

    folder = cache.get("kernel", key, make)
    image, other = folder / "image", tmp_path / "other"
    with monkeypatch.context() as patched:
        later(patched)
        assert cache.usable("kernel", key)
    was = image.stat()
    if how == "written":
        image.chmod(0o644)
        image.write_text("WRONG")
        image.chmod(0o444)
    elif how in {"replaced", "more"}:
        other.write_text("WRONG")
        other.chmod(0o444)
        os.utime(other, ns=(was.st_atime_ns, was.st_mtime_ns))
        other.replace(image if how == "replaced" else folder / "more")
    elif how == "linked":
        os.link(image, other)
        other.chmod(0o644)
        other.write_text("WRONG")
        other.chmod(0o444)
    elif how == "mode":
        image.chmod(0o555)
    elif how == "relinked":
        relinked(folder / "current", "b")
    else:
        image.chmod(0o644)
        with image.open("r+b") as handle, mmap.mmap(handle.fileno(), 0) as mapped:
            mapped[:] = b"WRONG"
        image.chmod(0o444)
    if how not in {"more", "relinked"}:
        os.utime(image, ns=(was.st_atime_ns, was.st_mtime_ns))
    now = image.stat()
    assert (now.st_size, now.st_mtime_ns) == (was.st_size, was.st_mtime_ns)
    later(monkeypatch)
    assert not Cache(tmp_path).usable("kernel", key)


def test_what_came_altered_from_upstream_is_made_here(tmp_path):
    far, near = Cache(tmp_path / "far"), Cache(tmp_path / "near", Folder(tmp_path / "far"))
    key = content_key("k")
    image = far.get("kernel", key, lambda work: (work / "image").write_text("right")) / "image"
    image.chmod(0o644)
    image.write_text("wrong")
    with pytest.warns(LabWarning, match="came altered"):
        made = near.get("kernel", key, lambda work: (work / "image").write_text("right"))
    assert (made / "image").read_text() == "right"
