"""Every error that this package raises on purpose.

    MsoError                    the base: `except MsoError` catches what a person can mend
    +-- SettingsError           a setting is unknown, malformed or contradicts another
    +-- DataError               what came in cannot be used
    |   +-- UnreadableFile      the whole file: encoding, format, missing column, too large
    |   +-- LeakageError        a dataset whose test texts are among its training texts
    |   +-- TooFewRows          nothing can be learned or judged from so few rows
    +-- ModelError              a kind cannot do what was asked, or a model is unfit to be used
    |   +-- BundleError         model files are missing, changed or of an unknown format
    |   +-- NoModel             nothing is promoted yet
    +-- StoreError              a store refused or is away
    |   +-- Unavailable         it did not answer; worth a retry
    |   +-- StaleToken          another process changed the thing first
    |   +-- FormatTooNew        written by a later release than this one
    |   +-- SpoolFull           no room to keep a prediction until it is in its table
    +-- Busy                    one at a time, and one is running
    +-- NotFound                no version, job, dataset or table of that name
    +-- CallFailed              a server refused a call, or answered what the client cannot read

A message names the thing, what was found, what was expected and what to do next. `exit_code` is
what the command line ends with (docs/commands.md lists them).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence


class MsoError(Exception):
    """An error with a message made for the person who reads it."""

    exit_code = 1


class SettingsError(MsoError):
    exit_code = 2


class DataError(MsoError):
    exit_code = 3


class UnreadableFile(DataError): ...


class LeakageError(DataError): ...


class TooFewRows(DataError): ...


class ModelError(MsoError):
    exit_code = 4


class BundleError(ModelError): ...


class NoModel(ModelError): ...


class StoreError(MsoError):
    exit_code = 5


class Unavailable(StoreError): ...


class StaleToken(StoreError): ...


class FormatTooNew(StoreError): ...


class SpoolFull(StoreError): ...


class Busy(MsoError):
    exit_code = 6


class NotFound(MsoError):
    exit_code = 7


class CallFailed(MsoError):
    """With the answer's `status` and `detail`, the `request_id` that the server's log knows, and the fields or
    lines that are wrong."""

    def __init__(
        self, message: str, *, status: int, detail: str, request_id: str, errors: Sequence[Mapping[str, object]] = ()
    ) -> None:
        super().__init__(message)
        self.status, self.detail, self.request_id, self.errors = status, detail, request_id, tuple(errors)
