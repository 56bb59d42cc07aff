"""The pipeline that all peers serve: TF-IDF of words and pairs, LogisticRegression."""
# mypy: ignore-errors

import json
import os
from pathlib import Path

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline


def trained() -> Pipeline:
    """The pipeline, fitted on $ROWS: a JSON file of {"texts": [...], "labels": [...]}."""
    rows = json.loads(Path(os.environ["ROWS"]).read_text("utf-8"))
    learner = LogisticRegression(C=3, class_weight="balanced", max_iter=1000, tol=1e-3)
    return make_pipeline(TfidfVectorizer(ngram_range=(1, 2)), learner).fit(rows["texts"], rows["labels"])
