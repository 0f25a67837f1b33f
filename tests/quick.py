"""What makes tests quick; each function changes the process that calls it."""

import inspect

import tensorflow as tf
from tensorflow.python.framework import ops

from tlkit.advice import cost, timing
from tlkit.training import fine_tuning


def project_costs_untimed():
    """Lets `estimate_cost` state durations without tracing a step to time it.

    That is a fifth of a small run.
    """
    cost.time_calls = lambda action, min_seconds: timing.Timing(setup=0.0, typical=0.001)


def trace_without_stacks():
    """Lets TensorFlow not record for each operation the Python lines that created it.

    That is an eighth of a small training, and more under pytest, whose stack is deep; the lines are
    only for messages of graphs that fail.
    """
    create = inspect.unwrap(ops._create_c_op)
    op_def, extract_traceback = create.__defaults__
    assert extract_traceback is True
    create.__defaults__ = (op_def, False)


def run_graphs_as_traced():
    """Lets TensorFlow leave out the optimisation of graphs, which tiny images do not repay.

    Results differ by rounding; this is for what only has to run.
    """
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


def train_two_epochs_by_default():
    """Lets `fine_tune` train two epochs unless a number is given."""
    fine_tuning.DEFAULT_EPOCHS = range(1, 3)
