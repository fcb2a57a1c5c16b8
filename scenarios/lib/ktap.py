"""Printing KTAP from Python: one line a check, flushed at once, so that a crash keeps what came before.

import os, sys; sys.path.insert(0, os.environ["LAB_LIB"])
import ktap
ktap.plan(2)
ktap.check("the file arrives whole", send_it)     # not ok when it raises
ktap.metric("rate", 12.5, "MiB/s", "higher")
"""

import contextlib
import os
import traceback

_number = 0
_at_end = []


class Skip(Exception):
    """Raised by a check that this kernel or this root cannot do; its text is the reason."""


def _print(text):
    data = (text + "\n").encode()
    while data:
        data = data[os.write(1, data) :]


def plan(count):
    """Say how many checks follow; must come first."""
    _print(f"KTAP version 1\n1..{count}")


def _next():
    global _number
    _number += 1
    return _number


def ok(name):
    """Report a check that held."""
    _print(f"ok {_next()} - {name}")


def not_ok(name, reason=""):
    """Report a check that did not hold; the reason goes before the verdict, as diagnostic lines."""
    for line in reason.splitlines():
        _print(f"# {line}")
    _print(f"not ok {_next()} - {name}")


def skip(name, reason):
    """Report a check that could not be made here."""
    _print(f"ok {_next()} - {name} # SKIP {reason}")


def metric(name, value, unit, direction):
    """Report a figure; `direction` is "higher" or "lower": what is better."""
    _print(f"metric {name} {value:.4g} {unit} {direction}")


def at_end(function):
    """Have a function called at the end of each check, which holds when that does not raise either."""
    _at_end.append(function)


def call(function, *arguments, **named):
    """Call a check's function, and then all that `at_end` got; returns what the first returns."""
    try:
        value = function(*arguments, **named)
    except (Skip, OSError):  # an answer for `outcome.record`, or no failure at all: that something was changed is one
        _ended()
        raise
    except BaseException:
        with contextlib.suppress(AssertionError):  # the check has failed already; nothing is left for the next one
            _ended()
        raise
    _ended()
    return value


def _ended():
    for function in _at_end:
        function()


def check(name, function, *arguments, **named):
    """Call the function: ok when it returns (its value is passed on), not ok when it raises."""
    try:
        value = call(function, *arguments, **named)
    except Skip as reason:
        skip(name, reason)
    except AssertionError as error:
        not_ok(name, str(error) or traceback.format_exc())
    except OSError as error:
        line = traceback.extract_tb(error.__traceback__)[-1]
        not_ok(name, f"{error} in {line.name}, {os.path.basename(line.filename)}:{line.lineno}")
    else:
        ok(name)
        return value
    return None
