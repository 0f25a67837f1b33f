"""Evaluation reports: scores of the model, of each class, and the list of mistakes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.cells import cell_len

from tlkit.evaluation.intervals import Interval
from tlkit.evaluation.label_scores import LabelScores
from tlkit.evaluation.reliability import Reliability
from tlkit.utils.formatting import confidence_interval, fraction_text, percent
from tlkit.utils.text_repr import ShownAsText, html_paragraphs, html_table

MAX_CLASSES_IN_TEXT = 30


@dataclass(frozen=True)
class ClassScore:
    """The scores of one class.

    Attributes:
        name: The class.
        precision: Fraction of the images predicted as this class that belong to it; 0.0 if there
            are none.
        recall: Fraction of the images of this class that are predicted as it; 0.0 if there are
            none.
        f1: Harmonic mean of precision and recall; 0.0 if both are 0.
        num_images: Number of images of this class.
        recall_interval: 95 % confidence interval of the recall, by Wilson's formula; `None` without
            images.
        roc_auc: ROC-AUC of this class against the rest, ties half; `None` if there are no images of
            it, or no others.
    """

    name: str
    precision: float
    recall: float
    f1: float
    num_images: int
    recall_interval: Interval | None
    roc_auc: float | None


@dataclass(frozen=True)
class LabelRow:
    """The scores of one label.

    Attributes:
        score: Precision, recall, F1 and number of images.
        threshold: The probability from which it is assigned.
        average_precision: Its average precision; `None` without images.
        counts: Numbers of images that are assigned it correctly (TP) and wrongly (FP), and that are
            not assigned it wrongly (FN) and correctly (TN).
    """

    score: ClassScore
    threshold: float
    average_precision: float | None
    counts: tuple[int, int, int, int]


@dataclass(frozen=True)
class Mistake:
    """One misclassified image.

    Attributes:
        index: The image's position in the evaluated images.
        path: Its file, or `None` for images without files.
        truth: The name of its class; for a multi-label image all labels, joined by ", ".
        predicted: The prediction, in the same form.
        probability: The model's confidence in its worst error: the probability of `predicted`; for
            multi-label images p for a wrongly assigned label, 1 - p for a missed one.
    """

    index: int
    path: str | None
    truth: str
    predicted: str
    probability: float

    @property
    def source(self) -> str:
        """The image's file, or "image 17" if it has none."""
        return self.path if self.path is not None else f"image {self.index}"


