"""Exceptions for the user's mistakes and the host's; what a guest did is a value, see `model.Outcome`."""

from __future__ import annotations

from kpatchlab.urls import hide


class LabError(Exception):
    """Something the user has to know, in one line, with a hint what to do about it; secrets of URLs are hidden in it.

    Args:
        message: one line, without a trailing full stop.
        hint: one line that names the remedy, or "".
        details: further lines (one per error where a file has several), printed below the message.
    """

    exit_code = 3

    def __init__(self, message: str, hint: str = "", details: tuple[str, ...] = ()) -> None:
        self.message, self.hint = hide(message), hide(hint)
        self.details = tuple(map(hide, details))
        super().__init__(self.message)


class UserError(LabError):
    """Usage or configuration is wrong: exit code 2."""

    exit_code = 2


class HostError(LabError):
    """The host cannot do it (package, disk, mirror, QEMU): exit code 3."""

    exit_code = 3


class LabWarning(UserWarning):
    """Something that was wrong and is mended, which the user should know all the same; one line."""


class GuestLost(Exception):
    """A guest stopped answering while something was asked of it.

    Attributes:
        reason: "panic", "hang", "exit" (QEMU ended, or the lab cannot read it), "silence" (no agent in time), "starved"
            (the host kept the processor from it).
        detail: one line for people.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def told(error: BaseException) -> str:
    """Return one line about an error."""
    return str(error) if isinstance(error, LabError) else f"{type(error).__name__}: {error}"
