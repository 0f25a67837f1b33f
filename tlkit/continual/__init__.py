"""Continual learning: anchors, importance, new classes, expansion, and forgetting."""
