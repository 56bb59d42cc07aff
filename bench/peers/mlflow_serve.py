"""`mlflow models serve` on the pipeline, saved by mlflow.sklearn."""
# mypy: ignore-errors

import os
import sys
from pathlib import Path

import mlflow
from pipeline import trained

if __name__ == "__main__":
    port, folder = sys.argv[1], Path(sys.argv[2]) / "model"
    mlflow.sklearn.save_model(trained(), folder, pip_requirements=["scikit-learn"], serialization_format="cloudpickle")
    serve = ["models", "serve", "--model-uri", str(folder), "--port", port, "--env-manager", "local", "--workers", "1"]
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", *serve])  # noqa: S606
