"""The kernel in C against the reference in Python, on any Unicode and on buffers that lie."""

from __future__ import annotations

import subprocess
import sys
import unicodedata
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from docs import code_points
from mobile_sentiment_ops.errors import DataError
from mobile_sentiment_ops.models import kernel, reference
from mobile_sentiment_ops.models.kernel import Counted, Grams, counted, tokens, weighed

TEXTS = (
    *("Not good, don't update!", "", "İstanbul IŞIK ıi", "café cafe\u0301 CAFÉ", "bahut accha hai yaar bahut bahut"),
    *(
        "बहुत अच्छा ऐप",
        "ใช้งานง่าย แต่ช้า",
        "很好用app がぎ",
        "👨\u200d👩\u200d👧 👍🏽👍 🇩🇪 ❤\ufe0f",
        "x" * 20_000,
        "so " * 9_000,
    ),
    *("ดี'มาก" * 500, "\ufdfa" * 300, "naïve" * 4_000, "a\u0301\u0323b", "\x02\x03\n\0_"),
)
UNUSUAL = (
    "aA'’ \t1é\u0301\u0323\u0345İıßΣςﬁ½™ﷺ\ufeff\u00ad\u200d\ufe0f🏽👍🇩का\u093c्مُ\u0653שָ"
    "가\u1100が\u3099ก้ๆ好\U0002f800\U0001d400\U000e0061"
)
texts = st.text() | st.text(st.sampled_from(UNUSUAL), max_size=60)
grams = st.builds(
    Grams,
    words=st.integers(1, 3),
    characters=st.just((0, 0))
    | st.tuples(st.integers(1, 6), st.integers(1, 6)).map(lambda pair: (min(pair), max(pair))),
    bits=st.integers(10, 24),
)


def same(found: Counted, expected: Counted) -> bool:
    pairs = [(getattr(found, name), getattr(expected, name)) for name in Counted.__slots__]
    return all(one.dtype == other.dtype and np.array_equal(one, other) for one, other in pairs)


# --- tokens


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Not good, don't update!", ["not", "good", "dont", "update"]),
        ("DON\u2019T", ["dont"]),
        ("cafe\u0301 caf\u00e9", ["cafe", "cafe"]),
        ("İSTANBUL", ["istanbul"]),
        ("ΟΔΟΣ οδος", ["οδοσ", "οδοσ"]),
        ("\uff27\uff52\uff45\uff41\uff54 10/10 snake_case", ["great", "10", "10", "snake", "case"]),
        ("bahut accha 👍🏽👍ok", ["bahut", "accha", "👍", "👍", "ok"]),
        ("बहुत अच्छा ऐप", ["बहुत", "अच्छा", "ऐप"]),
        ("ดีมาก", ["ดีม", "ีมา", "มาก"]),
        ("ดี", ["ดี"]),
        ("ดี'มาก", ["ดีม", "ีมา", "มาก"]),
        ("很好用app", ["很好用", "app"]),
        ("مُمتاز آب", ["مُمتاز", "اب"]),
        ("한국어", ["한국어"]),
        ("👨\u200d👩\u200d👧 ok\ufe0f", ["👨", "👩", "👧", "ok"]),
        ("🇩🇪", ["🇩", "🇪"]),
        ("... !!! \u200b", []),
    ],
)
def test_words_negations_emoji_and_scripts_survive(text: str, expected: list[str]) -> None:
    assert tokens(text) == reference.tokens(text) == expected


@settings(deadline=None)  # other work may have the machine
@given(texts)
def test_every_text_has_the_tokens_of_the_reference(text: str) -> None:
    assert tokens(text) == reference.tokens(text)


@settings(deadline=None)
@given(texts)
def test_tokens_that_are_read_again_do_not_change(text: str) -> None:
    words = [token for token in tokens(text) if token.isalnum()]
    assert [token for word in words for token in tokens(word)] == words


