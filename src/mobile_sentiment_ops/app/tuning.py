"""The search for better parameters of a kind, which never sees a test row.

What was tried is kept in a database in the workspace, one study for each kind, dataset and search space: a
search that was stopped, in whatever way, goes on where it was. The parameters of the n-th try follow from
those before it and the seed, so that so many tries end the same whether they were interrupted or not.
"""

from __future__ import annotations

import json
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from mobile_sentiment_ops import __version__
from mobile_sentiment_ops.data.dataset import Dataset
from mobile_sentiment_ops.disk import write_file
from mobile_sentiment_ops.errors import SettingsError, StoreError
from mobile_sentiment_ops.models.intervals import gain_interval, macro_f1_interval
from mobile_sentiment_ops.models.kinds import kind_named
from mobile_sentiment_ops.models.rows import Parameters
from mobile_sentiment_ops.models.search import SPACE_VERSION, Objective, Range, is_inside, space_of
from mobile_sentiment_ops.types import Interval

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

Progress = Callable[[str, float], None]
"""Called with what was found so far and the share done, 0..1."""

STARTING_TRIALS = 10
"""Tries by chance before what was found guides the search."""

STUDY_LENGTH = 100_000
"""Most tries of a search."""


@dataclass(frozen=True, slots=True)
class Tuned:
    """What a search found. Scores are macro-F1 on the validation rows that chose the parameters, so `gain`
    over today's parameters flatters them; the gate judges on other rows."""

    kind: str
    parameters: dict[str, int | float | str]
    better: bool
    macro_f1: Interval
    gain: Interval
    trials: int
    new_trials: int
    train_rows: int
    validation_rows: int
    seconds: float


def tune(
    kind: str,
    dataset: Dataset,
    *,
    today: Parameters,
    file: Path,
    trials: int | None,
    seconds: float | None,
    seed: int,
    progress: Progress,
) -> Tuned:
    """The best parameters of `kind` known after the search that `file` keeps has gone on.

    It ends with `trials` finished tries in all or after so many `seconds`, whichever comes first; a try that
    has begun is finished. `today` are the parameters that the settings have. Test rows are not looked at.
    """
    began = time.monotonic()
    space, objective = space_of(kind), Objective(kind, dataset.train, dataset.validation, seed)
    used = kind_named(kind).with_parameters(today)
    now = {name: used.pop(name) for name in space}
    usual = objective.decisions(today)
    fixed = sha256(json.dumps(used, sort_keys=True).encode()).hexdigest()[:8]
    name = f"{kind}, dataset {dataset.fingerprint[:16]}, seed {seed}, space {SPACE_VERSION}, {__version__} {fixed}"
    with _kept_study(file, name) as study:
        before = len(_finished(study))
        if not before and is_inside(now, space):
            study.enqueue_trial(now, skip_if_exists=True)
        for done in range(before, STUDY_LENGTH if trials is None else trials):
            spent = time.monotonic() - began
            share = max(done / trials if trials else 0.0, spent / max(seconds, 1e-9) if seconds is not None else 0.0)
            if share >= 1 and done:
                break
            best = f", best macro-F1 {study.best_value:.4f}" if done else ""
            progress(f"{kind}: try {done + 1}{best}", min(share, 1.0))
            _try_one(study, objective, today, seed * STUDY_LENGTH + done)
        found = len(_finished(study))
        chosen: dict[str, int | float | str] = {name: _short(study.best_params[name]) for name in space}
    answers = objective.decisions({**today, **chosen})
    score = macro_f1_interval(objective.labels, answers, seed=seed)
    gain = gain_interval(objective.labels, answers, usual, seed=seed)
    rows = dataset.train.height, dataset.validation.height
    return Tuned(kind, chosen, gain.value > 0, score, gain, found, found - before, *rows, time.monotonic() - began)


