"""Advice from measurements before training: backbones, costs, learning rates, OOD rejection."""
