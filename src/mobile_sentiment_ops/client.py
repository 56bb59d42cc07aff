"""The API from Python: `Client` waits for each answer, `AsyncClient` has the same calls to `await`.

A call is written once, as a coroutine that reaches the outside by three methods: `_send`, `_sleep` and `_all`.
Those of `Client` never wait for a loop, so that its coroutines run through at once.

Tried again is what failed on its way or was answered with one of `AGAIN`. All tries of a prediction carry
one `Idempotency-Key`, by which the server logs it once.
"""

from __future__ import annotations

import os
import random
import re
import secrets
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Concatenate, Generic, NamedTuple, ParamSpec, Self, TypeVar, overload
from urllib.parse import quote

import msgspec

from mobile_sentiment_ops.errors import CallFailed, DataError, SettingsError, Unavailable
from mobile_sentiment_ops.types import Job, JobState, Label

if TYPE_CHECKING:
    import anyio
    import httpx  # takes longer to import than all the rest, and waits for the first client

T = TypeVar("T")
P = ParamSpec("P")
Steps = Coroutine[Any, Any, T]

ADDRESS = "http://127.0.0.1:5001"
AGAIN = (429, 502, 503, 504)
"""Of a server that is busy or not ready, or of a proxy whose server is away."""

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.2, 10.0
CONNECT_SECONDS = 5.0
AT_ONCE = 4
"""How many parts of one prediction an `AsyncClient` has under way."""


Review = Mapping[str, object]
"""A `text` and as much about it as is known: review_id, app, version, language, rating, submitted_at."""


class Predicted(msgspec.Struct, frozen=True, rename={"label": "sentiment"}):
    """The answer for one text: a label, or the `error` that kept it from getting one. `confidence` is the
    probability of the label, which the published decision offsets may make smaller than the largest."""

    label: Label | None = None
    confidence: float | None = None
    probabilities: Mapping[Label, float] | None = None
    prediction_id: str | None = None
    error: str | None = None
    review_id: str | None = None
    model_version: str | None = None


class Effect(msgspec.Struct, frozen=True):
    """What words of a text add to the classes' logits, and how much that favours the label in question. `spans`
    are their places in the text, in characters."""

    words: str
    towards: float
    effects: Mapping[Label, float]
    spans: tuple[tuple[int, int], ...]


class Explanation(msgspec.Struct, frozen=True):
    """What moved the prediction of a text towards or away from `label`, the strongest words first."""

    prediction: Label
    label: Label
    probabilities: Mapping[Label, float]
    model_version: str
    exact: bool
    words: tuple[Effect, ...]


class CsvAnswer(msgspec.Struct, frozen=True):
    """Where the answer to a CSV file is, and who answered."""

    file: Path
    model_version: str
    request_id: str


class LiveModel(msgspec.Struct, frozen=True):
    """The model that answers, since when and why."""

    version: str
    kind: str
    bundle_hash: str
    promoted_at: datetime
    promoted_by: str
    reason: str
    loaded_at: datetime
    previous_version: str | None = None
    trained_at: datetime | None = None
    dataset: Mapping[str, object] | None = None


class Readiness(msgspec.Struct, frozen=True):
    """Whether a server can predict, with what or why not (`detail`), and what is away meanwhile."""

    status: str | int
    model_version: str | None = None
    detail: str = ""
    mlflow: str = ""
    spool_depth: int = 0
    predictions_table: str = ""
    bucket: str = ""

    @property
    def ready(self) -> bool:
        return self.status == "ready"


# --- the core: nothing here waits or sends


class Reply(NamedTuple):
    """An answer. Its body is empty where it went into a file."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Lost(NamedTuple):
    """No answer came; with `unsent`, the server cannot have seen the request."""

    why: str
    unsent: bool


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One request, and how an answer with a `good` status is read. What the server must not do twice is not
    `repeatable`."""

    method: str
    path: str
    read: Callable[[Reply], T]
    content: bytes | None = None
    upload: Path | bytes | None = None
    out: Path | None = None
    key: str | None = None
    timeout: float | None = None
    repeatable: bool = True
    good: tuple[int, ...] = (200, 202)


