"""Evaluation: what a model says of images, and how often it is right."""
