"""Whether the model still is what it was: windows, drift, performance, explanations, the retrain decision."""

SKETCHES_TABLE = "sketches"
DECISION_FILE = "monitoring/decision.json"
"""In the bucket: what the last finished check decided."""
REPORTS = "reports/"
"""In the bucket: what was written for people."""

OF_PERFORMANCE = ("macro-F1", "accuracy", "share by EM")
"""In the names of measurements that tell how good the model is; the others are of drift."""
