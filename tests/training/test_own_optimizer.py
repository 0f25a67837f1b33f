"""An optimizer and an augmentation of the user's: they train, are resumed, and fit the rest."""

import inspect

import keras
import numpy as np
import pytest

import tlkit
from tests.conftest import set_seeds
from tlkit.errors import ArgumentError, RunError, TrainingError
from tlkit.training import fine_tuning, resume
from tlkit.training.own_optimizer import own_optimizer

layers, optimizers = keras.layers, keras.optimizers


class Stop(keras.callbacks.Callback):
    """Raises in the middle of the second epoch."""

    def __init__(self, steps=4):
        super().__init__()
        self.left = steps

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def trained_classifier():
    set_seeds(0)
    model = tlkit.build_classifier("tiny_resnet", ["green", "red"], weights=None, dropout=0.0)
    model.get_layer("logits").bias.assign([0.1, 0.0])
    return model


def sgd(**given):
    return optimizers.SGD(0.01, momentum=0.9, **given)


def tune(data, **given):
    """Trains a classifier from the same weights for two epochs, and returns it with the report."""
    model = trained_classifier()
    settings = {"unfreeze": "stage3", "epochs": 2, "solve_head": False, "label_smoothing": 0.0}
    return model, tlkit.fine_tune(model, data, **(settings | given))


def test_the_updates_are_those_of_plain_keras(data):
    batches = data.train.dataset(shuffle=False)
    own = sgd(weight_decay=0.01)
    model, _ = tune(batches, unfreeze="head", epochs=1, optimizer=own, kept_fraction=1.0)
    plain = trained_classifier()
    tlkit.set_trainable(plain, "head")
    optimizer = sgd(weight_decay=0.01)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    plain.compile(optimizer, loss)
    plain.fit(batches, epochs=1, shuffle=False, verbose=0)
    for a, b in zip(model.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_the_given_optimizer_is_unchanged_and_another_is_used(data):
    given, seen = sgd(), []

    class See(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            seen.append(self.model.optimizer)

    stages = [tlkit.Stage("head"), tlkit.Stage("stage3", learning_rate=0.02)]
    config = given.get_config()
    model, _ = tune(
        data, optimizer=given, unfreeze=None, stages=stages, epochs=1, callbacks=[See()]
    )
    assert not given.built
    assert given.get_config() == config
    assert [type(one) for one in seen] == [optimizers.SGD] * 2
    assert [float(one.learning_rate) for one in seen] == pytest.approx([0.01, 0.02])
    assert given not in seen
    assert model.compiled
    assert model.optimizer is not given


def test_the_model_loads_in_plain_keras(data, tmp_path):
    @keras.saving.register_keras_serializable("tests")
    class Mine(optimizers.SGD):
        pass

    model, _ = tune(data, optimizer=Mine(0.01), augment=layers.RandomFlip(), epochs=1)
    model.save(tmp_path / "model.keras")
    keras.saving.get_custom_objects().pop("tests>Mine")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert not any("flip" in layer.name for layer in loaded.layers)
    images = next(iter(data.validation.dataset()))[0]
    np.testing.assert_array_equal(loaded(images), model(images))


def test_weight_decay_spares_biases_and_what_the_user_excluded(data):
    given = optimizers.SGD(1e-6, weight_decay=1e4)
    given.exclude_from_weight_decay(var_names=["kernel"])
    changes = {}
    for name, optimizer in {
        "excluded": given,
        "decayed": optimizers.SGD(1e-6, weight_decay=1e4),
    }.items():
        _, report = tune(data.train.dataset(shuffle=False), optimizer=optimizer, epochs=1)
        changes[name] = report.stages[-1].weight_change["head"]
    assert changes["excluded"] < 1e-3 < changes["decayed"]


@pytest.mark.parametrize("kind", ["sgd", "nadam", "adafactor"])
def test_layer_decay_multiplies_the_rate_of_any_optimizer(kind):
    near, far = (keras.Variable(np.ones((3, 3), "float32"), name=name) for name in ("a", "b"))
    own = own_optimizer(kind)
    layerwise = own.create(0.01, multipliers={far.path: 0.1}, names={})
    assert type(layerwise).__mro__[2] is type(optimizers.get(kind))
    expected = []
    gradient = np.full((3, 3), 0.5, "float32")
    for rate in (0.01, 0.001):
        alone = keras.Variable(np.ones((3, 3), "float32"))
        plain = type(optimizers.get(kind))(rate)
        for _ in range(3):
            plain.apply([keras.ops.convert_to_tensor(gradient)], [alone])
        expected.append(alone.numpy())
    for _ in range(3):
        layerwise.apply([keras.ops.convert_to_tensor(gradient)] * 2, [near, far])
    np.testing.assert_allclose(near.numpy(), expected[0], rtol=1e-5)
    np.testing.assert_allclose(far.numpy(), expected[1], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "views"), [(sgd, 0), (lambda: optimizers.Nadam(1e-3), 1)], ids=["sgd", "nadam"]
)
def test_a_resumed_training_is_the_uninterrupted_one(data, tmp_path, monkeypatch, make, views):
    """The states of the optimizer are restored, and the views of the interrupted epoch repeated."""
    monkeypatch.setattr(resume, "SAVE_SECONDS", 0.0)

    def run(folder, callbacks=()):
        augment = [layers.RandomFlip(), layers.RandomRotation(0.1)]
        given = {"views": views, "run_directory": tmp_path / folder, "callbacks": callbacks}
        return tune(data, optimizer=make(), augment=augment, **given)

    whole, report = run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("stopped", [Stop()])
    again, resumed = run("stopped")
    for a, b in zip(report.stages[-1].history, resumed.stages[-1].history, strict=True):
        assert a == pytest.approx(b, rel=1e-4)
    for a, b in zip(whole.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"optimizer": optimizers.SGD(0.01, momentum=0.8)}, "optimizer=.SGD .*'momentum': 0.9"),
        ({"optimizer": optimizers.SGD(0.02, momentum=0.9)}, "learning_rate=0.01 instead of 0.02"),
        ({"optimizer": None}, "optimizer=.* instead of None"),
        ({"augment": layers.RandomRotation(0.3)}, "augment="),
        ({"augment": "light"}, "augment=.* instead of 'light'"),
    ],
)
def test_another_optimizer_or_augmentation_is_another_training(data, tmp_path, changed, named):
    given = {"optimizer": sgd(), "augment": layers.RandomRotation(0.2), "run_directory": tmp_path}
    with pytest.raises(KeyboardInterrupt):
        tune(data, **given, callbacks=[Stop(1)])
    with pytest.raises(RunError, match=named):
        tune(data, **(given | changed))


