"""LitServe with batching."""
# mypy: ignore-errors

import sys
from typing import Any

import litserve
from pipeline import trained


class Sentiment(litserve.LitAPI):
    def setup(self, _device: str) -> None:
        self.model = trained()

    def decode_request(self, request: dict[str, str], **_: Any) -> str:
        return request["text"]

    def batch(self, inputs: list[str]) -> list[str]:
        return inputs

    def predict(self, texts: list[str], **_: Any) -> list[str]:
        return self.model.predict(texts).tolist()

    def unbatch(self, output: list[str]) -> list[str]:
        return output

    def encode_response(self, output: str, **_: Any) -> dict[str, str]:
        return {"prediction": output}


if __name__ == "__main__":
    api = Sentiment(max_batch_size=100, batch_timeout=0.005)
    litserve.LitServer(api, accelerator="cpu", workers_per_device=1).run(
        host="127.0.0.1", port=int(sys.argv[1]), num_api_servers=1, log_level="warning", generate_client_file=False
    )
