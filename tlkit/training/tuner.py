"""One call of `fine_tune`: its stages one after the other, each of them resumable."""

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
    views_of,
    whole_graph,
)
from tlkit.training.criterion import Score, criterion_for, labels_of, score_on
from tlkit.training.distributed_checks import batch_notes
from tlkit.training.fit_data import weighed_as
from tlkit.training.fitting import Batches, Fitted, NotFiniteError, class_weight_of, fit_model
from tlkit.training.head import is_new_head, train_head, why_head_stays
from tlkit.training.objective import loss_of, metrics_of, takes_one_hot
from tlkit.training.precision import computed_in, resolve_precision, scaled
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
from tlkit.training.still import StillPart, still_part
from tlkit.training.weight_change import (
    WatchedWeights,
    check_weight_change,
    relative_weight_change,
    restore_weights,
    weights_by_group,
)
from tlkit.utils.formatting import percent

_EPOCHS_APART = 1_000_000
"""Stages count their epochs this far apart, so that each sees orders and views of its own."""


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
        if isinstance(source.train, ImageSplit):  # other orders and views for another seed
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
        """Solves the head if need be, then trains the stages that are not done."""
        try:
            return self._run(plan)
        finally:
            if self._keeps_flags:
                self._flags.put_back()

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
            if not was_trained and not why_head_stays(model, plan[0].unfreeze):
                reports += self._solved_head()
            before = None
        for number in range(done, len(plan)):
            resumed = saved if number == done and saved and saved.arrays.get("start") else None
            if resumed and resumed.record["baseline"]:
                baseline = Score.from_record(resumed.record["baseline"])
            else:
                baseline = self._measured()
            before = before if number else baseline
            record = {
                "was_trained": was_trained,
                "accuracy_before": before and before.record(),
                "baseline": baseline and baseline.record(),
                "reports": [dataclasses.asdict(report) for report in reports],
            }
            reports.append(self._run_stage(plan[number], number, baseline, record, resumed))
        after = self._measured()
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

    def _solved_head(self) -> list[StageReport]:
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

    def _let_train(self, stage: PlannedStage) -> TrainableReport:
        self._keeps_flags = stage.unfreeze == AS_IS
        if not self._keeps_flags:
            return choose_trainable(self._model, stage.unfreeze, batch_norm=self._recipe.batch_norm)
        self._flags.put_back()
        return choose_trainable(self._model, AS_IS)

    def _measured(self) -> Score | None:
        """What the model reaches on the validation images."""
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

        trainable = self._let_train(stage)
        current = values_of(model.weights)
        start = resumed.arrays["start"] if resumed else current
        if resumed:
            assign_all(model.weights, start)
        watched = WatchedWeights(model)
        if resumed:
            assign_all(model.weights, current)
        decision = self._cut(stage)
        cut, still = decision.cut, still_part(model, stage.unfreeze, trainable)
        is_cached = cut is not None
        if resumed and resumed.record["is_cached"] != is_cached:
            raise RunError(
                "`run_directory` must hold a training that can go on as it began. Received: one "
                f"that {'used' if resumed.record['is_cached'] else 'did not use'} stored "
                "activations, which is the other way now (room on the disk, or `cache`, has "
                "changed). Make room, or name another folder."
            )
        record["is_cached"] = is_cached
        try:
            fitted = self._fit(
                stage,
                number,
                cut=cut,
                still=still,
                watched=watched,
                baseline=baseline,
                record=record,
                start=start,
                resumed=resumed,
                seconds=seconds,
            )
        except NotFiniteError as error:
            left = "The best weights so far are put back."
            raise error.at_rate(stage.learning_rate, left) from error
        except (ArgumentError, DataError):  # a batch that does not fit, or a file that is lost
            restore_weights(model, watched.before)
            raise
        check_weight_change(watched, trainable, stage.learning_rate)
        said = {note for report in record["reports"] for note in report["notes"]}  # of the head
        notes = [note for note in self._notes if number == 0 and note not in said]
        notes.append(decision.note)
        notes += batch_notes(strategy_of(model), self._source.train)
        notes += [note for hook in self._hooks for note in hook.notes_of_stage()]
        moved = relative_weight_change(watched.before, weights_by_group(model))
        put_back = {}
        if baseline is None:
            notes.append("no validation images: the last epoch's weights are kept, untested")
        elif not fitted.improved:
            put_back = watched.weight_change
            notes.append(
                f"no epoch was better on validation than the model before, "
                f"{percent(baseline.value)} {self._criterion.name}: its weights are kept"
            )
        return StageReport(
            name="fine-tune",
            trainable=trainable,
            history=fitted.history,
            kept_epoch=fitted.kept_epoch,
            weight_change=moved,
            put_back=put_back,
            seconds=seconds(),
            num_forward_passes=0 if cut is None else cut.num_forward_passes,
            notes=tuple(notes),
        )

    def _cut(self, stage: PlannedStage) -> CutDecision:
        recipe = self._recipe
        if any(hook.needs_images for hook in self._hooks):
            return whole_graph("the constraint sees the images themselves")
        return cached_cut(
            self._model,
            self._source,
            stage.unfreeze,
            views=views_of(recipe.views, recipe.augment),
            epochs=stage.epochs,
            cache=self._cache,
        )

    def _fit(
        self,
        stage: PlannedStage,
        number: int,
        *,
        cut: CachedCut | None,
        still: StillPart,
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
            trained, still = cut.top, still.above_cut()
            batches = cut_batches(cut, model, seed=recipe.seed + number, **given)
            held_out = cut_validation(cut, model, **given)
        else:
            trained, batches, held_out = model, self._batches(number), self._held_out()
        if held_out is not None:
            held_out = weighed_as(held_out, self._weights_of(source.validation))
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
                optimizer=scaled(self._optimizer(stage, batches.num_steps), precision),
                loss=self._loss,
                metrics=[*metrics_of(model, one_hot=self._one_hot), *self._metrics],
                deciding=self._criterion.metrics(model, one_hot=self._one_hot) if held_out else (),
                epochs=stage.epochs,
                patience=recipe.patience or max(5, 2 * stage.epochs // 3),
                class_weight=self._weights_of(source.train),
                callbacks=self._callbacks,
                hooks=self._hooks,
                still=still,
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
        """One pass over the validation images."""
        if (images := self._source.validation) is None:
            return None
        return lambda shard: batches_of(images, self._model, one_hot=self._one_hot, shard=shard)

    def _weights_of(self, images: Images | None) -> dict[int, float] | None:
        """The weight of each class among some images."""
        class_weight, model = self._recipe.class_weight, self._model
        if class_weight is None or images is None:
            return None
        return class_weight_of(labels_of(images, model), num_classes_of(model), class_weight)

    def _batches(self, number: int) -> Batches:
        """Whole images, from any epoch and step on."""
        images, recipe = self._source.train, self._recipe

        def starting_at(epoch: int, step: int, shard: Shard) -> tf.data.Dataset:
            if not isinstance(images, ImageSplit):
                dataset = images.repeat().skip(step)  # whole: there is one worker
            else:
                first = number * _EPOCHS_APART + epoch  # other orders and views in each stage
                dataset = images.dataset(
                    shuffle=True,
                    augment=recipe.augment,
                    epochs=range(first, (number + 1) * _EPOCHS_APART),
                    first_batch=step,
                    shard=shard,
                )
            return with_targets(dataset, self._model, one_hot=self._one_hot)

        return Batches(starting_at, steps_in_epoch(images))


def _is_vector(variable: keras.Variable) -> bool:
    return len(variable.shape) < 2
