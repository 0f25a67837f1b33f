"""Networks that grow where a new task needs it: probe, drift, new units, and only those train."""

import os
import time
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from tlkit.continual.expansion_reports import ExpansionReport, LayerDrift
from tlkit.continual.expansion_steps import (
    freeze_old,
    probe_drift,
    sizes_of,
    solve_rows,
    task_model,
    train_new,
    widened,
    without_dead_units,
)
from tlkit.data.images import ImageData, ImageSplit
from tlkit.errors import DataError, check_count, check_not_negative, check_positive
from tlkit.evaluation.metrics import evaluate
from tlkit.models.graph import count_multiply_adds
from tlkit.models.surgery import add_classes, newest_classes

DEFAULT_THRESHOLD = 0.1
DEFAULT_SPARSITY = 0.05
PROBE_STRENGTH = 1e-3
TARGET_SHARE = 0.1
"""Of the loss of guessing: below it the network needs no further units."""


def expand(
    model: keras.Model,
    data: ImageData,
    *,
    class_names: Sequence[str] | None = None,
    threshold: float = DEFAULT_THRESHOLD,
    num_units: int | None = None,
    target: float | None = None,
    isolate: bool = True,
    strength: float = PROBE_STRENGTH,
    sparsity: float = DEFAULT_SPARSITY,
    probe_epochs: int = 2,
    epochs: int = 10,
    learning_rate: float = 1e-3,
    augment: str = "none",
    old_data: ImageSplit | None = None,
    seed: int = 0,
    cache: str | os.PathLike[str] | None = None,
) -> tuple[keras.Model, ExpansionReport]:
    """Teaches a network a new task, and grows it where what it has does not suffice.

    The classes of `data` are new ones and get outputs of their own, trained among themselves: of
    a picture it must be told which task it belongs to (or exemplars be replayed, as `tlkit
    add-classes` does). What there was stays frozen. First the new classes' rows alone are solved on
    the features there are; where validation loss comes down to `target`, that is all. Else:

    1. *Probe*: a copy trains as a whole on the new task for `probe_epochs`, anchored to where it
       began.
    2. *Drift* of each unit's incoming weights, absolute, |w - w*|, and relative to |w*|. A unit has
       drifted where the relative one is above `threshold`.
    3. *Restore*: the copy is thrown away. Each layer with drifted units gains `num_units` beside
       them, or as many as drifted, from the output to the input; in isolation layers behind it do
       too, for old units must not read new ones.
    4. *Initialise*: incoming weights at the old units' norm, outgoing ones zero (`widen_layer`).
    5. *Train* the new layers alone, with a proximal step that draws each new unit's incoming
       weights to zero together, and remove the units that came there.

    Args:
        model: A classifier; it stays as it is.
        data: The new task, with validation pictures.
        class_names: The old classes, in the order of the outputs, so that a name that exists is
            refused.
        threshold: Of the relative drift, above 0.
        num_units: New units of a layer that drifted; as many as drifted by default.
        target: Validation loss in nats that ends growing before it begins; a tenth of the loss of
            guessing, log(number of new classes), by default. 0 grows in any case.
        isolate: Old units and old logits never read new units: old outputs stay bit-identical for
            as long as the graph is not consolidated. Without it old units read the new ones (as in
            the paper), and old outputs change. Layers in residual blocks cannot grow in
            isolation, as the sum behind them cannot; the report names what was left out.
        strength: Of the probe's anchor.
        sparsity: Of the proximal step, see `GroupSparsity`; 0 for none.
        probe_epochs: Passes over the training pictures in the probe.
        epochs: Passes over them for the new units, at most.
        learning_rate: Adam's, for both.
        augment: Augmentation of the training pictures, by name.
        old_data: Pictures of old classes, to measure old accuracy on.
        seed: Of new weights and of folds.
        cache: Folder of the feature stores.

    Returns:
        The grown model, composed, its old logits first; and what was done.

    Raises:
        ArgumentError: An argument breaks its rule; the model has no single classification head; a
            class exists.
        DataError: There are no validation pictures.

    Example:
        >>> import numpy as np, tlkit
        >>> from tlkit.continual.expansion import expand
        >>> images = np.random.default_rng(0).integers(0, 255, (40, 32, 32, 3), "uint8")
        >>> data = tlkit.load_arrays(images, np.arange(40) % 2, ["cow", "owl"])
        >>> model = tlkit.build_classifier("resnet20", ["cat", "dog"], weights=None)
        >>> grown, report = expand(model, data, class_names=["cat", "dog"], target=10.0)
        >>> grown.output_shape, report.added
        ((None, 4), {})

    Reference:
        Yoon et al. (2018), Lifelong Learning with Dynamically Expandable Networks,
        https://arxiv.org/abs/1708.01547. Followed are its order (retraining, then expansion),
        its drift |w - w*| per unit, and its group sparsity on incoming weights. Other than there,
        selective retraining moves the new rows alone, by a solved L2-penalised regression and not
        an L1 one, since retrained old units would end isolation; the drift is measured in a probe
        of the whole network, and decides where units are added (there: which units are split).
    """
    _check(threshold, num_units, target=target, strength=strength, sparsity=sparsity)
    _check_training(probe_epochs, epochs, learning_rate)
    if not isinstance(data, ImageData) or data.validation is None or not data.validation.num_images:
        raise DataError(
            "`data` must hold validation pictures, which decide whether the network grows. "
            f"Received: data={type(data).__name__} without any. Give load_folder(...) splits with "
            "a share of validation."
        )
    started = time.perf_counter()
    grown = add_classes(model, data.class_names, class_names, seed=seed)
    first = newest_classes(grown)
    num_old = grown.output_shape[-1] - data.num_classes
    solve_rows(grown, first, data, seed=seed, cache=cache)
    retrained = evaluate(task_model(grown), data.validation, data.class_names)
    wanted = TARGET_SHARE * float(np.log(data.num_classes)) if target is None else float(target)
    settings: dict[str, Any] = {"learning_rate": learning_rate, "augment": augment}
    drift: tuple[LayerDrift, ...] = ()
    added: dict[str, int] = {}
    removed: dict[str, int] = {}
    notes: list[str] = []
    if retrained.loss > wanted:
        probe = {**settings, "epochs": probe_epochs}
        drift = probe_drift(grown, data, strength=strength, settings=probe)
        sizes = sizes_of(drift, threshold, num_units, isolate=isolate)
        start = grown
        grown, added, notes = widened(grown, sizes, isolate=isolate, seed=seed)
        if added:
            best = retrained.accuracy, retrained.loss
            settings |= {"epochs": epochs, "best": best}
            if train_new(grown, first, data, sparsity=sparsity, settings=settings):
                grown, removed = without_dead_units(grown, first)
            else:
                grown, removed = start, dict(added)
                notes.append("no epoch was better with the new units: they are removed")
        else:
            notes.append("no layer with drifted units can grow: the new rows alone were trained")
    freeze_old(grown, first)
    after = evaluate(task_model(grown), data.validation, data.class_names)
    report = ExpansionReport(
        drift=drift,
        threshold=threshold,
        target=wanted,
        loss_retrained=retrained.loss,
        loss_after=after.loss,
        new_accuracy_retrained=retrained.accuracy,
        new_accuracy_after=after.accuracy,
        num_validation=after.num_images,
        old_accuracy_before=_old_accuracy(model, num_old, old_data),
        old_accuracy_after=_old_accuracy(grown, num_old, old_data),
        added=added,
        removed=removed,
        num_parameters_before=model.count_params(),
        num_parameters_after=grown.count_params(),
        multiply_adds_before=count_multiply_adds(model),
        multiply_adds_after=count_multiply_adds(grown),
        isolate=isolate,
        seconds=time.perf_counter() - started,
        notes=tuple(notes),
    )
    return grown, report


def _check(
    threshold: float,
    num_units: int | None,
    *,
    target: float | None,
    strength: float,
    sparsity: float,
) -> None:
    check_positive("threshold", threshold)
    if num_units is not None:
        check_count("num_units", num_units)
    if target is not None:
        check_not_negative("target", target)
    check_not_negative("strength", strength)
    check_not_negative("sparsity", sparsity)


def _check_training(probe_epochs: int, epochs: int, learning_rate: float) -> None:
    check_count("probe_epochs", probe_epochs)
    check_count("epochs", epochs)
    check_positive("learning_rate", learning_rate)


def _old_accuracy(model: keras.Model, num_old: int, old_data: ImageSplit | None) -> float | None:
    """Accuracy of the old classes among themselves; `None` without pictures of them."""
    if old_data is None or not old_data.num_images:
        return None
    if model.output_shape[-1] in (num_old, 1):
        return evaluate(model, old_data).accuracy
    old = keras.Model(model.inputs[0], model.outputs[0][:, :num_old])
    return evaluate(old, old_data).accuracy
