"""Channels of alerts, against servers that speak the real protocols."""

from __future__ import annotations

import base64
import email
import email.policy
import hashlib
import json
import shutil
import socket
import socketserver
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from mobile_sentiment_ops.adapters import notify
from mobile_sentiment_ops.adapters.notify import LogNotifier, MailNotifier, WebhookNotifier, mail_text, payload, subject
from mobile_sentiment_ops.errors import MsoError, SettingsError, StoreError, Unavailable
from mobile_sentiment_ops.ports import Alert
from mobile_sentiment_ops.settings import Alerts
from mobile_sentiment_ops.types import Incident, Severity

NOON = datetime(2025, 3, 1, 12, tzinfo=UTC)
INCIDENT = Incident(
    "incident-5f3a",
    "drift",
    Severity.CRITICAL,
    "Größe 😀 of reviews moved",
    "Negative reviews of lamp 3.1 rose from 20% to 61%; `mso monitor explain` says more.",
    NOON,
    NOON + timedelta(hours=3),
    figures={"drift_share": 0.4123456, "limit": 0.05, "apps": {"lamp": 61}},
)
OPENED = Alert("incident-5f3a.opened", "opened", INCIDENT)
CLOSED = Alert("incident-5f3a.closed", "closed", replace(INCIDENT, closed_at=NOON + timedelta(hours=5)))
SECRET = "shown to nobody"
HOME = Path(__file__).parents[2]


# --- the log


def test_the_log_is_told_as_a_warning_and_of_the_end_as_news() -> None:
    with capture_logs() as told:
        LogNotifier().send(OPENED)
        LogNotifier().send(CLOSED)
    assert [(entry["log_level"], entry["what"], entry["severity"]) for entry in told] == [
        ("warning", "opened", "critical"),
        ("info", "closed", "critical"),
    ]
    assert told[0]["title"] == INCIDENT.title
    assert told[0]["figures"]["limit"] == 0.05


# --- mail


@dataclass
class Mails:
    """A mail server: what it got, and how it is to behave."""

    port: int = 0
    tls: ssl.SSLContext | None = None
    from_the_start: bool = False
    users: dict[str, str] = field(default_factory=dict)
    answers: dict[str, str] = field(default_factory=dict)
    """What to answer to a command instead; nothing cuts the connection."""
    got: list[tuple[str, list[str], EmailMessage]] = field(default_factory=list)
    heard: list[str] = field(default_factory=list)


class Smtp(socketserver.StreamRequestHandler):
    """One session of SMTP (RFC 5321) with STARTTLS (RFC 3207) and AUTH PLAIN (RFC 4954)."""

    server: Any

    def handle(self) -> None:
        mails: Mails = self.server.mails
        try:
            if mails.from_the_start and mails.tls:
                self.secure(mails.tls)
            self.session(mails)
        except (OSError, ValueError):  # the caller went away, or distrusts the certificate
            pass

    def secure(self, tls: ssl.SSLContext) -> None:
        self.request = tls.wrap_socket(self.request, server_side=True)
        self.rfile, self.wfile = self.request.makefile("rb"), self.request.makefile("wb", buffering=0)

    def finish(self) -> None:
        super().finish()
        self.request.close()

    def say(self, line: str) -> None:
        self.wfile.write(f"{line}\r\n".encode())

    def session(self, mails: Mails) -> None:
        self.say("220 mail.example ESMTP")
        sender, receivers, known = "", list[str](), not mails.users
        while line := self.rfile.readline().decode().strip():
            command = line.split()[0].upper()
            mails.heard.append(command)
            if command in mails.answers:
                if not mails.answers[command]:
                    return
                self.say(mails.answers[command])
                continue
            match command:
                case "EHLO":
                    secured = isinstance(self.request, ssl.SSLSocket)
                    starttls = ["STARTTLS"] if mails.tls and not secured else []
                    offers = ["mail.example", *starttls, *(["AUTH PLAIN"] if mails.users else []), "8BITMIME"]
                    for offer in offers[:-1]:
                        self.say(f"250-{offer}")
                    self.say(f"250 {offers[-1]}")
                case "STARTTLS":
                    assert mails.tls is not None
                    self.say("220 go on")
                    self.secure(mails.tls)
                case "AUTH":
                    _, user, password = base64.b64decode(line.split()[2]).decode().split("\0")
                    known = mails.users.get(user) == password
                    self.say("235 welcome" if known else f"535 no {password}")
                case "MAIL":
                    sender = line.partition(":")[2].split()[0]
                    self.say("250 ok" if known else "530 log in first")
                case "RCPT":
                    receivers.append(line.partition(":")[2].split()[0])
                    if "gone" in line:
                        receivers.pop()
                    self.say("550 no such user" if "gone" in line else "250 ok")
                case "DATA":
                    self.say("354 go on")
                    lines = list(iter(self.rfile.readline, b".\r\n"))
                    data = b"".join(one.removeprefix(b".") if one.startswith(b"..") else one for one in lines)
                    found = email.message_from_bytes(data, policy=email.policy.default)
                    assert isinstance(found, EmailMessage)
                    mails.got.append((sender, receivers, found))
                    if "." in mails.answers:
                        return
                    self.say("250 taken")
                case "QUIT":
                    self.say("221 bye")
                    return
                case _:
                    self.say("250 ok")


