"""Public reviews of an app, from Google Play and the App Store, as canonical frames.

The scraper packages know what the stores' answers look like; how they are asked is decided here,
since google-play-scraper waits without a limit, takes a failure for "no more reviews", and
switches certificate checks off for the whole process when it is imported.
"""

from __future__ import annotations

import json
import re
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import httpx
import polars as pl

from mobile_sentiment_ops.data.reviews import REVIEW_SCHEMA
from mobile_sentiment_ops.errors import NotFound, StoreError, Unavailable

APP_STORE_LIMIT = 500
"""The App Store shows no more than the newest 500 reviews of a country."""

GOOGLE_PLAY_PARTS = {
    "review_id": "reviewId",
    "version": "reviewCreatedVersion",
    "rating": "score",
    "review_text": "content",
}
APP_STORE_PARTS = {"version": "app_version", "rating": "rating", "title": "title", "review_text": "content"}
"""What these stores call the parts of a review."""

PAGE = 200
ATTEMPTS = 3
TIMEOUT_SECONDS = 20.0


class StoreReviews:
    """Newest public reviews first. A store that does not answer is asked `ATTEMPTS` times, with a
    pause that doubles, and then is Unavailable."""

    def __init__(self, *, google_play_url: str, app_store_url: str, pause_seconds: float = 1.0) -> None:
        self._google_play_url = google_play_url.rstrip("/")
        self._app_store_url = app_store_url.rstrip("/")
        self._pause_seconds = pause_seconds

    def google_play(
        self, app_id: str, *, language: str = "en", country: str = "us", limit: int = 2_000
    ) -> Iterator[pl.DataFrame]:
        """Reviews written in that language, a page a frame; NotFound when there are none."""
        if not re.fullmatch(r"[\w.]+", app_id):
            raise NotFound(f"{app_id!r} is no Google Play id; expected one like com.example.app")
        scraper = _import_google_play_scraper()
        formats, pattern = scraper.constants.request.Formats.Reviews, scraper.constants.regex.Regex.REVIEWS
        newest = scraper.constants.google_play.Sort.NEWEST.value
        path = formats.build(lang=language, country=country).removeprefix(scraper.constants.request.PLAY_STORE_BASE_URL)
        token, left = None, limit
        with self._client(self._google_play_url) as client:
            while left > 0:
                body = formats.build_body(app_id, newest, min(left, PAGE), "null", "null", token)
                headers = {"content-type": "application/x-www-form-urlencoded"}
                answer = self._ask(client, "Google Play", "POST", path, content=body, headers=headers)
                records, token = _google_play_page(pattern.findall(answer.text))
                if not records and left == limit:
                    raise NotFound(
                        f"Google Play shows no review of {app_id!r} in language {language!r}; "
                        f"check the id (as in the address of its page), or ask for another language"
                    )
                reviews = [_google_play_review(scraper, record, app_id, language) for record in records[:left]]
                yield _frame(reviews, "Google Play")
                left = left - len(records) if token and records else 0

    def app_store(self, app_id: str, *, country: str = "us", limit: int = APP_STORE_LIMIT) -> Iterator[pl.DataFrame]:
        """Reviews of one country's store in one frame; NotFound for an app it does not have."""
        from app_store_web_scraper import AppNotFound, AppStoreEntry, AppStoreSession

        number = app_id.removeprefix("id")
        if not number.isdecimal():
            raise NotFound(f"{app_id!r} is no App Store id; expected the number in the address of the app's page")
        with self._client(self._app_store_url) as client:
            ask = self._ask

            class Session(AppStoreSession):  # type: ignore[misc]  # the package has no types
                def _get(self, path: str) -> dict[str, Any]:
                    return _app_store_page(ask(client, "the App Store", "GET", path))

            with _known_form("the App Store"):
                try:
                    found = list(AppStoreEntry(number, country, session=Session()).reviews(limit))
                except AppNotFound as err:
                    problem = f"the App Store of {country!r} has no app {number}; check the id and the country"
                    raise NotFound(problem) from err
        yield _frame([_app_store_review(review, number, country) for review in found], "the App Store")

    def _client(self, address: str) -> httpx.Client:
        return httpx.Client(base_url=address, timeout=TIMEOUT_SECONDS, follow_redirects=True)

    def _ask(self, client: httpx.Client, store: str, method: str, path: str, **more: Any) -> httpx.Response:
        problem = ""
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(self._pause_seconds * 2 ** (attempt - 1))
            try:
                answer = client.request(method, path, **more)
            except httpx.TransportError as err:
                problem = str(err) or type(err).__name__
                continue
            if answer.status_code == 404:
                raise NotFound(f"{store} has nothing at {answer.url}; check the app's id")
            busy = answer.status_code == 429 or answer.status_code >= 500 or "PlayGatewayError" in answer.text
            if not busy:
                if answer.is_error:
                    raise StoreError(f"{store} refused with {answer.status_code}; it may not serve this machine")
                return answer
            problem = f"it is busy ({answer.status_code})"
        raise Unavailable(f"{store} at {client.base_url} did not answer in {ATTEMPTS} attempts: {problem}; try later")


def _import_google_play_scraper() -> Any:
    """The package, with certificate checks as they were before it was imported."""
    checked = ssl._create_default_https_context
    import google_play_scraper

    ssl._create_default_https_context = checked
    return google_play_scraper


def _google_play_page(found: list[str]) -> tuple[list[Any], str | None]:
    """The reviews in one answer, and the token of the next page where there is one."""
    with _known_form("Google Play"):
        text = json.loads(found[0])[0][2]
        page = json.loads(text) if text else []
        records = page[0] if page else []
        token = page[-2][-1] if len(page) > 1 and page[-2] else None
    return records or [], token if isinstance(token, str) else None


def _google_play_review(scraper: Any, record: Any, app_id: str, language: str) -> dict[str, object]:
    specs = scraper.constants.element.ElementSpecs.Review
    seconds = scraper.utils.nested_lookup(record, specs["at"].data_map)  # its own reading is in local time
    at = datetime.fromtimestamp(seconds, UTC) if seconds else None
    where = {"app": app_id, "store": "google_play", "language": language, "submitted_at": at}
    return where | {part: specs[name].extract_content(record) for part, name in GOOGLE_PLAY_PARTS.items()}


def _app_store_page(answer: httpx.Response) -> dict[str, Any]:
    """One page of the feed; a single review or link stands there without its list."""
    with _known_form("the App Store"):
        page: dict[str, Any] = answer.json()
        for name in ("entry", "link"):
            if isinstance(page["feed"].get(name), dict):
                page["feed"][name] = [page["feed"][name]]
    return page


def _app_store_review(review: Any, app_id: str, country: str) -> dict[str, object]:
    at = review.date.astimezone(UTC)
    where = {"review_id": str(review.id), "app": app_id, "store": "app_store", "country": country, "submitted_at": at}
    return where | {part: getattr(review, name) for part, name in APP_STORE_PARTS.items()}


def _frame(reviews: list[dict[str, object]], store: str) -> pl.DataFrame:
    rows = [[review.get(name) for name in REVIEW_SCHEMA] for review in reviews]
    with _known_form(store):
        return pl.DataFrame(rows, REVIEW_SCHEMA, orient="row")


@contextmanager
def _known_form(store: str) -> Iterator[None]:
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, pl.exceptions.PolarsError) as err:
        problem = f"{store} answers in a form that this release does not know; update its scraper package"
        raise StoreError(problem) from err
