"""The demo world: synthetic app reviews over 18 months, with dated events whose truth is known.

No review in it was written by a person about a real app. `generate` makes the whole world, `stream`
the same rows day by day; docs/demo-world.md shows its words, its rates and its events.
"""

from mobile_sentiment_ops.data.demo_world.events import DemoEvent
from mobile_sentiment_ops.data.demo_world.world import TRUTH_SCHEMA, DemoDay, DemoWorld, generate, stream

__all__ = ["TRUTH_SCHEMA", "DemoDay", "DemoEvent", "DemoWorld", "generate", "stream"]
