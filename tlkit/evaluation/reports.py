"""What evaluation says: one record for the whole, one for each class, one for each mistake."""

import html
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.cells import cell_len

MAX_CLASSES_IN_TEXT = 30


@dataclass(frozen=True)
class ClassScore:
    """How one class fares.

    Attributes:
        name: The class.
        precision: Share of the images called `name` that are `name`; 0.0 where none was.
        recall: Share of the images of `name` that were called so; 0.0 where there are none.
        f1: Harmonic mean of both; 0.0 where both are.
        num_images: Number of images of this class.
    """

    name: str
    precision: float
    recall: float
    f1: float
    num_images: int


@dataclass(frozen=True)
class Mistake:
    """One image that the model gets wrong.

    Attributes:
        index: The image's position in what was evaluated.
        path: Its file, or `None` where the images came without one.
        truth: Name of its class; with several labels all of them, joined with ", ".
        predicted: What the model said, in the same form.
        probability: The model's confidence in its worst wrong decision: the probability of
            `predicted`; with several labels p for a label wrongly given, 1 - p for one missed.
    """

    index: int
    path: str | None
    truth: str
    predicted: str
    probability: float

    @property
    def source(self) -> str:
        """The image's file, or "image 17" where it has none."""
        return self.path if self.path is not None else f"image {self.index}"


@dataclass(frozen=True, eq=False)
class EvaluationReport:
    """How often a model is right on some images.

    Attributes:
        kind: The model's head: "softmax", "binary" or "multi_label".
        num_images: Number of images.
        accuracy: Share of the images whose most probable class is right, 0...1. With a
            multi-label head the share of all label decisions (images × labels, threshold 0.5)
            that are right.
        interval: 95 % interval of the accuracy, by Wilson's formula with `num_images` trials;
            for a multi-label head that is wider than it need be, never too narrow.
        loss: Mean cross-entropy in nats, per image; for a multi-label head per label decision.
        per_class: One score for each class, in the order of the model's outputs.
        confusion: int64 `(num_classes, num_classes)`, `confusion[truth, predicted]` images;
            `None` for a multi-label head.
        mistakes: Every image that is not wholly right, the most confident mistake first.
    """

    kind: str
    num_images: int
    accuracy: float
    interval: tuple[float, float]
    loss: float
    per_class: tuple[ClassScore, ...]
    confusion: np.ndarray | None
    mistakes: tuple[Mistake, ...]

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the model's outputs."""
        return tuple(score.name for score in self.per_class)

    @property
    def summary(self) -> str:
        """Accuracy, interval, number of images and loss in one line."""
        what = "label decisions on" if self.kind == "multi_label" else "of"
        images = "image" if self.num_images == 1 else "images"
        low, high = self.interval
        return (
            f"{100 * self.accuracy:.1f} % {what} {self.num_images:,} {images} right "
            f"(95 % interval {100 * low:.1f} to {100 * high:.1f} %), loss {self.loss:.4f}"
        )

    def as_dict(self) -> dict[str, Any]:
        """Returns everything but the single mistakes, in what JSON can hold."""
        return {
            "kind": self.kind,
            "num_images": self.num_images,
            "accuracy": self.accuracy,
            "interval": list(self.interval),
            "loss": self.loss,
            "per_class": [asdict(score) for score in self.per_class],
            "confusion": None if self.confusion is None else self.confusion.tolist(),
        }

    def __str__(self) -> str:
        """The summary and a table of the classes; of many, those with the lowest F1."""
        scores, remark = self._scores_in_text()
        names = [" ".join(score.name.split()) for score in scores]
        width = max(cell_len(name) for name in ["class", *names])
        lines = [self.summary, f"{'class':{width}}  precision  recall      F1  images"]
        for name, score in zip(names, scores, strict=True):
            lines.append(
                f"{name}{' ' * (width - cell_len(name))}  {score.precision:9.3f}"
                f"  {score.recall:6.3f}  {score.f1:6.3f}  {score.num_images:6,}"
            )
        return "\n".join(lines + remark)

    def _repr_html_(self) -> str:
        scores, remark = self._scores_in_text()
        rows = [
            f"<tr><td>{html.escape(score.name)}</td><td>{score.precision:.3f}</td>"
            f"<td>{score.recall:.3f}</td><td>{score.f1:.3f}</td><td>{score.num_images:,}</td></tr>"
            for score in scores
        ]
        return (
            f"<p>{html.escape(self.summary)}</p><table><thead><tr><th>class</th><th>precision</th>"
            f"<th>recall</th><th>F1</th><th>images</th></tr></thead><tbody>{''.join(rows)}</tbody>"
            f"</table>{''.join(f'<p>{line}</p>' for line in remark)}"
        )

    def _scores_in_text(self) -> tuple[Sequence[ClassScore], list[str]]:
        if len(self.per_class) <= MAX_CLASSES_IN_TEXT:
            return self.per_class, []
        lowest = sorted(self.per_class, key=lambda score: score.f1)[:MAX_CLASSES_IN_TEXT]
        return lowest, [
            f"the {MAX_CLASSES_IN_TEXT} of {len(self.per_class)} classes with the lowest F1"
        ]