@contextmanager
def serving(server: socketserver.TCPServer) -> Iterator[int]:
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def mails() -> Iterator[Mails]:
    found = Mails()
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Smtp) as server:
        server.daemon_threads = True
        server.mails = found  # type: ignore[attr-defined]
        with serving(server) as port:
            found.port = port
            yield found


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of localhost and its key, in one file."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl")
    folder = tmp_path_factory.mktemp("tls")
    key, made = folder / "key.pem", folder / "certificate.pem"
    options = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    subprocess.run(["openssl", *options.split(), "-keyout", key, "-out", made], check=True, capture_output=True)
    made.write_bytes(made.read_bytes() + key.read_bytes())
    return made


def secured(mails: Mails, certificate: Path) -> ssl.SSLContext:
    """Let the server speak TLS; what a client needs to trust it."""
    mails.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    mails.tls.load_cert_chain(certificate)
    return ssl.create_default_context(cafile=str(certificate))


def alerts(mails: Mails, **more: object) -> Alerts:
    given = {"smtp_host": "localhost", "smtp_port": mails.port, "smtp_security": "none", "mail_to": ["ops@example.org"]}
    return Alerts.model_validate({**given, "mail_from": "Reviews <mso@example.org>", **more})


def test_a_mail_says_what_happened_since_when_and_what_to_do(mails: Mails) -> None:
    MailNotifier(alerts(mails, mail_to=["ops@example.org", "Ann <ann@example.org>"]), "").send(OPENED)
    ((sender, receivers, mail),) = mails.got
    assert (sender, receivers) == ("<mso@example.org>", ["<ops@example.org>", "<ann@example.org>"])
    assert mail["Subject"] == "[mso] critical, Größe 😀 of reviews moved"
    assert mail["Auto-Submitted"] == "auto-generated"
    assert mail.get_content_type() == "text/plain"
    assert mail.get_content().replace("\r\n", "\n") == (
        "Größe 😀 of reviews moved\n\n"
        "Negative reviews of lamp 3.1 rose from 20% to 61%; `mso monitor explain` says\nmore.\n\n"
        "  severity   critical\n"
        "  since      2025-03-01 12:00 UTC\n"
        "  last seen  2025-03-01 15:00 UTC, 3 h later\n"
        "  incident   incident-5f3a, drift\n\n"
        "Figures\n"
        "  drift_share  0.4123\n"
        "  limit        0.05\n"
        '  apps         {"lamp": 61}\n\n'
        "What to do next: `mso monitor explain` names the apps, versions and words that\n"
        "moved. `mso alert list --open` lists what is open.\n"
    )


def test_mails_of_one_incident_hang_together_and_the_last_says_it_is_over(mails: Mails) -> None:
    channel = MailNotifier(alerts(mails), "")
    channel.send(OPENED)
    channel.send(CLOSED)
    first, last = (mail for _, _, mail in mails.got)
    assert first["Message-ID"] == "<incident-5f3a.opened@example.org>"
    assert last["Message-ID"] != first["Message-ID"]
    assert last["References"] == first["References"]
    assert last["Subject"].startswith("[mso] critical, over: ")
    assert "over      2025-03-01 17:00 UTC, 5 h later" in last.get_content()
    assert "What to do next" not in last.get_content()


