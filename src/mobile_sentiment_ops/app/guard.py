"""Who may call: asked for every request, before anything else of it is looked at.

    Host      is it a name of this server?  Else a page could rename itself to reach a server on loopback.
    Origin    does a page of another origin want to change something here?
    key       who calls, where keys are asked for: on every address but loopback, or `api.require_keys`
    role      `predict` may read and predict, `operate` may do all
    rate      so many requests a second of a key

A request that does not pass is answered with a Problem that says what to do. A Guard belongs to one
worker; workers share the meters alone. docs/security.md says what this protects against.
"""

from __future__ import annotations

import math
import re
import socket
import time
from array import array
from collections.abc import Callable, Mapping, MutableSequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING

import structlog
from starlette.responses import Response

from mobile_sentiment_ops.app.problems import Problem
from mobile_sentiment_ops.errors import SettingsError, StoreError
from mobile_sentiment_ops.settings import Api
from mobile_sentiment_ops.types import ApiKey, Role

if TYPE_CHECKING:
    from mobile_sentiment_ops.ports import Clock, Keys

log = structlog.get_logger()

METERS = 1024
"""How many float64 the shared `meters` should have; keys beyond share them."""

LOOK_SECONDS = 1.0
BURST_SECONDS = 2.0
KEPT_HOSTS = 1024

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
OPEN_PATHS = frozenset({"/livez", "/readyz", "/healthcheck", "/ping", "/v2/health/live", "/v2/health/ready"})
PREDICTING = frozenset({"/predict", "/predict_json", "/explain", "/invocations"})

_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9_-]+(?:\.[a-z0-9_-]+)*)\.?)(?::[0-9]{0,5})?", re.I | re.A)
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://([a-z0-9_.-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?")

