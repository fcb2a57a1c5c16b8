"""A series as it was posted: the versions that a mailbox has, what each lacks, and which one is meant.

    found = posted.read(data, "s.mbox")
    found.versions          # the oldest first; each says its label, its patches and what is missing
    found.choose()          # the only one; `found.choose("2")`: that one; `found.newest()`

A mailbox is never taken for more than it is: what is not whole, or not one series, is refused with what there is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from kpatchlab.build import mails
from kpatchlab.build.mails import Mail
from kpatchlab.errors import UserError
from kpatchlab.textclean import one_line

Number = tuple[int, int]
NO_PATCH_HINT = "is it the cover letter alone?"
_REVISED = re.compile(r"^v\d+[:,] +| +[(\[]v\d+[)\]]$", re.IGNORECASE)
"""How some say outside of the brackets that a patch is a later version, which the rest of a series need not say."""


@dataclass(frozen=True)
class Version:
    """One version of one series.

    Attributes:
        number: (2, 0) for v2, (2, 1) for v2.1; (1, 0) where the mails say none.
        total: how many patches it has by its own word, the m of n/m; how many there are where they have no numbers.
        patches: those that are there, in their order.
        missing: the numbers of those that are not.
        twice: the numbers that two mails with different changes have.
        cover: its cover letter.
        rfc: its mails say RFC; an RFC is older than what has the same number without the word.
    """

    number: Number
    total: int
    patches: tuple[Mail, ...]
    missing: tuple[int, ...] = ()
    twice: tuple[int, ...] = ()
    cover: Mail | None = None
    rfc: bool = False

    @property
    def word(self) -> str:
        """What names it for `Posted.choose`: "2", "2.1", "rfc-1"."""
        return mails.version_word(self.number, rfc=self.rfc)

    @property
    def label(self) -> str:
        """Its name for people: "v2", "RFC v1"."""
        return mails.version_label(self.number, rfc=self.rfc)

    @property
    def whole(self) -> bool:
        """Whether every patch is there, once."""
        return not self.missing and not self.twice

    @property
    def title(self) -> str:
        """The cover letter's title, else the first patch's."""
        first = self.cover or next(iter(self.patches), None)
        return first.tags.title if first else ""

    def describe(self) -> str:
        """Return one line for people: 'v2 "net: both": 1 of 3 patches, missing: 1-2'."""
        there = str(self.total) if self.whole else f"{len(self.patches)} of {self.total}"
        words = [f'{self.label} "{one_line(self.title, 60)}": {there} patch{"" if self.total == 1 else "es"}']
        words += [f"missing: {ranges(self.missing)}"] if self.missing else []
        words += [f"twice, with different changes: {ranges(self.twice)}"] if self.twice else []
        return ", ".join(words)


@dataclass(frozen=True, slots=True)
class Posted:
    """What a mailbox has.

    Attributes:
        name: the mailbox's, for messages.
        versions: the oldest first.
        empty: mails that say `[PATCH]` and have none.
        pull: there is a pull request in it.
    """

    name: str
    versions: tuple[Version, ...]
    empty: tuple[str, ...] = ()
    pull: bool = False

    def newest(self) -> Version:
        """Return the newest version; raises as `choose` does."""
        return self.choose(self.versions[-1].word if self.versions else "")

    def choose(self, wanted: str = "") -> Version:
        """Return the version that is named, "2", "v2", "2.1" or "rfc-1"; without a word the only one.

        Raises:
            UserError: there is no such version or no patch at all, there are several and none is named, two series
                have that version, or a patch of it is missing.
        """
        word = plain(wanted)
        found = [version for version in self.versions if not word or version.word == word]
        found = found or [version for version in self.versions if version.word == f"rfc-{word}"]
        shown = tuple(version.describe() for version in self.versions)
        if self.empty:
            raise UserError(
                f"{self.empty[0]}: there is no patch in this mail",
                hint="take it out, or have it sent again as plain text",
            )
        if not self.versions:
            hint = "it is a pull request: fetch it, and name the commits as a range" if self.pull else NO_PATCH_HINT
            raise UserError(f"{self.name}: there is no patch in it", hint=hint)
        if not found:
            raise UserError(
                f"{self.name}: it has no version {wanted}", hint=f"it has {_listed(self.versions)}", details=shown
            )
        words = dict.fromkeys(version.word for version in found)
        if len(words) > 1:
            raise UserError(
                f"{self.name}: {len(words)} versions of a series are in it: {_listed(found)}",
                hint=f"name one of them, as in `version: {list(words)[-1]}`",
                details=shown,
            )
        if len(found) > 1:
            raise UserError(
                f"{self.name}: {len(found)} series are in it", hint="give each a mailbox of its own", details=shown
            )
        return self._checked(found[0])

    def _checked(self, version: Version) -> Version:
        if version.missing:
            many = len(version.missing) > 1
            numbers = f"patch{'es' if many else ''} {ranges(version.missing)} of {version.total}"
            raise UserError(
                f"{self.name}: {numbers} of {version.label} {'are' if many else 'is'} missing",
                hint="take the whole thread (b4 am MESSAGE-ID); for a part of it, list its files in a quilt series",
                details=tuple(other.describe() for other in self.versions if len(self.versions) > 1),
            )
        if version.twice:
            raise UserError(
                f"{self.name}: patch {version.twice[0]} of {version.label} is in it twice, with different changes",
                hint="leave one of the two mails in it; where they are of two series, give each a mailbox of its own",
            )
        return version


def plain(wanted: str) -> str:
    """Return what a user calls a version as `Version.word` has it: "v2" is "2", "RFC v1" is "rfc-1"."""
    return wanted.lower().replace(" ", "-").replace("v", "")


def read(data: bytes, name: str) -> Posted:
    """Return what a mailbox or mail file has, gzipped or not; `name` is for messages.

    Raises:
        UserError: git cannot read it, or a mail of it, which is named.
    """
    return sort(mails.read(mails.unpacked(data, name), name), name)


def sort(found: Sequence[Mail], name: str) -> Posted:
    """Return the versions of a series that mails have; those without a patch are left out, cover letters kept apart."""
    threads = _threads(found)
    covers = [mail for mail in found if mail.tags.number == 0]
    groups: dict[tuple[bool, Number, int], list[Mail]] = {}
    for mail in found:
        if mail.is_patch:
            groups.setdefault((mail.tags.rfc, mail.tags.version, mail.tags.total), []).append(mail)
    versions = [
        _version(number, total, part, [cover for cover in covers if cover.tags.version == number], threads)
        for (_, number, total), group in groups.items()
        for part in (_parted(group, threads) if total else [group])
    ]
    ids = {mail.message_id for mail in found} - {""}
    empty = tuple(
        f"{mail.where} ({one_line(mail.subject, 80)})"
        for mail in found
        if mail.tags.patch and mail.tags.number is None and not mail.diff and not ids & set(mail.references)
    )
    pull = any(mail.tags.pull for mail in found)
    return Posted(name, tuple(sorted(versions, key=lambda one: (not one.rfc, one.number))), empty, pull=pull)


def _version(
    number: Number, total: int, found: Sequence[Mail], covers: Sequence[Mail], threads: Mapping[int, str]
) -> Version:
    """Return one version of mails that are all of it; the same patch sent again (by list and directly) counts once."""
    named: dict[int | str, list[Mail]] = {}
    for mail in found:
        named.setdefault(mail.tags.number or _REVISED.sub("", mail.tags.title), []).append(mail)
    numbers = [name for name in named if isinstance(name, int)]
    order: list[int | str] = [*sorted(numbers)] if total else [*named]  # without numbers: that of the mailbox
    twice = [
        name if isinstance(name, int) else place
        for place, name in enumerate(order, 1)
        if len({mail.changes for mail in named[name]}) > 1
    ]
    missing = tuple(n for n in range(1, total + 1) if n not in named)
    mine = {threads[id(mail)] for mail in found}
    cover = next((cover for cover in covers if cover.tags.total == total and threads[id(cover)] in mine), None)
    patches = tuple(named[name][0] for name in order)
    return Version(
        number, max([total or len(patches), *numbers]), patches, missing, tuple(twice), cover, found[0].tags.rfc
    )


def _threads(found: Sequence[Mail]) -> dict[int, str]:
    """Return `id(mail)` -> what tells its thread: its first mail's id, else the sender of a mail that is in none.

    A mail without an id was never sent; its thread is "".
    """
    by_id = {mail.message_id: mail for mail in found if mail.message_id}
    answered = {reference for mail in found for reference in mail.references}

    def thread(mail: Mail) -> str:
        seen = {mail.message_id}
        while mail.references:
            known = next((r for r in reversed(mail.references) if r in by_id and r not in seen), "")
            if not known:
                return f"<{mail.references[0]}>"
            seen.add(known)
            mail = by_id[known]
        if mail.message_id in answered:
            return f"<{mail.message_id}>"
        return mail.sender if mail.message_id else ""

    return {id(mail): thread(mail) for mail in found}


def _parted(group: Sequence[Mail], threads: Mapping[int, str]) -> list[list[Mail]]:
    """Part mails of one version and total by thread: halves of two series are no series.

    What one sender sent again outside of the thread, as a RESEND or without a reference, stays with it.
    """
    by_thread: dict[str, list[Mail]] = {}
    for mail in group:
        by_thread.setdefault(threads[id(mail)], []).append(mail)
    found: list[list[Mail]] = []
    for thread, part in sorted(by_thread.items(), key=lambda item: not item[0].startswith("<")):
        senders = {mail.sender for mail in part}
        loose = not thread.startswith("<") or all(mail.tags.resend for mail in part)
        home = next((other for other in found if loose and senders <= {mail.sender for mail in other}), None)
        if home:
            home += part
        else:
            found.append(part)
    return found


def ranges(numbers: Sequence[int]) -> str:
    """Return numbers for people.

    >>> ranges([2, 5, 6, 7])
    '2, 5-7'
    """
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def _listed(versions: Iterable[Version]) -> str:
    """Return "v1 (2 of 3 patches) and v2"."""
    words = [v.label if v.whole else f"{v.label} ({len(v.patches)} of {v.total} patches)" for v in versions]
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))
