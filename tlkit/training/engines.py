"""The engines that compute features: TensorFlow, and OpenVINO where it is faster and agrees."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.util import find_spec

import numpy as np
import tensorflow as tf

from tlkit.training.frozen import (
    MAX_BFLOAT16_DIFFERENCE,
    Forward,
    FrozenPart,
    relative_difference,
)
from tlkit.training.store import FeatureStore
from tlkit.utils.openvino import UnsupportedError

TENSORFLOW, OPENVINO = "tensorflow", "openvino"
ENGINES = {TENSORFLOW: "TensorFlow", OPENVINO: "OpenVINO"}
"""The engines and their names in reports."""

MIN_WORK = 500e9
"""Multiply-adds below which preparing and checking OpenVINO costs more time than it saves."""
MIN_SPEEDUP = 1.15
"""How much faster it must be on a batch, so that noise in the timing does not decide."""
MAX_DIFFERENCE = {"float32": 1e-4, "bfloat16": MAX_BFLOAT16_DIFFERENCE}
"""Largest relative difference from TensorFlow's float32, in norm over one batch."""

_REPEATS = 3


@dataclass(frozen=True)
class EngineChoice:
    """The engine that computes the features of a frozen part, and why.

    Attributes:
        engine: "tensorflow" or "openvino".
        reason: The measurements, or "" if there was nothing to choose.
    """

    engine: str = TENSORFLOW
    reason: str = ""


def choose_engine(
    store: FeatureStore,
    part: FrozenPart,
    precision: str,
    *,
    num_missing: int | None,
    first_batch: Callable[[], tf.Tensor],
) -> EngineChoice:
    """Returns the engine for a part: the one that an earlier call chose, or by a measurement.

    OpenVINO is chosen if it is installed (`tlkit[fast]`), features are computed on a CPU, the work
    exceeds `MIN_WORK`, and on one batch it is `MIN_SPEEDUP` times as fast as TensorFlow per second
    of the processor, its features agree with TensorFlow's float32 within `MAX_DIFFERENCE`, and
    those of an image are the same bits whatever images are in the batch. The choice is stored, so
    that all features of one part come from one engine.

    Args:
        store: The store of the features that TensorFlow computes in this precision.
        part: The part.
        precision: "float32" or "bfloat16".
        num_missing: Number of images without features; `None` if it is not known, as of a data
            set, for which TensorFlow is used.
        first_batch: Returns some of the images as the part takes them.
    """
    if not is_available() or tf.config.list_physical_devices("GPU"):
        return EngineChoice()
    if (known := store.recall("engine")) is not None:
        return EngineChoice(**json.loads(known))
    if num_missing is None or num_missing * part.multiply_adds < MIN_WORK:
        return EngineChoice()
    try:
        forward = part.openvino(precision)
    except UnsupportedError:
        choice = EngineChoice(TENSORFLOW, "OpenVINO cannot compute this network")
    else:
        if forward is None:  # tables of words, which only TensorFlow looks up
            return EngineChoice()
        choice = _measured(part, forward, precision, first_batch())
    store.remember("engine", json.dumps(asdict(choice)))
    return choice


def is_available() -> bool:
    """Whether OpenVINO is installed."""
    return find_spec("openvino") is not None


def forward_by(part: FrozenPart, engine: str, precision: str) -> Forward | None:
    """Returns the function that computes features, `None` if this machine does not support it."""
    if engine == OPENVINO:
        return part.openvino(precision) if is_available() else None
    return part.float32 if precision == "float32" else part.bfloat16


def _measured(part: FrozenPart, fast: Forward, precision: str, images: tf.Tensor) -> EngineChoice:
    """Returns the engine by features and times of one batch."""
    usual = forward_by(part, TENSORFLOW, precision)
    if usual is None:
        raise RuntimeError(f"features in {precision} were chosen and cannot be computed")
    reference, rows = part.float32(images).numpy(), fast(images).numpy()
    difference = relative_difference(rows, reference)
    if not difference <= MAX_DIFFERENCE[precision]:
        return EngineChoice(TENSORFLOW, f"OpenVINO differs by {difference:.1e}")
    some = max(1, len(images) // 2)
    is_same = all(
        np.array_equal(fast(images[start:end]).numpy(), rows[start:end])
        for start, end in ((0, 1), (0, some), (some, len(images)))
    )
    if not is_same:
        return EngineChoice(TENSORFLOW, "features by OpenVINO depend on the batch")
    speedup = _seconds(usual, images) / _seconds(fast, images)
    how_fast = f"{speedup:.1f} times as fast as TensorFlow on {len(images)} images"
    if speedup < MIN_SPEEDUP:
        return EngineChoice(TENSORFLOW, f"OpenVINO is {how_fast}")
    return EngineChoice(OPENVINO, f"{how_fast}, difference {difference:.1e}")


def _seconds(forward: Forward, images: tf.Tensor) -> float:
    """Returns the processor's seconds for a batch, which other processes hardly change."""
    seconds = []
    for _ in range(_REPEATS):
        started = time.process_time()
        forward(images).numpy()
        seconds.append(time.process_time() - started)
    return min(seconds)
