"""MLServer with adaptive batching, in one process (its pool of workers costs more)."""
# mypy: ignore-errors

import json
import os
import sys
from pathlib import Path

from mlserver import MLModel
from mlserver.codecs import StringCodec
from mlserver.types import InferenceRequest, InferenceResponse

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from pipeline import trained  # noqa: E402 - MLServer imports this file from elsewhere


class Sentiment(MLModel):
    async def load(self) -> bool:
        self.model = trained()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        texts = StringCodec.decode_input(payload.inputs[0])
        labels = self.model.predict(texts).tolist()
        return InferenceResponse(model_name=self.name, outputs=[StringCodec.encode_output("label", labels)])


if __name__ == "__main__":
    port, folder = int(sys.argv[1]), Path(sys.argv[2])
    ports = {"http_port": port, "grpc_port": port + 1, "metrics_port": port + 2}
    settings = {"host": "127.0.0.1", **ports, "parallel_workers": 0, "access_log": False, "debug": False}
    model = {"name": "sentiment", "implementation": "mlserver_batching.Sentiment"}
    batching = {"max_batch_size": 100, "max_batch_time": 0.005}
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "model-settings.json").write_text(json.dumps({**model, **batching}))
    os.environ["PYTHONPATH"] = str(HERE)
    mlserver = str(Path(sys.executable).parent / "mlserver")
    os.execv(mlserver, [mlserver, "start", str(folder)])  # noqa: S606
