"""The run of a `fine_tune` call: its stages in order, each of them resumable."""

import dataclasses
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np

from tlkit.data.class_weighting import BALANCED, ClassWeighting
from tlkit.data.images import ImageSplit
from tlkit.data.missing_files import missing_files_named
from tlkit.distribution.shards import ShardedBatches
from tlkit.distribution.strategies import workers_of
from tlkit.errors import ArgumentError, DataError, RunError
from tlkit.evaluation.data_checks import Images
from tlkit.evaluation.names import num_classes_of
from tlkit.models.group_choice import AS_IS
from tlkit.models.groups import TrainableReport, choose_trainable
from tlkit.models.heads import head_kind
from tlkit.models.kernel_head import has_kernel_head, is_kernel_head_grown, make_head_linear
from tlkit.models.random_state import seed_random_layers
from tlkit.models.trainable import Flags
from tlkit.models.variable_names import variable_names
from tlkit.training.adapters import LowRankUpdates, choose_kernels
from tlkit.training.cached_cut import (
    CachedCut,
    CutDecision,
    cached_cut,
    cut_batches,
    cut_validation,
    uncached,
    view_policy_for,
)
from tlkit.training.candidates import Candidate, evaluate_candidate, prefers_other
from tlkit.training.criterion import Score, criterion_for, labels_of, score_on
from tlkit.training.distributed_checks import batch_notes
from tlkit.training.fit_data import shards_with_class_weights
from tlkit.training.fitting import (
    FitPlan,
    Fitted,
    NotFiniteError,
    Objective,
    class_factors_of,
    fit_model,
    label_factors_of,
)
from tlkit.training.head import is_new_head, reason_not_to_solve, train_head
from tlkit.training.head_forms import LINEAR
from tlkit.training.image_epochs import image_epochs
from tlkit.training.inference_mode import FrozenCalls, find_frozen_calls
from tlkit.training.mixture import USUAL, choose_mixture, keep_fraction
from tlkit.training.objective import loss_of, metrics_of, takes_one_hot
from tlkit.training.precision import computed_in, resolve_precision, with_loss_scaling
from tlkit.training.rates import LayerwiseAdamW, NamedRate, layer_multipliers, schedule_of
from tlkit.training.recipe import FineTuning
from tlkit.training.reports import StageReport, TrainingReport
from tlkit.training.resume import (
    Checkpoint,
    Position,
    Saved,
    StageCheckpoint,
    assign_all,
    values_of,
)
from tlkit.training.saved_state import TrainingState
from tlkit.training.sources import batches_of, note_on_classes
from tlkit.training.stages import PlannedStage
from tlkit.training.weight_change import (
    WatchedWeights,
    check_weight_change,
    relative_weight_change,
    restore_weights,
    weights_by_group,
)
from tlkit.utils.formatting import percent


@dataclass(frozen=True)
class _Stage:
    """The stage that is being trained.

    Attributes:
        plan: The stage as planned.
        number: Index of the stage, from 0.
        cut: The stored activations to train on; `None` to train on images.
        frozen_calls: The calls of operations that compute in inference mode.
        state: The state of the training at the start of the stage.
        start: The whole model's weights at the start of the stage.
        adapters: The factors that are trained instead of some kernels; `None` without adapters.
        resumed: The checkpoint to resume from; `None` if the stage starts.
        seconds: Returns the duration so far in seconds, over all processes.
    """

    plan: PlannedStage
    number: int
    cut: CachedCut | None
    frozen_calls: FrozenCalls
    state: TrainingState
    start: list[np.ndarray]
    adapters: LowRankUpdates | None
    resumed: Saved | None
    seconds: Callable[[], float]

    def checkpoint(self, file: Checkpoint | None) -> StageCheckpoint | None:
        """Returns the checkpoint of this stage in a file, or `None` without a file."""
        if file is None:
            return None
        return StageCheckpoint(
            file, self.number, self.state, self.start, self.resumed, self.seconds
        )


@dataclass(frozen=True, eq=False)
class _ReplacedHead:
    """The model before its closed-form head was replaced.

    Attributes:
        put_back: Restores the head's layers.
        values: The weights of the model.
        candidate: Its figures on validation images; `None` without such images.
    """

    put_back: Callable[[], None]
    values: list[np.ndarray]
    candidate: Candidate | None