def asked_pause(call: Call[Any], came: Reply | Lost) -> float | None:
    """The seconds that a server asks to wait before another try, 0 where it does not say, None where the
    call is not to be tried again.

    >>> call = Call("GET", "/model", read=lambda reply: reply.body)
    >>> asked_pause(call, Reply(503, {"retry-after": "5"}, b"")), asked_pause(call, Lost("refused", unsent=True))
    (5.0, 0.0)
    >>> asked_pause(call, Reply(404, {}, b""))
    """
    if isinstance(came, Lost):
        return 0.0 if call.repeatable or came.unsent else None
    if not call.repeatable or came.status in call.good or came.status not in AGAIN:
        return None
    after = came.headers.get("retry-after", "")
    return float(after) if after.isdecimal() else 0.0


def chunks(rows: Iterable[bytes], max_rows: int, max_bytes: int) -> Iterator[list[bytes]]:
    """Rows in parts that one request may hold; one that is too large by itself is a part of its own.

    >>> list(chunks([b'"Love it"', b'"Slow"', b'"Crashes"'], max_rows=2, max_bytes=1000))
    [[b'"Love it"', b'"Slow"'], [b'"Crashes"']]
    """
    part: list[bytes] = []
    size = around = len(b'{"reviews":[]}')
    for row in rows:
        if part and (len(part) >= max_rows or size + len(row) + 1 > max_bytes):
            yield part
            part, size = [], around
        part.append(row)
        size += len(row) + 1
    if part:
        yield part


async def _tries(api: _Api, call: Call[T]) -> T:
    """What the answer to a call says, after as many tries as are worth it."""
    began = time.monotonic()
    for tried in count(1):
        came = await api._send(call)
        seconds, pause = time.monotonic() - began, asked_pause(call, came)
        if pause is None or tried > api.retries:
            break
        pause += random.random() * min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** (tried - 1))  # noqa: S311
        if seconds + pause > api.retry_seconds:
            break
        await api._sleep(pause)
    what = f"{call.method} {call.path}"
    if isinstance(came, Lost):
        raise Unavailable(
            f"{api.base_url} did not answer {what}: {came.why} (tries: {tried}, in {seconds:.1f} s); `mso up` or "
            "`mso serve` starts a server, base_url or MSO_API_URL says where it is"
        )
    try:
        if came.status in call.good:
            return call.read(came)
        problem = msgspec.json.decode(came.body, type=_Problem)
        message = f"{what} was answered {came.status}: {problem.detail} (request {problem.request_id})"
    except (msgspec.MsgspecError, KeyError) as err:
        problem = _Problem(f"no answer of this API ({err})", came.headers.get("x-request-id", ""))
        message = f"{what} was answered {came.status} with {problem.detail}; expected this API at {api.base_url}"
    raise CallFailed(
        message, status=came.status, detail=problem.detail, request_id=problem.request_id, errors=problem.errors
    )


class _Problem(msgspec.Struct):
    detail: str
    request_id: str
    errors: tuple[dict[str, object], ...] = ()


class _Scheduled(msgspec.Struct):
    job_id: str


class _Jobs(msgspec.Struct):
    jobs: list[Job]


class _Batch(msgspec.Struct):
    model_version: str
    predictions: list[Predicted]


async def _predicted(api: _Api, rows: list[bytes], key: str) -> list[Predicted]:
    """The answers to one part of a prediction."""

    def read(reply: Reply) -> list[Predicted]:
        found = msgspec.json.decode(reply.body, type=_Batch)
        if len(found.predictions) != len(rows):
            raise msgspec.ValidationError(f"{len(found.predictions)} answers to {len(rows)} reviews")
        return [msgspec.structs.replace(row, model_version=found.model_version) for row in found.predictions]

    form = b"texts" if rows[0].startswith(b'"') else b"reviews"
    body = b'{"%b":[%b]}' % (form, b",".join(rows))
    try:
        return await _tries(api, Call("POST", "/predict", read, body, key=key))
    except CallFailed as err:
        if (faults := _faults(err, len(rows))) is None:
            raise
        return [Predicted(error=fault) for fault in faults]


