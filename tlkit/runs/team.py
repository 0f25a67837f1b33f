"""Who takes part in a run: this process alone, or several devices or machines."""

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
    """Where a run's model is made and trained, and who writes.

    Args:
        distribute: A kind of `distribution_strategy`, or `None` for one device, which loads no
            TensorFlow yet.

    Attributes:
        is_chief: Whether this process writes.

    Raises:
        ArgumentError: See `distribution_strategy`.
    """

    def __init__(self, distribute: str | None) -> None:
        self._strategy: Any = None
        self._workers: Any = None
        self.is_chief = True
        if distribute is not None:
            load_tensorflow_quietly()
            from tlkit.distribution.strategies import strategy_for
            from tlkit.distribution.workers import Workers

            self._strategy = strategy_for(distribute, "distribute")
            self._workers = Workers(self._strategy)
            self.is_chief = self._workers.is_chief

    @property
    def is_distributed(self) -> bool:
        """Whether there is more than one device."""
        return self._strategy is not None and self._strategy.num_replicas_in_sync > 1

    def scope(self) -> AbstractContextManager[object]:
        """Where the model, its constraints and metrics are to be made."""
        return self._strategy.scope() if self.is_distributed else nullcontext()

    def broadcast_run(self, run: Run | None) -> Run | None:
        """Returns the chief's run on every worker, where its files may be out of reach.

        All workers wait for each other here.
        """
        if self._workers is None:
            return run
        fields = None if run is None else (str(run.path), run.class_names, run.metrics, run.record)
        found: Any = self.broadcast(lambda: fields)
        if run is not None or found is None:
            return run
        path, class_names, metrics, record = found
        return Run(Path(path), tuple(class_names), metrics, RunRecord.from_json(record))

    def broadcast(self, decide: Callable[[], _Decision]) -> _Decision:
        """Returns what the chief decides, which JSON must hold; the others wait for it."""
        if self._workers is None:
            return decide()
        from tlkit.distribution.lost_workers import lost_worker_named

        content = json.dumps(decide()).encode() if self.is_chief else None
        with lost_worker_named(self._strategy):
            decision: _Decision = json.loads(self._workers.bytes_from_chief(content))
        return decision

    def broadcast_arrays(
        self, decide: "Callable[[], dict[str, np.ndarray]]"
    ) -> "dict[str, np.ndarray]":
        """Returns the arrays that the chief decides on, by name; the others wait for them."""
        if self._workers is None:
            return decide()
        from tlkit.distribution.lost_workers import lost_worker_named

        arrays = decide() if self.is_chief else {}
        names = self.broadcast(lambda: list(arrays))
        with lost_worker_named(self._strategy):
            return dict(zip(names, self._workers.from_chief(list(arrays.values())), strict=True))

    def finished_run(self, run: Run | None) -> Run:
        """Returns the chief's finished run, which the others wait for."""
        finished = self.broadcast_run(run)
        if finished is None:
            raise RuntimeError("the chief has finished no run")
        return finished

    def chief_log(self, log: Callable[[str], None] | None) -> RunLog:
        """Returns what passes text to `log` on the chief, and drops it on the others."""
        return RunLog(log if self.is_chief else lambda text: None)

    def on_one_device(self, model: "keras.Model") -> "keras.Model":
        """Returns the model as it would be without a team, which every exporter takes."""
        if not self.is_distributed:
            return model
        import keras

        alone = keras.models.clone_model(model)
        alone.set_weights(model.get_weights())
        return alone
