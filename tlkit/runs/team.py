"""The devices and machines that make a run together."""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tlkit.runs.directory import Run
from tlkit.runs.record import RunRecord
from tlkit.utils.progress import RunLog
from tlkit.utils.tensorflow_logging import load_tensorflow_quietly

if TYPE_CHECKING:
    import keras
    import numpy as np

_Decision = TypeVar("_Decision")


class Team:
    """The workers of a run; the chief decides and writes, and the others get its results.

    Args:
        distribute: A kind of `distribution_strategy`, or `None` for one device; then TensorFlow
            is not loaded yet.

    Attributes:
        is_chief: Whether this process is the chief, which writes the run's files.

    Raises:
        ArgumentError: As `distribution_strategy`.
    """

    def __init__(self, distribute: str | None) -> None:
        self._workers: Any = None
        self.is_chief = True
        if distribute is not None:
            load_tensorflow_quietly()
            from tlkit.distribution.strategies import strategy_for
            from tlkit.distribution.workers import Workers

            self._workers = Workers(strategy_for(distribute, "distribute"))
            self.is_chief = self._workers.is_chief

    @property
    def is_distributed(self) -> bool:
        """Whether there is more than one device."""
        return self._workers is not None and self._workers.num_replicas > 1

    def scope(self) -> AbstractContextManager[object]:
        """Returns the scope in which the model, its constraints and metrics must be made."""
        return self._workers.strategy.scope() if self.is_distributed else nullcontext()

    def broadcast_run(self, run: Run | None) -> Run | None:
        """Returns the chief's run on every worker, even if the worker cannot read its files.

        All workers wait for each other here.
        """
        if self._workers is None:
            return run
        fields = None if run is None else (str(run.path), run.class_names, run.metrics, run.record)
        received: Any = self.broadcast(lambda: fields)
        if run is not None or received is None:
            return run
        path, class_names, metrics, record = received
        return Run(Path(path), tuple(class_names), metrics, RunRecord.from_json(record))

    def broadcast(self, decide: Callable[[], _Decision]) -> _Decision:
        """Returns the chief's decision, which must be JSON-serializable; the others wait for it."""
        if self._workers is None:
            return decide()
        from tlkit.distribution.lost_workers import lost_worker_named

        content = json.dumps(decide()).encode() if self.is_chief else None
        with lost_worker_named(self._workers):
            decision: _Decision = json.loads(self._workers.bytes_from_chief(content))
        return decision

    def broadcast_arrays(
        self, decide: "Callable[[], dict[str, np.ndarray]]"
    ) -> "dict[str, np.ndarray]":
        """Returns the chief's arrays by name; the others wait for them."""
        if self._workers is None:
            return decide()
        from tlkit.distribution.lost_workers import lost_worker_named

        arrays = decide() if self.is_chief else {}
        names = self.broadcast(lambda: list(arrays))
        with lost_worker_named(self._workers):
            return dict(zip(names, self._workers.from_chief(list(arrays.values())), strict=True))

    def finished_run(self, run: Run | None) -> Run:
        """Returns the chief's finished run; the others wait for it."""
        finished = self.broadcast_run(run)
        if finished is None:
            raise RuntimeError("the chief has not finished the run")
        return finished

    def chief_log(self, log: Callable[[str], None] | None) -> RunLog:
        """Returns a log that passes messages to `log` on the chief and drops them elsewhere."""
        return RunLog(log if self.is_chief else lambda text: None)

    def on_one_device(self, model: "keras.Model") -> "keras.Model":
        """Returns the model with its weights on one device, as exporters need it."""
        if not self.is_distributed:
            return model
        import keras

        copy = keras.models.clone_model(model)
        copy.set_weights(model.get_weights())
        return copy
