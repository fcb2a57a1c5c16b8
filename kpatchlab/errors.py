"""Exceptions for the user's mistakes and the host's; what a guest did is a value, see `model.Outcome`."""

from __future__ import annotations

import enum

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


class GuestRefused(HostError):
    """A guest that answers does not do what the lab asks of it: it can neither write a file nor count, for example.

    In a job that is what its kernel is seen to do, and not the host's fault.
    """


class Loss(enum.StrEnum):
    """What ended a guest, as the host saw it."""

    PANIC = "panic"
    HANG = "hang"
    SILENCE = "silence"  # no answer of the agent, or none that can be read
    OFF = "off"  # the guest switched itself off
    CRASH = "crash"  # QEMU failed by itself: a fault of QEMU, which a guest can provoke
    STARVED = "starved"  # the host kept the processor from it
    EXIT = "exit"  # the host or the lab ended it: a signal from outside, or the lab cannot read the guest

    @property
    def is_kernels(self) -> bool:
        """Whether a kernel that works is not lost in this way."""
        return self in {Loss.PANIC, Loss.HANG, Loss.SILENCE}


class GuestLost(Exception):
    """A guest stopped answering while something was asked of it.

    Attributes:
        reason: what ended it.
        detail: one line for people.
    """

    def __init__(self, reason: Loss, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def told(error: BaseException) -> str:
    """Return one line about an error."""
    return str(error) if isinstance(error, LabError) else f"{type(error).__name__}: {error}"
