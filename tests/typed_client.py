"""A user's file for type checkers; it is not run.

Each line that ends in "# wrong" must be an error, and no other line may be one.
"""

import tlkit
from tlkit import ArgumentError, load_folder

data = tlkit.load_folder("photos", image_size=96)
same = load_folder("photos")
num_images: int = same.train.num_images
names: tuple[str, ...] = data.class_names
counted: str = data.class_names  # wrong
stage = tlkit.Stage("conv5", epochs=5)
late = tlkit.Stage("conv5", epochs="5")  # wrong
missing = tlkit.load_foldr("photos")  # wrong
renamed = tlkit.load_folder(folder="photos")  # wrong
unknown = tlkit.evaluate_all  # wrong
model = tlkit.build_classifier("resnet20", data.class_names)
report = tlkit.train_head(model, data)
accuracy: float | None = report.accuracy_after
best: int = report.accuracy_after  # wrong
figure = tlkit.plot_training(report)
figure.savefig("training.png")
drawn = tlkit.plot_training(report, heigth=3)  # wrong
version: str = tlkit.__version__


def absent() -> None:
    """An unknown name is an error where it is imported, too."""
    from tlkit import load_foldr  # wrong

    load_foldr("photos")


try:
    run = tlkit.load_run("run")
except ArgumentError as error:
    text: str = str(error)
