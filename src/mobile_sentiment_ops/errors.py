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
    +-- Busy                    one at a time, and one is running
    +-- NotFound                no version, job, dataset or table of that name

A message names the thing, what was found, what was expected and what to do next. `exit_code` is
what the command line ends with (docs/commands.md lists them).
"""

from __future__ import annotations


class MsoError(Exception):
    """An error with a message made for the person who reads it."""

    exit_code = 1


class SettingsError(MsoError):
    """A setting is unknown, malformed or contradicts another."""

    exit_code = 2


class DataError(MsoError):
    """What came in cannot be used."""

    exit_code = 3


class UnreadableFile(DataError):
    """A whole file cannot be read: its encoding, format, columns or size."""


class LeakageError(DataError):
    """A dataset holds test texts that are also in its training part."""


class TooFewRows(DataError):
    """Nothing can be learned or judged from so few rows."""


class ModelError(MsoError):
    """A kind cannot do what was asked, or a model is unfit to be used."""

    exit_code = 4


class BundleError(ModelError):
    """Model files are missing, changed or of an unknown format."""


class NoModel(ModelError):
    """Nothing is promoted yet."""


class StoreError(MsoError):
    """A store refused."""

    exit_code = 5


class Unavailable(StoreError):
    """A store did not answer; the same call may go through later."""


class StaleToken(StoreError):
    """Another process changed the thing first."""


class FormatTooNew(StoreError):
    """Something stored was written by a later release than this one."""


class Busy(MsoError):
    """One at a time, and one is running."""

    exit_code = 6


class NotFound(MsoError):
    """There is no version, job, dataset or table of that name."""

    exit_code = 7
