"""Channels by which people are told of incidents: the log, mail (SMTP), and a webhook (JSON by POST, signed).

docs/alerts.md tells what each sends and how a receiver checks a signature.
"""

from __future__ import annotations

import base64
import hmac
import json
import smtplib
import ssl
import time
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime, parseaddr
from functools import partial
from textwrap import fill

import httpx
import structlog

from mobile_sentiment_ops.errors import SettingsError, StoreError, Unavailable
from mobile_sentiment_ops.ports import Alert
from mobile_sentiment_ops.settings import Alerts
from mobile_sentiment_ops.types import Incident

log = structlog.get_logger()

TIMEOUT_SECONDS, ATTEMPTS = 10.0, 3
LONGEST_SUBJECT, WIDTH = 150, 78
SAID = {"opened": "", "raised": "worse: ", "again": "still: ", "closed": "over: ", "test": "test: "}
NEXT = {
    "silence": "`mso status` shows what runs, `mso jobs` how trainings went; GET /readyz says what is away. ",
    "alerts": "`mso alert test` sends a test by every channel and says what each of them answers. ",
    **dict.fromkeys(("drift", "stream"), "`mso monitor explain` names the apps, versions and words that moved. "),
    "batch-held": "`mso batches list` shows what waits; look at it, then admit or refuse it. ",
}
"""What to do next, by the part of an incident's key before the slash."""


class LogNotifier:
    """The log of this process."""

    name = "log"

    def send(self, alert: Alert) -> None:
        found = alert.incident
        tell = log.info if found.closed_at or alert.what == "test" else log.warning
        told = {"title": found.title, "detail": found.detail, "figures": dict(found.figures)}
        tell("incident", what=alert.what, key=found.key, severity=found.severity.value, **told)


class MailNotifier:
    """Plain text to all of `alerts.mail_to`, a new connection an alert."""

    name = "mail"

    def __init__(self, alerts: Alerts, password: str, tls: ssl.SSLContext | None = None) -> None:
        self._alerts, self._password, self._tls = alerts, password, tls

    def send(self, alert: Alert) -> None:
        given, message = self._alerts, mail_of(alert, self._alerts)
        server = f"the mail server {given.smtp_host}:{given.smtp_port}"
        if given.smtp_user and (given.smtp_security == "none" or not self._password):
            raise SettingsError(
                f"alerts.smtp_user is set: expected a password in ${given.smtp_password_variable}, and "
                f"alerts.smtp_security starttls or tls, which hides it on the way"
            )
        tls = self._tls or ssl.create_default_context()
        to = partial(smtplib.SMTP_SSL, context=tls) if given.smtp_security == "tls" else smtplib.SMTP
        try:
            with to(given.smtp_host, given.smtp_port, timeout=TIMEOUT_SECONDS) as smtp:
                if given.smtp_security == "starttls":
                    smtp.starttls(context=tls)
                if given.smtp_user:
                    smtp.login(given.smtp_user, self._password)
                refused = smtp.send_message(message)
        except smtplib.SMTPAuthenticationError as err:  # what it says may repeat the password
            raise _answered(server, err.smtp_code, "user or password refused, see alerts.smtp_user") from None
        except smtplib.SMTPResponseException as err:
            raise _answered(server, err.smtp_code, err.smtp_error) from None
        except smtplib.SMTPRecipientsRefused as err:
            raise _answered(server, *min(err.recipients.values())) from None
        except smtplib.SMTPNotSupportedError as err:
            raise StoreError(f"{server}: {err}; see alerts.smtp_security") from None
        except OSError as err:  # all other errors of smtplib are, too
            raise Unavailable(f"{server} did not answer: {err or type(err).__name__}") from None
        if refused:
            log.warning("mail not taken for some", receivers=sorted(refused))


def _answered(server: str, code: int, said: bytes | str) -> StoreError:
    """What an SMTP status means: 4xx is worth another try (RFC 5321, 4.2.1)."""
    text = said.decode("utf-8", "replace") if isinstance(said, bytes) else said
    return (Unavailable if 400 <= code < 500 else StoreError)(f"{server} answered {code}: {_line(text)}")


class WebhookNotifier:
    """POST to `alerts.webhook_url`. 5xx and no answer are tried again; redirects are not followed, as they would
    take a signed alert elsewhere."""

    name = "webhook"

    def __init__(self, alerts: Alerts, secret: str, pause_seconds: float = 1.0) -> None:
        self._alerts, self._secret, self._pause_seconds = alerts, secret, pause_seconds

    def send(self, alert: Alert) -> None:
        try:
            url = httpx.URL(self._alerts.webhook_url)
        except (httpx.InvalidURL, UnicodeError):
            url = httpx.URL("")
        if url.scheme not in ("http", "https") or not url.host:
            raise SettingsError("alerts.webhook_url is no address that begins with https:// or http://")
        if (variable := self._alerts.webhook_secret_variable) and not self._secret:
            raise SettingsError(
                f"${variable} holds no secret to sign with; set it, or alerts.webhook_secret_variable to nothing"
            )
        body, problem = payload(alert), ""
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(self._pause_seconds * 2 ** (attempt - 1))
            headers = {"content-type": "application/json", **sign(self._secret, alert.alert_id, int(time.time()), body)}
            try:
                with httpx.stream("POST", url, content=body, headers=headers, timeout=TIMEOUT_SECONDS) as answer:
                    status = answer.status_code
            except httpx.TransportError as err:
                problem = f"did not answer: {str(err) or type(err).__name__}"
                continue
            if 200 <= status < 300:
                return
            problem = f"answered {status}"
            if status < 500:
                raise StoreError(f"the webhook at {url.host} {problem}; see alerts.webhook_url and its receiver")
        raise Unavailable(f"the webhook at {url.host} {problem}, {ATTEMPTS} times")


