"""Within a block only, TensorFlow's messages are silenced and no garbage is collected."""

import gc
import logging
from contextlib import suppress

import pytest

from tlkit.utils.tensorflow_logging import garbage_kept, unlogged


@pytest.fixture
def messages():
    """Messages of a verbose logger, as TensorFlow's is in a notebook."""
    logger, messages = logging.getLogger("verbose"), []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield messages
    logger.removeHandler(handler)


def test_records_below_the_level_are_silenced_within_the_block(messages):
    logger = logging.getLogger("verbose")
    with unlogged("verbose", below=logging.WARNING):
        logger.info("some information")
        logger.warning("a warning")
    logger.info("afterwards")
    assert messages == ["a warning", "afterwards"]


def test_the_level_is_restored_after_an_error_and_never_lowered(messages):
    logger = logging.getLogger("verbose")
    logger.setLevel(logging.ERROR)
    with suppress(ZeroDivisionError), unlogged("verbose", below=logging.WARNING):
        logger.warning("a warning")
        1 / 0  # noqa: B018 - only the error is needed
    assert messages == []
    assert logger.level == logging.ERROR


def test_collections_are_as_before_after_an_error():
    with suppress(ZeroDivisionError), garbage_kept():
        assert not gc.isenabled()
        1 / 0  # noqa: B018 - only the error is needed
    assert gc.isenabled()


def test_disabled_collections_stay_disabled():
    gc.disable()
    try:
        with garbage_kept():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
