"""Draws the figures of the README and the documentation from trainings on images of flowers.

    python docs/images/make_images.py FLOWERS --weights mobilenet_2_5_224_tf_no_top.h5

FLOWERS is a folder with 1,000 images of flowers in five classes, a subset of the data set
tf_flowers; the weights are Keras's ImageNet weights for MobileNet-0.25. The figures do not show any
of these images.
"""

import argparse
import tempfile
from pathlib import Path

from PIL import Image

import tlkit

HERE = Path(__file__).parent
BACKBONE = "mobilenet_025"


def main() -> None:
    """Trains, evaluates and draws."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("flowers", metavar="FLOWERS")
    parser.add_argument("--weights", required=True, metavar="FILE")
    options = parser.parse_args()

    data = tlkit.load_folder(options.flowers)
    comparison = tlkit.compare_backbones(
        data, ["resnet20", f"{BACKBONE}={options.weights}", f"{BACKBONE}=none"]
    )
    print(comparison)
    save(tlkit.plot_backbones(comparison, cost="megabytes"), "backbones")

    model = tlkit.build_classifier(BACKBONE, data.class_names, weights=options.weights)
    tlkit.train_head(model, data)
    evaluation = tlkit.evaluate(model, data.test, data.class_names)
    print(evaluation)
    save(tlkit.plot_confusion(evaluation), "confusion")
    save(tlkit.plot_reliability(evaluation), "reliability")

    report = tlkit.fine_tune(model, data, stages=tlkit.gradual_plan(model, 30), layer_decay=0.7)
    print(report)
    print(tlkit.evaluate(model, data.test, data.class_names))
    save(tlkit.plot_training(report), "training")


def save(figure, name: str) -> None:  # noqa: ANN001 - a figure of matplotlib
    """Writes a figure as a PNG file of 64 colours, which is small."""
    with tempfile.TemporaryDirectory() as folder:
        figure.savefig(Path(folder, "figure.png"), dpi=150)
        with Image.open(Path(folder, "figure.png")) as image:
            image.convert("RGB").quantize(64, dither=Image.Dither.NONE).save(
                HERE / f"{name}.png", optimize=True
            )


if __name__ == "__main__":
    main()