@settings(deadline=None)
@given(
    st.text(
        st.characters(exclude_categories=["Cs"]) | st.sampled_from("éİạ\u0301\u0323นำकी\u093cが\u0653ا"), max_size=8
    )
)
def test_composed_and_decomposed_texts_have_the_same_tokens(text: str) -> None:
    """But for Hangul, and for orders of marks that no script writes."""
    composed = unicodedata.normalize("NFC", text)
    if any("\uac00" <= char <= "\ud7a3" for char in composed) or unicodedata.unidata_version != kernel.UNICODE_VERSION:
        return
    assert tokens(composed) == tokens(unicodedata.normalize("NFD", text))


@pytest.mark.skipif(unicodedata.unidata_version != kernel.UNICODE_VERSION, reason="this Python has another Unicode")
def test_the_table_is_what_its_writer_writes() -> None:
    assert code_points.FILE.read_bytes() == code_points.table()


@pytest.mark.parametrize("spoiled", [0, 1, 2])
def test_a_table_that_leads_outside_is_refused(spoiled: int) -> None:
    table = [part.copy() for part in kernel.TABLE]
    table[spoiled][-1] = (0xFFFF, 0xFFFF, 0)[spoiled]
    assert kernel._kernel is not None
    with pytest.raises(ValueError, match="no table of code points"):
        kernel._kernel.load(*table)
    assert tokens("Still") == ["still"]


# --- counts


@settings(deadline=None)
@given(st.lists(texts, max_size=4), grams)
def test_counts_are_those_of_the_reference(given_texts: list[str], which: Grams) -> None:
    found = counted(given_texts, which)
    assert same(found, reference.counted(given_texts, which))
    assert same(found, counted(pa.array(given_texts, pa.string()), which))


@pytest.mark.parametrize("which", [Grams(), Grams(3, (1, 6), 24)])
def test_counts_of_long_and_unusual_texts_are_those_of_the_reference(which: Grams) -> None:
    assert same(counted(TEXTS, which), reference.counted(TEXTS, which))


@settings(deadline=None)
@given(texts, st.integers(1, 3))
def test_all_32_bits_of_a_hash_are_those_of_the_reference(text: str, words: int) -> None:
    expected = sorted(set(reference.hashes(text, Grams(words))))
    starts, hashes, counts = (
        np.zeros(2, np.int64),
        np.zeros(len(text) * 60, np.uint32),
        np.zeros(len(text) * 60, np.float32),
    )
    assert kernel._kernel is not None
    assert kernel._kernel.count((text,), None, 0, 0, words, 0, 0, 32, starts, hashes, counts) == 1
    assert hashes[: starts[1]].tolist() == expected


def test_runs_of_neighbours_are_told_from_the_same_words_apart() -> None:
    near, apart = counted(["not good"]), counted(["good not"])
    assert near.counts.tolist() == apart.counts.tolist() == [1, 1, 1]
    assert len(set(near.buckets) & set(apart.buckets)) == 2


def test_characters_are_in_odd_buckets_and_words_in_even_ones() -> None:
    found = counted(["so good"], Grams(1, (2, 3))).buckets % 2
    assert np.bincount(found).tolist() == [2, (3 + 2) + (5 + 4)]


@settings(deadline=None)
@given(st.lists(st.sampled_from(TEXTS), max_size=8))
def test_a_texts_features_do_not_depend_on_the_texts_beside_it(some: list[str]) -> None:
    together = counted(some)
    for at, text in enumerate(some):
        alone, part = counted([text]), slice(together.starts[at], together.starts[at + 1])
        assert together.buckets[part].tolist() == alone.buckets.tolist()
        assert together.counts[part].tolist() == alone.counts.tolist()


@pytest.mark.parametrize("threads", [1, 2])
def test_batches_and_threads_change_nothing(threads: int) -> None:
    many = [f"app {number % 97} good" for number in range(kernel.BATCH_TEXTS * 2 + 10)]
    found = counted(many, threads=threads)
    few = counted(many[:97])
    for at in (0, 96, 97 * 700, len(many) - 1):
        part, same_text = slice(found.starts[at], found.starts[at + 1]), at % 97
        assert found.buckets[part].tolist() == few.buckets[few.starts[same_text] : few.starts[same_text + 1]].tolist()
    assert same(found, counted(pa.chunked_array([many[:5], [], many[5:]]), threads=threads))


