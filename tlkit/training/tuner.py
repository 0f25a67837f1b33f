"""The run of a `fine_tune` call: its stages in order, each of them resumable."""

import dataclasses
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tlkit.data.images import ImageSplit
from tlkit.data.missing_files import missing_files_named
from tlkit.distribution.shards import Shard, ShardedBatches
from tlkit.distribution.strategies import strategy_of
from tlkit.errors import ArgumentError, DataError, RunError
from tlkit.evaluation.data_checks import Images
from tlkit.evaluation.names import num_classes_of
from tlkit.models.group_choice import AS_IS
from tlkit.models.groups import TrainableReport, choose_trainable
from tlkit.models.random_state import seed_random_layers
from tlkit.models.trainable import Flags
from tlkit.models.variable_names import variable_names
from tlkit.training.cached_cut import (
    CachedCut,
    CutDecision,
    cached_cut,
    cut_batches,
    cut_validation,
    uncached,
    view_policy_for,
)
from tlkit.training.criterion import Score, criterion_for, labels_of, score_on
from tlkit.training.distributed_checks import batch_notes
from tlkit.training.fit_data import shards_with_class_weights
from tlkit.training.fitting import Batches, Fitted, NotFiniteError, class_weight_of, fit_model
from tlkit.training.head import is_new_head, reason_not_to_solve, train_head
from tlkit.training.inference_mode import FrozenCalls, find_frozen_calls
from tlkit.training.objective import loss_of, metrics_of, takes_one_hot
from tlkit.training.precision import computed_in, resolve_precision, with_loss_scaling
from tlkit.training.rates import LayerwiseAdamW, layer_multipliers, schedule_of
from tlkit.training.recipe import Recipe
from tlkit.training.reports import StageReport, TrainingReport
from tlkit.training.resume import (
    Checkpoint,
    Position,
    Saved,
    StageCheckpoint,
    assign_all,
    values_of,
)
from tlkit.training.sources import Source, batches_of, steps_in_epoch, with_targets
from tlkit.training.stages import PlannedStage
from tlkit.training.step import StepHook
from tlkit.training.weight_change import (
    WatchedWeights,
    check_weight_change,
    relative_weight_change,
    restore_weights,
    weights_by_group,
)
from tlkit.utils.formatting import percent

_EPOCHS_PER_STAGE = 1_000_000
"""Offset between the epoch numbers of two stages, so that each has its own orders and views."""


