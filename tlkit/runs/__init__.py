"""Runs: from a folder of images to a run directory, and what a finished run is good for."""
