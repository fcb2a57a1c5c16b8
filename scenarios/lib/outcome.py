"""Checks of what a kernel may do in one way or another: the outcome is recorded, `NAME: answer=OUTCOME`.

Where two kernels differ in such an outcome, the report says CHANGED, and nobody is called wrong. What is wrong on
every kernel (other bytes than those sent) raises AssertionError, as ever.
"""

import errno

import ktap


def record(name, function, *arguments):
    """Call the function and report `NAME: answer=what it returns`, or `NAME: answer=ENAME` where it raises OSError."""
    try:
        outcome = ktap.call(function, *arguments)
    except ktap.Skip as reason:
        ktap.skip(name, reason)
    except AssertionError as error:
        ktap.not_ok(name, str(error) or "an assertion without a word")
    except OSError as error:
        ktap.ok(f"{name}: answer={name_of(error)}")
    else:
        ktap.ok(f"{name}: answer={outcome}")


def name_of(error):
    """The name of an OSError's number, as the kernel's source has it."""
    if error.errno == errno.EOPNOTSUPP:  # Python may know the number as ENOTSUP
        return "EOPNOTSUPP"
    return errno.errorcode.get(error.errno, str(error.errno))
