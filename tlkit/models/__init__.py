"""Backbones, classifiers and the groups of their layers."""
