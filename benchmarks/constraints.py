"""The cost of constraints: a training step with an anchor, and per-sample Fisher information.

    python benchmarks/constraints.py

Weights and images are random, which does not affect the time. The step trains all layers of
ResNet50 at 224 pixels with batches of 16, with and without an anchor in alternating rounds. The
exact Fisher information is computed for `resnet20` with five classes, and compared with a loop over
single samples, eager and compiled.
"""

import argparse
import time

import keras
import numpy as np
import tensorflow as tf

import tlkit
from tlkit.training.rates import LayerwiseAdamW, layer_multipliers
from tlkit.training.step import hooked

ROUNDS, STEPS, BATCH_SIZE = 7, 3, 16
NUM_CLASSES, NUM_SAMPLES, NUM_EAGER = 5, 192, 12
SMALLEST_FRACTION = 1e-6
FEW, MANY = 256, 1280
"""Images of two estimates; the difference of their times does not include tracing."""


def anchored_step(name: str, size: int) -> None:
    """Prints the median ratio of alternating rounds."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 255, (BATCH_SIZE, size, size, 3)).astype("float32")
    labels = np.arange(BATCH_SIZE) % NUM_CLASSES
    batches = tf.data.Dataset.from_tensors((images, labels)).repeat(STEPS)
    trained, seconds = {}, {"plain": [], "anchored": []}
    for key in seconds:
        names = [str(i) for i in range(NUM_CLASSES)]
        model = tlkit.build_classifier(name, names, image_size=size, weights=None)
        tlkit.set_trainable(model, "all")
        hooks = [tlkit.anchor_weights(model, 1e-3)] if key == "anchored" else []
        trained[key] = hooked(model, hooks)
        optimizer = LayerwiseAdamW(1e-5, multipliers=layer_multipliers(model, 1.0))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        trained[key].compile(optimizer, loss, jit_compile=False)
        optimizer.build(trained[key].trainable_variables)
    for _ in range(ROUNDS + 1):
        for key, model in trained.items():
            started = time.perf_counter()
            model.fit(batches, verbose=0, shuffle=False)
            seconds[key].append((time.perf_counter() - started) / STEPS)
    ratios = np.array(seconds["anchored"][1:]) / np.array(seconds["plain"][1:])
    print(
        f"{name}, {size} pixels, all layers: plain step {1000 * min(seconds['plain']):.0f} ms, "
        f"anchored {1000 * min(seconds['anchored']):.0f} ms; ratio {np.median(ratios):.3f} "
        f"({ratios.min():.3f} to {ratios.max():.3f})",
        flush=True,
    )


def fisher() -> None:
    """Prints images per second, and the largest difference between the implementations."""
    names = [str(i) for i in range(NUM_CLASSES)]
    model = tlkit.build_classifier("resnet20", names, seed=0)
    images = np.random.default_rng(0).integers(0, 255, (MANY, 32, 32, 3)).astype("float32")
    dataset = tf.data.Dataset.from_tensor_slices(images).batch(32)
    variables = [v.value for v in model.trainable_variables]
    few = tlkit.estimate_importance(model, dataset, num_samples=NUM_EAGER)

    def of_sample(image: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape(persistent=True) as tape:
            logs = tf.nn.log_softmax(model(image[None], training=False)[0])
            each = tf.unstack(logs, NUM_CLASSES)
        totals = [tf.zeros(v.shape) for v in variables]
        for value in each:
            gradients = tape.gradient(value, variables)
            totals = [t + tf.exp(value) * g**2 for t, g in zip(totals, gradients, strict=True)]
        return totals

    compiled = tf.function(of_sample)
    compiled(tf.constant(images[0]))  # traced
    rates, sums = {}, {}
    for name, run, count in (("eager", of_sample, NUM_EAGER), ("compiled", compiled, NUM_SAMPLES)):
        totals = [np.zeros(v.shape) for v in variables]
        started = time.perf_counter()
        for image in images[:count]:
            added = run(tf.constant(image))
            totals = [total + one.numpy() for total, one in zip(totals, added, strict=True)]
        rates[name], sums[name] = count / (time.perf_counter() - started), totals
    seconds = {}
    for count in (FEW, MANY):
        started = time.perf_counter()
        tlkit.estimate_importance(model, dataset, num_samples=count)
        seconds[count] = time.perf_counter() - started
    own = (MANY - FEW) / (seconds[MANY] - seconds[FEW])
    tracing = seconds[FEW] - FEW / own
    largest = max(
        relative_difference(few[v.path], total / NUM_EAGER)
        for v, total in zip(model.trainable_variables, sums["eager"], strict=True)
    )
    print(
        f"exact Fisher of resnet20, {NUM_CLASSES} classes: {own:.0f} images/s after "
        f"{tracing:.1f} s of tracing; eager {rates['eager']:.1f} ({own / rates['eager']:.1f}x), "
        f"compiled {rates['compiled']:.1f} ({own / rates['compiled']:.1f}x); largest difference "
        f"of a value from the eager loop's {largest:.1e}; {' '.join(few.notes) or 'vectorised'}",
        flush=True,
    )


def relative_difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Returns the largest relative difference of values above a millionth of the largest."""
    counts = expected > SMALLEST_FRACTION * expected.max()
    return float((np.abs(found - expected)[counts] / expected[counts]).max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--image-size", type=int, default=224)
    given = parser.parse_args()
    fisher()
    anchored_step(given.backbone, given.image_size)


if __name__ == "__main__":
    main()
