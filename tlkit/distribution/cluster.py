"""The cluster of workers that `TF_CONFIG` defines."""

import json
import os
from dataclasses import dataclass
from typing import Any

from tlkit.errors import ArgumentError

KINDS = ("auto", "mirrored", "multi-worker")
"""Kinds of `distribution_strategy`; defined here, so that checking one loads no TensorFlow."""

VARIABLE = "TF_CONFIG"
_CHIEF, _WORKER = "chief", "worker"
_EXAMPLE = (
    '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, "task": {"type": "worker", "index": 0}}'
)


@dataclass(frozen=True)
class Cluster:
    """The workers of a job.

    Attributes:
        addresses: "HOST:PORT" of each worker, the chief first.
        index: Index of this process.
    """

    addresses: tuple[str, ...]
    index: int


def read_cluster() -> Cluster | None:
    """Returns the cluster in the environment variable `TF_CONFIG`; `None` if it is not set.

    Raises:
        ArgumentError: It does not have TensorFlow's format, or has tasks other than workers.

    Reference:
        https://www.tensorflow.org/guide/distributed_training#setting_up_the_tf_config_environment_variable
    """
    text = os.environ.get(VARIABLE, "").strip()
    if not text:
        return None
    try:
        content = json.loads(text)
        by_type: dict[str, list[str]] = content["cluster"]
        task: dict[str, Any] = content["task"]
        addresses = tuple(by_type.get(_CHIEF, [])) + tuple(by_type[_WORKER])
        own = by_type[task["type"]][int(task["index"])]
    except (ValueError, RecursionError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise _wrong(text, f"{type(error).__name__}: {error}") from error
    if others := sorted(set(by_type) - {_CHIEF, _WORKER}):
        raise _wrong(text, f"tasks of the type {others[0]!r}")
    if len(set(addresses)) < len(addresses):
        raise _wrong(text, "an address is repeated")
    return Cluster(addresses, addresses.index(own))


def _wrong(text: str, problem: str) -> ArgumentError:
    return ArgumentError(
        f"`{VARIABLE}` must have the addresses of all workers and the index of this one. "
        f"Received: {VARIABLE}={text[:200]!r} ({problem}). Write {VARIABLE}='{_EXAMPLE}'."
    )