Header = tuple[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls. `apps` are those whose reviews it may have judged, None for all; `meter` is its place in `meters`."""

    name: str
    role: Role
    apps: frozenset[str] | None = None
    meter: int = 0

    def app_of(self, given: str | None) -> str | None:
        """The app of a review that names `given`, or none; Problem 403 when it is not this caller's.

        >>> Caller("shop", "predict", frozenset({"shop"})).app_of(None)
        'shop'
        >>> Caller("shop", "predict", frozenset({"shop"})).app_of("bank")
        Traceback (most recent call last):
        mobile_sentiment_ops.app.problems.Problem: the key of shop is for reviews of shop, and this one is of bank
        """
        if self.apps is None or given in self.apps:
            return given
        if given:
            found = f"of {given}"
        elif len(self.apps) == 1:
            return next(iter(self.apps))
        else:
            found = "of none: name one in `app`"
        apps = ", ".join(sorted(self.apps))
        raise Problem(403, f"the key of {self.name} is for reviews of {apps}, and this one is {found}")


ANYONE = Caller("anyone", "operate")
"""Who calls where no keys are asked for."""

NOBODY = Caller("nobody", "predict", frozenset())
"""Who asks for health, which is told to all."""


class Guard:
    """Admits the requests of one worker. `meters` are float64 that all workers see, zero at first; without
    them the limit is one of each worker. `timer` must be one clock for all of them, as time.monotonic is.

    Raises SettingsError for hosts and origins that are none, StoreError when the keys cannot be read.
    """

    def __init__(
        self,
        api: Api,
        keys: Keys,
        meters: MutableSequence[float] | memoryview[float] | None = None,
        *,
        clock: Clock,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rate = api.requests_per_second
        self._interval = 1 / self._rate if self._rate else 0.0
        self._tolerance = max(BURST_SECONDS, self._interval) + 1e-6  # one request passes at any rate
        self._meters = array("d", bytes(8 * METERS)) if meters is None else meters
        self._places = len(self._meters)
        self._names = server_names(api)
        self._hosts: set[bytes] = set()
        vary = (b"vary", b"Origin")
        self._closed: tuple[Header, ...] = (vary,) if api.cors_origins else ()
        shown = (b"access-control-expose-headers", b"X-Request-ID, X-Model-Version, Retry-After")
        self._cors: dict[bytes, tuple[Header, ...]] = {
            origin: ((b"access-control-allow-origin", origin), shown, vary) for origin in map(_origin, api.cors_origins)
        }
        self._keys, self._clock, self._timer = keys, clock, timer
        self._stamp: object = self  # no stamp of the keys
        self._known: list[tuple[bytes, Caller, datetime | None]] = []
        self._callers: dict[bytes, Caller] = {}
        self._look_at, self._fault = 0.0, ""
        self._required = keys_required(api)
        if self._required:
            self._read()

    def admit(self, method: str, path: str, headers: Mapping[bytes, bytes]) -> Caller:
        """Who sends this request, if it may: header names in lower case. Else a Problem 400, 401, 403, 421 or 429.

        A key is looked up by its SHA-256. How long that takes may tell of hashes, which a caller cannot
        steer and which do not lead back to a key of 256 random bits.
        """
        host = headers.get(b"host", b"")
        if host not in self._hosts:
            self._check_host(host)
        changing = method not in SAFE_METHODS
        if changing and (b"origin" in headers or b"sec-fetch-site" in headers):
            self._check_origin(host, headers)
        if path in OPEN_PATHS and not changing:
            return NOBODY
        caller = ANYONE
        if self._required:
            if self._timer() >= self._look_at:
                self._look()
            key = headers.get(b"x-api-key") or _bearer(headers.get(b"authorization", b""))
            try:
                caller = self._callers[sha256(key).digest()]
            except KeyError:
                raise self._refused(key) from None
            if changing and path not in PREDICTING and caller.role != "operate" and not _is_inference(path):
                raise Problem(
                    403,
                    f"the key of {caller.name} may read and predict; {method} {path} needs a key that may operate: "
                    "`mso keys add NAME --role operate`",
                )
        if self._interval:
            self._meter(caller.meter)
        return caller

    def cors_headers(self, origin: bytes | None) -> tuple[Header, ...]:
        """The headers that an answer to a page of this origin gets; none while `api.cors_origins` is empty."""
        return self._cors.get(origin, self._closed) if origin else self._closed

    def preflight(self, headers: Mapping[bytes, bytes]) -> Response | None:
        """The answer to an OPTIONS request by which a browser asks whether a page may call, if the page may.

        It comes before `admit`, as browsers send no key with it.
        """
        origin = headers.get(b"origin", b"")
        if origin not in self._cors or b"access-control-request-method" not in headers:
            return None
        allowed = {
            "Access-Control-Allow-Methods": "GET, POST",
            "Access-Control-Allow-Headers": "Authorization, Content-Type, Idempotency-Key, X-API-Key, X-Request-ID",
            "Access-Control-Max-Age": "600",
        }
        answer = Response(status_code=204, headers=allowed)
        answer.raw_headers += self._cors[origin]
        return answer

    # --- one question each

    def _check_host(self, host: bytes) -> None:
        name = host_name(host.decode("latin-1"))
        if name is None:
            found = f"is {_shown(host)}" if host else "is missing"
            raise Problem(400, f"Host: {found}, expected the name of this server, such as localhost:5001")
        if name not in self._names and not _is_loopback(name):
            raise Problem(
                421, f"Host: {_shown(host)} is no name of this server; if it is one, add it to api.allowed_hosts"
            )
        if len(self._hosts) < KEPT_HOSTS:
            self._hosts.add(host)

    def _check_origin(self, host: bytes, headers: Mapping[bytes, bytes]) -> None:
        origin = headers.get(b"origin")
        if origin is None:  # browsers name the origin of what changes things, or at least how far away it is
            foreign = headers[b"sec-fetch-site"] not in (b"same-origin", b"none")
        else:
            scheme, _, where = origin.lower().partition(b"://")
            foreign = origin not in self._cors and (scheme not in (b"http", b"https") or where != host.lower())
        if foreign:
            who = "a page of another site" if origin is None else f"a page of {_shown(origin)}"
            raise Problem(403, f"Origin: {who} may not do this; if it should, add it to api.cors_origins")

    def _refused(self, key: bytes) -> Problem:
        if key:
            why, challenge = "this API key is not valid: mistyped, expired or revoked", ', error="invalid_token"'
        else:
            why, challenge = "an API key is needed: send it as `X-API-Key: ...` or `Authorization: Bearer ...`", ""
        how = "" if self._callers else "; none is valid now, `mso keys add NAME` on the server makes one"
        return Problem(401, why + how, headers={"WWW-Authenticate": f'Bearer realm="mso"{challenge}'})

    def _meter(self, place: int) -> None:
        """Take one request off what a key may send: a meter holds the time at which its requests so far are due.

        Two workers at the same moment may lose an update, which lets a few more requests through, never fewer.
        """
        now = self._timer()
        due = self._meters[place % self._places]
        due = (due if due > now else now) + self._interval
        if due - now > self._tolerance:
            wait = math.ceil(due - now - self._tolerance)
            raise Problem(
                429,
                f"more than {self._rate:g} requests a second of one key; ask again in {wait} s",
                headers={"Retry-After": str(wait)},
            )
        self._meters[place % self._places] = due

    def _look(self) -> None:
        """Follow the keys as they are now; while they cannot be read, those that were known stay."""
        self._look_at = self._timer() + LOOK_SECONDS
        try:
            self._read()
            self._fault = ""
        except StoreError as err:
            if str(err) != self._fault:
                self._fault = str(err)
                log.warning("the API keys stay as they were read last", error=self._fault)
        now = self._clock.now()
        self._callers = {digest: caller for digest, caller, end in self._known if end is None or end > now}

    def _read(self) -> None:
        stamp = self._keys.stamp()
        if stamp != self._stamp:
            self._known = [(bytes.fromhex(key.digest), _caller(key), key.expires_at) for key in self._keys.list()]
            self._stamp = stamp


def _caller(key: ApiKey) -> Caller:
    return Caller(key.name, key.role, frozenset(key.apps) or None, key.meter)


# --- what the settings say


def keys_required(api: Api) -> bool:
    """Whether callers need a key: wherever others than this machine can call, or because the settings say so.

    >>> keys_required(Api()), keys_required(Api(require_keys=True)), keys_required(Api(host="0.0.0.0"))
    (False, True, True)
    """
    return api.require_keys or not _is_loopback(_bare(api.host) or "")


def guard_notice(api: Api, keys: Keys) -> str | None:
    """What the person who starts a server should know: that it asks for keys and there is none."""
    if not keys_required(api) or keys.list():
        return None
    return f"calls to {api.host} need an API key and there is none: all are answered 401 until `mso keys add NAME`"


def server_names(api: Api) -> frozenset[str]:
    """The names by which callers may address this server, beside those of loopback.

    >>> sorted(server_names(Api(host="10.0.0.5", allowed_hosts=("Reviews.Shop.example:443",))))
    ['10.0.0.5', 'reviews.shop.example']
    """
    bound = _address(api.host)
    everywhere = bound.is_unspecified if bound else not api.host
    names = _machine_names() if everywhere else {_bare(api.host) or api.host}
    for given in api.allowed_hosts:
        name = _bare(given)
        if name is None:
            raise SettingsError(
                f"api.allowed_hosts has {given!r}, expected names of hosts, such as reviews.shop.example"
            )
        names.add(name)
    return frozenset(names)


def host_name(value: str) -> str | None:
    """The name or address in a Host header, without port; None when there is none.

    >>> host_name("LocalHost.:5001"), host_name("[0:0::1]:80"), host_name("shop.example@evil.example")
    ('localhost', '::1', None)
    """
    found = _HOST.fullmatch(value)
    if found is None:
        return None
    if found[1] is None:
        return found[2].lower()
    address = _address(found[1])
    return str(address) if address else None


def _bare(given: str) -> str | None:
    """A host as settings give it: an IPv6 address may stand without its brackets."""
    return host_name(f"[{given.partition('%')[0]}]" if given.count(":") > 1 and given[0] != "[" else given)


def _is_loopback(name: str) -> bool:
    address = _address(name)
    return address.is_loopback if address else name == "localhost" or name.endswith(".localhost")


def _address(text: str) -> IPv4Address | IPv6Address | None:
    with suppress(ValueError):
        return ip_address(text)
    return None


def _machine_names() -> set[str]:
    import psutil

    here = socket.gethostname().lower()
    own = (_address(one.address.partition("%")[0]) for found in psutil.net_if_addrs().values() for one in found)
    return {here, here.partition(".")[0], *(str(address) for address in own if address)}


def _origin(given: str) -> bytes:
    origin = given.lower()
    if not _ORIGIN.fullmatch(origin):
        raise SettingsError(
            f"api.cors_origins has {given!r}, expected scheme, host and port if any, without a path or *: "
            "such as https://shop.example"
        )
    return origin.encode()


def _is_inference(path: str) -> bool:
    return path.startswith("/v2/models/") and path.endswith("/infer")


def _bearer(value: bytes) -> bytes:
    scheme, _, key = value.partition(b" ")
    return key.strip() if scheme.lower() == b"bearer" else b""


def _shown(value: bytes) -> str:
    return repr(value[:100].decode("latin-1"))
