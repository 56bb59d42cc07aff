"""Who is let in, and with which answer the others are sent away."""

from __future__ import annotations

import socket
from array import array
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address
from mmap import mmap
from pathlib import Path

import psutil
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from starlette.responses import Response
from structlog.testing import capture_logs

from mobile_sentiment_ops.adapters.keys import FileKeys
from mobile_sentiment_ops.adapters.memory import FixedClock, MemoryPorts
from mobile_sentiment_ops.app.api_keys import add_key, new_key, revoke_key
from mobile_sentiment_ops.app.guard import OPEN_PATHS, Caller, Guard, guard_notice, host_name, keys_required
from mobile_sentiment_ops.app.problems import Problem
from mobile_sentiment_ops.errors import SettingsError, StoreError
from mobile_sentiment_ops.ports import Keys
from mobile_sentiment_ops.settings import Api
from mobile_sentiment_ops.types import Role

HERE = {b"host": b"localhost:5001"}
NOON = datetime(2025, 3, 1, 12, tzinfo=UTC)
NO_KEYS = FileKeys(Path("nowhere/keys.json"))
DAY = 86_400
EVERYWHERE = "0.0.0.0"  # noqa: S104 - a setting, nothing listens


class Timer:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class Door:
    """A guard with what it depends on, and keys that are made in one word."""

    def __init__(self, ports: MemoryPorts, keys: Keys | None = None, **api: object) -> None:
        self.ports, self.timer = ports, Timer()
        self.keys = keys or ports.keys
        self.api = Api.model_validate(api)
        self.guard = Guard(self.api, self.keys, clock=ports.clock, timer=self.timer)

    def key(self, name: str, role: Role = "predict", apps: Sequence[str] = (), days: float | None = None) -> bytes:
        text, new = new_key(name, role, apps, days=days, now=self.ports.clock.now())
        add_key(self.keys, self.ports.state, new, actor="ann")
        return text.encode()

    def call(self, method: str = "POST", path: str = "/predict", **headers: bytes) -> Caller:
        """A call to the server under a good name, unless `host` says otherwise."""
        return self.guard.admit(
            method, path, HERE | {name.replace("_", "-").encode(): v for name, v in headers.items()}
        )

    def refused(self, method: str = "POST", path: str = "/predict", **headers: bytes) -> Problem:
        with pytest.raises(Problem) as caught:
            self.call(method, path, **headers)
        return caught.value


@pytest.fixture
def door(memory: MemoryPorts) -> Callable[..., Door]:
    """Makes doors over memory: `door(require_keys=True)`."""
    return lambda **api: Door(memory, **api)


# --- keys


def test_on_loopback_everybody_may_do_everything(door: Callable[..., Door]) -> None:
    caller = door().call("POST", "/retrain")
    assert (caller.name, caller.role, caller.apps) == ("anyone", "operate", None)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "localhost", "::1", "api.localhost"])
def test_loopback_asks_for_no_key(host: str) -> None:
    assert not keys_required(Api(host=host))


@pytest.mark.parametrize(
    "host", [EVERYWHERE, "::", "", "10.0.0.5", "fe80::1%eth0", "reviews.shop.example", "0", "127.1"]
)
def test_every_other_address_asks_for_keys(host: str) -> None:
    assert keys_required(Api(host=host))


@pytest.mark.parametrize(
    "send", [{"x_api_key": b"%s"}, {"authorization": b"Bearer %s"}, {"authorization": b"bearer  %s"}]
)
def test_a_key_is_taken_from_either_header(door: Callable[..., Door], send: dict[str, bytes]) -> None:
    here = door(require_keys=True)
    key = here.key("shop", apps=["shop"])
    caller = here.call("POST", "/predict", **{name: value % key for name, value in send.items()})
    assert (caller.name, caller.role, caller.apps) == ("shop", "predict", frozenset({"shop"}))


def test_without_a_key_the_answer_says_how_to_send_one(door: Callable[..., Door]) -> None:
    here = door(require_keys=True)
    here.key("shop")
    problem = here.refused()
    assert (problem.status, problem.headers["WWW-Authenticate"]) == (401, 'Bearer realm="mso"')
    assert "X-API-Key" in problem.detail
    assert "mso keys add" not in problem.detail


