"""Kinds of model by name, their features, training, evaluation and calibration."""
