"""Single files for other runtimes, and the proof that they compute what the model computes."""