def test_a_key_that_is_none_is_refused_and_not_repeated(door: Callable[..., Door]) -> None:
    here = door(require_keys=True)
    key = here.key("shop")
    for wrong in (key[:-1], key + b"a", key.upper(), b"mso_", b"\xff\x00", b"x" * 10_000):
        problem = here.refused(x_api_key=wrong)
        assert problem.status == 401
        assert 'error="invalid_token"' in problem.headers["WWW-Authenticate"]
        assert "mso_" not in problem.detail
    assert here.refused(authorization=b"Basic " + key).status == 401
    assert here.call(x_api_key=key).name == "shop"


def test_before_the_first_key_the_answer_and_the_start_say_how_to_make_one(door: Callable[..., Door]) -> None:
    here = door(host=EVERYWHERE)
    assert "mso keys add NAME" in here.refused().detail
    assert "mso keys add NAME" in (guard_notice(here.api, here.keys) or "")
    here.key("shop")
    assert guard_notice(here.api, here.keys) is None
    assert guard_notice(Api(), NO_KEYS) is None


@pytest.mark.parametrize("path", sorted(OPEN_PATHS))
def test_health_is_told_without_a_key_and_changes_nothing(door: Callable[..., Door], path: str) -> None:
    here = door(require_keys=True, requests_per_second=1)
    for _ in range(5):
        here.call("GET", path)
    assert here.refused("POST", path).status == 401
    assert here.refused("GET", path + "/").status == 401
    assert here.refused("GET", path, host=b"evil.example").status == 421


def test_a_running_server_sees_new_and_revoked_keys_within_a_second(memory: MemoryPorts, tmp_path: Path) -> None:
    here = Door(memory, FileKeys(tmp_path / "keys.json"), require_keys=True)
    assert here.refused().status == 401
    key = here.key("shop")
    assert here.refused(x_api_key=key).status == 401
    here.timer.now += 1
    assert here.call(x_api_key=key).name == "shop"
    revoke_key(here.keys, memory.state, here.keys.list()[0].key_id, actor="ann")
    here.timer.now += 1
    assert here.refused(x_api_key=key).status == 401


def test_a_key_ends_when_it_was_said_to(door: Callable[..., Door], clock: FixedClock) -> None:
    here = door(require_keys=True)
    key = here.key("shop", days=2)
    clock.advance(2 * DAY - 1)
    assert here.call(x_api_key=key).name == "shop"
    clock.advance(1)
    here.timer.now += 1
    assert here.refused(x_api_key=key).status == 401


def test_keys_that_cannot_be_read_any_more_stay_and_still_end(
    memory: MemoryPorts, tmp_path: Path, clock: FixedClock
) -> None:
    file = tmp_path / "keys.json"
    here = Door(memory, FileKeys(file), require_keys=True)
    key, short = here.key("shop"), here.key("bank", days=1)
    assert here.call(x_api_key=short).name == "bank"
    file.write_text('{"format": 1, "keys": [{')
    with capture_logs() as logs:
        for _ in range(3):
            here.timer.now += 1
            assert here.call(x_api_key=key).name == "shop"
    assert [line["log_level"] for line in logs] == ["warning"]
    clock.advance(DAY)
    here.timer.now += 1
    assert here.refused(x_api_key=short).status == 401
    with pytest.raises(StoreError, match=r"keys\.json"):
        Door(memory, FileKeys(file), require_keys=True)
    file.unlink()
    here.timer.now += 1
    assert here.refused(x_api_key=key).status == 401


# --- roles and apps


@pytest.mark.parametrize(
    ("method", "path", "predict_may"),
    [
        ("POST", "/predict", True),
        ("POST", "/predict_json", True),
        ("POST", "/explain", True),
        ("POST", "/invocations", True),
        ("POST", "/v2/models/champion/infer", True),
        ("POST", "/v2/models/champion/versions/3/infer", True),
        ("GET", "/metrics", True),
        ("HEAD", "/reports/eda", True),
        ("POST", "/retrain", False),
        ("POST", "/loadmodel", False),
        ("PUT", "/predict/../retrain", False),
        ("POST", "/v2/repository/models/champion/load", False),
        ("DELETE", "/jobs/j-1", False),
        ("TRACE", "/", False),
        ("get", "/model", False),
    ],
)
def test_what_changes_the_server_needs_the_role_operate(
    door: Callable[..., Door], method: str, path: str, predict_may: bool
) -> None:
    here = door(require_keys=True)
    shop, admin = here.key("shop"), here.key("admin", role="operate")
    assert here.call(method, path, x_api_key=admin).role == "operate"
    if predict_may:
        assert here.call(method, path, x_api_key=shop).role == "predict"
    else:
        problem = here.refused(method, path, x_api_key=shop)
        assert problem.status == 403
        assert "--role operate" in problem.detail


