"""Views by Keras layers of the user's: reproducible, in the range of pixels, or refused."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tlkit.data.augmentation import Augmentation, augmentation_of
from tlkit.data.augmentation_checks import check_augmentation
from tlkit.errors import ArgumentError

layers = keras.layers


def flips_and_turns(**given):
    return [layers.RandomFlip(**given), layers.RandomRotation(0.2, **given)]


def views(split, augment, epoch=0, **given):
    """Returns the images of one epoch, in the split's order."""
    batches = split.dataset(shuffle=False, augment=augment, epochs=range(epoch, epoch + 1), **given)
    return np.concatenate([images.numpy() for images, _ in batches])


def test_views_depend_on_the_epoch_and_the_image_only(data):
    first = views(data.train, flips_and_turns(seed=1))
    np.testing.assert_array_equal(views(data.train, flips_and_turns(seed=2)), first)
    np.testing.assert_array_equal(views(data.train, flips_and_turns(), batch_size=7), first)
    rows = np.array([5, 3])
    np.testing.assert_array_equal(views(data.train, flips_and_turns(), indices=rows), first[rows])
    shards = [views(data.train, flips_and_turns(), shard=(i, 2), batch_size=2) for i in range(2)]
    np.testing.assert_array_equal(np.stack(shards, axis=1).reshape(first.shape), first)
    plain = views(data.train, "none")
    other = views(data.train, flips_and_turns(), epoch=1)
    for number in range(len(first)):
        assert not np.array_equal(first[number], plain[number])
        assert not np.array_equal(first[number], other[number])


def test_two_layers_of_one_class_draw_different_numbers(data):
    """Otherwise a second flip would undo each first one."""
    twice = [layers.RandomFlip("horizontal", seed=0), layers.RandomFlip("horizontal", seed=0)]
    plain = views(data.train, "none")
    both = zip(views(data.train, twice), plain, strict=True)
    changed = [not np.array_equal(view, image) for view, image in both]
    assert 0 < sum(changed) < len(plain)


def test_the_layers_of_the_user_keep_their_random_states(data):
    given = flips_and_turns(seed=7)
    views(data.train, given)
    before = [layer.generator.state.numpy() for layer in given]
    check_augmentation(augmentation_of(given), data.train)
    views(data.train, given)
    for layer, state in zip(given, before, strict=True):
        np.testing.assert_array_equal(layer.generator.state.numpy(), state)


@pytest.mark.parametrize(
    "given",
    [
        layers.RandomFlip(),
        keras.Sequential(flips_and_turns()),
        layers.Pipeline(flips_and_turns()),
        ["light", layers.RandomErasing()],
        layers.RandomColorJitter(brightness_factor=0.2, contrast_factor=0.2),
        layers.AutoContrast(),
    ],
    ids=str,
)
def test_layers_of_keras_pass_the_check(data, given):
    check_augmentation(augmentation_of(given), data.train)
    assert views(data.train, given).dtype == "float32"


def test_settings_identify_layers_and_neither_names_nor_seeds_do():
    one, same = augmentation_of(flips_and_turns(seed=1)), augmentation_of(flips_and_turns())
    assert one == same
    assert one.key == same.key
    assert one.identity() == same.identity()
    nested = augmentation_of(keras.Sequential([layers.Pipeline(flips_and_turns())]))
    assert nested.key == one.key
    keras.layers.RandomFlip()(np.zeros((1, 4, 4, 3)))
    built = flips_and_turns()
    for layer in built:
        layer(np.zeros((1, 4, 4, 3), "float32"))
    assert augmentation_of(built).key == one.key
    others = [
        [layers.RandomFlip(), layers.RandomRotation(0.3)],
        flips_and_turns()[::-1],
        flips_and_turns(dtype="float16"),
    ]
    assert len({augmentation_of(given).key for given in others} | {one.key}) == 4
    assert augmentation_of("light").key == augmentation_of("light").identity() == "light"
    assert augmentation_of(one) is one


class OfKeras(layers.Layer):
    """Draws from Keras's global generator, whose state is not the layer's."""

    def call(self, images):
        return images * keras.random.uniform(tf.shape(images))


class OfTensorFlow(layers.Layer):
    """Draws from TensorFlow's global generator."""

    def call(self, images):
        return images * tf.random.uniform(tf.shape(images))


class OfNumpy(layers.Layer):
    """Draws once, when it is traced."""

    def call(self, images):
        return images * np.random.default_rng().uniform()


class Eager(layers.Layer):
    """Does not work in a graph."""

    def call(self, images):
        return images.numpy()


