"""Whether the model still is what it was: windows, drift, performance, explanations, the retrain decision."""
