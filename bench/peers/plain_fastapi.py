"""FastAPI as it is usually written: pydantic in and out, a pipeline in a global, a synchronous route."""
# mypy: ignore-errors

import sys

import uvicorn
from fastapi import FastAPI
from pipeline import trained
from pydantic import BaseModel

app = FastAPI()
model = trained()


class Review(BaseModel):
    text: str


class Sentiment(BaseModel):
    prediction: str
    probabilities: dict[str, float]


@app.post("/predict_json")
def predict(review: Review) -> Sentiment:
    (probabilities,) = model.predict_proba([review.text])
    return Sentiment(
        prediction=model.classes_[probabilities.argmax()],
        probabilities=dict(zip(model.classes_, probabilities.tolist(), strict=True)),
    )


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), access_log=False)