def _faults(err: CallFailed, rows: int) -> list[str] | None:
    """Each row's fault, where the server refused a part as none of its rows can be predicted (an answer names
    the first few) or as its only one is too large; a row spoils no others, whatever part it came into."""
    if err.status == 413 and rows == 1:
        return [err.detail]
    named = {str(one.get("field")): str(one.get("problem")) for one in err.errors}
    if err.status == 422 and named and all(re.fullmatch(r"reviews\[\d+\]", place) for place in named):
        return [named.get(f"reviews[{row}]", err.detail) for row in range(rows)]
    return None


def _encoded(rows: Iterable[object]) -> Iterator[bytes]:
    for at, row in enumerate(rows):
        try:
            yield msgspec.json.encode(row)
        except (UnicodeEncodeError, TypeError) as err:
            why = "half of a surrogate pair" if isinstance(err, UnicodeError) else str(err)
            raise DataError(f"review {at} cannot be sent: {why}; expected valid Unicode, or a mapping") from None


def _key(given: str | None) -> str:
    if given is not None and not re.fullmatch(r"[\w.:-]{1,100}", given, re.ASCII):
        raise DataError(f"the idempotency key is {given!r}; expected 1 to 100 letters, digits, `.`, `_`, `:` or `-`")
    return given or secrets.token_hex(16)


def _as(kind: type[T]) -> Callable[[Reply], T]:
    return lambda reply: msgspec.json.decode(reply.body, type=kind)


# --- the calls


class _call(Generic[P, T]):  # noqa: N801 - reads as the decorator that it is
    """A method that both clients have: one gives what the coroutine comes to, the other the coroutine."""

    def __init__(self, steps: Callable[Concatenate[Any, P], Steps[T]]) -> None:
        self._steps = steps

    @overload
    def __get__(self, api: Client, owner: object) -> Callable[P, T]: ...
    @overload
    def __get__(self, api: AsyncClient, owner: object) -> Callable[P, Steps[T]]: ...
    @overload
    def __get__(self, api: None, owner: object) -> Callable[Concatenate[Any, P], Steps[T]]: ...
    def __get__(self, api: Any, owner: object) -> Any:
        if api is None:
            return self._steps
        return lambda *given, **named: api._run(self._steps(api, *given, **named))