@contextmanager
def _kept_study(file: Path, name: str) -> Iterator[Study]:
    """The study of that name in a database; tries that a stopped search left open are closed."""
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        storage = optuna.storages.RDBStorage(f"sqlite:///{file}")
    except (OSError, SQLAlchemyError, RuntimeError) as err:
        raise StoreError(
            f"{file}, which keeps what was tried, cannot be opened: {err}; expected a file that `mso tune` wrote, "
            f"move it away to search anew"
        ) from err
    try:
        study = optuna.create_study(storage=storage, study_name=name, direction="maximize", load_if_exists=True)
        for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        yield study
    except SQLAlchemyError as err:
        raise StoreError(f"{file}, which keeps what was tried, cannot be used: {err}") from err
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _finished(study: Study) -> list[FrozenTrial]:
    from optuna.trial import TrialState

    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def _try_one(study: Study, objective: Objective, today: Parameters, seed: int) -> None:
    """Choose parameters by what is known, judge them, and keep the score."""
    from optuna.samplers import TPESampler

    study.sampler = TPESampler(seed=seed % 2**32, n_startup_trials=STARTING_TRIALS)
    trial = study.ask()
    asked = {name: _suggested(trial, name, values) for name, values in space_of(objective.kind).items()}
    study.tell(trial, objective.macro_f1(objective.decisions({**today, **asked})))


def _suggested(trial: Trial, name: str, values: Range) -> int | float:
    log = values.scale == "log"
    if isinstance(values.low, int) and isinstance(values.high, int):
        return trial.suggest_int(name, values.low, values.high, log=log)
    return _short(trial.suggest_float(name, values.low, values.high, log=log))


def _short(value: float) -> float:
    """The value as it is used and saved: no digits that mean nothing.

    >>> _short(1.3648156854197662), _short(4812)
    (1.365, 4812)
    """
    return value if isinstance(value, int) else float(f"{value:.4g}")


# --- in the settings file


def parameters_toml(kind: str, parameters: Parameters) -> str:
    """The lines of mso.toml that give a kind these parameters.

    >>> print(parameters_toml("svc", {"C": 0.25, "word_run": 2}))
    [training.parameters.svc]
    C = 0.25
    word_run = 2
    """
    lines = (f"{name} = {json.dumps(value)}" for name, value in parameters.items())
    return "\n".join([f"[training.parameters.{kind}]", *lines])


def with_parameters(text: str, found: Mapping[str, Parameters]) -> str:
    """The text of a settings file in which the kinds of `found` have these parameters besides those that
    they have there; all other lines stay as they are.

    Raises SettingsError when the file writes these tables in a way that cannot be replaced by lines.

    >>> print(with_parameters("[api]\\nport = 5002  # ours\\n", {"svc": {"C": 0.25}}), end="")
    [api]
    port = 5002  # ours
    <BLANKLINE>
    [training.parameters.svc]
    C = 0.25
    """
    wanted = tomllib.loads(text)
    kept = wanted.get("training", {}).get("parameters", {})
    merged = {kind: {**kept.get(kind, {}), **parameters} for kind, parameters in found.items()}
    wanted.setdefault("training", {}).setdefault("parameters", {}).update(merged)
    heads = {f"[training.parameters.{kind}]" for kind in merged}
    lines, inside = [], False
    for line in text.splitlines():
        bare = line.partition("#")[0].strip()
        if bare.startswith("["):
            inside = bare in heads
        if not inside or not bare:  # comments and blank lines stay
            lines.append(line)
    tables = [parameters_toml(kind, parameters) for kind, parameters in merged.items()]
    written = "\n\n".join([*filter(None, ["\n".join(lines).strip("\n")]), *tables]) + "\n"
    try:
        if tomllib.loads(written) == wanted:
            return written
    except tomllib.TOMLDecodeError:
        pass
    raise SettingsError(
        "training.parameters stand in the settings file as something else than tables of their own; expected "
        f"[training.parameters.{next(iter(found))}]: write the lines that were found there by hand"
    )


def save_parameters(file: Path, found: Mapping[str, Parameters]) -> None:
    """Write the parameters into a settings file, which is made when there is none."""
    try:
        text = file.read_text("utf-8") if file.exists() else "format = 1\n"
        write_file(file.resolve(), with_parameters(text, found).encode())
    except (OSError, ValueError) as err:
        raise SettingsError(f"{file}: the parameters cannot be written there: {err}") from err
