"""Runs: from a folder of images to a run directory, and the use of finished runs."""
