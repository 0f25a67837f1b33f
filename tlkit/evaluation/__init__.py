"""Evaluation: predictions, metrics, calibration, comparison and explanation."""