def sign(secret: str, alert_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The headers that tell a receiver who sent this and when; without a secret, unsigned.

    Signed is `id.timestamp.body` with HMAC-SHA256, the symmetric scheme of Standard Webhooks 1.0. A secret that
    begins with `whsec_` is base64, as there; any other is taken as it is.

    >>> sign("a secret of ours", "incident-5f3a.opened", 1740830400, b"{}")["webhook-signature"]
    'v1,is2W1642OafngL6KT88NgKkasp432VyThzsdSHBUves='
    """
    headers = {"webhook-id": alert_id, "webhook-timestamp": str(timestamp)}
    if secret:
        try:
            key = base64.b64decode(secret[6:], validate=True) if secret.startswith("whsec_") else secret.encode()
        except ValueError:
            raise SettingsError("the secret of the webhook begins with whsec_ and is no base64 after it") from None
        signed = hmac.digest(key, f"{alert_id}.{timestamp}.".encode() + body, "sha256")
        headers["webhook-signature"] = f"v1,{base64.b64encode(signed).decode()}"
    return headers


def payload(alert: Alert) -> bytes:
    """The JSON of a webhook: its type, a line for people in `text`, what to do `next`, and the incident."""
    found = alert.incident
    told = {"type": f"incident.{alert.what}", "timestamp": found.closed_at or found.seen_at, "text": subject(alert)}
    told |= {"next": _next(found), "data": asdict(found)}
    return json.dumps(told, ensure_ascii=False, default=datetime.isoformat).encode()


def subject(alert: Alert) -> str:
    """An alert in one line.

    >>> from mobile_sentiment_ops.types import Severity
    >>> noon = datetime(2025, 3, 1, 12, tzinfo=UTC)
    >>> found = Incident("i1", "drift", Severity.WARNING, "Reviews moved\\r\\nBcc: all@example.org", "", noon, noon)
    >>> subject(Alert("i1.again", "again", found))
    '[mso] warning, still: Reviews moved Bcc: all@example.org'
    """
    return f"[mso] {alert.incident.severity}, {SAID[alert.what]}{_line(alert.incident.title)}"[:LONGEST_SUBJECT]


def mail_of(alert: Alert, alerts: Alerts) -> EmailMessage:
    """The mail of an alert; those of one incident hang together."""
    message, domain = EmailMessage(), parseaddr(alerts.mail_from)[1].rpartition("@")[2] or "localhost"
    headers = {
        **{"From": alerts.mail_from, "To": ", ".join(alerts.mail_to), "Subject": subject(alert)},
        **{"Date": format_datetime(datetime.now(UTC)), "Message-ID": f"<{alert.alert_id}@{domain}>"},
        "References": f"<{alert.incident.incident_id}@{domain}>",
        "Auto-Submitted": "auto-generated",  # so that nobody's absence answers it (RFC 3834)
    }
    try:
        for name, value in headers.items():
            message[name] = value
        if not (message["From"].addresses and message["To"].addresses):
            raise ValueError("nobody")
    except (ValueError, IndexError) as err:
        raise SettingsError(f"alerts.mail_from and alerts.mail_to: expected addresses of mail, found {err}") from err
    message.set_content(mail_text(alert), cte="quoted-printable")
    return message


def mail_text(alert: Alert) -> str:
    """What a mail says: what happened, since when, the figures, and what to do next."""
    found = alert.incident
    until, end = found.closed_at or found.seen_at, "over" if found.closed_at else "last seen"
    minutes = int((until - found.opened_at).total_seconds() // 60)
    span = f"{minutes} min" if minutes < 120 else f"{minutes // 60} h"
    rows = {"severity": found.severity.value, "since": f"{found.opened_at:%Y-%m-%d %H:%M} UTC"}
    rows |= {end: f"{until:%Y-%m-%d %H:%M} UTC, {span} later", "incident": f"{found.incident_id}, {found.key}"}
    parts = [_wrapped(found.title), _wrapped(found.detail), _rows(rows)]
    parts.append("Figures\n" + _rows(found.figures) if found.figures else "")
    parts.append("" if found.closed_at else _wrapped(f"What to do next: {_next(found)}"))
    return "\n\n".join(part for part in parts if part) + "\n"


def _next(incident: Incident) -> str:
    return f"{NEXT.get(incident.key.partition('/')[0], '')}`mso alert list --open` lists what is open."


def _wrapped(text: str) -> str:
    return fill(_line(text), WIDTH, break_on_hyphens=False, break_long_words=False)


def _rows(values: Mapping[str, object]) -> str:
    width = max(map(len, values))
    return "\n".join(f"  {_line(name):{width}}  {_shown(value)}" for name, value in values.items())


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return _line(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _line(text: str) -> str:
    """Text in one line, without what controls a terminal or a header."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())