def test_a_key_for_some_apps_judges_reviews_of_no_other() -> None:
    one, two = Caller("a", "predict", frozenset({"shop"})), Caller("b", "predict", frozenset({"shop", "bank"}))
    assert [one.app_of("shop"), one.app_of(None), one.app_of("")] == ["shop", "shop", "shop"]
    assert two.app_of("bank") == "bank"
    for caller, given_app, said in (
        (one, "bank", "of bank"),
        (two, None, "name one in `app`"),
        (two, "Shop", "of Shop"),
    ):
        with pytest.raises(Problem, match=said) as caught:
            caller.app_of(given_app)
        assert caught.value.status == 403
        assert "shop" in caught.value.detail
    everyone = Caller("c", "predict")
    assert [everyone.app_of("bank"), everyone.app_of(None)] == ["bank", None]


# --- Host


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:5001",
        "localhost.",
        "a.b.localhost:1",
        "127.0.0.1:5001",
        "127.9.9.9",
        "[::1]:5001",
        "[0:0::1]",
    ],
)
def test_loopback_names_are_always_good(door: Callable[..., Door], host: str) -> None:
    assert door().call(host=host.encode()).name == "anyone"


@pytest.mark.parametrize(
    "host",
    ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "xlocalhost", "0.0.0.0:5001", "2130706433",
     "0x7f.1", "127.1", "[::]", "[::2]:80", "10.0.0.5"],
)  # fmt: skip
def test_other_names_are_misdirected(door: Callable[..., Door], host: str) -> None:
    here = door()
    for method in ("GET", "POST"):
        problem = here.refused(method, host=host.encode())
        assert problem.status == 421
        assert "api.allowed_hosts" in problem.detail


@pytest.mark.parametrize(
    "host",
    [b"", b" ", b":80", b"localhost:80:80", b"localhost:http", b"a@localhost", b"localhost/x", b"[::1", b"[x]", b"\xff",
     b"localhost\n", b"..", b"localhost,evil.example", "ſhop.example".encode()],
)  # fmt: skip
def test_a_host_that_is_none_is_a_bad_request(door: Callable[..., Door], host: bytes) -> None:
    assert door(allowed_hosts=["shop.example"]).refused(host=host).status == 400
    with pytest.raises(Problem, match="is missing"):
        door().guard.admit("GET", "/model", {})


def test_the_settings_name_further_hosts(door: Callable[..., Door]) -> None:
    here = door(host="fd00::5", allowed_hosts=["Reviews.shop.example", "fd00::6", "10.0.0.5:80"], require_keys=False)
    key = here.key("shop")
    for host in (b"reviews.SHOP.example", b"[fd00::5]:5001", b"[fd00:0::6]", b"10.0.0.5:5001"):
        assert here.call(host=host, x_api_key=key).name == "shop"
    assert here.refused(host=b"shop.example", x_api_key=key).status == 421


@pytest.mark.parametrize("bound", [EVERYWHERE, "::", "0::0"])
def test_a_server_on_all_addresses_is_called_by_those_of_the_machine(door: Callable[..., Door], bound: str) -> None:
    here = door(host=bound)
    own = [one.address for found in psutil.net_if_addrs().values() for one in found if one.family == socket.AF_INET]
    for host in (socket.gethostname(), *own):
        assert here.call("GET", "/livez", host=host.encode()).name == "nobody"
    for host in (bound, "evil.example"):
        assert here.refused("GET", "/livez", host=(f"[{host}]" if ":" in host else host).encode()).status == 421


@pytest.mark.parametrize("name", ["*", "shop example", "https://shop.example", "shop.example/api"])
def test_settings_that_name_no_host_stop_the_start(door: Callable[..., Door], name: str) -> None:
    with pytest.raises(SettingsError, match=r"api\.allowed_hosts"):
        door(allowed_hosts=[name])


# --- Origin


