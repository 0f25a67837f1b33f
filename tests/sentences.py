"""Sentences with a sentiment, made from templates, and small models of text and of spectra."""

import itertools

import keras
import numpy as np

layers = keras.layers

GOOD = (
    "superb",
    "lovely",
    "brilliant",
    "charming",
    "great",
    "delightful",
    "moving",
    "clever",
    "excellent",
    "warm",
    "bright",
    "honest",
    "fresh",
    "splendid",
    "tender",
    "witty",
    "rich",
    "fine",
)
BAD = (
    "awful",
    "dull",
    "tedious",
    "bland",
    "poor",
    "dreadful",
    "boring",
    "clumsy",
    "weak",
    "cold",
    "stale",
    "false",
    "tired",
    "grim",
    "lazy",
    "messy",
    "flat",
    "vile",
)
RESTAURANT = ("soup", "service", "kitchen", "waiter", "menu", "bread", "wine", "table", "dessert")
FILM = ("plot", "acting", "music", "ending", "hero", "dialogue", "camera", "script", "villain")


def reviews(subjects, num_each, seed):
    """Returns sentences and labels, 0 for negative and 1 for positive, in random order.

    No two are equal; each has two adjectives of its sentiment.
    """
    generator = np.random.default_rng(seed)
    texts, labels = [], []
    for label, words in enumerate((BAD, GOOD)):
        pairs = list(itertools.permutations(words, 2))
        for number in generator.permutation(len(pairs) * len(subjects))[:num_each]:
            first, second = pairs[number % len(pairs)]
            subject = subjects[number // len(pairs)]
            texts.append(f"the {subject} was {first} and, I must say, quite {second}")
            labels.append(label)
    order = generator.permutation(len(texts))
    return np.array(texts)[order], np.array(labels)[order]


def vocabulary(texts):
    layer = layers.TextVectorization(max_tokens=200, output_sequence_length=12, name="words")
    layer.adapt(texts)
    return layer


def text_model(words, num_outputs=2):
    """An embedding and two blocks, on strings."""
    texts = keras.Input((), dtype="string", name="texts")
    x = layers.Embedding(200, 16, name="block1_embedding")(words(texts))
    x = layers.Conv1D(16, 3, padding="same", activation="relu", name="block1_conv")(x)
    x = layers.MaxPooling1D(2, name="block1_pool")(x)
    x = layers.Conv1D(16, 3, padding="same", activation="relu", name="block2_conv")(x)
    x = layers.GlobalAveragePooling1D(name="pooling")(x)
    return keras.Model(texts, layers.Dense(num_outputs, name="logits")(x), name="reviews")


def spectra(num_each, seed, num_classes=3):
    """Returns spectra with one line each, at a wavelength of its class, and labels."""
    generator = np.random.default_rng(seed)
    labels = np.arange(num_each * num_classes) % num_classes
    place = 12 + 20 * labels + generator.uniform(-3, 3, len(labels))
    line = np.exp(-(((np.arange(64) - place[:, None]) / 3) ** 2))
    return (line + generator.normal(0, 0.2, line.shape)).astype("float32")[..., None], labels


def spectrum_model(num_outputs=3):
    """Two blocks of one-dimensional convolutions with batch normalisation."""
    x = inputs = keras.Input((64, 1), name="spectra")
    for number in (1, 2):
        x = layers.Conv1D(8, 5, strides=2, padding="same", name=f"block{number}_conv")(x)
        x = layers.BatchNormalization(name=f"block{number}_bn")(x)
        x = layers.ReLU(name=f"block{number}_relu")(x)
    x = layers.Flatten(name="flat")(x)
    return keras.Model(inputs, layers.Dense(num_outputs, name="logits")(x), name="lines")
