"""Builds every backbone of the catalogue with random weights and runs the contract checks.

    python benchmarks/catalogue.py [NAME...]

Prints one row for each backbone: seconds to build it and to determine its groups, parameters, cuts,
groups, and the checks that failed:

    parameters   their number without the head is that of the catalogue
    flat         there is no nested model, except for the four stems of ConvNeXt
    minimum      the model can be built at the smallest image size in the catalogue
    same         features are the same as those of the network of `keras.applications` with the same
                 weights and Keras's own preprocessing
    groups       they contain every layer once, and the two parts at each boundary together compute
                 bit-identical outputs
    trainable    unfreezing a group makes that group and all later ones trainable, and no other
    reload       after saving and loading with plain Keras, outputs are bit-identical and the
                 signature is the same
    explained    Grad-CAM of two classes with opposite weights gives maps of the image's size, with
                 values 0...1, which are not both empty

Everything is computed at a small image size; the largest networks need about 8 GB of memory.
Ends with status 1 if any check failed.
"""

import argparse
import gc
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import numpy as np

from tlkit.evaluation.explanation import explain
from tlkit.models.assembly import build_classifier
from tlkit.models.backbone_spec import BackboneSpec
from tlkit.models.catalogue import find_backbone, list_backbones
from tlkit.models.groups import cut_before, cuts, layer_groups, set_trainable
from tlkit.models.heads import feature_cut
from tlkit.models.signature import signature

COLUMNS = "{:24} {:>7} {:>8} {:>12} {:>5} {:40} {}"
IMAGE_SIZE = 96
CLASS_NAMES = ["a", "b", "c"]


def failures(spec: BackboneSpec, model: keras.Model) -> Iterator[str]:
    """Yields the names of the checks that fail."""
    images = np.random.default_rng(0).uniform(0, 255, (2, *model.input_shape[1:]))
    images = images.astype("float32")
    checks: dict[str, Callable[[], bool]] = {
        "parameters": lambda: num_backbone_parameters(model) == spec.num_parameters,
        "flat": lambda: num_nested(model) == (4 if spec.name.startswith("convnext") else 0),
        "same": lambda: is_same_network(spec, model, images),
        "groups": lambda: is_partitioned(model, images),
        "trainable": lambda: freezes_correctly(model),
        "reload": lambda: reloads(model, images),
        "explained": lambda: is_explained(model, images),
    }
    for name, check in checks.items():
        if not check():
            yield name


def num_backbone_parameters(model: keras.Model) -> int:
    return model.count_params() - layer_groups(model)[-1].num_parameters


def num_nested(model: keras.Model) -> int:
    return sum(isinstance(layer, keras.Model) for layer in model.layers)


def is_same_network(spec: BackboneSpec, model: keras.Model, images: np.ndarray) -> bool:
    if spec.name == "resnet20" or spec.name.startswith("efficientnet_b"):
        return True  # not in Keras; or Keras adds a layer for published weights only
    function, options = spec.build.args
    network = getattr(keras.applications, function)(
        include_top=False, weights=None, input_shape=images.shape[1:], **options
    )
    head = set(layer_groups(model)[-1].layers)
    network.set_weights(
        [w.numpy() for layer in model.layers if layer.name not in head for w in layer.weights]
    )
    expected = network(preprocess_as_keras(spec, images)).numpy().mean((1, 2))
    computed = keras.Model(model.input, feature_cut(model))(images).numpy()
    return np.abs(computed - expected).max() <= 1e-3 * np.abs(expected).max()


def preprocess_as_keras(spec: BackboneSpec, images: np.ndarray) -> np.ndarray:
    if spec.preprocessing == "none":
        return images
    utilities = keras.applications.imagenet_utils
    return utilities.preprocess_input(images.copy(), mode=spec.preprocessing)


def is_partitioned(model: keras.Model, images: np.ndarray) -> bool:
    groups = layer_groups(model)
    names = sorted(name for group in groups for name in group.layers)
    whole = names == sorted(layer.name for layer in model.layers)
    tensors = [cut_before(model, group.name) for group in groups[1:]]
    *features, outputs = keras.Model(model.input, [*tensors, model.output])(images)
    return whole and all(
        np.array_equal(keras.Model(tensor, model.output)(feature), outputs)
        for tensor, feature in zip(tensors, features, strict=True)
    )


def freezes_correctly(model: keras.Model) -> bool:
    groups = layer_groups(model)
    for position, group in enumerate(groups):
        report = set_trainable(model, group.name)
        later = {name for after in groups[position:] for name in after.layers}
        if not report.layers or not set(report.layers) <= later:
            return False
        if any(
            model.get_layer(name).trainable_variables
            for g in groups[:position]
            for name in g.layers
        ):
            return False
    return True


def reloads(model: keras.Model, images: np.ndarray) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.keras")
        model.save(path)
        loaded = keras.models.load_model(path)
    same = np.array_equal(loaded(images), model(images))
    return same and signature(loaded) == signature(model)


def is_explained(model: keras.Model, images: np.ndarray) -> bool:
    # with opposite weights, a region that does not contribute to one class contributes to the other
    weights = model.layers[-1].kernel.numpy()
    weights[:, 1] = -weights[:, 0]
    model.layers[-1].kernel.assign(weights)
    maps = [explain(model, images[0], CLASS_NAMES, label=name).heatmap for name in "ab"]
    in_range = all(heat.shape == images.shape[1:3] and heat.min() >= 0 for heat in maps)
    return in_range and max(heat.max() for heat in maps) <= 1 and any(heat.any() for heat in maps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="backbones; default: all")
    names = parser.parse_args().names or [spec.name for spec in list_backbones()]
    print(
        COLUMNS.format(
            "backbone", "build", "groups", "parameters", "cuts", "groups", "checks failed"
        )
    )
    has_failed = False
    for name in names:
        spec = find_backbone(name)
        keras.backend.clear_session()
        gc.collect()
        started = time.perf_counter()
        model = build_classifier(name, CLASS_NAMES, image_size=IMAGE_SIZE, weights=None)
        built = time.perf_counter()
        groups = [group.name for group in layer_groups(model)]
        grouped = time.perf_counter()
        failed = list(failures(spec, model))
        try:
            build_classifier(name, CLASS_NAMES, image_size=spec.minimum_image_size, weights=None)
        except ValueError as error:
            failed.append(f"minimum ({error})")
        has_failed |= bool(failed)
        shown = " ".join(group.removeprefix(f"{name}_") for group in groups)
        print(
            COLUMNS.format(
                name,
                f"{built - started:.1f} s",
                f"{grouped - built:.2f} s",
                f"{num_backbone_parameters(model):,}",
                len(cuts(model)),
                shown,
                ", ".join(failed) or "none",
            ),
            flush=True,
        )
        del model
    raise SystemExit(has_failed)


if __name__ == "__main__":
    main()