PAGES = [
    ({"origin": b"http://localhost:5001"}, True),
    ({"origin": b"https://LOCALHOST:5001"}, True),
    ({"origin": b"https://shop.example"}, True),
    ({"sec_fetch_site": b"same-origin"}, True),
    ({"sec_fetch_site": b"none"}, True),
    ({"sec_fetch_site": b"cross-site", "origin": b"https://shop.example"}, True),
    ({}, True),
    ({"origin": b"null"}, False),
    ({"origin": b""}, False),
    ({"origin": b"http://localhost:3000"}, False),
    ({"origin": b"http://localhost"}, False),
    ({"origin": b"ftp://localhost:5001"}, False),
    ({"origin": b"http://localhost:5001/"}, False),
    ({"origin": b"http://shop.example"}, False),
    ({"origin": b"https://shop.example.evil.example"}, False),
    ({"origin": b"null", "sec_fetch_site": b"same-origin"}, False),
    ({"sec_fetch_site": b"cross-site"}, False),
    ({"sec_fetch_site": b"same-site"}, False),
]


@pytest.mark.parametrize(("headers", "welcome"), PAGES)
@pytest.mark.parametrize("keys", [False, True])
def test_pages_of_other_origins_change_nothing_keys_or_not(
    door: Callable[..., Door], headers: dict[str, bytes], welcome: bool, keys: bool
) -> None:
    here = door(require_keys=keys, cors_origins=["https://Shop.example"])
    key = here.key("admin", role="operate")
    for method in ("POST", "PUT", "DELETE"):
        if welcome:
            assert here.call(method, "/retrain", x_api_key=key, **headers).role == "operate"
        else:
            problem = here.refused(method, "/retrain", x_api_key=key, **headers)
            assert problem.status == 403
            assert "api.cors_origins" in problem.detail
    assert here.call("GET", "/model", x_api_key=key, **headers)


def test_only_named_origins_get_cors_headers(door: Callable[..., Door]) -> None:
    guard = door(cors_origins=["https://shop.example", "http://[::1]:3000"]).guard
    for origin in (b"https://shop.example", b"http://[::1]:3000"):
        found = dict(guard.cors_headers(origin))
        assert found[b"access-control-allow-origin"] == origin
        assert b"X-Request-ID" in found[b"access-control-expose-headers"]
        assert found[b"vary"] == b"Origin"
    for other in (None, b"null", b"https://evil.example"):
        assert guard.cors_headers(other) == ((b"vary", b"Origin"),)
    assert door().guard.cors_headers(b"https://shop.example") == ()


def test_a_preflight_of_a_named_origin_is_answered_before_any_key(door: Callable[..., Door]) -> None:
    guard = door(require_keys=True, cors_origins=["https://shop.example"]).guard
    asked = {b"origin": b"https://shop.example", b"access-control-request-method": b"POST"}
    answer = guard.preflight(asked)
    assert isinstance(answer, Response)
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (204, "https://shop.example")
    assert "X-API-Key" in answer.headers["access-control-allow-headers"]
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert answer.headers["vary"] == "Origin"
    assert guard.preflight(asked | {b"origin": b"https://evil.example"}) is None
    assert guard.preflight({b"origin": b"https://shop.example"}) is None
    assert door().guard.preflight(asked) is None


@pytest.mark.parametrize(
    "origin", ["*", "https://shop.example/", "shop.example", "https://a.example/x", "https://*.a", "null"]
)
def test_origins_that_are_none_stop_the_start(door: Callable[..., Door], origin: str) -> None:
    with pytest.raises(SettingsError, match=r"api\.cors_origins"):
        door(cors_origins=[origin])


# --- rate


def test_a_key_may_send_two_seconds_worth_at_once_and_then_its_rate(door: Callable[..., Door]) -> None:
    here = door(require_keys=True, requests_per_second=5)
    shop, bank = here.key("shop"), here.key("bank")
    for _ in range(10):
        here.call(x_api_key=shop)
    problem = here.refused(x_api_key=shop)
    assert (problem.status, problem.headers["Retry-After"]) == (429, "1")
    assert "5 requests a second" in problem.detail
    assert here.call(x_api_key=bank).name == "bank"
    here.timer.now += 0.2
    here.call(x_api_key=shop)
    assert here.refused(x_api_key=shop).status == 429
    here.timer.now += 60
    for _ in range(10):
        here.call(x_api_key=shop)
    assert here.refused(x_api_key=shop).status == 429


