"""Running other programs."""

import subprocess


def run(*words, statuses=(0,)):
    """Run a program without input; returns what it prints.

    Raises:
        AssertionError: its status is none of `statuses`; with its words.
    """
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    out, err = (part.decode(errors="replace") for part in (done.stdout, done.stderr))
    if done.returncode not in statuses:
        raise AssertionError(f"{' '.join(words)}: status {done.returncode}: {(err + out).strip()}")
    return out
