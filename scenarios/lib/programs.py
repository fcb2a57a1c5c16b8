"""Running other programs."""

import subprocess


def run(*words):
    """Run a program without input; returns what it prints.

    Raises:
        AssertionError: its status is not 0; with its words.
    """
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    out, err = (part.decode(errors="replace") for part in (done.stdout, done.stderr))
    if done.returncode:
        raise AssertionError(f"{' '.join(words)}: status {done.returncode}: {(err + out).strip()}")
    return out
