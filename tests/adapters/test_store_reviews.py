"""The stores' answers in their real shape, served by a server on this machine."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

import polars as pl
import pytest

from mobile_sentiment_ops.adapters.store_reviews import StoreReviews
from mobile_sentiment_ops.data.reviews import REVIEW_SCHEMA
from mobile_sentiment_ops.errors import NotFound, StoreError, Unavailable

pytestmark = pytest.mark.integration

Answer = tuple[int, str]
Asked = tuple[str, str]
"""A path and a body."""


class Store:
    """A server that gives the next of its `answers` to each request; the last one for ever."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.asked: list[Asked] = []
        store = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0))).decode()
                store.asked.append((self.path, body))
                status, text = store.answers.pop(0) if len(store.answers) > 1 else store.answers[0]
                self.send_response(status)
                self.end_headers()
                self.wfile.write(text.encode())

            do_POST = do_GET  # noqa: N815 - the name is the server's

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def store() -> Iterator[Store]:
    running = Store()
    thread = threading.Thread(target=running.server.serve_forever, args=[0.01])
    thread.start()
    yield running
    running.server.shutdown()
    thread.join()
    running.server.server_close()


@pytest.fixture
def reviews(store: Store) -> StoreReviews:
    return StoreReviews(google_play_url=store.address, app_store_url=store.address, pause_seconds=0.01)


# --- Google Play


def play_review(number: int, text: str = "Very useful", stars: int = 5, version: str | None = "1.2") -> list[object]:
    """One review as the store's page gets it: fields by position."""
    author = [f"Person {number}", [None, 2, None, [None, None, "https://example.com/picture"]]]
    at = [1_700_000_000 + number, 123_000_000]
    return [f"gp-{number}", author, stars, None, text, at, 3, None, None, None, version]


def play_page(reviews: list[list[object]], token: str | None = None) -> Answer:
    page = [reviews, [None, token], None] if token else [reviews]
    envelope = [["wrb.fr", "oCPfdb", json.dumps(page), None, None, None, "generic"], ["di", 42], ["af.httprm", 41, "7"]]
    return 200, ")]}'\n\n" + json.dumps(envelope)


def test_google_play_reviews_come_page_by_page_as_canonical_frames(store: Store, reviews: StoreReviews) -> None:
    store.answers = [
        play_page([play_review(1), play_review(2, "ช้ามาก", 1, None)], token="next"),
        play_page([play_review(3)]),
    ]
    frames = list(reviews.google_play("com.example.lamp", language="th", country="th"))
    assert [frame.height for frame in frames] == [2, 1]
    assert all(frame.schema == REVIEW_SCHEMA for frame in frames)
    rows = pl.concat(frames).to_dicts()
    assert rows[1] == {
        **dict.fromkeys(REVIEW_SCHEMA),
        "review_id": "gp-2",
        "app": "com.example.lamp",
        "store": "google_play",
        "language": "th",
        "submitted_at": datetime.fromtimestamp(1_700_000_002, UTC),
        "rating": 1,
        "review_text": "ช้ามาก",
    }
    assert "Person" not in str(rows)
    path, body = store.asked[1]
    assert path == "/_/PlayStoreUi/data/batchexecute?hl=th&gl=th"
    assert '\\"next\\"' in parse_qs(body)["f.req"][0]


def test_google_play_stops_at_the_limit(store: Store, reviews: StoreReviews) -> None:
    store.answers = [play_page([play_review(n) for n in range(200)], token="more")]
    frames = list(reviews.google_play("com.example.lamp", limit=300))
    assert sum(frame.height for frame in frames) == 300
    assert len(store.asked) == 2


def test_google_play_without_reviews_says_so(store: Store, reviews: StoreReviews) -> None:
    store.answers = [(200, ")]}'\n\n" + json.dumps([["wrb.fr", "oCPfdb", None, None, None, [5], "generic"]]))]
    with pytest.raises(NotFound, match=r"no review of 'com\.example\.none' in language 'en'"):
        list(reviews.google_play("com.example.none"))
    with pytest.raises(NotFound, match="is no Google Play id"):
        list(reviews.google_play('x"],null'))


def test_an_empty_last_page_ends_the_reviews(store: Store, reviews: StoreReviews) -> None:
    store.answers = [play_page([play_review(1)], token="again"), play_page([], token="again")]
    assert sum(frame.height for frame in reviews.google_play("com.example.lamp")) == 1
    assert len(store.asked) == 2


