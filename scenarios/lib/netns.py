"""Network namespaces from Python: a thread can be in one of its own, and what it starts is there too."""

import os
import threading


def run_in(name, function, deadline_s):
    """Call the function in the network namespace `name` of `ip netns`, and wait until it returns."""
    done, failures = threading.Event(), []

    def run():
        try:
            with open(f"/run/netns/{name}") as namespace:
                os.setns(namespace.fileno(), os.CLONE_NEWNET)
            function()
        except OSError as error:
            failures.append(error)
        done.set()

    threading.Thread(target=run, daemon=True).start()
    if not done.wait(deadline_s):
        raise SystemExit(f"what was to run in network namespace {name} did not return")
    if failures:
        raise failures[0]
