"""MobileSentimentOps: what the reviewers of a mobile app feel, kept trustworthy by itself.

import mobile_sentiment_ops as mso
mso.load("champion").predict(["Love it, works every time"])
mso.reviews(app="com.example.wallet")
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mobile_sentiment_ops.bootstrap import load as load
    from mobile_sentiment_ops.bootstrap import reviews as reviews

__version__ = "0.1.0"
__all__ = ["load", "reviews"]


def __getattr__(name: str) -> object:
    """Import the two doors on first use, so that importing the package costs nothing."""
    if name in __all__:
        from mobile_sentiment_ops import bootstrap

        return getattr(bootstrap, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
