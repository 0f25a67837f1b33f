"""Head training: solved if possible, else fitted, and only the head changes."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.linear_model import LogisticRegression

import tlkit
from tests.conftest import bfloat16_differs_by
from tlkit.errors import ArgumentError
from tlkit.training import head
from tlkit.training.features import extract_features
from tlkit.training.fit_data import with_class_weights
from tlkit.training.weight_change import weights_by_group


def classifier(data, **arguments):
    return tlkit.build_classifier("tiny_resnet", data.class_names, weights=None, **arguments)


def accuracy_live(model, split):
    return tlkit.evaluate(model, split).accuracy


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [{}, {"binary": True}, {"hidden": (32,)}, {"pooling": "flatten"}, {"pooling": "max"}],
)
def test_every_head_learns_and_only_the_head_changes(data, arguments):
    model = tlkit.build_classifier("resnet20", data.class_names, **arguments)
    before = weights_by_group(model)
    report = tlkit.train_head(model, data)
    after = weights_by_group(model)
    for group, weights in before.items():
        same = all(np.array_equal(a, b) for a, b in zip(weights, after[group], strict=True))
        assert same == (group != "head"), group
        assert (report.stages[0].weight_change[group] == 0.0) == (group != "head")
    assert report.accuracy_after == 1.0 == accuracy_live(model, data.validation)
    assert accuracy_live(model, data.test) == 1.0
    assert bool(report.stages[0].history) == ("hidden" in arguments)


def test_the_reported_accuracy_is_that_of_the_whole_model(data):
    generator = np.random.default_rng(0)
    images = generator.integers(0, 255, (300, 32, 32, 3), "uint8")
    noise = tlkit.load_arrays(images, generator.integers(0, 3, 300), ["a", "b", "c"])
    model = classifier(noise)
    report = tlkit.train_head(model, noise)
    live = tlkit.evaluate(model, noise.validation)
    assert 0.1 < live.accuracy < 0.9
    assert report.accuracy_after == live.accuracy
    assert report.num_validation == noise.validation.num_images


def test_validation_is_measured_in_float32_whatever_training_is(data, monkeypatch):
    """With images so similar that bfloat16 features would give another loss."""
    bfloat16_differs_by(monkeypatch, 0.01)
    generator = np.random.default_rng(0)
    images = generator.integers(120, 136, (300, 32, 32, 3), "uint8")
    noise = tlkit.load_arrays(images, generator.integers(0, 3, 300), ["a", "b", "c"])
    model = tlkit.build_classifier("resnet20", noise.class_names)
    extracted = []

    def watched(*arguments, **given):
        extracted.append(extract_features(*arguments, **given))
        return extracted[-1]

    monkeypatch.setattr(head, "extract_features", watched)
    report = tlkit.train_head(model, noise)
    train, validation = extracted
    assert train.precision == "bfloat16"
    assert validation.precision == "float32"
    assert report.accuracy_after == tlkit.evaluate(model, noise.validation).accuracy


def test_a_second_call_makes_no_forward_pass(data):
    first = tlkit.train_head(classifier(data), data)
    again = tlkit.train_head(classifier(data), data)
    images = data.train.num_images + data.validation.num_images
    assert first.stages[0].num_forward_passes == images
    assert again.stages[0].num_forward_passes == 0
    assert again.accuracy_after == first.accuracy_after


def test_a_better_head_is_kept(data):
    model = classifier(data)
    tlkit.train_head(model, data)
    kept = model.get_layer("logits").kernel.numpy()
    confused = tf.data.Dataset.from_tensor_slices(
        (np.random.default_rng(0).uniform(0, 255, (40, 32, 32, 3)), np.arange(40) % 2)
    ).batch(8)
    report = tlkit.train_head(model, confused, validation=data.validation)
    np.testing.assert_array_equal(model.get_layer("logits").kernel.numpy(), kept)
    assert report.accuracy_before == report.accuracy_after == 1.0
    assert any("is kept" in note for note in report.stages[0].notes)


def test_solve_head_decides_whether_a_head_counts_as_trained(data):
    model = classifier(data)
    tlkit.train_head(model, data)
    kept = model.get_weights()
    swapped = data.train.dataset(shuffle=False).map(lambda images, labels: (images, 1 - labels))
    given = {"validation": data.validation}
    report = tlkit.train_head(model, swapped, solve_head=True, **given)
    assert report.accuracy_before is None  # the new head is kept, although it is worse
    assert report.accuracy_after == 0.0
    model.set_weights(kept)
    bias = model.get_layer("logits").bias
    bias.assign(np.zeros(bias.shape))  # trained, although its biases are zero
    reached = accuracy_live(model, data.validation)
    report = tlkit.train_head(model, swapped, solve_head=False, **given)
    assert report.accuracy_before == reached
    assert report.accuracy_after >= reached
    bias.assign(np.zeros(bias.shape))
    assert tlkit.train_head(model, swapped, **given).accuracy_before is None


@pytest.mark.parametrize("solve_head", ["yes", None, 1])
def test_solve_head_takes_three_values(data, solve_head):
    message = f"`solve_head` must be 'auto', True or False. Received: solve_head={solve_head!r}"
    with pytest.raises(ArgumentError, match=message):
        tlkit.train_head(classifier(data), data, solve_head=solve_head)


def test_a_validation_dataset_is_evaluated(data):
    model = classifier(data)
    report = tlkit.train_head(
        model,
        data.train.dataset(),
        validation=data.validation.dataset().map(lambda x, y: (x, 1 - y)),
    )
    assert accuracy_live(model, data.test) == 1.0
    assert report.accuracy_after == 0.0  # its labels are swapped
    assert report.num_validation == data.validation.num_images


def test_several_labels_for_each_image():
    generator = np.random.default_rng(0)
    images = generator.integers(0, 100, (120, 32, 32, 3), "uint8")
    labels = np.stack([np.arange(120) % 2, np.arange(120) // 2 % 2], axis=1)
    images[..., 0] += (100 * labels[:, 0]).astype("uint8")[:, None, None]
    images[..., 2] += (100 * labels[:, 1]).astype("uint8")[:, None, None]
    data = tlkit.load_arrays(images, labels, ["red", "blue"])
    model = classifier(data, multi_label=True)
    assert tlkit.train_head(model, data).accuracy_after == 1.0


def test_balanced_classes_change_the_solution():
    generator = np.random.default_rng(0)
    images = generator.integers(0, 255, (500, 32, 32, 3), "uint8")  # more than there are features
    labels = (np.arange(500) % 10 == 0).astype(int)
    data = tlkit.load_arrays(images, labels, ["common", "rare"])
    probabilities = []
    for class_weight in (None, "balanced"):
        model = classifier(data)
        tlkit.train_head(model, data, class_weight=class_weight)
        logits = model.predict(images.astype("float32"), verbose=0)
        probabilities.append(float(tf.nn.softmax(logits)[:, 1].numpy().mean()))
    assert probabilities[0] < 0.25 < probabilities[1]


def test_balanced_classes_reach_the_loss_of_a_head_with_hidden_layers():
    generator = np.random.default_rng(0)
    images = generator.integers(0, 255, (100, 32, 32, 3), "uint8")
    labels = (np.arange(100) % 10 == 0).astype(int)
    data = tlkit.load_arrays(images, labels, ["common", "rare"])
    ratios = []
    for class_weight in (None, "balanced"):
        model = classifier(data, hidden=(8,))
        report = tlkit.train_head(model, data, class_weight=class_weight, epochs=1)
        first = report.stages[0].history[0]  # the metric is not weighted, the loss is
        ratios.append(first["loss"] / first["cross_entropy"])
    assert ratios[0] == pytest.approx(1, rel=1e-3)
    assert abs(ratios[1] - 1) > 0.05


def test_features_too_large_for_memory_are_trained_from_the_store(data, monkeypatch):
    monkeypatch.setattr("tlkit.training.features.MAX_BYTES_IN_MEMORY", 1000)
    monkeypatch.setattr("tlkit.training.solving.MAX_BYTES_IN_MEMORY", 1000)
    model = tlkit.build_classifier("resnet20", data.class_names)
    report = tlkit.train_head(model, data)
    assert report.stages[0].history
    assert report.accuracy_after == accuracy_live(model, data.validation) > 0.8


def test_a_class_without_images_is_refused():
    images = np.zeros((20, 32, 32, 3), "float32")
    dataset = tf.data.Dataset.from_tensor_slices((images, np.arange(20) % 2)).batch(4)
    model = tlkit.build_classifier("tiny_resnet", ["a", "b", "c"], weights=None)
    with pytest.raises(tlkit.DataError, match="class 2"):
        tlkit.train_head(model, dataset)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epochs": 0}, "epochs=0"),
        ({"learning_rate": 0}, "learning_rate=0"),
        ({"views": 2}, "augment='none'"),
        ({"augment": "deflaut", "views": 2}, "default"),
        ({"class_weight": "auto"}, "balanced"),
        ({"seed": -1}, "`seed` must be a whole number .* seed=-1"),
    ],
)
def test_bad_arguments(data, arguments, message):
    with pytest.raises(tlkit.ArgumentError, match=message):
        tlkit.train_head(classifier(data), data, **arguments)


def test_data_that_does_not_fit_the_model(data, photos):
    model = tlkit.build_classifier("tiny_resnet", ["a", "b", "c"], weights=None)
    with pytest.raises(tlkit.ArgumentError, match="3 outputs for 2 classes"):
        tlkit.train_head(model, data)
    with pytest.raises(tlkit.ArgumentError, match="image_size=\\(32, 32\\)"):
        tlkit.train_head(classifier(data, image_size=48), data)
    with pytest.raises(tlkit.ArgumentError, match=r"tf\.data\.Dataset"):
        tlkit.train_head(classifier(data), [1, 2, 3])
    with pytest.raises(tlkit.ArgumentError, match="`validation` must be left out"):
        tlkit.train_head(classifier(data), data, validation=data.test)


def small(units=1, **head):
    """A user-defined network as in tutorials."""
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.Rescaling(1 / 255)(inputs)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(8, 3)(x))
    return keras.Model(inputs, keras.layers.Dense(units, **head)(x))


@pytest.mark.parametrize("train", [tlkit.train_head, tlkit.fine_tune])
def test_one_probability_of_two_classes_is_a_head_too(data, train):
    model = small(activation="sigmoid")
    report = train(model, data, epochs=1)
    assert report.accuracy_after == tlkit.evaluate(model, data.validation).accuracy == 1.0


def test_a_head_without_bias_is_solved_without_one(data):
    inputs = keras.Input((1, 1, 3))
    model = keras.Model(
        inputs, keras.layers.Dense(3, use_bias=False)(keras.layers.Flatten()(inputs))
    )
    random = np.random.default_rng(0)
    labels = np.arange(90) % 3
    images = random.integers(60, 100, (90, 1, 1, 3))
    images[np.arange(90), 0, 0, labels] += 40
    three = tlkit.load_arrays(images.astype("uint8"), labels, splits=(0.7, 0.3, 0))
    tlkit.train_head(model, three)
    regression = LogisticRegression(fit_intercept=False, C=1e3, max_iter=10_000)
    pixels = np.concatenate([x for x, _ in three.train.dataset(shuffle=False)]).reshape(-1, 3)
    best = regression.fit(pixels, three.train.labels).score(pixels, three.train.labels)
    assert tlkit.evaluate(model, three.train).accuracy >= best - 0.02
    assert best > 0.9


def test_weights_of_images_and_of_classes_are_multiplied(data):
    weighted = data.train.dataset(shuffle=False).map(lambda x, y: (x, y, tf.fill(tf.shape(y), 0.5)))
    *_, weights = next(iter(with_class_weights(weighted, np.array([2.0, 6.0]))))
    _, labels = next(iter(data.train.dataset(shuffle=False)))
    np.testing.assert_array_equal(weights, np.where(labels == 0, 1.0, 3.0))
    model = classifier(data, hidden=(8,))
    report = tlkit.train_head(model, weighted, class_weight="balanced", epochs=2)
    assert len(report.stages[0].history) == 2


def test_a_rate_too_high_for_a_head_with_hidden_layers_is_named(data):
    model = classifier(data, hidden=(8,))
    before = model.get_weights()
    with pytest.raises(
        tlkit.TrainingError, match=r"`learning_rate` must be low.*weights are restored. Try"
    ):
        tlkit.train_head(model, data, learning_rate=1e38)
    assert all(map(np.array_equal, before, model.get_weights()))
