"""Where progress is shown: on a terminal, in a notebook, as lines."""
