"""The `patchwork:` section of lab.yaml, and URLs of servers."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from kpatchlab.lab.yamlfile import FileModel


def _server(url: str) -> str:
    if url and not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#@]*)?", url, re.IGNORECASE):
        raise ValueError("is no http or https URL without a user, a password or a query")
    return url.rstrip("/")


Server = Annotated[str, AfterValidator(_server)]
"""A URL to which paths are added; it has no secret in it."""


class Patchwork(FileModel):
    """The server that tells reviewers of checks, see docs/try.md."""

    url: Server = Field(min_length=1, description="of the server, such as https://patchwork.kernel.org")
    project: str = Field(
        default="", description="its short name there, such as netdevbpf; needed where one mail is in several projects"
    )
    token_file: str = Field(
        default="", description="file with the account's API token; empty: the environment's KPATCHLAB_PATCHWORK_TOKEN"
    )
