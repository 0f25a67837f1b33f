"""The demo: every step of tlkit once, offline and without images of the user's."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tlkit.displays.activity import duration
from tlkit.errors import RunError
from tlkit.runs.config import RunConfig
from tlkit.runs.directory import Run, accuracy_of, finished_message, is_finished
from tlkit.runs.train import check_run, make_run
from tlkit.utils.files import written_aside

_EPOCHS = 2
_NUM_DIGITS = 1000
_LEARNING_RATE = 1e-3  # digits differ much from CIFAR-10 images, so weights must change much
_PIXELS_PER_CELL = 4
_NUM_PREDICTED = 5


def run_demo(out: Path, log: Callable[[str], None]) -> Run:
    """Trains, fine-tunes and exports on scikit-learn's handwritten digits, in under two minutes.

    The digits are written to `OUT/../OUT-photos`, one folder per class; from there on the demo does
    the same as a run on a user's own folder.

    Raises:
        RunError: `out` exists and is not this demo's run.
    """
    started = time.perf_counter()
    photos = out.with_name(f"{out.name}-photos")
    config = RunConfig(
        photos=str(photos),
        backbone="resnet20",
        mode="fine-tune",
        unfreeze="all",
        epochs=_EPOCHS,
        learning_rate=_LEARNING_RATE,
        augment="none",  # a flipped digit is not a digit
    )
    check_run(config, out)
    log(f"1. Writing scikit-learn's handwritten digits to {photos}, one folder per class.")
    write_digits(photos)
    log(
        "2. Training: resnet20, pretrained on CIFAR-10, gets a new head for the digits, which is "
        f"solved; then all layers are fine-tuned for {_EPOCHS} epochs."
    )
    if is_finished(out):
        log(finished_message(out))
    run = make_run(config, out=out)
    head, tuned = run.metrics["stages"][0], run.metrics["stages"][-1]
    log(
        f"3. Result: test accuracy {accuracy_of(run.metrics['test'])}; the head was solved in "
        f"{duration(head['seconds'])}, fine-tuning took {duration(tuned['seconds'])}."
    )
    files = sorted(photos.glob("*/*.png"))
    chosen = files[:: len(files) // _NUM_PREDICTED][:_NUM_PREDICTED]
    log("4. Predictions of the exported SavedModel for some of the digits:")
    from tlkit.evaluation.prediction_stream import predict_exported

    for prediction in predict_exported(out / "saved_model", chosen):
        log(f"   {prediction}")
    log(
        f"Done in {duration(time.perf_counter() - started)}. Open {out / 'report.html'} for the "
        f"report; deploy {out / 'saved_model'} anywhere TensorFlow runs. Next: tlkit train "
        "YOUR_PHOTOS --out RUN."
    )
    return run


def write_digits(folder: Path) -> None:
    """Writes scikit-learn's first digits as `CLASS/NUMBER.png`, 32×32, unless they are there.

    Raises:
        RunError: The folder exists and holds something else.
    """
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    images, targets = digits.images[:_NUM_DIGITS], digits.target[:_NUM_DIGITS]
    if folder.exists():
        if len(list(folder.glob("*/*.png"))) == len(targets):
            return
        raise RunError(
            f"`out` must be a name for which OUT-photos is free for the demo's images. Received: "
            f"{str(folder)!r}, which exists and holds something else. Choose another --out."
        )
    with written_aside(folder) as aside:
        for number, (cells, digit) in enumerate(zip(images, targets, strict=True)):
            (aside / str(digit)).mkdir(parents=True, exist_ok=True)
            pixels = np.kron(cells * 255 / 16, np.ones((_PIXELS_PER_CELL, _PIXELS_PER_CELL)))
            Image.fromarray(pixels.astype(np.uint8)).save(aside / str(digit) / f"{number:04d}.png")
