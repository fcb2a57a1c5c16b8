"""The `nightly:` section of lab.yaml."""

from __future__ import annotations

from pydantic import Field

from kpatchlab.lab.recipes import Name, Needed, Series
from kpatchlab.lab.yamlfile import FileModel


class Keep(FileModel):
    """Which nights keep their folders; the history keeps what they were."""

    days: float = Field(default=90, gt=0, description="nights older than this lose their folders")
    gib: float = Field(
        default=20, gt=0, description="the oldest nights lose their folders until the rest takes no more GiB than this"
    )


class Mail(FileModel):
    """Mail after each night that has something to tell."""

    to: tuple[Needed, ...] = Field(min_length=1, description="addresses")
    sender: str = Field(default="kpatchlab", description="the address in From")
    smtp: str = Field(default="", description="HOST or HOST:PORT; empty: the host's own sendmail")
    user: str = Field(default="", description="account at the SMTP server; empty: none")
    password_file: str = Field(
        default="", description="file with its password; empty: the environment's KPATCHLAB_SMTP_PASSWORD"
    )


class Webhook(FileModel):
    """A POST of the night's report as JSON, see docs/nightly.md."""

    url_file: str = Field(
        default="", description="file with the URL, which is a secret; empty: the environment's KPATCHLAB_WEBHOOK_URL"
    )


class Notify(FileModel):
    """Who is told; nobody by default."""

    always: bool = Field(default=False, description="true: after nights on which nothing got worse, too")
    mail: Mail | None = Field(default=None, description="by mail")
    webhook: Webhook | None = Field(default=None, description="by a webhook")


class Nightly(FileModel):
    """What `nightly` runs: every branch with every series, plain and in every variant."""

    branches: dict[Name, dict[Name, Needed]] = Field(
        default={},
        description="name -> kernel -> revision that replaces its git source's own; none: the kernels as they are",
    )
    series: dict[Name, dict[Name, tuple[Series, ...]]] = Field(
        default={}, description="name -> kernel -> series that replace its own; none: the kernels as they are"
    )
    variants: tuple[Name, ...] = Field(default=(), description="variants to run as well, such as `debug`")
    scenarios: tuple[Needed, ...] = Field(default=(), description="choice of scenarios; none: the lab's own")
    again: int = Field(default=3, ge=0, le=20, description="how often to run again what was good and is bad")
    settle_s: float = Field(default=30.0, ge=0, description="as `settle_s` of the lab, in a night")
    bisect_minutes: float = Field(default=120, gt=0, description="time that `--bisect` may take in a night")
    site: str = Field(
        default="results/site", description="folder of the static site that each night writes; empty: none"
    )
    keep: Keep = Field(default=Keep(), description="when nights are pruned")
    notify: Notify = Field(default=Notify(), description="who is told; nobody by default")