class Named(layers.Layer):
    """Returns a dictionary."""

    def call(self, images):
        return {"images": images}


class Divided(layers.Layer):
    """Returns infinite values."""

    def call(self, images):
        return images / 0.0


class WithFunction(layers.Layer):
    """Has an argument that cannot be written, and no `get_config`."""

    def __init__(self, function):
        super().__init__()
        self.function = function


def model_of_layers():
    images = keras.Input((32, 32, 3))
    return keras.Model(images, layers.RandomFlip()(images))


def darker(images):
    return 0.5 * images


def noisy(images, seed):
    noise = tf.random.stateless_uniform(tf.shape(images), seed, -9.0, 9.0)
    return tf.clip_by_value(images + noise, 0.0, 255.0)


def noise_without_seed(images):
    return tf.clip_by_value(images + tf.random.uniform(tf.shape(images)), 0.0, 255.0)


def test_functions_augment_images_and_are_identified_by_their_source(data):
    views = [
        next(iter(data.train.dataset(False, augment, epochs=range(1))))[0].numpy()
        for augment in ("none", darker, noisy, noisy)
    ]
    np.testing.assert_allclose(views[1], 0.5 * views[0])
    np.testing.assert_array_equal(views[2], views[3])  # the seeds are those of the images
    assert 4 < np.abs(views[2] - views[0]).max() <= 9
    assert len({noise.tobytes() for noise in views[2] - views[0]}) == len(views[2])
    one, two = augmentation_of(darker), augmentation_of(noisy)
    assert (str(one), str(two)) == ("darker()", "noisy()")
    assert one.key != two.key
    assert one.key == augmentation_of([darker]).key
    with pytest.raises(ArgumentError, match="must draw its random numbers from"):
        check_augmentation(augmentation_of(noise_without_seed), data.train)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: 3, "Received: 3 of type int"),
        (lambda: None, "of type NoneType"),
        (lambda: abs, "functions whose source text can be read"),
        (lambda: ["light", "mixup"], "'mixup' alone to mix"),
        (lambda: layers.RandomFlip, "not classes. Received: RandomFlip"),
        (lambda: ["heavy"], "one of 'none', 'light'.*augment='heavy'"),
        (list, "at least one layer"),
        (model_of_layers, "Give its layers as a list"),
        (layers.MixUp, "Received: MixUp, which mixes images and their labels"),
        (lambda: layers.Pipeline([layers.CutMix()]), "Received: CutMix"),
        (lambda: layers.Lambda(abs), "a Lambda"),
        (lambda: WithFunction(object()), "whose configuration can be written"),
    ],
)
def test_what_cannot_augment_is_refused(make, message):
    with pytest.raises(ArgumentError, match=f"`augment` must .*{message}"):
        augmentation_of(make())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: layers.Rescaling(1 / 255), r"values in 0\.\.\.255.*Leave the rescaling out"),
        (lambda: layers.Rescaling(1 / 127.5, -1), r"values in 0\.\.\.255.*values from -1 to"),
        (lambda: layers.Rescaling(2.0), "clip values that exceed the range"),
        (lambda: layers.CenterCrop(16, 16), r"Received: \(1, 16, 16, 3\) for images \(1, 32"),
        (Divided, "finite values"),
        (Named, "Received: a dict"),
        (Eager, "work in a tf.data pipeline.*AttributeError: Exception encountered"),
        (lambda: layers.Conv2D(3, 1), "without weights.*Received: Conv2D with .*kernel"),
        (OfKeras, "Received: OfKeras, whose result differs for equal seeds"),
        (OfTensorFlow, "Received: OfTensorFlow, whose result differs"),
        (OfNumpy, "Received: OfNumpy, whose result differs"),
    ],
)
def test_what_layers_return_is_checked(data, make, message):
    with pytest.raises(ArgumentError, match=f"`augment` must .*{message}"):
        check_augmentation(augmentation_of(make()), data.train)


def test_a_global_seed_does_not_hide_random_numbers_that_depend_on_the_order(data):
    tf.random.set_seed(0)
    with pytest.raises(ArgumentError, match="whose result differs for equal seeds"):
        check_augmentation(augmentation_of(OfTensorFlow()), data.train)


def test_a_preset_is_not_run_to_check_it(data):
    check_augmentation(Augmentation("strong"), data.validation)  # which may not be augmented


def test_other_splits_are_not_augmented(data):
    with pytest.raises(ArgumentError, match="Received: 'RandomFlip' for the split 'validation'"):
        data.validation.dataset(augment=layers.RandomFlip())