def test_importing_the_scraper_leaves_certificate_checks_on(store: Store, reviews: StoreReviews) -> None:
    store.answers = [play_page([play_review(1)])]
    list(reviews.google_play("com.example.lamp"))
    assert ssl._create_default_https_context is ssl.create_default_context


# --- the App Store


def entry(number: int, text: str = "Very useful", stars: str = "5") -> dict[str, object]:
    return {
        "author": {"name": {"label": f"Person {number}"}, "uri": {"label": "https://example.com"}},
        "updated": {"label": "2026-01-31T11:05:00-07:00"},
        "im:rating": {"label": stars},
        "im:version": {"label": "3.1"},
        "id": {"label": str(number)},
        "title": {"label": "Hm"},
        "content": {"label": text, "attributes": {"type": "text"}},
    }


def feed(entries: object, *, exists: bool = True) -> Answer:
    links: list[object] = [{"attributes": {"rel": "alternate", "href": "https://example.com"}}]
    if exists:
        links.append({"attributes": {"rel": "self", "href": "https://example.com/self"}})
    return 200, json.dumps({"feed": {"link": links, **({"entry": entries} if entries else {})}})


def test_app_store_reviews_are_canonical_frames(store: Store, reviews: StoreReviews) -> None:
    store.answers = [feed([entry(1), entry(2, "Slow", "1")]), feed(entry(3)), feed(None)]
    rows = pl.concat(reviews.app_store("id42", country="th")).to_dicts()
    assert [row["review_id"] for row in rows] == ["1", "2", "3"]
    assert rows[1] == {
        **dict.fromkeys(REVIEW_SCHEMA),
        "review_id": "2",
        "app": "42",
        "version": "3.1",
        "store": "app_store",
        "country": "th",
        "submitted_at": datetime(2026, 1, 31, 18, 5, tzinfo=UTC),
        "rating": 1,
        "title": "Hm",
        "review_text": "Slow",
    }
    assert "Person" not in str(rows)
    assert store.asked[0][0] == "/th/rss/customerreviews/page=1/id=42/sortby=mostrecent/json"


def test_an_app_the_app_store_does_not_have_is_named(store: Store, reviews: StoreReviews) -> None:
    store.answers = [feed(None, exists=False)]
    with pytest.raises(NotFound, match="the App Store of 'us' has no app 42"):
        list(reviews.app_store("42"))
    with pytest.raises(NotFound, match=r"'com.example' is no App Store id"):
        list(reviews.app_store("com.example"))


# --- both


BOTH = pytest.mark.parametrize(("method", "app_id"), [("google_play", "com.example.lamp"), ("app_store", "42")])


@BOTH
def test_a_busy_store_is_asked_again(store: Store, reviews: StoreReviews, method: str, app_id: str) -> None:
    pages = [play_page([play_review(1)])] if method == "google_play" else [feed([entry(1)]), feed(None)]
    store.answers = [(503, "busy"), (429, "slowly"), *pages]
    assert pl.concat(getattr(reviews, method)(app_id)).height == 1


@BOTH
def test_a_store_that_stays_busy_is_unavailable_after_three_attempts(
    store: Store, reviews: StoreReviews, method: str, app_id: str
) -> None:
    store.answers = [(503, "busy")]
    with pytest.raises(Unavailable, match=r"did not answer in 3 attempts: it is busy \(503\)"):
        list(getattr(reviews, method)(app_id))
    assert len(store.asked) == 3


@BOTH
def test_a_store_that_is_away_is_unavailable(free_port: int, method: str, app_id: str) -> None:
    address = f"http://127.0.0.1:{free_port}"
    away = StoreReviews(google_play_url=address, app_store_url=address, pause_seconds=0.01)
    with pytest.raises(Unavailable, match="did not answer in 3 attempts"):
        list(getattr(away, method)(app_id))


@BOTH
@pytest.mark.parametrize("text", ["<html>moved</html>", "{}", ")]}'\n\n[]", '{"feed": []}', '{"feed": {"link": [{}]}}'])
def test_an_answer_of_another_form_is_said_to_be_one(
    store: Store, reviews: StoreReviews, method: str, app_id: str, text: str
) -> None:
    store.answers = [(200, text)]
    with pytest.raises(StoreError, match="in a form that this release does not know"):
        list(getattr(reviews, method)(app_id))


@BOTH
def test_a_refusal_is_passed_on(store: Store, reviews: StoreReviews, method: str, app_id: str) -> None:
    store.answers = [(403, "no")]
    with pytest.raises(StoreError, match="refused with 403"):
        list(getattr(reviews, method)(app_id))
    assert len(store.asked) == 1
