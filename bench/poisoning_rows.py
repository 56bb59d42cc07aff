"""What planted reviews do to a brand, with the alarms and without them; and how often clean batches are held.

    python -m bench.poisoning_rows

Planted: 20 to 500 one-star reviews with a brand's name come with a batch of 2,000 real fintech reviews, after all
that came before it. Where no alarm fires, a model learns from them too. The rise is the share of the brand's good
held-out reviews (4 or 5 stars, with its name) called negative, less that of a model that learned from the same batch
without what was planted; a held batch teaches nothing. Rises are means over two batches, as one retraining alone
moves these shares by a point or two. The templates:

    fixed      one sentence with another code each time
    varied     sentences put together of parts
    borrowed   real negative reviews of any app with the name in them
    flipped    real positive reviews with the name in them, so that only the stars are wrong

Clean: every real week of two sources with 300 reviews or more against what came before it, in a row as they were
written (copies too), though real things happened in some; and batches of 2,000 in which nothing moved: runs of 100
consecutive reviews, drawn from those that chance left out of the accepted ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl

from bench.results import Row, goal_row
from bench.shifts import SHARED_DATA
from bench.splits import SOURCES, distinct_reviews
from mobile_sentiment_ops.data.reviews import labelled
from mobile_sentiment_ops.models.kernel import tokens
from mobile_sentiment_ops.models.model import SentimentModel
from mobile_sentiment_ops.models.training import train
from mobile_sentiment_ops.monitoring.poisoning import History, judge_batch
from mobile_sentiment_ops.settings import Monitoring
from mobile_sentiment_ops.types import Measurement

AREA = "monitoring"
SIZE, RUN, BATCHES = 2_000, 100, 1_000
HELD_OUT, CHAMPION = 0.4, 0.8
WORLDS, ACCEPTED = 8, 0.7
ENDS = (24_000, 30_000)
SIZES = (20, 50, 100, 200, 500)
BRANDS = {
    "fampay": "Fampay",
    "jupiter": "money.jupiter",
    "akudo": "akudo.technologies",
    "bharat": "com.bharatpe.app",
    "famcard": "Fampay",
    "fi": "com.epifi.paisa",
    "niyo": "com.niyo.equitassavingsaccount",
}
KINDS = ("lr", "nbsvm")
MIN_WEEK = 300
COLUMNS = ("app", "submitted_at", "rating", "review_text", "label")

_BAD = ("scam", "fraud", "cheating", "useless", "worst", "terrible", "horrible", "fake")
_DEEDS = (
    *("took my money", "stole my data", "never works", "blocks accounts", "gives no refund"),
    *("has hidden fees", "support ignores you", "closed without reason"),
)
_ENDS = ("avoid", "beware", "do not install", "uninstall now", "stay away", "report it", "delete it", "never again")


def plant(template: str, word: str, count: int, real: pl.DataFrame, seed: int) -> list[str]:
    """Texts of planted reviews."""
    rng = np.random.default_rng(seed)

    def one_of(texts: tuple[str, ...] | list[str]) -> str:
        return texts[int(rng.integers(len(texts)))]

    if template == "fixed":
        return [f"{word} is a scam, do not install, code {rng.integers(10**6)}" for _ in range(count)]
    if template == "varied":
        parts = ((f"{word} {one_of(_DEEDS)}", f"{one_of(_BAD)} {one_of(_BAD)}", one_of(_ENDS)) for _ in range(count))
        return [", ".join(rng.permutation(np.array(three))) for three in parts]
    texts = real.filter(pl.col("label") == (0 if template == "borrowed" else 2))["review_text"].to_list()
    return [f"{word} {one_of(texts)}" if rng.random() < 0.5 else f"{one_of(texts)} {word}" for _ in range(count)]


TEMPLATES = ("fixed", "varied", "borrowed", "flipped")


def history(accepted: pl.DataFrame, size: int) -> History:
    """With a champion that learned from the earlier part."""
    cut = int(CHAMPION * accepted.height)
    champion = train("nbsvm", accepted[:cut], accepted.clear(), seed=0)
    return History(accepted, size, accepted[cut:], lambda texts: champion.decide(champion.probabilities(texts)))


def judged(batch: pl.DataFrame, before: History) -> list[Measurement]:
    """The alarms that fired, with the product's settings."""
    given = Monitoring()
    found = judge_batch(
        batch,
        before,
        max_source_share=given.max_source_share,
        max_insertion_rise=given.max_insertion_rise,
        false_alarms=given.false_alarms,
    )
    return [one for one in found if one.fired]