@dataclass(eq=False)
class _Api:
    """Where the server is, $MSO_API_URL and $MSO_API_KEY if not told, and how much is asked of it. A call is
    tried again at most `retries` times within `retry_seconds`; `timeout` is how long a server may be silent."""

    base_url: str = ""
    api_key: str = field(default="", repr=False)
    timeout: float = 30.0
    retries: int = 4
    retry_seconds: float = 60.0
    chunk_rows: int = 10_000
    chunk_bytes: int = 2**20

    def __post_init__(self) -> None:
        """SettingsError for an address or a key that cannot be used."""
        global anyio, httpx
        import anyio
        import httpx

        self.base_url = (self.base_url or os.environ.get("MSO_API_URL") or ADDRESS).rstrip("/")
        self.api_key = (self.api_key or os.environ.get("MSO_API_KEY", "")).strip()
        try:
            url = httpx.URL(self.base_url)
        except httpx.InvalidURL:
            url = httpx.URL()
        if url.scheme not in ("http", "https") or not url.host or url.userinfo:  # a password would be in messages
            raise SettingsError(f"the API's address is not like {ADDRESS}; see base_url and MSO_API_URL")
        if not re.fullmatch(r"[!-~]*", self.api_key):  # it would stand in the message of whoever refuses it later
            raise SettingsError("the API key holds a character that no key has; see api_key and MSO_API_KEY")
        headers = {"X-API-Key": self.api_key} if self.api_key else {}
        kind = httpx.AsyncClient if isinstance(self, AsyncClient) else httpx.Client
        self._http: Any = kind(base_url=url, headers=headers)

    @_call
    async def predict(
        self, reviews: str | Review | Iterable[str] | Iterable[Review], *, idempotency_key: str | None = None
    ) -> list[Predicted]:
        """An answer for each text or review, in order; one that cannot be judged says why in `error`.

        More than one request may hold are sent in parts. With an `idempotency_key` of your own the same call may
        be made again later, by another process too, and is logged once. DataError for what is no text, before
        anything is sent.
        """
        rows = [reviews] if isinstance(reviews, str | Mapping) else reviews
        key = _key(idempotency_key)
        parts = chunks(list(_encoded(rows)), self.chunk_rows, self.chunk_bytes)
        answers = await self._all(_predicted(self, part, f"{key}-{number}") for number, part in enumerate(parts))
        return [row for part in answers for row in part]

    @_call
    def predict_json(self, text: str) -> Steps[Predicted]:
        """The answer for one text by the first version's call; CallFailed where it cannot be judged."""

        def read(reply: Reply) -> Predicted:
            told = msgspec.json.decode(reply.body, type=dict[str, Any])
            return msgspec.convert({**told, "sentiment": told["prediction"]}, Predicted)

        (body,) = _encoded([{"text": text}])
        return _tries(self, Call("POST", "/predict_json", read, body, key=_key(None)))

    @_call
    def predict_csv(
        self, source: str | Path | bytes, out: str | Path, *, timeout: float = 600.0, idempotency_key: str | None = None
    ) -> Steps[CsvAnswer]:
        """The rows of a CSV file, named or given as bytes, with their sentiment in the file `out`, which is there
        or replaced once the answer is whole. Neither is held in memory. DataError for files that cannot be used."""
        upload, file = source if isinstance(source, bytes) else Path(source), Path(out)

        def read(reply: Reply) -> CsvAnswer:
            return CsvAnswer(file, reply.headers["x-model-version"], reply.headers["x-request-id"])

        key = _key(idempotency_key)
        return _tries(self, Call("POST", "/predict", read, upload=upload, out=file, key=key, timeout=timeout))

    @_call
    def explain(self, text: str, *, label: Label | None = None, limit: int = 10) -> Steps[Explanation]:
        """What moved the prediction of a text, or why it is not another `label`; at most `limit` words."""
        (body,) = _encoded([{"text": text, "label": label, "limit": limit}])
        return _tries(self, Call("POST", "/explain", _as(Explanation), body))

    @_call
    def model(self) -> Steps[LiveModel]:
        """The model that answers."""
        return _tries(self, Call("GET", "/model", _as(LiveModel)))

    @_call
    def metrics(self) -> Steps[Mapping[str, float | None]]:
        """Figures of that model on its own test rows; None where one could not be measured."""
        return _tries(self, Call("GET", "/model/metrics", _as(dict[str, float | None])))

    @_call
    async def load_model(self) -> LiveModel:
        """Let the server look for another champion now: the model that answers then."""
        await _tries(self, Call("POST", "/loadmodel", _as(dict[str, Any])))
        return await _Api.model(self)

    @_call
    def ready(self) -> Steps[Readiness]:
        """Whether the server can predict now; Unavailable when it is away."""
        return _tries(self, Call("GET", "/readyz", _as(Readiness), repeatable=False, good=(200, 503)))

    @_call
    async def retrain(self, *, wait: bool = False) -> Job:
        """Let the server train: the job, new or on its way already, and ended if `wait`."""
        told = await _tries(self, Call("POST", "/retrain", _as(_Scheduled), repeatable=False))
        return await (_Api.wait_for if wait else _Api.job)(self, told.job_id)

    @_call
    def job(self, job_id: str) -> Steps[Job]:
        """How one job goes."""
        return _tries(self, Call("GET", f"/jobs/{quote(job_id, safe='')}", _as(Job)))

    @_call
    async def jobs(self, *, limit: int = 50) -> list[Job]:
        """Jobs, newest first, without their logs."""
        return (await _tries(self, Call("GET", f"/jobs?limit={limit}", _as(_Jobs)))).jobs

    @_call
    async def wait_for(self, job: Job | str, *, seconds: float = 3600.0, every_seconds: float = 1.0) -> Job:
        """The job once it has ended, well or not as its `state` says; Unavailable if it has not after so long."""
        until = time.monotonic() + seconds
        while True:
            found = await _Api.job(self, job if isinstance(job, str) else job.job_id)
            if found.state not in (JobState.QUEUED, JobState.RUNNING):
                return found
            if time.monotonic() + every_seconds > until:
                how = f"{found.state}, {found.step or 'no step yet'}, {found.progress:.0%}"
                raise Unavailable(f"job {found.job_id} has not ended after {seconds:g} s ({how}); wait for it again")
            await self._sleep(every_seconds)

    # --- the outside, as a loop reaches it

    async def _send(self, call: Call[Any]) -> Reply | Lost:
        # local files are quick enough to be read and written between the steps of an event loop
        try:
            with _one_try(self, call) as (request, place):
                async with self._http.stream(**request) as answer:
                    body = place(answer)
                    async for data in answer.aiter_bytes():
                        body.write(data)
                    return _reply(answer, body)
        except httpx.RequestError as err:
            return _lost(err)

    async def _sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)

    async def _all(self, calls: Iterable[Steps[T]]) -> list[T]:
        """What all come to, in their order, so many at once."""
        results: dict[int, T] = {}
        numbered = enumerate(calls)

        async def work() -> None:
            for number, call in numbered:
                results[number] = await call

        try:
            async with anyio.create_task_group() as workers:
                for _ in range(AT_ONCE):
                    workers.start_soon(work)
        except BaseExceptionGroup as err:
            raise err.exceptions[0] from None
        return [results[number] for number in sorted(results)]