@given(rate=st.floats(0.001, 10_000), steps=st.lists(st.floats(0, 3), max_size=40))
def test_no_more_than_the_rate_passes_and_whoever_waits_as_told_passes(rate: float, steps: list[float]) -> None:
    timer = Timer()
    guard = Guard(Api(requests_per_second=rate), NO_KEYS, clock=FixedClock(NOON), timer=timer)
    began = timer.now
    for passed, step in enumerate(steps, 1):
        timer.now += step
        try:
            guard.admit("POST", "/predict", HERE)
        except Problem as problem:
            timer.now += int(problem.headers["Retry-After"])
            guard.admit("POST", "/predict", HERE)
        assert passed <= max(2 * rate, 1) + (timer.now - began) * rate + 1


def test_workers_share_what_a_key_has_sent(memory: MemoryPorts) -> None:
    timer, meters = Timer(), memoryview(mmap(-1, 16)).cast("d")  # as processes that are forked share it
    api = Api(requests_per_second=1)
    first, second = (Guard(api, memory.keys, meters, clock=memory.clock, timer=timer) for _ in range(2))
    first.admit("POST", "/predict", HERE)
    second.admit("POST", "/predict", HERE)
    for guard in (first, second):
        with pytest.raises(Problem) as caught:
            guard.admit("POST", "/predict", HERE)
        assert caught.value.status == 429
    assert list(meters) == [timer.now + 2, 0]


def test_more_keys_than_meters_share_them(memory: MemoryPorts) -> None:
    here = Door(memory, require_keys=True)
    sent = [here.key(f"caller-{number}") for number in range(5)]
    guard = Guard(Api(require_keys=True, requests_per_second=9), here.keys, array("d", bytes(16)), clock=memory.clock)
    assert [guard.admit("GET", "/model", HERE | {b"x-api-key": key}).meter for key in sent] == [1, 2, 3, 4, 5]


# --- whatever comes


OPEN = Guard(Api(cors_origins=("https://shop.example",)), NO_KEYS, clock=FixedClock(NOON))
CLOSED = Guard(Api(host=EVERYWHERE, requests_per_second=1e6), NO_KEYS, clock=FixedClock(NOON))


def verdict(guard: Guard, headers: dict[bytes, bytes], method: str = "GET", path: str = "/model") -> int:
    """The status of the answer: 200 when the guard lets it pass."""
    try:
        guard.admit(method, path, headers)
    except Problem as problem:
        return problem.response(path, "id").status_code
    return 200


hostish = st.one_of(
    st.binary(max_size=40),
    st.text("abclohst.:[]0127@/%-_ ", max_size=20).map(str.encode),
    st.from_regex(rb"(localhost|127\.0\.0\.[0-9]{1,3}|\[::1\])(:[0-9]{0,6})?", fullmatch=True),
)


@given(
    method=st.sampled_from(["GET", "POST", "OPTIONS", "BREW", ""]),
    path=st.text(max_size=20),
    headers=st.dictionaries(
        st.sampled_from([b"host", b"origin", b"sec-fetch-site", b"x-api-key", b"authorization"]), hostish
    ),
)
@example("POST", "/predict", {b"host": b"localhost", b"authorization": b"Bearer"})
def test_whatever_is_sent_is_admitted_or_a_problem(method: str, path: str, headers: dict[bytes, bytes]) -> None:
    for guard, statuses in ((OPEN, {200, 400, 403, 421}), (CLOSED, {200, 400, 401, 403, 421})):
        assert verdict(guard, headers, method, path) in statuses
        guard.preflight(headers)
        guard.cors_headers(headers.get(b"origin"))


@given(address=st.ip_addresses(), port=st.integers(0, 65_535))
def test_of_all_addresses_only_those_of_loopback_are_good(address: IPv4Address | IPv6Address, port: int) -> None:
    shown = f"[{address}]" if address.version == 6 else str(address)
    for host in (shown, f"{shown}:{port}"):
        assert host_name(host) == str(address)
        assert verdict(OPEN, {b"host": host.encode()}) == (200 if address.is_loopback else 421)


@given(hosts=st.lists(hostish, min_size=1, max_size=5))
def test_a_verdict_on_a_host_is_the_same_the_second_time(hosts: list[bytes]) -> None:
    first, second = ([verdict(OPEN, {b"host": host}) for host in hosts] for _ in range(2))
    assert first == second


def test_many_names_below_localhost_do_not_grow_the_server(door: Callable[..., Door]) -> None:
    here = door()
    for number in range(2_000):
        here.call(host=f"n{number}.localhost".encode())
    assert len(here.guard._hosts) <= 1_024
