"""What TensorFlow says of itself stays out of notebooks, and only for as long as asked."""

import logging
from contextlib import suppress

import pytest

from tlkit.utils.tensorflow_logging import unlogged


@pytest.fixture
def heard():
    """Messages of a logger that says everything, as TensorFlow's does in a notebook."""
    logger, messages = logging.getLogger("talkative"), []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield messages
    logger.removeHandler(handler)


def test_records_below_the_level_are_silent_inside_alone(heard):
    logger = logging.getLogger("talkative")
    with unlogged("talkative", below=logging.WARNING):
        logger.info("written to a place")
        logger.warning("a warning")
    logger.info("afterwards")
    assert heard == ["a warning", "afterwards"]


def test_the_level_is_put_back_after_an_error_and_never_lowered(heard):
    logger = logging.getLogger("talkative")
    logger.setLevel(logging.ERROR)
    with suppress(ZeroDivisionError), unlogged("talkative", below=logging.WARNING):
        logger.warning("a warning")
        1 / 0  # noqa: B018 - it is the error that counts
    assert heard == []
    assert logger.level == logging.ERROR
