"""Exports for other runtimes, each compared with the model in memory."""
