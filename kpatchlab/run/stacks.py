"""Where a guest's processes wait in the kernel when a script runs into its deadline: the reason for a hang."""

from __future__ import annotations

import re
from dataclasses import dataclass

from kpatchlab.evidence.patterns import ANY_FRAME
from kpatchlab.guest.vm import Guest
from kpatchlab.textclean import printable

DEADLINE_S = 20.0

_LOOK = r"""
cd /proc
for p in [0-9]*; do
    [ "$p" != 1 ] && [ "$p" != $$ ] && [ -r "$p/stack" ] || continue
    state= kernel=
    while read -r key value _; do
        case $key in State:) state=$value ;; Kthread:) kernel=$value ;; VmSize:) kernel=0 ;; esac
    done <"$p/status"
    # of kernel threads, only those that nothing but an event can end
    { [ "$kernel" = 0 ] || [ "$state" = D ]; } && [ "$state" != Z ] || continue
    read -r name <"$p/comm"
    echo "== $p $state $name"
    cat "$p/stack"
done 2>/dev/null
"""
_HEAD = re.compile(r"== (\d{1,9}) (\w) (.*)")
# How a task gives up its processor: these say that it waits, not for what.
_DULL = re.compile(
    r"_*(schedule|io_schedule|context_switch|wait_for_completion|wait_woken|do_wait)(_\w+)?$|_*switch_to\b"
)
_CALL = re.compile(r"(do_syscall|entry_SYSCALL|__x64_sys_|ret_from_fork|kthread\b)")


@dataclass(frozen=True, slots=True)
class Task:
    """One process; `stack` has its frames, innermost first, as /proc/PID/stack does; none where it runs (proc(5))."""

    pid: int
    state: str
    name: str
    stack: tuple[str, ...]

    @property
    def place(self) -> str:
        """The function in which it waits; "" where it runs, or in its own code."""
        names = [match["name"] for row in self.stack if (match := ANY_FRAME.search(row))]
        return next((name for name in names if not _DULL.match(name) and not _CALL.match(name)), "")

    def __str__(self) -> str:
        """Return its line and its frames."""
        return "\n".join([f"{self.name} (process {self.pid}, state {self.state})", *(f"  {row}" for row in self.stack)])


def tasks(guest: Guest) -> list[Task]:
    """Return the processes of a guest, and the kernel threads that nothing can wake; the youngest last.

    Raises:
        GuestLost: as in `Guest.run`.
    """
    done = guest.run(["/bin/sh", "-c", _LOOK], timeout_s=DEADLINE_S)
    return parse(printable(done.stdout.decode("utf-8", "replace")))


def parse(text: str) -> list[Task]:
    """Return what `_LOOK` printed."""
    found: list[tuple[int, str, str, list[str]]] = []
    for row in text.splitlines():
        if head := _HEAD.fullmatch(row):
            found.append((int(head[1]), head[2], head[3], []))
        elif found and row.strip():
            found[-1][3].append(row.strip())
    return [Task(pid, state, name, tuple(stack)) for pid, state, name, stack in sorted(found)]


def told(found: list[Task]) -> str:
    """Return what the hang comes from, in a few words: tasks that cannot be killed, else the youngest process."""
    stuck = [task for task in found if task.state == "D"] or found[-1:]
    words = [f"{task.name} waits in {task.place}" if task.place else f"{task.name} runs" for task in stuck[:3]]
    return ", ".join(dict.fromkeys(words))
