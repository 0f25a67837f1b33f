"""Runs one exported model in a process where nothing but its own runtime can be imported.

It is a program of its own and is not imported by the package:

    python -P client.py RUNTIME MODEL IMAGES.npy ANSWERS.npz

IMAGES are uint8 `(n, height, width, 3)`, or inputs of another kind as the model takes them, texts
as fixed-size bytes. ANSWERS holds `outputs`, float32 `(n, num_outputs)`, which are probabilities,
or the model's outputs for a .keras file; `load_seconds`, the time from loading to the first output,
without importing the runtime; and `milliseconds_per_image`, the median over single images.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable
from itertools import cycle, islice
from typing import Any

import numpy as np

Predict = Callable[[Any], Any]

BATCH = 32
MAX_TIMED = 20
MAX_TIMED_SECONDS = 3.0
RUNTIMES = ("ai_edge_litert", "keras", "onnxruntime", "tensorflow")
NEEDED = {
    "ai_edge_litert": {"ai_edge_litert"},
    "keras": {"keras", "tensorflow"},
    "onnxruntime": {"onnxruntime"},
    "tensorflow": {"tensorflow"},
}


def main(runtime: str, model: str, images_file: str, answers_file: str) -> None:
    """Loads the model, runs it on the images, and writes its outputs and times."""
    # Importing any of these fails from here on.
    sys.modules.update(dict.fromkeys({"tlkit", *RUNTIMES} - NEEDED[runtime]))  # type: ignore[arg-type]
    load = globals()[f"load_with_{runtime}"]
    images = np.load(images_file)
    open_model = load()
    started = time.perf_counter()
    predict = open_model(model)
    predict(images[:1])
    load_seconds = time.perf_counter() - started
    batches = [predict(images[start : start + BATCH]) for start in range(0, len(images), BATCH)]
    np.savez(
        answers_file,
        outputs=np.concatenate([np.asarray(batch, np.float32) for batch in batches]),
        load_seconds=load_seconds,
        milliseconds_per_image=_milliseconds_per_image(predict, images),
    )


def load_with_ai_edge_litert() -> Callable[[str], Predict]:
    """Imports LiteRT and returns a function that loads a .tflite file."""
    from ai_edge_litert.interpreter import Interpreter

    def open_model(path: str) -> Predict:
        runner = Interpreter(path, num_threads=os.cpu_count()).get_signature_runner()
        ((name, taken),) = runner.get_input_details().items()
        is_single = taken["shape_signature"][0] == 1
        scale, zero = runner.get_output_details()["probabilities"]["quantization"]

        def predict(images: Any) -> Any:
            batches = [images[n : n + 1] for n in range(len(images))] if is_single else [images]
            outputs = np.concatenate([runner(**{name: one})["probabilities"] for one in batches])
            # integers stand for multiples of the scale; floats have none
            return scale * (outputs.astype(np.float32) - zero) if scale else outputs

        return predict

    return open_model


def load_with_onnxruntime() -> Callable[[str], Predict]:
    """Imports ONNX Runtime and returns a function that loads an .onnx file."""
    import onnxruntime

    def open_model(path: str) -> Predict:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        return lambda images: session.run(["probabilities"], {name: images})[0]

    return open_model


def load_with_tensorflow() -> Callable[[str], Predict]:
    """Imports TensorFlow and returns a function that loads a SavedModel."""
    import tensorflow as tf

    def open_model(path: str) -> Predict:
        loaded = tf.saved_model.load(path)
        takes_pixels = "pixels" in loaded.signatures
        signature = loaded.signatures["pixels" if takes_pixels else "serving_default"]
        signature.loaded = loaded  # keeps the variables alive
        (name,) = signature.structured_input_signature[1]
        return lambda images: signature(**{name: tf.constant(images)})["probabilities"].numpy()

    return open_model


def load_with_keras() -> Callable[[str], Predict]:
    """Imports Keras and returns a function that loads a .keras file."""
    import keras
    import tensorflow as tf

    def open_model(path: str) -> Predict:
        model = keras.saving.load_model(path, compile=False)
        forward = tf.function(model, reduce_retracing=True, autograph=False)
        dtype = model.inputs[0].dtype
        return lambda images: forward(tf.cast(images, dtype), training=False).numpy()

    return open_model


def _milliseconds_per_image(predict: Predict, images: Any) -> float:
    times: list[float] = []
    for index in islice(cycle(range(len(images))), MAX_TIMED):
        started = time.perf_counter()
        predict(images[index : index + 1])
        times.append(time.perf_counter() - started)
        if sum(times) > MAX_TIMED_SECONDS:
            break
    return 1e3 * statistics.median(times)


if __name__ == "__main__":
    main(*sys.argv[1:])
