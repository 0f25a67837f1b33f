"""The whole of tlkit once, with nothing but what is installed: no network, no images."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tlkit.errors import RunError
from tlkit.runs.config import RunConfig
from tlkit.runs.directory import Run, is_finished, left_as_it_is
from tlkit.runs.train import check_run, make_run
from tlkit.utils.files import written_aside

_EPOCHS = 3
_RATE = 1e-3  # digits are far from images: much has to move
_PIXELS_PER_CELL = 4
_NUM_SHOWN = 5


def run_demo(out: Path, log: Callable[[str], None]) -> Run:
    """Trains, fine-tunes and exports on scikit-learn's handwritten digits; takes under two minutes.

    The digits are written to `OUT/../OUT-photos`, one folder per class, so that what follows
    is just what a user's own folder goes through.

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
        learning_rate=_RATE,
        augment="none",  # a flipped digit is another sign
    )
    check_run(config, out)
    log(f"1. Writes scikit-learn's handwritten digits to {photos}, one folder per class.")
    write_digits(photos)
    log(
        "2. Takes resnet20, pretrained on the images of CIFAR-10, solves a new head for the "
        f"digits, then fine-tunes all layers for {_EPOCHS} epochs."
    )
    if is_finished(out):
        log(left_as_it_is(out))
    run = make_run(config, out=out)
    test = run.metrics["test"]
    head, tuned = run.metrics["stages"][0], run.metrics["stages"][-1]
    log(
        f"3. Of {test['num_images']} digits it has never seen, the exported model gets "
        f"{100 * test['accuracy']:.1f} % right (head solved in {head['seconds']:.0f} s, fine-tuned "
        f"in {tuned['seconds']:.0f} s)."
    )
    files = sorted(photos.glob("*/*.png"))
    shown = files[:: len(files) // _NUM_SHOWN][:_NUM_SHOWN]
    log("4. Asks the exported SavedModel about some of them:")
    from tlkit.evaluation.prediction import predict_exported

    for prediction in predict_exported(out / "saved_model", shown):
        log(f"   {prediction}")
    log(
        f"Done in {time.perf_counter() - started:.0f} s. Look at {out / 'report.html'}; "
        f"{out / 'saved_model'} serves anywhere TensorFlow runs. Next: tlkit train YOUR_PHOTOS "
        "--out RUN."
    )
    return run


def write_digits(folder: Path) -> None:
    """Writes scikit-learn's digits as `NAME/NUMBER.png`, 32×32 pixels; left if they are there.

    Raises:
        RunError: Something else is there.
    """
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    if folder.exists():
        if len(list(folder.glob("*/*.png"))) == len(digits.target):
            return
        raise RunError(
            f"`out` must leave room for the demo's images. Received: {str(folder)!r}, which "
            "exists and holds something else. Name another --out."
        )
    with written_aside(folder) as aside:
        for number, (cells, digit) in enumerate(zip(digits.images, digits.target, strict=True)):
            (aside / str(digit)).mkdir(parents=True, exist_ok=True)
            pixels = np.kron(cells * 255 / 16, np.ones((_PIXELS_PER_CELL, _PIXELS_PER_CELL)))
            Image.fromarray(pixels.astype(np.uint8)).save(aside / str(digit) / f"{number:04d}.png")