@pytest.mark.parametrize("sign", ["\r\n", "\n", "\r", "\0", "\x1b[2J", "\u2028", "\x85"])
def test_no_title_puts_a_header_into_a_mail(mails: Mails, sign: str) -> None:
    evil = replace(INCIDENT, title=f"moved{sign}Bcc: all@example.org{sign}{sign}body", detail=f"{sign}.{sign}QUIT")
    MailNotifier(alerts(mails), "").send(replace(OPENED, incident=evil))
    ((_, receivers, mail),) = mails.got
    assert receivers == ["<ops@example.org>"]
    assert mail["Bcc"] is None
    assert mail["Subject"].startswith("[mso] critical, moved")
    assert sign not in mail["Subject"]
    assert mails.heard.count("QUIT") == 1


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_a_login_goes_through_tls(mails: Mails, certificate: Path, security: str) -> None:
    tls = secured(mails, certificate)
    mails.from_the_start, mails.users = security == "tls", {"mso": SECRET}
    given = alerts(mails, smtp_security=security, smtp_user="mso")
    MailNotifier(given, SECRET, tls).send(OPENED)
    assert len(mails.got) == 1
    assert ("STARTTLS" in mails.heard) == (security == "starttls")
    with pytest.raises(StoreError, match="535: user or password refused") as caught:
        MailNotifier(given, f"not {SECRET}", tls).send(OPENED)
    assert SECRET not in str(caught.value)
    assert not isinstance(caught.value, Unavailable)


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_a_certificate_that_nobody_vouches_for_gets_no_password(mails: Mails, certificate: Path, security: str) -> None:
    secured(mails, certificate)
    mails.from_the_start, mails.users = security == "tls", {"mso": SECRET}
    with pytest.raises(Unavailable, match="CERTIFICATE_VERIFY_FAILED"):
        MailNotifier(alerts(mails, smtp_security=security, smtp_user="mso"), SECRET).send(OPENED)
    assert "AUTH" not in mails.heard


def test_a_server_without_tls_is_refused_rather_than_spoken_to_openly(mails: Mails) -> None:
    mails.users = {"mso": SECRET}
    with pytest.raises(StoreError, match=r"STARTTLS.*alerts\.smtp_security"):
        MailNotifier(alerts(mails, smtp_security="starttls", smtp_user="mso"), SECRET).send(OPENED)
    with pytest.raises(SettingsError, match=r"alerts\.smtp_user.*MSO_SMTP_PASSWORD"):
        MailNotifier(alerts(mails, smtp_user="mso"), SECRET).send(OPENED)
    with pytest.raises(SettingsError, match="MSO_SMTP_PASSWORD"):
        MailNotifier(alerts(mails, smtp_security="tls", smtp_user="mso"), "").send(OPENED)
    assert "AUTH" not in mails.heard


@pytest.mark.parametrize(
    ("command", "answer", "error", "said"),
    [
        ("MAIL", "451 try later", Unavailable, "451: try later"),
        ("MAIL", "550 no\x1b[2J relay", StoreError, "550: no [2J relay"),
        ("RCPT", "450 greylisted", Unavailable, "450: greylisted"),
        ("RCPT", "550 who?", StoreError, "550: who?"),
        ("DATA", "554 spam", StoreError, "554: spam"),
        ("MAIL", "", Unavailable, "did not answer"),
        (".", "", Unavailable, "did not answer"),
    ],
)
def test_an_alert_that_was_not_taken_says_why(
    mails: Mails, command: str, answer: str, error: type[MsoError], said: str
) -> None:
    mails.answers[command] = answer
    with pytest.raises(StoreError) as caught:
        MailNotifier(alerts(mails), "").send(OPENED)
    assert type(caught.value) is error
    assert f"localhost:{mails.port}" in str(caught.value)
    assert said in str(caught.value)
    del mails.answers[command]
    MailNotifier(alerts(mails), "").send(OPENED)
    assert mails.got[-1][2]["Message-ID"] == "<incident-5f3a.opened@example.org>"