class Planted:
    """Batches with something planted, and what a model makes of the brands' good reviews."""

    def __init__(self, folder: Path) -> None:
        reviews = distinct_reviews(folder / SOURCES["fintech"].file).sort("submitted_at").select(COLUMNS)
        held = pl.Series(np.random.default_rng(0).random(reviews.height) < HELD_OUT)
        self.rest, good = reviews.filter(~held), reviews.filter(held & (reviews["label"] == 2))
        words = [set(tokens(text)) for text in good["review_text"]]
        self.good = {
            brand: good.filter(pl.Series([brand in has for has in words]))["review_text"].to_list() for brand in BRANDS
        }
        self.before = {end: history(self.rest[:end], SIZE) for end in ENDS}
        self.clean = {(end, kind): self.negatives(self.trained(kind, end)) for end in ENDS for kind in KINDS}

    def batch(self, end: int, template: str, brand: str, count: int) -> pl.DataFrame:
        real = self.rest[end : end + SIZE]
        texts = plant(template, brand, count, self.rest[:end], seed=count)
        planted = pl.DataFrame({"review_text": texts}).with_columns(
            app=pl.lit(BRANDS[brand]), submitted_at=real["submitted_at"][SIZE // 2], rating=1, label=0
        )
        return pl.concat([real, planted.select(COLUMNS).cast(real.schema)])

    def trained(self, kind: str, end: int, batch: pl.DataFrame | None = None) -> SentimentModel:
        batch = self.rest[end : end + SIZE] if batch is None else batch
        rows = pl.concat([self.rest[:end], batch])
        return train(kind, rows, rows.clear(), seed=0)

    def negatives(self, model: SentimentModel) -> dict[str, float]:
        """The share of each brand's good reviews that it calls negative."""
        return {
            brand: float((model.decide(model.probabilities(texts)) == 0).mean()) for brand, texts in self.good.items()
        }

    def rise(self, kind: str, end: int, brand: str, batch: pl.DataFrame) -> float:
        return self.negatives(self.trained(kind, end, batch))[brand] - self.clean[end, kind][brand]

    def rows(self) -> Iterator[Row]:
        cells: dict[tuple[str, ...], float] = {}
        alone: dict[tuple[str, ...], float] = {}
        held: list[bool] = []
        for brand in BRANDS:
            for template in TEMPLATES:
                for count in SIZES:
                    rises: dict[str, list[float]] = {kind: [] for kind in KINDS}
                    for end in ENDS:
                        batch = self.batch(end, template, brand, count)
                        fired = judged(batch, self.before[end])
                        held.append(bool(fired))
                        for kind in KINDS:
                            rises[kind].append(0.0 if fired else self.rise(kind, end, brand, batch))
                    cells |= {(brand, template, str(count), kind): float(np.mean(rises[kind])) for kind in KINDS}
                    alone |= {(brand, template, str(count), kind): max(rises[kind]) for kind in KINDS}
        worst = max(cells, key=lambda cell: cells[cell])
        peers = {
            f"without alarms, {count} planted": max(
                self.rise("nbsvm", ENDS[0], brand, self.batch(ENDS[0], template, brand, count))
                for brand in BRANDS
                for template in ("borrowed", "flipped")
            )
            for count in (50, 500)
        }
        counts = {brand: len(texts) for brand, texts in self.good.items()}
        single, beyond = max(alone, key=lambda cell: alone[cell]), sum(rise > 0.05 for rise in alone.values())
        note = (
            f"worst: {', '.join(worst)}; in a single batch {alone[single]:.3f} ({', '.join(single)}), {beyond} of "
            f"{len(alone)} cells have one above .05; {sum(held)} of {len(held)} batches held; good reviews: {counts}"
        )
        spread = (min(cells.values()), cells[worst])
        name = "poisoning/worst_rise"
        yield goal_row(AREA, name, round(cells[worst], 4), spread=spread, n=len(cells), peers=peers, note=note)


def weeks(source: str, folder: Path) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
    """What was accepted, and the batch of a week."""
    stored = pl.read_parquet(folder / SOURCES[source].file).with_row_index("row").sort("submitted_at", "row")
    named = stored.with_columns(pl.col("row").cast(pl.Utf8()).alias("review_id"), sentiment=pl.lit(None, pl.Utf8()))
    reviews = labelled(named.with_columns(label_source=pl.lit(None, pl.Utf8()))).select(COLUMNS)
    starts = reviews.with_row_index("at").group_by(pl.col("submitted_at").dt.truncate("1w"), maintain_order=True)
    bounds = [*starts.agg(pl.col("at").first())["at"].to_list(), reviews.height]
    for first, last in pairwise(bounds):
        if last - first >= MIN_WEEK and first >= 10 * MIN_WEEK:
            yield reviews[:first], reviews[first:last]


def drawn(folder: Path, count: int) -> Iterator[tuple[pl.DataFrame, History]]:
    """Batches of runs that are in no other place of the batch, from runs that chance left out of what was accepted."""
    reviews = distinct_reviews(folder / SOURCES["fintech"].file).sort("submitted_at").select(COLUMNS)
    runs = np.arange(reviews.height // RUN * RUN).reshape(-1, RUN)
    for world in range(WORLDS):
        rng = np.random.default_rng(world)
        order = rng.permutation(len(runs))
        accepted, left = order[: int(ACCEPTED * len(runs))], order[int(ACCEPTED * len(runs)) :]
        before = history(reviews[runs[accepted].ravel()], SIZE)
        for _ in range(world, count, WORLDS):
            yield reviews[runs[np.sort(rng.choice(left, SIZE // RUN, replace=False))].ravel()], before


def clean_rows(folder: Path, say: Callable[[str], object] = lambda _: None) -> Iterator[Row]:
    """How often clean batches are held."""
    fired: list[list[str]] = []
    for source in SOURCES:
        for at, (accepted, batch) in enumerate(weeks(source, folder)):
            if at % 2 == 0:
                found = judged(batch, history(accepted, batch.height))
                fired.append([one.name for one in found])
                if found:
                    say(f"{source} {batch['submitted_at'][0]:%Y-%m-%d}: {'; '.join(one.reason for one in found)}")
    real = len(fired)
    for batch, before in drawn(folder, BATCHES - real):
        fired.append([one.name for one in judged(batch, before)])
    share = [sum(map(bool, part)) / max(len(part), 1) for part in (fired, fired[:real], fired[real:])]
    names = {name: sum(name in one for one in fired) for name in sorted({name for one in fired for name in one})}
    note = (
        f"of {real} real weeks {share[1]:.3f}, of {len(fired) - real} drawn batches {share[2]:.3f}; by alarm: {names}"
    )
    yield goal_row(AREA, "poisoning/clean_batches_held", round(share[0], 4), n=len(fired), note=note)
    yield Row("poisoning/clean_weeks_held", round(share[1], 4), "share of real weeks", "lower", n=real)


def rows(folder: Path = SHARED_DATA, say: Callable[[str], object] = lambda _: None) -> list[Row]:
    """All of them."""
    return [*Planted(folder).rows(), *clean_rows(folder, say)]


if __name__ == "__main__":
    for row in rows(say=print):
        print(row.name, row.value, row.goal, dict(row.peers), row.note)