class Tuner:
    """One call of `fine_tune`, stage by stage."""

    def __init__(
        self,
        model: keras.Model,
        tuning: FineTuning,
        *,
        checkpoint: Checkpoint | None,
        cache: str | os.PathLike[str] | None,
    ) -> None:
        source, recipe = tuning.source, tuning.recipe
        if isinstance(source.train, ImageSplit):  # orders and views depend on the seed
            train = dataclasses.replace(source.train, seed=source.train.seed + recipe.seed)
            source = dataclasses.replace(source, train=train)
        self._model, self._tuning, self._source, self._recipe = model, tuning, source, recipe
        self._loss = tuning.loss or self._own_loss()
        self._checkpoint, self._cache = checkpoint, cache
        self._criterion = criterion_for(source.validation, recipe.weighting)
        self._flags, self._keeps_flags = Flags.of(model), False
        self._one_hot = takes_one_hot(self._loss)
        self._replaced: _ReplacedHead | None = None

    def _own_loss(self) -> keras.losses.Loss:
        """Returns the loss that fits the head, and how classes count."""
        recipe, images = self._recipe, self._source.train
        factors = None
        if head_kind(self._model) == "multi_label" and not recipe.weighting.is_plain:
            factors = label_factors_of(labels_of(images, self._model), recipe.weighting)
        return loss_of(
            self._model,
            recipe.label_smoothing,
            mixes_labels=bool(recipe.augment.mixing),
            gamma=recipe.weighting.gamma if recipe.weighting.is_focal else 0.0,
            label_factors=factors,
        )

    def run(self) -> TrainingReport:
        """Solves the head if it is untrained, then trains the remaining stages."""
        try:
            return self._run()
        finally:
            if self._keeps_flags:
                self._flags.restore()

    def _run(self) -> TrainingReport:
        model, plan = self._model, self._tuning.plan
        saved = self._checkpoint and self._checkpoint.saved
        done = saved.position.stage if saved else 0
        state = self._resume(saved) if saved else self._begin(plan[0])
        for number in range(done, len(plan)):
            resumed = saved if number == done and saved and saved.arrays.get("start") else None
            baseline = (resumed and resumed.state.baseline) or self._measure()
            state = dataclasses.replace(
                state, before=state.before or baseline, baseline=baseline, fit=None
            )
            report = self._run_stage(plan[number], number, state, resumed)
            state = dataclasses.replace(state, reports=(*state.reports, report))
        if done < len(plan):
            state = self._with_better_head(state)
        after = self._measure()
        if self._checkpoint is not None:
            state = dataclasses.replace(state, baseline=None, fit=None)
            arrays = {"model": values_of(model.variables)}
            self._checkpoint.save(Position(len(plan)), state, arrays)
        before = state.before if state.was_trained else None
        return TrainingReport(
            stages=state.reports,
            accuracy_before=before.accuracy if before else None,
            accuracy_after=after.accuracy if after else None,
            num_validation=after.num_images if after else 0,
            decided_by=self._criterion.name,
            decision_before=before.value if before else None,
            decision_after=after.value if after else None,
        )

    def _resume(self, saved: Saved) -> TrainingState:
        # a finished training may have restored the landmarks
        has_landmarks = len(saved.arrays["model"]) == len(self._model.variables)
        if self._replaces_head() and not has_landmarks:
            self._replace_head()
        assign_all(self._model.variables, saved.arrays["model"])
        return saved.state

    def _begin(self, first: PlannedStage) -> TrainingState:
        """Returns the initial state, after solving the head if it is untrained and solvable."""
        seed_random_layers(self._model, self._recipe.seed)
        was_trained = not is_new_head(self._model, self._recipe.solve_head)
        before = self._measure() if was_trained else None
        is_solved = not was_trained and not reason_not_to_solve(self._model, first.unfreeze)
        if self._replaces_head():
            self._replace_head()
            is_solved = True
        reports = self._solve_head() if is_solved else ()
        return TrainingState(was_trained, before, reports)

    def _replaces_head(self) -> bool:
        """Whether a closed-form head is replaced by a linear one, from which more is learned.

        With an anchor it is not, nor after classes were added: what the model knows is to be kept.
        """
        return (
            has_kernel_head(self._model)
            and not is_kernel_head_grown(self._model)
            and self._recipe.solve_head == "auto"
            and not self._tuning.hooks
            and self._tuning.plan[0].unfreeze != AS_IS
        )

    def _replace_head(self) -> None:
        images, model = self._source.validation, self._model
        weighting = self._recipe.weighting
        candidate = None if images is None else evaluate_candidate(model, images, weighting)
        values = values_of(model.weights)
        self._replaced = _ReplacedHead(make_head_linear(model), values, candidate)

    def _with_better_head(self, state: TrainingState) -> TrainingState:
        """Restores the model with its closed-form head if validation prefers that one.

        Returns:
            The state whose last report says which of the two is kept.
        """
        old, model, images = self._replaced, self._model, self._source.validation
        if old is None or old.candidate is None or images is None:
            return state
        *others, last = state.reports
        new = evaluate_candidate(model, images, self._recipe.weighting)
        gain, error = new.gain_over(old.candidate)
        is_unchanged = not last.kept_fraction
        what = f"cross-entropy on validation {abs(gain):.3f} ± {error:.3f}"
        what = f"{what} {'lower' if gain > 0 else 'higher'} than with that head"
        if not prefers_other(gain, error, is_unchanged=is_unchanged):
            note = f"kept in place of the model with its closed-form head: {what}"
            last = dataclasses.replace(last, notes=(*last.notes, note))
            return dataclasses.replace(state, reports=(*others, last))
        old.put_back()
        assign_all(model.weights, old.values)
        note = f"the model with its closed-form head is restored: {what}"
        last = dataclasses.replace(
            last,
            kept_epoch=None,
            kept_fraction=0.0,
            weight_change=dict.fromkeys(last.weight_change, 0.0),
            put_back=last.put_back or last.weight_change,
            notes=(*last.notes, note),
        )
        return dataclasses.replace(state, reports=(*others, last))

    def _solve_head(self) -> tuple[StageReport, ...]:
        validation = self._source.validation if self._source.data is None else None
        report = train_head(
            self._model,
            self._source.train if self._source.data is None else self._source.data,
            validation=validation,
            head=LINEAR,
            class_weight=self._recipe.weighting.for_solving(),
            solve_head=self._recipe.solve_head if self._replaced is None else True,
            seed=self._recipe.seed,
            cache=self._cache,
        )
        return report.stages

    def _set_trainable(self, stage: PlannedStage) -> TrainableReport:
        self._keeps_flags = stage.unfreeze == AS_IS
        if not self._keeps_flags:
            return choose_trainable(
                self._model,
                stage.unfreeze,
                batch_norm=self._recipe.batch_norm,
                parts=self._recipe.parts,
            )
        self._flags.restore()
        return choose_trainable(self._model, AS_IS)

    def _measure(self) -> Score | None:
        """Returns the model's score on the validation images."""
        if self._source.validation is None:
            return None
        return score_on(self._model, self._source.validation, self._recipe.weighting)

    def _run_stage(
        self, plan: PlannedStage, number: int, state: TrainingState, resumed: Saved | None
    ) -> StageReport:
        model, recipe = self._model, self._recipe
        started = time.perf_counter() - (resumed.state.seconds if resumed else 0.0)
        trainable = self._set_trainable(plan)
        watched, start = self._watched(resumed)
        decision = self._decide_cut(plan)
        state = dataclasses.replace(state, is_cached=decision.cut is not None)
        if resumed:
            _check_cut(state, resumed.state)
        stage = _Stage(
            plan,
            number,
            decision.cut,
            find_frozen_calls(model, plan.unfreeze, trainable),
            state,
            start,
            self._adapters(),
            resumed,
            lambda: time.perf_counter() - started,
        )
        try:
            fitted = self._fit(stage, watched)
        except NotFiniteError as error:
            left = "The best weights so far are restored."
            raise error.at_rate(self._rate(plan), left) from error
        except (ArgumentError, DataError):  # an invalid batch, or a missing file
            restore_weights(model, watched.before)
            raise
        check_weight_change(watched, trainable, self._rate(plan))
        notes_of_head = {note for report in state.reports for note in report.notes}
        notes = [note for note in self._tuning.notes if number == 0 and note not in notes_of_head]
        notes.append(decision.note)
        notes += note_on_classes(recipe.weighting, self._source)
        if stage.adapters is not None:
            size = None if self._checkpoint is None else self._checkpoint.num_bytes
            notes += stage.adapters.notes(fitted.state_bytes, size)
            trainable = stage.adapters.counted(trainable)
        notes += batch_notes(workers_of(model), self._source.train)
        notes += [note for hook in self._tuning.hooks for note in hook.notes_of_stage()]
        fraction = recipe.kept_fraction
        if self._source.validation is not None and not fitted.improved:
            fraction = 0.0
            notes.append("no epoch may be kept: the initial weights are restored")
        elif fraction is not None:
            keep_fraction(model, start, fraction)
            notes.append(f"{percent(fraction, 0)} of the weight change is kept, as given")
        elif self._source.validation is None:
            fraction = USUAL
            keep_fraction(model, start, fraction)
            notes.append(
                f"no validation images: {percent(fraction, 0)} of the weight change is kept, "
                "untested"
            )
        else:
            mixture = choose_mixture(model, start, self._source.validation, recipe.weighting)
            fraction = mixture.fraction
            notes.append(mixture.note)
        return StageReport(
            name="fine-tune",
            trainable=trainable,
            history=fitted.history,
            kept_epoch=fitted.kept_epoch if fraction else None,
            kept_fraction=fraction,
            weight_change=relative_weight_change(watched.before, weights_by_group(model)),
            put_back={} if fraction else watched.weight_change,
            seconds=stage.seconds(),
            num_forward_passes=0 if stage.cut is None else stage.cut.num_forward_passes,
            notes=tuple(notes),
        )

    def _adapters(self) -> LowRankUpdates | None:
        """Returns the factors of a stage whose flags are set."""
        lora = self._recipe.adapters
        if lora is None:
            return None
        kernels = choose_kernels(self._model, lora)
        return LowRankUpdates(lora, kernels.adapted, self._recipe.seed, kernels.whole)

    def _watched(self, resumed: Saved | None) -> tuple[WatchedWeights, list[np.ndarray]]:
        """Returns the weights at the start of the stage, as `WatchedWeights` and as values."""
        model = self._model
        current = values_of(model.weights)
        if resumed is None:
            return WatchedWeights(model), current
        start = resumed.arrays["start"]
        assign_all(model.weights, start)
        watched = WatchedWeights(model)
        assign_all(model.weights, current)
        return watched, start

    def _decide_cut(self, stage: PlannedStage) -> CutDecision:
        recipe = self._recipe
        if any(hook.needs_images for hook in self._tuning.hooks):
            return uncached("the constraint needs the images themselves")
        return cached_cut(
            self._model,
            self._source,
            stage.unfreeze,
            views=view_policy_for(recipe.views, recipe.augment),
            epochs=stage.epochs,
            cache=self._cache,
        )

    def _fit(self, stage: _Stage, watched: WatchedWeights) -> Fitted:
        model, recipe, source, plan = self._model, self._recipe, self._source, stage.plan
        precision = resolve_precision(recipe.precision, workers_of(model).num_replicas)
        frozen_calls, cut = stage.frozen_calls, stage.cut
        if cut is not None:
            size = source.train.batch_size
            trained, frozen_calls = cut.top, frozen_calls.above_cut()
            batches = cut_batches(
                cut,
                model,
                seed=recipe.seed + stage.number,
                batch_size=size,
                one_hot=self._one_hot,
                is_balanced=recipe.weighting.sampling == BALANCED,
            )
            held_out = cut_validation(cut, model, batch_size=size, one_hot=self._one_hot)
        else:
            trained, held_out = model, self._held_out()
            batches = image_epochs(
                source.train,
                model,
                recipe.augment,
                stage=stage.number,
                one_hot=self._one_hot,
                is_balanced=recipe.weighting.sampling == BALANCED,
            )
        if held_out is not None:
            factors = self._factors_of(source.validation, recipe.weighting)
            held_out = shards_with_class_weights(held_out, factors)
        read = (source.train, source.validation)
        with missing_files_named(read), computed_in(trained, precision):
            objective = Objective(
                with_loss_scaling(self._optimizer(stage, batches.num_steps), precision),
                self._loss,
                [*metrics_of(model, one_hot=self._one_hot), *self._tuning.metrics],
                self._deciding_metrics(),
                self._factors_of(source.train, recipe.weighting.in_loss()),
            )
            baseline = stage.state.baseline
            fit_plan = FitPlan(
                epochs=plan.epochs,
                patience=recipe.patience,
                best=None if baseline is None else (baseline.value, baseline.loss),
                callbacks=self._tuning.callbacks,
                hooks=self._tuning.hooks,
                frozen_calls=frozen_calls,
                adapters=stage.adapters,
                at_end=watched.measure,
                checkpoint=stage.checkpoint(self._checkpoint),
            )
            return fit_model(trained, batches, held_out, objective, fit_plan, whole_model=model)

    def _optimizer(self, stage: _Stage, num_steps: int) -> keras.optimizers.Optimizer:
        model, recipe, plan = self._model, self._recipe, stage.plan
        rate = None
        if recipe.schedule is not None and plan.learning_rate is not None:
            rate = schedule_of(recipe.schedule, plan.learning_rate, num_steps * plan.epochs)
        own, trainable = recipe.optimizer, model.trainable_variables
        undecayed = [
            variable
            for variable in trainable
            if _is_vector(variable) or (own is not None and own.excludes(variable))
        ]
        for hook in self._tuning.hooks:
            undecayed += hook.undecayed
        multipliers, names = layer_multipliers(model, recipe.layer_decay), variable_names(model)
        if stage.adapters is not None:
            for factor, kernel in stage.adapters.kernels():
                names[id(factor)] = f"{names[id(kernel)]}/{factor.name}"
                multipliers[names[id(factor)]] = multipliers[names[id(kernel)]]
        if own is not None:
            if recipe.layer_decay == 1:
                return own.create(rate, undecayed=undecayed)
            return own.create(rate, undecayed=undecayed, multipliers=multipliers, names=names)
        optimizer = LayerwiseAdamW(
            rate, multipliers=multipliers, names=names, weight_decay=recipe.weight_decay
        )
        if recipe.weight_decay:
            optimizer.exclude_from_weight_decay(var_list=undecayed)
        return optimizer

    def _rate(self, stage: PlannedStage) -> NamedRate:
        """Returns a stage's peak rate, as messages name it."""
        own = self._recipe.optimizer
        if own is None:
            return NamedRate(stage.learning_rate)
        return NamedRate(stage.learning_rate, own.with_rate(stage.learning_rate))

    def _held_out(self) -> ShardedBatches | None:
        """Returns one pass over the validation images."""
        if (images := self._source.validation) is None:
            return None
        return lambda shard: batches_of(images, self._model, one_hot=self._one_hot, shard=shard)

    def _deciding_metrics(self) -> list[keras.metrics.Metric]:
        """Returns the metrics that decide, if not those that are always measured."""
        images, model = self._source.validation, self._model
        if images is None or self._criterion.is_plain:
            return []
        is_read = head_kind(model) == "multi_label" and not self._criterion.weighting.is_plain
        labels = labels_of(images, model) if is_read else None
        return self._criterion.metrics(model, labels, one_hot=self._one_hot)

    def _factors_of(self, images: Images | None, weighting: ClassWeighting) -> np.ndarray | None:
        """Returns the weight of each class among some images."""
        model = self._model
        if weighting.is_plain or images is None:
            return None
        return class_factors_of(labels_of(images, model), num_classes_of(model), weighting)


def _check_cut(now: TrainingState, begun: TrainingState) -> None:
    if begun.is_cached != now.is_cached:
        raise RunError(
            "`run_directory` must contain a training that can be resumed as it started. Received: "
            f"one {'with' if begun.is_cached else 'without'} stored activations, which would now "
            f"run {'without' if begun.is_cached else 'with'} them (the free disk space, or "
            "`cache`, has changed). Free disk space, or choose another folder."
        )


def _is_vector(variable: keras.Variable) -> bool:
    return len(variable.shape) < 2