def test_one_receiver_that_is_gone_does_not_keep_it_from_the_others(mails: Mails) -> None:
    with capture_logs() as told:
        MailNotifier(alerts(mails, mail_to=["gone@example.org", "ops@example.org"]), "").send(OPENED)
    assert [receivers for _, receivers, _ in mails.got] == [["<ops@example.org>"]]
    assert told[0]["receivers"] == ["gone@example.org"]


def test_a_mail_server_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "TIMEOUT_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(Unavailable, match="timed out"):
        MailNotifier(alerts(Mails(silent.getsockname()[1])), "").send(OPENED)


def test_a_mail_server_that_is_away_is_named(free_port: int) -> None:
    with pytest.raises(Unavailable, match=rf"localhost:{free_port} did not answer"):
        MailNotifier(alerts(Mails(free_port)), "").send(OPENED)


@pytest.mark.parametrize(
    "given", [{"mail_to": []}, {"mail_to": ["a@b.example\nBcc: c@d.example"]}, {"mail_from": "a@b\r\nX: y"}]
)
def test_addresses_that_are_none_are_named_before_anybody_is_called(mails: Mails, given: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match=r"alerts\.mail_from and alerts\.mail_to"):
        MailNotifier(alerts(mails, **given), "").send(OPENED)
    assert not mails.heard


# --- the webhook


@dataclass
class Hooks:
    """A receiver of webhooks: what it got, and what it answers, the last of these for ever."""

    port: int = 0
    statuses: list[int] = field(default_factory=lambda: [204])
    """0 hangs, -1 cuts the connection."""
    got: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    done: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/services/token-in-the-path?key=also"


