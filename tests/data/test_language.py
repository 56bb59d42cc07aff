from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import polars as pl
import pytest

from mobile_sentiment_ops.data.language import detect_languages

SHORT_REVIEWS = {
    "en": ["good", "nice app", "it is ok but slow", "worst app ever", "I can't log in anymore, keeps saying error"],
    "hi-Latn": ["bahut accha app hai", "otp nahi aa raha hai", "paisa kat gaya lekin recharge nahi hua", "Acha h"],
    "th": ["แอปดีมาก", "update แล้วเข้าไม่ได้", "ดีครับ"],
    "hi": ["बहुत अच्छा ऐप है", "पैसे कट गए लेकिन रिचार्ज नहीं हुआ"],
    "es": ["muy bueno", "no funciona, se cierra sola", "pésima app, no la descarguen"],
    "pt": ["muito bom", "não funciona, trava toda hora"],
    "fr": ["très bon", "impossible de se connecter depuis la mise à jour"],
    "de": ["sehr gut", "die App ist langsam und voller Werbung"],
    "id": ["sangat membantu", "tidak bisa login setelah update"],
    "vi": ["ứng dụng rất tốt", "không đăng nhập được"],
    "ru": ["отличное приложение", "не работает после обновления"],
    "uk": ["чудовий додаток", "не працює після оновлення"],
    "ar": ["تطبيق رائع"],
    "ja": ["とても使いやすい", "更新後に開けない"],
    "zh": ["更新后打不开"],
    "ko": ["업데이트 후 실행이 안돼요"],
    "ta": ["நல்ல செயலி"],
}


@pytest.mark.parametrize("language", SHORT_REVIEWS)
def test_short_reviews_are_told_apart(language: str) -> None:
    texts = SHORT_REVIEWS[language]
    assert dict(zip(texts, detect_languages(texts), strict=True)) == dict.fromkeys(texts, language)


@pytest.mark.parametrize("text", ["", "👍👍", "10/10", "!!!", "nyc", "Xq", "ᚠᚢᚦ", "ꜱᴜᴩᴇʀ"])
def test_what_tells_no_language_has_none(text: str) -> None:
    assert detect_languages([text]) == [None]


def test_the_answer_does_not_depend_on_neighbours() -> None:
    texts = [text for texts in SHORT_REVIEWS.values() for text in texts]
    assert detect_languages(texts) == [detect_languages([text])[0] for text in texts]


def test_importing_the_module_loads_no_model() -> None:
    code = "import sys, mobile_sentiment_ops.data.language; print('py3langid' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert answer.stdout.strip() == "False"


def test_real_reviews_of_india_are_english_hindi_or_unknown(shared_data: Path) -> None:
    texts = pl.read_parquet(shared_data / "play_fintech_reviews.parquet")["review_text"].gather_every(20)
    counts = Counter(detect_languages(texts))
    assert counts["en"] / len(texts) > 0.8
    assert counts["hi-Latn"] / len(texts) > 0.01
    assert sum(counts[elsewhere] for elsewhere in ("es", "pt", "fr", "de", "it", "vi", "tr", "nl", "pl")) < 0.01 * len(
        texts
    )