def test_the_identity_of_a_training_without_them_is_that_of_earlier_versions(data, monkeypatch):
    seen = []

    def checkpoint(folder, identity, workers):
        seen.append(identity)
        raise InterruptedError

    monkeypatch.setattr(fine_tuning, "Checkpoint", checkpoint)
    with pytest.raises(InterruptedError):
        tlkit.fine_tune(trained_classifier(), data, run_directory="none", epochs=3)
    (identity,) = seen
    assert set(identity) == {
        *("model", "regularizers", "data", "num_steps", "stages", "metrics", "loss", "anchor"),
        *("learning_rate", "layer_decay", "schedule", "weight_decay", "batch_norm", "augment"),
        *("views", "label_smoothing", "class_weight", "patience", "precision", "seed"),
    }
    assert identity["stages"] == [{"unfreeze": "all", "epochs": 3, "learning_rate": 5e-4}]
    plain = ("learning_rate", "schedule", "weight_decay", "augment")
    assert [identity[name] for name in plain] == [5e-4, "cosine", 0.1, "default"]


def test_the_rate_of_an_optimizer_may_be_the_peak_of_a_schedule(data):
    rates = []

    class Rates(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            rates.append(float(self.model.optimizer.learning_rate))

    given = {"callbacks": [Rates()], "unfreeze": "head", "epochs": 1}
    batches = data.train.dataset()
    for settings in (
        {"optimizer": "sgd"},
        {"optimizer": sgd(), "schedule": "step"},
        {"optimizer": scheduled()},
    ):
        tune(batches, **settings, **given)
    assert rates == pytest.approx([*[0.01] * 3, 0.01, 0.01, 0.001, 0.1, 0.05, 0.025])


class Unrestorable(optimizers.SGD):
    """Has an argument that its configuration lacks."""

    def __init__(self, factor):
        super().__init__(0.1)


class Finalizing(optimizers.SGD):
    """Changes the weights at the end of `fit`."""

    def finalize_variable_values(self, var_list):
        pass


def scheduled():
    return optimizers.SGD(optimizers.schedules.ExponentialDecay(0.1, 1, 0.5))


def rate_function():
    return 0.1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"optimizer": 3}, "`optimizer` must be a keras.optimizers.Optimizer.*builtins.int"),
        ({"optimizer": optimizers.SGD}, "`optimizer` must be an optimizer, not its class"),
        ({"optimizer": "sgdd"}, "Did you mean 'sgd'"),
        ({"optimizer": Unrestorable(2)}, "made anew from its configuration.*Unrestorable"),
        ({"optimizer": Finalizing()}, "must not change the weights at the end"),
        ({"optimizer": sgd(use_ema=True)}, "must not change the weights.*use_ema=True"),
        ({"optimizer": optimizers.SGD(0.0)}, r"`optimizer.learning_rate` must be a positive"),
        ({"optimizer": optimizers.SGD(rate_function)}, "Received: a function"),
        ({"optimizer": optimizers.LossScaleOptimizer(sgd())}, "Give its inner optimizer"),
        ({"optimizer": sgd(), "learning_rate": 1e-3}, "`learning_rate` must be left out"),
        ({"optimizer": sgd(), "weight_decay": 0.1}, r"`weight_decay` must be left out.*SGD\("),
        ({"optimizer": scheduled(), "schedule": "step"}, "`schedule` must be left out"),
        ({"optimizer": optimizers.Muon(), "layer_decay": 0.5}, "`layer_decay` must be 1"),
        (
            {"optimizer": sgd(loss_scale_factor=8.0), "precision": "mixed_float16"},
            "must not scale the loss",
        ),
        (
            {"optimizer": scheduled(), "callbacks": [keras.callbacks.ReduceLROnPlateau()]},
            "must have a number as its learning rate if a callback",
        ),
        (
            {
                "optimizer": scheduled(),
                "stages": [tlkit.Stage("head", learning_rate=0.1)],
                "unfreeze": None,
            },
            "`learning_rate` of a stage must be left out",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_training(data, given, message):
    model = trained_classifier()
    before = model.get_weights()
    with pytest.raises(ArgumentError, match=message):
        tlkit.fine_tune(model, data, **given)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_accumulated_gradients_are_refused_with_an_anchor(data):
    model = trained_classifier()
    anchor = tlkit.anchor_weights(model, 0.1)
    with pytest.raises(ArgumentError, match=r"must update the weights in every step.*an `anchor`"):
        tlkit.fine_tune(model, data, anchor=anchor, optimizer=sgd(gradient_accumulation_steps=2))


@pytest.mark.parametrize(
    ("rate", "message"),
    [
        (1e-30, "high enough to change.*Received: SGD with learning_rate=1e-30"),
        (1e38, r"low enough for the loss.*SGD with learning_rate=1e\+38.*Try learning_rate=1e\+37"),
    ],
)
def test_errors_of_training_name_the_optimizer(data, rate, message):
    start = "`optimizer` must have a learning rate that is"
    with pytest.raises(TrainingError, match=f"{start} {message}"):
        tune(data, optimizer=optimizers.SGD(rate), epochs=1, batch_norm="frozen")


def test_every_function_that_augments_takes_layers(data):
    model, mistake = trained_classifier(), layers.Rescaling(1 / 255)
    for function in (
        tlkit.fine_tune,
        tlkit.train_head,
        tlkit.find_learning_rate,
        tlkit.choose_anchor,
        tlkit.expand,
        tlkit.estimate_cost,
    ):
        assert "augment" in inspect.signature(function).parameters
        with pytest.raises(ArgumentError, match=r"`augment` must return values in 0\.\.\.255"):
            function(model, data, augment=mistake)


def test_layers_are_refused_for_a_dataset(data):
    for function in (tlkit.fine_tune, tlkit.train_head):
        with pytest.raises(ArgumentError, match=r"augment='RandomFlip'\. Augment in the dataset"):
            function(trained_classifier(), data.train.dataset(), augment=layers.RandomFlip())


def test_stored_views_of_other_layers_are_other_rows(data):
    model = trained_classifier()
    given = {"views": 2, "solve_head": True}
    passes = [
        tlkit.train_head(model, data, augment=augment, **given).stages[0].num_forward_passes
        for augment in (
            layers.RandomRotation(0.2),
            layers.RandomRotation(0.2, seed=5),
            layers.RandomRotation(0.3),
        )
    ]
    num_train, num_validation = data.train.num_images, data.validation.num_images
    assert passes == [2 * num_train + num_validation, 0, 2 * num_train]
