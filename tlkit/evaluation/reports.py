"""What evaluation says: one record for the whole, one for each class, one for each mistake."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.cells import cell_len

from tlkit.evaluation.intervals import Interval
from tlkit.evaluation.reliability import Reliability
from tlkit.utils.formatting import interval, percent
from tlkit.utils.text_repr import ShownAsText, html_paragraphs, html_table

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
        recall_interval: 95 % interval of the recall, by Wilson's formula; `None` without images.
        roc_auc: Probability that an image of this class gets more than one of another, ties half;
            `None` where there are no images of it, or no others.
    """

    name: str
    precision: float
    recall: float
    f1: float
    num_images: int
    recall_interval: Interval | None
    roc_auc: float | None


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
class EvaluationReport(ShownAsText):
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
        balanced_accuracy: Mean recall of the classes that have images: every class counts the
            same. With a multi-label head the mean over labels of recall and specificity, halved.
        balanced_interval: Its 95 % interval, of all means of recalls that a score test does not
            reject (see `mean_share_interval`); `None` for a multi-label head,
            since the labels of an image hang together.
        top_k: How many of the most probable classes may be named for `top_k_accuracy`; `None`
            where that was not measured.
        top_k_accuracy: Share of the images whose class is among them.
        top_k_interval: Its 95 % interval, by Wilson's formula.
        roc_auc: Mean over the classes of the area under each one's ROC curve against the rest;
            `None` where no class has images and others.
        roc_auc_interval: Its 95 % interval, by DeLong's variance on the scale of the log odds;
            `None` with too few images, see `notes`.
        reliability: Whether probabilities mean what they say: of the most probable class, with a
            multi-label head of every label.
        per_class: One score for each class, in the order of the model's outputs.
        confusion: int64 `(num_classes, num_classes)`, `confusion[truth, predicted]` images;
            `None` for a multi-label head.
        mistakes: Every image that is not wholly right, the most confident mistake first.
        notes: What could not be measured, and why.
    """

    _left_out = ("mistakes",)

    kind: str
    num_images: int
    accuracy: float
    interval: Interval
    loss: float
    balanced_accuracy: float | None
    balanced_interval: Interval | None
    top_k: int | None
    top_k_accuracy: float | None
    top_k_interval: Interval | None
    roc_auc: float | None
    roc_auc_interval: Interval | None
    reliability: Reliability
    per_class: tuple[ClassScore, ...]
    confusion: np.ndarray | None
    mistakes: tuple[Mistake, ...]
    notes: tuple[str, ...]

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the model's outputs."""
        return tuple(score.name for score in self.per_class)

    @property
    def is_right(self) -> np.ndarray:
        """Whether each image is wholly right, bool `(num_images,)`, in the order evaluated."""
        right = np.ones(self.num_images, bool)
        right[[mistake.index for mistake in self.mistakes]] = False
        return right

    @property
    def summary(self) -> str:
        """Accuracy, interval, number of images and loss in one line."""
        what = "label decisions on" if self.kind == "multi_label" else "of"
        images = "image" if self.num_images == 1 else "images"
        return (
            f"{percent(self.accuracy)} {what} {self.num_images:,} {images} right "
            f"(95 % interval {interval(self.interval)}), loss {self.loss:.4f}"
        )

    @property
    def figures(self) -> tuple[str, ...]:
        """The other figures that there are, each in one line with its interval."""
        lines = []
        if self.balanced_accuracy is not None:
            balanced = percent(self.balanced_accuracy)
            lines.append(f"balanced accuracy {balanced}{_bracketed(self.balanced_interval)}")
        if self.top_k_accuracy is not None:
            lines.append(
                f"among the {self.top_k} most probable {percent(self.top_k_accuracy)}"
                f"{_bracketed(self.top_k_interval)}"
            )
        if self.roc_auc is not None:
            ends = self.roc_auc_interval
            text = f" ({ends[0]:.3f} to {ends[1]:.3f})" if ends else ""
            lines.append(f"ROC-AUC {self.roc_auc:.3f}{text}")
        return (*lines, str(self.reliability))

    def __str__(self) -> str:
        """All figures and a table of the classes; of many, those with the lowest F1."""
        scores, remark = self._scores_in_text()
        names = [" ".join(score.name.split()) for score in scores]
        width = max(cell_len(name) for name in ["class", *names])
        lines = [self.summary, *self.figures]
        lines.append(f"{'class':{width}}  precision  recall   95 % interval      F1  images")
        for name, score in zip(names, scores, strict=True):
            lines.append(
                f"{name}{' ' * (width - cell_len(name))}  {score.precision:9.3f}"
                f"  {score.recall:6.3f}  {_ends(score.recall_interval):14}"
                f"  {score.f1:6.3f}  {score.num_images:6,}"
            )
        return "\n".join([*lines, *remark, *self.notes])

    def _repr_html_(self) -> str:
        scores, remark = self._scores_in_text()
        rows = [
            (
                score.name,
                f"{score.precision:.3f}",
                f"{score.recall:.3f}",
                _ends(score.recall_interval),
                f"{score.f1:.3f}",
                f"{score.num_images:,}",
            )
            for score in scores
        ]
        columns = ("class", "precision", "recall", "95 % interval", "F1", "images")
        above = html_paragraphs([self.summary, *self.figures])
        return above + html_table(columns, rows) + html_paragraphs([*remark, *self.notes])

    def _scores_in_text(self) -> tuple[Sequence[ClassScore], list[str]]:
        if len(self.per_class) <= MAX_CLASSES_IN_TEXT:
            return self.per_class, []
        lowest = sorted(self.per_class, key=lambda score: score.f1)[:MAX_CLASSES_IN_TEXT]
        return lowest, [
            f"the {MAX_CLASSES_IN_TEXT} of {len(self.per_class)} classes with the lowest F1"
        ]


def _bracketed(ends: Interval | None) -> str:
    return f" ({interval(ends)})" if ends else ""


def _ends(interval: Interval | None) -> str:
    return f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else "-"