def test_few_hashes_collide() -> None:
    """As few as of an ideal hash, within 5%: it fills 2^20 buckets with as many different ones."""
    words = [f"{first}{number}{last}" for first in "abcdefgh" for number in range(1_000) for last in "stuvwxyz"]
    filled = np.unique(counted([" ".join(words)]).buckets).size
    distinct = 2 * len(words) - 1
    ideal = 2**20 * (1 - (1 - 2**-20) ** distinct)
    assert distinct - filled == pytest.approx(distinct - ideal, rel=0.05)


@pytest.mark.parametrize(("words", "bits"), [(0, 20), (4, 20), (2, 9), (2, 25)])
def test_words_and_bits_out_of_range_are_refused(words: int, bits: int) -> None:
    with pytest.raises(ValueError, match=r"expected 1\.\.3 and 10\.\.24"):
        Grams(words, bits=bits)


@pytest.mark.parametrize("characters", [(0, 1), (3, 2), (1, 7)])
def test_characters_out_of_range_are_refused(characters: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="characters is"):
        Grams(characters=characters)


@pytest.mark.parametrize("count", [counted, lambda given_texts: reference.counted(given_texts, Grams())])
def test_half_a_character_is_named(count: object) -> None:
    assert callable(count)
    with pytest.raises(DataError, match="text 2 holds a lone surrogate"):
        count(["ok", "", "bad \ud83d", "ok"])


# --- Arrow


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_slices_nulls_and_chunks_of_arrow_are_read(kind: pa.DataType) -> None:
    column = pa.array(["good app", None, "ใช้งาน", "", "bad", None, "so so good"], kind)
    expected = ["good app", "", "ใช้งาน", "", "bad", "", "so so good"]
    assert same(counted(column), counted(expected))
    for first in range(8):
        for size in range(8 - first):
            assert same(counted(column[first : first + size]), counted(expected[first : first + size]))
    assert same(counted(pa.chunked_array([column[3:], column[:0], column[:2]])), counted(expected[3:] + expected[:2]))
    assert same(counted(pa.chunked_array([], kind)), counted([]))


def test_a_null_has_no_features_whatever_its_bytes_are() -> None:
    valid = pa.py_buffer(b"\x02")
    column = pa.Array.from_buffers(pa.string(), 2, [valid, offsets(0, 3, 7), pa.py_buffer(b"\xffabgood")])
    assert same(counted(column), counted(["", "good"]))


def offsets(*ends: int) -> pa.Buffer:
    return pa.py_buffer(np.array(ends, np.int32).tobytes())


@pytest.mark.parametrize("ends", [(0, 3, 2), (0, 2, 99), (-1, 2, 3), (2, 1, 3), (0, 2**31 - 1, 3), (-(2**31), 0, 1)])
def test_offsets_that_lie_are_refused(ends: Sequence[int]) -> None:
    """pyarrow looks at them once, so they are spoiled behind its back."""
    held = np.array([0, 1, 3], np.int32)
    column = pa.Array.from_buffers(pa.string(), 2, [None, pa.py_buffer(held), pa.py_buffer(b"abc")])
    held[:] = ends
    with pytest.raises(DataError, match=r"text [01] has offsets that do not rise within its data"):
        counted(column)


class Lying:
    """An Arrow array with fewer bytes than it says."""

    type, offset, null_count = pa.string(), 0, 0

    def __init__(self, count: int, offsets: pa.Buffer, data: pa.Buffer | None) -> None:
        self._count, self._buffers = count, [None, offsets, data]

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, _: slice) -> Lying:
        return self

    def buffers(self) -> list[pa.Buffer | None]:
        return self._buffers


