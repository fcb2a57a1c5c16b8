"""Secrets that the lab's files name and do not hold: in a file of their own, or in the environment."""

from __future__ import annotations

import os
from pathlib import Path

from kpatchlab.errors import UserError


def secret(file: str, variable: str, root: Path) -> str:
    """Return what a file says, without blanks around it; without a file what the environment's `variable` says.

    Args:
        root: where a relative path starts.

    Raises:
        UserError: there is no such file or variable.
    """
    if not file:
        if variable not in os.environ:
            raise UserError(f"{variable} is not in the environment")
        return os.environ[variable]
    path = root / Path(file).expanduser()
    try:
        return path.read_bytes().decode("utf-8", "replace").strip()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