@dataclass(frozen=True, eq=False)
class EvaluationReport(ShownAsText):
    """The evaluation of a model on labelled images.

    Attributes:
        kind: The model's head: "softmax", "binary" or "multi_label".
        num_images: Number of images.
        accuracy: Fraction of the images whose most probable class is correct, 0...1. For a
            multi-label head the fraction of correct label decisions (images × labels).
        interval: 95 % confidence interval of the accuracy, by Wilson's formula with `num_images`
            trials; conservative for a multi-label head.
        loss: Mean cross-entropy in nats, per image; for a multi-label head per label decision.
        balanced_accuracy: Mean recall of the classes that have images. For a multi-label head the
            mean of (recall + specificity) / 2 over the labels.
        balanced_interval: The 95 % confidence interval of the balanced accuracy, by a score test
            (see `mean_proportion_interval`); `None` for a multi-label head, since the labels of an
            image are dependent.
        top_k: The k of `top_k_accuracy`; `None` if it was not measured.
        top_k_accuracy: Fraction of the images whose class is among the k most probable ones.
        top_k_interval: The 95 % confidence interval of the top-k accuracy, by Wilson's formula.
        roc_auc: Mean ROC-AUC of the classes against the rest; `None` if there are not at least two
            classes with images.
        roc_auc_interval: The 95 % confidence interval of the ROC-AUC, by DeLong's variance on the
            log-odds scale; `None` with too few images, see `notes`.
        reliability: Calibration of the most probable class; for a multi-label head of every label.
        per_class: The scores of each class, in the order of the model's outputs.
        confusion: int64 `(num_classes, num_classes)`, `confusion[truth, predicted]` images;
            `None` for a multi-label head.
        mistakes: Every image with an incorrect prediction, the most confident mistake first.
        notes: What could not be measured, and why.
        labels: The scores over all labels of a multi-label head, with the thresholds that assign
            them; `None` for other heads.
    """

    _left_out = ("mistakes",)
    _optional = ("labels",)

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
    labels: LabelScores | None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the model's outputs."""
        return tuple(score.name for score in self.per_class)

    @property
    def is_right(self) -> np.ndarray:
        """Whether each image is correct (all its labels), bool `(num_images,)`."""
        is_correct = np.ones(self.num_images, bool)
        is_correct[[mistake.index for mistake in self.mistakes]] = False
        return is_correct

    @property
    def summary(self) -> str:
        """Accuracy, number of images, interval and loss in one line."""
        metric = "accuracy of label decisions" if self.kind == "multi_label" else "accuracy"
        accuracy = fraction_text(self.accuracy, self.num_images, self.interval)
        return f"{metric} {accuracy}, loss {self.loss:.4f}"

    @property
    def figures(self) -> tuple[str, ...]:
        """The other figures, each in one line with its interval."""
        lines = [] if self.labels is None else [*self.labels.figures]
        if self.balanced_accuracy is not None:
            balanced = percent(self.balanced_accuracy)
            lines.append(f"balanced accuracy {balanced}{_with_interval(self.balanced_interval)}")
        if self.top_k_accuracy is not None:
            lines.append(
                f"top-{self.top_k} accuracy {percent(self.top_k_accuracy)}"
                f"{_with_interval(self.top_k_interval)}"
            )
        if self.roc_auc is not None:
            ends = self.roc_auc_interval
            ends_text = f" (95 % CI {ends[0]:.3f}-{ends[1]:.3f})" if ends else ""
            lines.append(f"ROC-AUC {self.roc_auc:.3f}{ends_text}")
        return (*lines, str(self.reliability))

    def __str__(self) -> str:
        """All figures and a table of the classes; with many classes, those with the lowest F1."""
        if self.labels is not None:
            return "\n".join([self.summary, *self.figures, *self._label_lines(), *self.notes])
        scores, remarks = self._scores_in_text()
        names = [" ".join(score.name.split()) for score in scores]
        width = max(cell_len(name) for name in ["class", *names])
        lines = [self.summary, *self.figures]
        lines.append(f"{'class':{width}}  precision  recall  {'95 % CI':>14}      F1  images")
        for name, score in zip(names, scores, strict=True):
            lines.append(
                f"{name}{' ' * (width - cell_len(name))}  {score.precision:9.3f}"
                f"  {score.recall:6.3f}  {_format_ends(score.recall_interval):14}"
                f"  {score.f1:6.3f}  {score.num_images:6,}"
            )
        return "\n".join([*lines, *remarks, *self.notes])

    def _label_lines(self) -> list[str]:
        """Returns the table of the labels, those with the lowest F1 if there are many."""
        rows = self.label_rows()
        shown, remarks = rows, []
        if len(rows) > MAX_CLASSES_IN_TEXT:
            shown = sorted(rows, key=lambda row: row.score.f1)[:MAX_CLASSES_IN_TEXT]
            remarks = [f"the {MAX_CLASSES_IN_TEXT} of {len(rows)} labels with the lowest F1"]
        names = [" ".join(row.score.name.split()) for row in shown]
        width = max(cell_len(name) for name in ["label", *names])
        lines = [
            f"{'label':{width}}  threshold  precision  recall      F1      AP      TP      FP"
            "      FN      TN"
        ]
        for name, row in zip(names, shown, strict=True):
            average = "-" if row.average_precision is None else f"{row.average_precision:.3f}"
            lines.append(
                f"{name}{' ' * (width - cell_len(name))}  {row.threshold:9.3f}"
                f"  {row.score.precision:9.3f}  {row.score.recall:6.3f}  {row.score.f1:6.3f}"
                f"  {average:>6}" + "".join(f"  {number:6,}" for number in row.counts)
            )
        return [*lines, *remarks]

    def label_rows(self) -> list[LabelRow]:
        """Returns the scores of each label of a multi-label head; none for other heads."""
        if self.labels is None:
            return []
        return [
            LabelRow(score, threshold, average, _in_order(counts))
            for score, threshold, average, counts in zip(
                self.per_class,
                self.labels.thresholds,
                self.labels.average_precisions,
                self.labels.counts,
                strict=True,
            )
        ]

    def _repr_html_(self) -> str:
        scores, remarks = self._scores_in_text()
        rows = [
            (
                score.name,
                f"{score.precision:.3f}",
                f"{score.recall:.3f}",
                _format_ends(score.recall_interval),
                f"{score.f1:.3f}",
                f"{score.num_images:,}",
            )
            for score in scores
        ]
        columns = ("class", "precision", "recall", "95 % CI", "F1", "images")
        summary = html_paragraphs([self.summary, *self.figures])
        return summary + html_table(columns, rows) + html_paragraphs([*remarks, *self.notes])

    def _scores_in_text(self) -> tuple[Sequence[ClassScore], list[str]]:
        if len(self.per_class) <= MAX_CLASSES_IN_TEXT:
            return self.per_class, []
        lowest = sorted(self.per_class, key=lambda score: score.f1)[:MAX_CLASSES_IN_TEXT]
        return lowest, [
            f"the {MAX_CLASSES_IN_TEXT} of {len(self.per_class)} classes with the lowest F1"
        ]


def _in_order(counts: np.ndarray) -> tuple[int, int, int, int]:
    """Returns TP, FP, FN and TN from counts by truth and prediction."""
    (negative, false_positive), (false_negative, positive) = counts.tolist()
    return positive, false_positive, false_negative, negative


def _with_interval(ends: Interval | None) -> str:
    return f" ({confidence_interval(ends)})" if ends else ""


def _format_ends(interval: Interval | None) -> str:
    return f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else "-"