class Tuner:
    """One call of `fine_tune`, stage by stage."""

    def __init__(
        self,
        model: keras.Model,
        source: Source,
        recipe: Recipe,
        *,
        loss: keras.losses.Loss | None,
        metrics: Sequence[keras.metrics.Metric],
        callbacks: Sequence[keras.callbacks.Callback],
        checkpoint: Checkpoint | None,
        cache: str | os.PathLike[str] | None,
        hooks: Sequence[StepHook] = (),
        notes: Sequence[str] = (),
    ) -> None:
        if isinstance(source.train, ImageSplit):  # orders and views depend on the seed
            train = dataclasses.replace(source.train, seed=source.train.seed + recipe.seed)
            source = dataclasses.replace(source, train=train)
        self._model, self._source, self._recipe = model, source, recipe
        self._loss = loss_of(model, recipe.label_smoothing) if loss is None else loss
        self._metrics, self._callbacks, self._hooks = metrics, callbacks, hooks
        self._checkpoint, self._cache = checkpoint, cache
        self._criterion = criterion_for(source.validation, recipe.class_weight)
        self._flags, self._keeps_flags, self._notes = Flags.of(model), False, notes
        self._one_hot = takes_one_hot(self._loss)

    def run(self, plan: Sequence[PlannedStage]) -> TrainingReport:
        """Solves the head if it is untrained, then trains the remaining stages."""
        try:
            return self._run(plan)
        finally:
            if self._keeps_flags:
                self._flags.restore()

    def _run(self, plan: Sequence[PlannedStage]) -> TrainingReport:
        model, saved = self._model, self._checkpoint and self._checkpoint.saved
        if saved:
            was_trained, done = saved.record["was_trained"], saved.position.stage
            before = Score.from_record(saved.record["accuracy_before"])
            reports = [StageReport.from_dict(report) for report in saved.record["reports"]]
            assign_all(model.variables, saved.arrays["model"])
        else:
            seed_random_layers(model, self._recipe.seed)
            was_trained, done, reports = not is_new_head(model, self._recipe.solve_head), 0, []
            if not was_trained and not reason_not_to_solve(model, plan[0].unfreeze):
                reports += self._solve_head()
            before = None
        for number in range(done, len(plan)):
            resumed = saved if number == done and saved and saved.arrays.get("start") else None
            if resumed and resumed.record["baseline"]:
                baseline = Score.from_record(resumed.record["baseline"])
            else:
                baseline = self._measure()
            before = before if number else baseline
            record = {
                "was_trained": was_trained,
                "accuracy_before": before and before.record(),
                "baseline": baseline and baseline.record(),
                "reports": [dataclasses.asdict(report) for report in reports],
            }
            reports.append(self._run_stage(plan[number], number, baseline, record, resumed))
        after = self._measure()
        if self._checkpoint is not None:
            record = {
                "was_trained": was_trained,
                "accuracy_before": before and before.record(),
                "reports": [dataclasses.asdict(report) for report in reports],
            }
            arrays = {"model": values_of(model.variables)}
            self._checkpoint.save(Position(len(plan)), record, arrays)
        before = before if was_trained else None
        return TrainingReport(
            stages=tuple(reports),
            accuracy_before=before.accuracy if before else None,
            accuracy_after=after.accuracy if after else None,
            num_validation=after.num_images if after else 0,
            decided_by=self._criterion.name,
            decision_before=before.value if before else None,
            decision_after=after.value if after else None,
        )

    def _solve_head(self) -> list[StageReport]:
        validation = self._source.validation if self._source.data is None else None
        report = train_head(
            self._model,
            self._source.train if self._source.data is None else self._source.data,
            validation=validation,
            class_weight=self._recipe.class_weight,
            solve_head=self._recipe.solve_head,
            seed=self._recipe.seed,
            cache=self._cache,
        )
        return list(report.stages)

    def _set_trainable(self, stage: PlannedStage) -> TrainableReport:
        self._keeps_flags = stage.unfreeze == AS_IS
        if not self._keeps_flags:
            return choose_trainable(self._model, stage.unfreeze, batch_norm=self._recipe.batch_norm)
        self._flags.restore()
        return choose_trainable(self._model, AS_IS)

    def _measure(self) -> Score | None:
        """Returns the model's score on the validation images."""
        if self._source.validation is None:
            return None
        return score_on(self._model, self._source.validation, self._recipe.class_weight)

    def _run_stage(
        self,
        stage: PlannedStage,
        number: int,
        baseline: Score | None,
        record: dict[str, Any],
        resumed: Saved | None,
    ) -> StageReport:
        model = self._model
        started = time.perf_counter()
        earlier = resumed.record.get("seconds", 0.0) if resumed else 0.0

        def seconds() -> float:
            return earlier + time.perf_counter() - started

        trainable = self._set_trainable(stage)
        current = values_of(model.weights)
        start = resumed.arrays["start"] if resumed else current
        if resumed:
            assign_all(model.weights, start)
        watched = WatchedWeights(model)
        if resumed:
            assign_all(model.weights, current)
        decision = self._decide_cut(stage)
        cut, frozen_calls = decision.cut, find_frozen_calls(model, stage.unfreeze, trainable)
        is_cached = cut is not None
        if resumed and resumed.record["is_cached"] != is_cached:
            raise RunError(
                "`run_directory` must hold a training that can be resumed as it started. Received: "
                f"one {'with' if resumed.record['is_cached'] else 'without'} stored activations, "
                f"which would now run {'without' if resumed.record['is_cached'] else 'with'} them "
                "(the free disk space, or `cache`, has changed). Free disk space, or choose "
                "another folder."
            )
        record["is_cached"] = is_cached
        try:
            fitted = self._fit(
                stage,
                number,
                cut=cut,
                frozen_calls=frozen_calls,
                watched=watched,
                baseline=baseline,
                record=record,
                start=start,
                resumed=resumed,
                seconds=seconds,
            )
        except NotFiniteError as error:
            left = "The best weights so far are restored."
            raise error.at_rate(stage.learning_rate, left) from error
        except (ArgumentError, DataError):  # an invalid batch, or a missing file
            restore_weights(model, watched.before)
            raise
        check_weight_change(watched, trainable, stage.learning_rate)
        notes_of_head = {note for report in record["reports"] for note in report["notes"]}
        notes = [note for note in self._notes if number == 0 and note not in notes_of_head]
        notes.append(decision.note)
        notes += batch_notes(strategy_of(model), self._source.train)
        notes += [note for hook in self._hooks for note in hook.notes_of_stage()]
        discarded_change = {}
        if baseline is None:
            notes.append("no validation images: the last epoch's weights are kept, untested")
        elif not fitted.improved:
            discarded_change = watched.weight_change
            notes.append(
                f"no epoch was better than the initial model (validation {self._criterion.name} "
                f"{percent(baseline.value)}): its weights are restored"
            )
        return StageReport(
            name="fine-tune",
            trainable=trainable,
            history=fitted.history,
            kept_epoch=fitted.kept_epoch,
            weight_change=relative_weight_change(watched.before, weights_by_group(model)),
            put_back=discarded_change,
            seconds=seconds(),
            num_forward_passes=0 if cut is None else cut.num_forward_passes,
            notes=tuple(notes),
        )

    def _decide_cut(self, stage: PlannedStage) -> CutDecision:
        recipe = self._recipe
        if any(hook.needs_images for hook in self._hooks):
            return uncached("the constraint needs the images themselves")
        return cached_cut(
            self._model,
            self._source,
            stage.unfreeze,
            views=view_policy_for(recipe.views, recipe.augment),
            epochs=stage.epochs,
            cache=self._cache,
        )

    def _fit(
        self,
        stage: PlannedStage,
        number: int,
        *,
        cut: CachedCut | None,
        frozen_calls: FrozenCalls,
        watched: WatchedWeights,
        baseline: Score | None,
        record: dict[str, Any],
        start: Sequence[np.ndarray],
        resumed: Saved | None,
        seconds: Callable[[], float],
    ) -> Fitted:
        model, recipe, source = self._model, self._recipe, self._source
        precision = resolve_precision(recipe.precision, strategy_of(model).num_replicas_in_sync)
        if cut is not None:
            given: dict[str, Any] = {
                "batch_size": source.train.batch_size,
                "one_hot": self._one_hot,
            }
            trained, frozen_calls = cut.top, frozen_calls.above_cut()
            batches = cut_batches(cut, model, seed=recipe.seed + number, **given)
            held_out = cut_validation(cut, model, **given)
        else:
            trained, batches, held_out = model, self._batches(number), self._held_out()
        if held_out is not None:
            held_out = shards_with_class_weights(held_out, self._weights_of(source.validation))
        checkpoint = None
        if self._checkpoint is not None:
            checkpoint = StageCheckpoint(self._checkpoint, number, record, start, resumed, seconds)
        read = (source.train, source.validation)
        with missing_files_named(read), computed_in(trained, precision):
            return fit_model(
                trained,
                batches,
                held_out,
                whole=model,
                optimizer=with_loss_scaling(self._optimizer(stage, batches.num_steps), precision),
                loss=self._loss,
                metrics=[*metrics_of(model, one_hot=self._one_hot), *self._metrics],
                deciding=self._criterion.metrics(model, one_hot=self._one_hot) if held_out else (),
                epochs=stage.epochs,
                patience=recipe.patience or max(5, 2 * stage.epochs // 3),
                class_weight=self._weights_of(source.train),
                callbacks=self._callbacks,
                hooks=self._hooks,
                frozen_calls=frozen_calls,
                best=None if baseline is None else (baseline.value, baseline.loss),
                at_end=watched.measure,
                checkpoint=checkpoint,
            )

    def _optimizer(self, stage: PlannedStage, num_steps: int) -> keras.optimizers.Optimizer:
        model, recipe = self._model, self._recipe
        rate = schedule_of(recipe.schedule, stage.learning_rate, num_steps * stage.epochs)
        optimizer = LayerwiseAdamW(
            rate,
            multipliers=layer_multipliers(model, recipe.layer_decay),
            names=variable_names(model),
            weight_decay=recipe.weight_decay,
        )
        if recipe.weight_decay:
            undecayed = [variable for variable in model.trainable_variables if _is_vector(variable)]
            for hook in self._hooks:
                undecayed += hook.undecayed
            optimizer.exclude_from_weight_decay(var_list=undecayed)
        return optimizer

    def _held_out(self) -> ShardedBatches | None:
        """Returns one pass over the validation images."""
        if (images := self._source.validation) is None:
            return None
        return lambda shard: batches_of(images, self._model, one_hot=self._one_hot, shard=shard)

    def _weights_of(self, images: Images | None) -> dict[int, float] | None:
        """Returns the weight of each class among some images."""
        class_weight, model = self._recipe.class_weight, self._model
        if class_weight is None or images is None:
            return None
        return class_weight_of(labels_of(images, model), num_classes_of(model), class_weight)

    def _batches(self, number: int) -> Batches:
        """Returns batches of whole images that can start at any epoch and step."""
        images, recipe = self._source.train, self._recipe

        def starting_at(epoch: int, step: int, shard: Shard) -> tf.data.Dataset:
            if not isinstance(images, ImageSplit):
                dataset = images.repeat().skip(step)  # not sharded: there is one worker
            else:
                first = number * _EPOCHS_PER_STAGE + epoch
                dataset = images.dataset(
                    shuffle=True,
                    augment=recipe.augment,
                    epochs=range(first, (number + 1) * _EPOCHS_PER_STAGE),
                    first_batch=step,
                    shard=shard,
                )
            return with_targets(dataset, self._model, one_hot=self._one_hot)

        return Batches(starting_at, steps_in_epoch(images))


def _is_vector(variable: keras.Variable) -> bool:
    return len(variable.shape) < 2