def test_too_few_offsets_and_no_data_are_refused() -> None:
    with pytest.raises(DataError, match="too few offsets"):
        counted(Lying(3, offsets(0, 1), pa.py_buffer(b"abc")))
    with pytest.raises(DataError, match="text 0 has offsets that do not rise"):
        counted(Lying(1, offsets(0, 1), None))


@pytest.mark.parametrize(
    "hostile",
    [
        *(
            b"\x80",
            b"\xc3",
            b"\xe2\x82",
            b"\xf0\x9f\x91",
            b"\xc0\x80",
            b"\xc1\xbf",
            b"\xe0\x80\x80",
            b"\xf0\x80\x80\x80",
        ),
        *(
            b"\xed\xa0\x80",
            b"\xed\xbf\xbf",
            b"\xf4\x90\x80\x80",
            b"\xf5\x80\x80\x80",
            b"\xff",
            b"\xe2\x28\xa1",
            b"\xf8\x88",
        ),
    ],
)
@pytest.mark.parametrize("which", [Grams(), Grams(1, (2, 3))])
def test_bytes_that_are_no_utf8_are_named(hostile: bytes, which: Grams) -> None:
    for before, behind in ((b"", b""), (b"ok ", b" ok"), ("é".encode(), "é".encode())):
        rows = [b"fine", before + hostile + behind, b"\x80 begins like the end of another"]
        ends = np.cumsum([0, *map(len, rows)])
        column = pa.Array.from_buffers(pa.string(), 3, [None, offsets(*ends), pa.py_buffer(b"".join(rows))])
        with pytest.raises(DataError, match="text 1 is not valid UTF-8; leave it out or mend its encoding"):
            counted(column, which)


def test_other_columns_say_what_to_do() -> None:
    with pytest.raises(DataError, match="Arrow array of int64, expected string or large_string; cast it"):
        counted(pa.array([1, 2]))


# --- weights


@settings(deadline=None)
@given(st.lists(texts, max_size=4), st.integers(1, 2**12))
def test_weights_are_those_of_the_reference(given_texts: list[str], kept: int) -> None:
    found = counted([*given_texts, "good " * 100], Grams(bits=12))
    columns = np.full(2**12, -1, np.int32)
    columns[np.random.default_rng(kept).permutation(2**12)[:kept]] = np.arange(kept)
    weights = np.random.default_rng(1).random(kept, np.float32) + np.float32(0.1)
    ours = weighed(found, columns, weights)
    assert same(ours, reference.weighed(found, columns, weights))
    lengths = np.bincount(ours.rows, ours.counts.astype(float) ** 2, len(given_texts) + 1)
    assert lengths[np.diff(ours.starts) > 0] == pytest.approx(1, abs=1e-6)


def test_rows_that_do_not_fit_are_refused() -> None:
    found = counted(["good app", "bad"])
    columns, weights = np.zeros(2**20, np.int32), np.ones(1, np.float32)
    for starts in ([0, 3, 99], [0, -1, 4], [3, 2, 4], [1, 3, 4]):
        with pytest.raises(ValueError, match="do not fit together"):
            weighed(Counted(np.array(starts, np.int64), found.buckets, found.counts), columns, weights)
    with pytest.raises(ValueError, match="do not fit together"):
        weighed(Counted(found.starts, found.buckets, found.counts[:1]), columns, weights)


# --- without the kernel

WITHOUT = """
import sys, warnings
sys.modules["mobile_sentiment_ops.models._kernel"] = None
import pyarrow as pa
from mobile_sentiment_ops.models import kernel
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("default")
    for _ in range(2):
        found = kernel.counted(pa.array(["good good app", None]))
        assert kernel.tokens("Good") == ["good"]
assert (found.starts.tolist(), sorted(found.counts.tolist())) == ([0, 4, 4], [1, 1, 1, 2])
print(found.buckets.tolist(), [str(one.message) for one in said])
"""


def test_without_the_kernel_the_reference_serves_and_says_once_what_to_install() -> None:
    said = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=True).stdout
    assert said.startswith(str(counted(["good good app"]).buckets.tolist()))
    assert said.count("install a C compiler (cc)") == 1
