"""Telling people of a night: by mail and by a webhook, both off unless lab.yaml asks for them.

Secrets (the webhook's URL, the SMTP password) come from files or the environment, and are never printed: what goes
wrong is told by the kind of error and the server's status alone.
"""

from __future__ import annotations

import json
import smtplib
import ssl
import urllib.request
from collections.abc import Callable, Iterator
from email.message import EmailMessage

from kpatchlab import proc
from kpatchlab.errors import LabError, UserError
from kpatchlab.history.nights import NightReport
from kpatchlab.jsonable import to_json
from kpatchlab.lab.load import Lab
from kpatchlab.lab.nightly import Mail, Webhook
from kpatchlab.lab.secret import secret
from kpatchlab.nightly.letter import letter
from kpatchlab.nightly.night import lines
from kpatchlab.proc import CommandFailed
from kpatchlab.store.store import Store
from kpatchlab.textclean import clean, one_line, printable
from kpatchlab.urls import authorized

TIMEOUT_S = 30.0


def notify(lab: Lab, report: NightReport, store: Store) -> Iterator[str]:
    """Tell whom lab.yaml names; yield one line for each that was told or could not be."""
    wanted = lab.nightly.notify
    if not (report.exit_code or wanted.always):
        return
    ways: list[tuple[str, Callable[[], None]]] = []
    if mail := wanted.mail:
        ways.append(("mail", lambda: _mail(mail, lab, report, store)))
    if webhook := wanted.webhook:
        ways.append(("webhook", lambda: _webhook(webhook, lab, report)))
    for name, tell in ways:
        try:
            tell()
        except Exception as error:  # noqa: BLE001 - whatever a server or a library does, it costs no night
            yield f"{name}: not sent: {_kind(error)}"
        else:
            yield f"{name}: sent"


def _kind(error: Exception) -> str:
    """Return one line about an error: the message can hold the URL or the password, its kind and status cannot."""
    if isinstance(error, CommandFailed):
        return f"{error.result.argv[0]} {'ran out of time' if error.result.timed_out else 'failed'}"
    if isinstance(error, LabError):
        return one_line(error.message)
    status = getattr(error, "code", None) or getattr(error, "smtp_code", None)
    return f"{type(error).__name__}{f' {status}' if isinstance(status, int) else ''}"


def body(report: NightReport) -> dict[str, object]:
    """Return the webhook's JSON body, see docs/nightly.md."""
    return {
        "schema": 1,
        **to_json(clean(report)),
        "headline": one_line(report.headline),
        "text": printable("\n".join(lines(report))),
    }


def _webhook(settings: Webhook, lab: Lab, report: NightReport) -> None:
    url = secret(settings.url_file, "KPATCHLAB_WEBHOOK_URL", lab.root)
    if not url.lower().startswith(("https://", "http://")):
        raise UserError("the webhook's URL is neither https nor http")
    data = json.dumps(body(report)).encode()
    request = authorized(url, data, **{"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
        answer.read(1024)


def message(settings: Mail, report: NightReport, store: Store) -> EmailMessage:
    """Return the mail of a night."""
    mail = EmailMessage()
    mail["Subject"] = one_line(f"[kpatchlab] {report.title}: {report.headline}")
    mail["From"], mail["To"] = settings.sender, ", ".join(settings.to)
    mail.set_content(letter(report, store).encode("utf-8", "replace").decode())
    return mail


def _mail(settings: Mail, lab: Lab, report: NightReport, store: Store) -> None:
    mail = message(settings, report, store)
    if not settings.smtp:
        proc.run(["sendmail", "-t", "-i"], input_bytes=mail.as_bytes(), timeout_s=TIMEOUT_S)
        return
    host, _, port = settings.smtp.partition(":")
    with smtplib.SMTP(host, int(port or 25), timeout=TIMEOUT_S) as server:
        if settings.user:
            server.starttls(context=ssl.create_default_context())
            server.login(settings.user, secret(settings.password_file, "KPATCHLAB_SMTP_PASSWORD", lab.root))
        server.send_message(mail)
