"""The header of a model card, in the form that model hubs read."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PureWindowsPath
from typing import Any

from tlkit.runs.record import RunRecord

TAGS = ("image-classification", "keras", "tensorflow", "transfer-learning")
LICENSE = "unknown"
"""The hub's value for an unknown licence; whoever publishes the model chooses one."""

MAX_IN_NAME = 5
"""Number of classes in the model's name."""

_METRICS = (
    ("accuracy", "accuracy", "Accuracy"),
    ("recall", "balanced_accuracy", "Balanced accuracy (mean recall of the classes)"),
    ("roc_auc", "roc_auc", "ROC-AUC (mean of the classes)"),
)
"""Name of a metric on the hub, its key in `metrics.json`, and its displayed name."""

_HUB_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9])?")
_NOT_PLAIN = re.compile("[<>&\x7f-\x84\x86-\x9f\u2028\u2029\ufeff\ufffe\uffff]")


def hub_header(
    class_names: Sequence[str], measured: Mapping[str, Any], record: RunRecord
) -> Iterator[str]:
    r"""Yields the lines of the header: licence, tags, base model, and the metrics of each split.

    Names of folders and classes are untrusted and therefore quoted.

    Args:
        class_names: The classes, in output order.
        measured: Metrics of `metrics.json` by split, the most important split first.
        record: Content of `run.json`.

    Example:
        >>> from tlkit.runs.config import RunConfig
        >>> from tlkit.runs.hub_header import hub_header
        >>> from tlkit.runs.record import DataRecord, RunRecord
        >>> config = RunConfig(photos="/home/me/pets", backbone="vgg16")
        >>> data = DataRecord("7588f85d", {"test": 40})
        >>> record = RunRecord(config=config, seed=0, image_size=(224, 224), data=data)
        >>> scores = {"test": {"kind": "softmax", "accuracy": 0.75, "num_images": 40}}
        >>> print("\n".join(hub_header(["cat", "dog"], scores, record)))
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
        https://huggingface.co/docs/hub/model-cards; the metrics are its `model-index`, whose format
        is in https://github.com/huggingface/hub-docs/blob/main/modelcard.md.
    """
    config = record.resolved
    yield from ("---", f"license: {LICENSE}", "library_name: keras")
    yield from ("pipeline_tag: image-classification", "tags:", *(f"- {tag}" for tag in TAGS))
    base = last_part(str(config.from_run or config.backbone))
    if _HUB_NAME.fullmatch(base) and "--" not in base and ".." not in base:
        yield f"base_model: {_quoted(base)}"
    if measured:
        yield from ("metrics:", "- accuracy", "model-index:")
        rest = ["…"] if len(class_names) > MAX_IN_NAME else []
        yield f"- name: {_quoted(', '.join([*class_names[:MAX_IN_NAME], *rest]))}"
        yield "  results:"
        for split, scores in measured.items():
            yield from _result(split, scores, last_part(config.photos))
    yield "---"


def _result(split: str, scores: Mapping[str, Any], dataset: str) -> Iterator[str]:
    yield from ("  - task:", "      type: image-classification")
    yield from ("      name: Image classification", "    dataset:", "      type: imagefolder")
    yield from (f"      name: {_quoted(dataset)}", f"      split: {split}", "    metrics:")
    for kind, key, name in _METRICS:
        if scores.get(key) is not None:
            is_multi_label = key == "accuracy" and scores["kind"] == "multi_label"
            metric = "Accuracy of label decisions" if is_multi_label else name
            displayed = f"{metric}, {scores['num_images']:,} images"
            yield f"    - type: {kind}"
            yield f"      value: {scores[key]:.6g}"
            yield f"      name: {_quoted(displayed)}"


def _quoted(text: str) -> str:
    """Returns a quoted string on one line that YAML and JSON read alike, without markup."""
    quoted = json.dumps(" ".join(text.split()), ensure_ascii=False)
    return _NOT_PLAIN.sub(lambda match: f"\\u{ord(match[0]):04x}", quoted)


def last_part(path: str) -> str:
    """Returns the name of a file or folder from its path, of any operating system."""
    return PureWindowsPath(path).name or path
