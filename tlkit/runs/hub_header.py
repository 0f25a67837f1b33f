"""The header of a model card, as the model hub reads it."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PureWindowsPath
from typing import Any

from tlkit.runs.record import RunRecord

TAGS = ("image-classification", "keras", "tensorflow", "transfer-learning")
LICENSE = "unknown"
"""Whoever publishes a model chooses its licence; the hub's own word for none that is known."""

MAX_IN_NAME = 5
"""Classes that a model is named by."""

_METRICS = (
    ("accuracy", "accuracy", "Accuracy"),
    ("recall", "balanced_accuracy", "Balanced accuracy (mean recall of the classes)"),
    ("roc_auc", "roc_auc", "ROC-AUC (mean of the classes)"),
)
"""The hub's name of a metric, that of `metrics.json`, and what a reader sees."""

_HUB_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9])?")
_NOT_PLAIN = re.compile("[<>&\x7f-\x84\x86-\x9f\u2028\u2029\ufeff\ufffe\uffff]")


def hub_header(
    class_names: Sequence[str], measured: Mapping[str, Any], record: RunRecord
) -> Iterator[str]:
    r"""Gives the lines of the header: licence, tags, base model, and the figures of each split.

    Names of folders and classes come from strangers and stand in quotes.

    Args:
        class_names: The classes, in output order.
        measured: The figures of `metrics.json` by split, the one that counts most first.
        record: What `run.json` holds.

    Example:
        >>> from tlkit.runs.config import RunConfig
        >>> from tlkit.runs.hub_header import hub_header
        >>> from tlkit.runs.record import DataRecord, RunRecord
        >>> config = RunConfig(photos="/home/me/pets", backbone="vgg16")
        >>> data = DataRecord("7588f85d", {"test": 40})
        >>> record = RunRecord(config=config, seed=0, image_size=(224, 224), data=data)
        >>> figures = {"test": {"kind": "softmax", "accuracy": 0.75, "num_images": 40}}
        >>> print("\n".join(hub_header(["cat", "dog"], figures, record)))
        ---
        license: unknown
        library_name: keras
        pipeline_tag: image-classification
        tags:
        - image-classification
        - keras
        - tensorflow
        - transfer-learning
        base_model: "vgg16"
        metrics:
        - accuracy
        model-index:
        - name: "cat, dog"
          results:
          - task:
              type: image-classification
              name: Image classification
            dataset:
              type: imagefolder
              name: "pets"
              split: test
            metrics:
            - type: accuracy
              value: 0.75
              name: "Accuracy, 40 images"
        ---

    Reference:
        https://huggingface.co/docs/hub/model-cards; the figures are its `model-index`, whose form
        https://github.com/huggingface/hub-docs/blob/main/modelcard.md gives.
    """
    config = record.resolved
    yield from ("---", f"license: {LICENSE}", "library_name: keras")
    yield from ("pipeline_tag: image-classification", "tags:", *(f"- {tag}" for tag in TAGS))
    base = _last_part(str(config.from_run or config.backbone))
    if _HUB_NAME.fullmatch(base) and "--" not in base and ".." not in base:
        yield f"base_model: {_quoted(base)}"
    if measured:
        yield from ("metrics:", "- accuracy", "model-index:")
        rest = ["…"] if len(class_names) > MAX_IN_NAME else []
        yield f"- name: {_quoted(', '.join([*class_names[:MAX_IN_NAME], *rest]))}"
        yield "  results:"
        for split, figures in measured.items():
            yield from _result(split, figures, _last_part(config.photos))
    yield "---"


def _result(split: str, figures: Mapping[str, Any], dataset: str) -> Iterator[str]:
    yield from ("  - task:", "      type: image-classification")
    yield from ("      name: Image classification", "    dataset:", "      type: imagefolder")
    yield from (f"      name: {_quoted(dataset)}", f"      split: {split}", "    metrics:")
    for kind, key, name in _METRICS:
        if figures.get(key) is not None:
            of_labels = key == "accuracy" and figures["kind"] == "multi_label"
            what = "Accuracy of label decisions" if of_labels else name
            yield f"    - type: {kind}"
            yield f"      value: {figures[key]:.6g}"
            counted = f"{what}, {figures['num_images']:,} images"
            yield f"      name: {_quoted(counted)}"


def _quoted(text: str) -> str:
    """A string in quotes that YAML and JSON read alike, on one line and without any tag."""
    quoted = json.dumps(" ".join(text.split()), ensure_ascii=False)
    return _NOT_PLAIN.sub(lambda found: f"\\u{ord(found[0]):04x}", quoted)


def _last_part(path: str) -> str:
    """The name of a file or folder, whatever system the path is of."""
    return PureWindowsPath(path).name or path
