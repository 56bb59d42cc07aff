"""BentoML with adaptive batching."""
# mypy: ignore-errors

import os
import sys
from pathlib import Path

import bentoml

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from pipeline import trained  # noqa: E402 - BentoML imports this file from elsewhere


@bentoml.service(workers=1, traffic={"timeout": 30}, logging={"access": {"enabled": False}})
class Sentiment:
    def __init__(self) -> None:
        self.model = trained()

    @bentoml.api(batchable=True, max_batch_size=100, max_latency_ms=1000)
    def predict(self, texts: list[str]) -> list[str]:
        return self.model.predict(texts).tolist()


if __name__ == "__main__":
    port, folder = sys.argv[1:3]
    os.environ |= {"BENTOML_HOME": folder, "BENTOML_DO_NOT_TRACK": "true"}
    serve = ["serve", f"{Path(__file__).stem}:Sentiment", "--working-dir", str(HERE), "--host", "127.0.0.1"]
    os.execv(sys.executable, [sys.executable, "-m", "bentoml", *serve, "--port", port])  # noqa: S606