@contextmanager
def _one_try(api: _Api, call: Call[Any]) -> Iterator[tuple[dict[str, Any], Callable[[httpx.Response], BinaryIO]]]:
    """What httpx is to send, and what gives the place for the body of an answer. A file is put in its
    place at the end, so a try that breaks off leaves nothing."""
    headers = {"Content-Type": "application/json"} if call.content else {}
    headers |= {"Idempotency-Key": call.key} if call.key else {}
    timeout = httpx.Timeout(call.timeout or api.timeout, connect=CONNECT_SECONDS)
    upload: dict[str, Any] = {"file": ("reviews.csv", call.upload, "text/csv")} if call.upload is not None else {}
    part = call.out and call.out.with_name(f".{call.out.name}.{secrets.token_hex(4)}")
    try:
        with ExitStack() as files:
            if isinstance(call.upload, Path):
                upload = {"file": (call.upload.name, files.enter_context(call.upload.open("rb")), "text/csv")}

            def place(answer: httpx.Response) -> BinaryIO:
                is_file = answer.status_code in call.good and "x-model-version" in answer.headers
                return files.enter_context(part.open("xb")) if part and is_file else BytesIO()

            request = {"method": call.method, "url": call.path, "headers": headers, "timeout": timeout}
            yield request | {"content": call.content, "files": upload or None}, place
        if part and call.out and part.exists():
            part.replace(call.out)
    except OSError as err:
        raise DataError(f"{err.filename or call.out}: {err.strerror or err}; expected a file to use") from err
    finally:
        if part:
            part.unlink(missing_ok=True)


def _reply(answer: httpx.Response, body: BinaryIO) -> Reply:
    return Reply(answer.status_code, answer.headers, body.getvalue() if isinstance(body, BytesIO) else b"")


def _lost(err: httpx.RequestError) -> Lost:
    unsent = isinstance(err, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
    return Lost(f"{type(err).__name__} {err}".rstrip(), unsent)


class Client(_Api):
    __doc__ = _Api.__doc__

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def _run(self, call: Steps[T]) -> T:
        try:
            call.send(None)
        except StopIteration as end:
            result: T = end.value
            return result
        raise AssertionError("a call of Client waited for a loop")

    async def _send(self, call: Call[Any]) -> Reply | Lost:
        try:
            with _one_try(self, call) as (request, place), self._http.stream(**request) as answer:
                body = place(answer)
                for data in answer.iter_bytes():
                    body.write(data)
                return _reply(answer, body)
        except httpx.RequestError as err:
            return _lost(err)

    async def _sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    async def _all(self, calls: Iterable[Steps[T]]) -> list[T]:
        return [await call for call in calls]


class AsyncClient(_Api):
    """`Client` with calls to await, under asyncio or trio."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    def _run(self, call: Steps[T]) -> Steps[T]:
        return call
