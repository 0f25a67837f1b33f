"""Answers from measurements, before hours are spent."""