class Receiver(BaseHTTPRequestHandler):
    server: Any

    def do_POST(self) -> None:
        hooks: Hooks = self.server.hooks
        body = self.rfile.read(int(self.headers["content-length"]))
        hooks.got.append((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
        status = hooks.statuses.pop(0) if hooks.statuses[1:] else hooks.statuses[0]
        if status <= 0:
            hooks.done.wait(10 if status == 0 else 0)
            self.close_connection = True
            return
        self.send_response(status)
        self.send_header("location", f"http://127.0.0.1:{hooks.port}/elsewhere")
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hooks() -> Iterator[Hooks]:
    found = Hooks()
    with ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        server.hooks = found  # type: ignore[attr-defined]
        with serving(server) as port:
            found.port = port
            yield found
            found.done.set()


def webhook(hooks: Hooks, secret: str = SECRET, **more: object) -> WebhookNotifier:
    return WebhookNotifier(Alerts.model_validate({"webhook_url": hooks.url, **more}), secret, pause_seconds=0.01)


def verifier() -> Callable[..., bool]:
    """The receiver's check of a signature, as docs/alerts.md has it."""
    page = (HOME / "docs" / "alerts.md").read_text("utf-8")
    example = page[page.index("```python") + len("```python") : page.index("```\n", page.index("```python"))]
    names: dict[str, Any] = {}
    exec(example, names)  # noqa: S102 - ours
    found: Callable[..., bool] = names["is_ours"]
    return found


def test_a_webhook_gets_json_that_its_receiver_can_verify(hooks: Hooks) -> None:
    webhook(hooks).send(OPENED)
    ((path, headers, body),) = hooks.got
    assert path == "/services/token-in-the-path?key=also"
    assert headers["content-type"] == "application/json"
    told = json.loads(body)
    assert (told["type"], told["timestamp"]) == ("incident.opened", "2025-03-01T15:00:00+00:00")
    assert told["text"] == "[mso] critical, Größe 😀 of reviews moved"
    assert told["data"]["figures"] == INCIDENT.figures
    assert (told["data"]["severity"], told["data"]["closed_at"]) == ("critical", None)
    is_ours = verifier()
    assert is_ours(SECRET, headers, body, now=time.time())
    assert not is_ours("another secret", headers, body, now=time.time())
    assert not is_ours(SECRET, headers, body + b" ", now=time.time())
    assert not is_ours(SECRET, {**headers, "webhook-id": "another"}, body, now=time.time())
    assert not is_ours(SECRET, headers, body, now=time.time() + 3600)


@pytest.mark.parametrize("secret", [SECRET, "whsec_" + base64.b64encode(bytes(range(24))).decode()])
def test_the_signature_is_that_of_another_program(hooks: Hooks, secret: str, tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl")
    webhook(hooks, secret).send(OPENED)
    ((_, headers, body),) = hooks.got
    key = bytes(range(24)) if secret.startswith("whsec_") else secret.encode()
    signed = tmp_path / "signed"
    signed.write_bytes(f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body)
    command = f"openssl dgst -sha256 -mac HMAC -macopt hexkey:{key.hex()} -binary".split()
    made = subprocess.run([*command, signed], check=True, capture_output=True).stdout
    assert headers["webhook-signature"] == f"v1,{base64.b64encode(made).decode()}"


@pytest.mark.parametrize("trouble", [500, 503, 599, -1])
def test_a_receiver_in_trouble_is_asked_again_with_the_same_id(hooks: Hooks, trouble: int) -> None:
    hooks.statuses = [trouble, trouble, 200]
    webhook(hooks).send(OPENED)
    assert [headers["webhook-id"] for _, headers, _ in hooks.got] == ["incident-5f3a.opened"] * 3
    assert len({hashlib.sha256(body).digest() for _, _, body in hooks.got}) == 1


def test_a_receiver_that_hangs_is_asked_again(hooks: Hooks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "TIMEOUT_SECONDS", 0.2)
    hooks.statuses = [0, 200]
    webhook(hooks).send(OPENED)
    assert len(hooks.got) == 2
    hooks.statuses = [0]
    with pytest.raises(Unavailable, match="timed out, 3 times"):
        webhook(hooks).send(OPENED)


def test_a_receiver_that_stays_in_trouble_is_unavailable(hooks: Hooks, free_port: int) -> None:
    hooks.statuses = [502]
    with pytest.raises(Unavailable, match=r"webhook at 127\.0\.0\.1 answered 502, 3 times"):
        webhook(hooks).send(OPENED)
    with pytest.raises(Unavailable, match=r"did not answer: .*refused") as caught:
        webhook(Hooks(free_port)).send(OPENED)
    assert "token" not in str(caught.value)


@pytest.mark.parametrize("status", [302, 307, 400, 401, 404, 410, 429])
def test_a_receiver_that_refuses_is_not_asked_again_nor_followed(hooks: Hooks, status: int) -> None:
    hooks.statuses = [status]
    with pytest.raises(StoreError, match=f"answered {status}") as caught:
        webhook(hooks).send(OPENED)
    assert not isinstance(caught.value, Unavailable)
    assert len(hooks.got) == 1
    assert "token" not in str(caught.value)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://example.org/x",
        "gopher://x",
        "//example.org",
        "example.org",
        "http://",
        "http://[::",
    ],
)
def test_only_addresses_of_http_are_called(url: str) -> None:
    with pytest.raises(SettingsError, match=r"alerts\.webhook_url"):
        WebhookNotifier(Alerts(webhook_url=url), SECRET).send(OPENED)


def test_an_alert_is_unsigned_only_when_the_settings_say_so(hooks: Hooks) -> None:
    with pytest.raises(SettingsError, match=r"\$MSO_WEBHOOK_SECRET"):
        webhook(hooks, "").send(OPENED)
    with pytest.raises(SettingsError, match="base64"):
        webhook(hooks, "whsec_not base64").send(OPENED)
    assert not hooks.got
    webhook(hooks, "", webhook_secret_variable="").send(OPENED)
    assert "webhook-signature" not in hooks.got[0][1]


def test_what_is_sent_again_is_the_same() -> None:
    assert payload(OPENED) == payload(OPENED)
    assert mail_text(CLOSED) == mail_text(CLOSED)


def test_a_subject_has_an_end() -> None:
    assert len(subject(replace(OPENED, incident=replace(INCIDENT, title="moved " * 100)))) == 150
