"""What is said of a hang, from what /proc has of the processes."""

from kpatchlab.run.stacks import parse, told

LOOKED = """\
== 140 S mount.nfs
[<0>] rpc_wait_bit_killable+0xd/0x60 [sunrpc]
[<0>] __rpc_execute+0x127/0x430 [sunrpc]
[<0>] do_syscall_64+0x82/0x190
== 131 S run.sh
[<0>] do_wait+0x5f/0x110
[<0>] kernel_wait4+0xb3/0x150
"""
STUCK = """\
== 77 D kcmp
[<0>] __lock_sock+0x7e/0xc0
[<0>] lock_sock_nested+0x55/0x60
"""


def test_youngest_process_is_what_the_script_waits_for():
    found = parse(LOOKED)
    assert [(task.pid, task.name, len(task.stack)) for task in found] == [(131, "run.sh", 2), (140, "mount.nfs", 3)]
    assert told(found) == "mount.nfs waits in rpc_wait_bit_killable"
    assert "[<0>] __rpc_execute+0x127/0x430 [sunrpc]" in str(found[1])


def test_what_cannot_be_killed_comes_first():
    assert told(parse(LOOKED + STUCK)) == "kcmp waits in __lock_sock"


def test_how_it_waits_is_not_what_it_waits_for():
    assert told(parse("== 9 D x\n[<0>] schedule_timeout+0x1/0x2\n[<0>] io_schedule+0x1/0x2\n[<0>] f+0x1/0x2\n")) == (
        "x waits in f"
    )


def test_process_that_computes():
    assert told(parse("== 9 R busy\n")) == "busy runs"
    assert told(parse("")) == ""
