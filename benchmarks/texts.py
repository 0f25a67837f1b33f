"""Transfer between texts: a pretrained model of sentences against one trained from nothing.

Two corpora, both at hand on every machine:

    python benchmarks/texts.py reviews         # sentences from templates: restaurants, then films
    python benchmarks/texts.py documentation   # Python's docstrings: modules, then others

An embedding and two blocks of convolutions are pretrained on the first task. On few sentences of
the second one, three models are trained, for five draws of these sentences: the head alone on the
pretrained network, all of the pretrained network, and the same network from nothing, with a
vocabulary of its own.
"""

import argparse
import ast
import re
import sys
import sysconfig
import time
from pathlib import Path

import keras
import numpy as np

import tlkit
from tlkit.models.vocabularies import with_same_vocabularies

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.sentences import FILM, RESTAURANT, reviews

layers = keras.layers
SEEDS = range(5)
LIBRARY = Path(sysconfig.get_paths()["stdlib"])
NEW_MODULES = {
    "network": "http urllib ftplib smtplib imaplib socketserver xmlrpc wsgiref ssl socket poplib",
    "files": "tarfile zipfile shutil pathlib lzma bz2 gzip tempfile os fileinput glob",
    "text": "difflib textwrap re codecs string encodings locale gettext argparse optparse",
}
NOT_READ = "test site-packages dist-packages idlelib lib2to3 turtledemo ensurepip distutils"


def main() -> None:
    """Prints the accuracy of each model on each draw, and means with standard errors."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", choices=["reviews", "documentation"])
    parser.add_argument("--each", type=int, default=None, help="sentences of each new class")
    given = parser.parse_args()
    started = time.perf_counter()
    make = pretrain_on_reviews if given.corpus == "reviews" else pretrain_on_documentation
    pretrained, draw, default = make()
    each = given.each or default
    accuracies: dict[str, list[float]] = {"head": [], "fine-tuned": [], "from nothing": []}
    for seed in SEEDS:
        data = draw(each, seed)
        for name, row in accuracies.items():
            keras.utils.set_random_seed(seed)
            if name == "from nothing":
                words = vocabulary(data.train.source.pixels)
                model = network(words, data.num_classes)
            else:
                model = moved(pretrained, data.num_classes)
            if name == "head":
                tlkit.train_head(model, data, seed=seed)
            elif name == "fine-tuned":
                tlkit.fine_tune(model, data, unfreeze="all", epochs=40, seed=seed)
            else:  # nothing to keep: a higher rate, more epochs, and all of the weight change
                own = {"learning_rate": 2e-3, "epochs": 100, "kept_fraction": 1.0}
                tlkit.fine_tune(model, data, unfreeze="all", seed=seed, **own)
            row.append(tlkit.evaluate(model, data.test).accuracy)
        last = {name: f"{100 * row[-1]:.1f} %" for name, row in accuracies.items()}
        print(f"{each} of each class, seed {seed}, n = {data.test.num_images}: {last}", flush=True)
    for name, row in accuracies.items():
        print(f"{name:13} {mean_and_error(row)}")
    for name in ("head", "fine-tuned"):
        gains = np.subtract(accuracies[name], accuracies["from nothing"])
        print(f"{name:13} minus from nothing, paired: {mean_and_error(gains)}")
    print(f"{time.perf_counter() - started:.0f} seconds")


def mean_and_error(values) -> str:
    """Returns the mean and the standard error of some fractions, as text."""
    error = 100 * np.std(values, ddof=1) / np.sqrt(len(values))
    return f"{100 * np.mean(values):.1f} ± {error:.1f}"


def network(words: keras.layers.Layer, num_classes: int) -> keras.Model:
    """Returns an embedding and two blocks on strings."""
    texts = keras.Input((), dtype="string", name="texts")
    x = layers.Embedding(words.vocabulary_size(), 32, name="block1_embedding")(words(texts))
    x = layers.Conv1D(64, 3, padding="same", activation="relu", name="block1_conv")(x)
    x = layers.MaxPooling1D(2, name="block1_pool")(x)
    x = layers.Conv1D(64, 3, padding="same", activation="relu", name="block2_conv")(x)
    x = layers.GlobalMaxPooling1D(name="pooling")(x)
    return keras.Model(texts, layers.Dense(num_classes, name="logits")(x))


def vocabulary(texts: np.ndarray) -> keras.layers.TextVectorization:
    """Returns the layer from strings to 32 tokens, adapted to some texts."""
    words = layers.TextVectorization(max_tokens=5000, output_sequence_length=32, name="words")
    words.adapt(texts.tolist())
    return words


def moved(pretrained: keras.Model, num_classes: int) -> keras.Model:
    """Returns a copy of a network with a new head."""
    copy = with_same_vocabularies(pretrained)
    copy.set_weights(pretrained.get_weights())
    features = copy.get_layer("pooling").output
    return keras.Model(copy.input, layers.Dense(num_classes, name="logits")(features))


def pretrain(texts: list[str], labels: list[int], epochs: int) -> keras.Model:
    """Returns the network after training on nine tenths of the texts; prints its accuracy."""
    data = tlkit.load_examples(texts, labels, splits=(0.9, 0.1, 0), batch_size=64)
    keras.utils.set_random_seed(0)
    model = network(vocabulary(data.train.source.pixels), data.num_classes)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss)
    model.fit(data.train, epochs=epochs, verbose=0)
    print(f"pretrained: {tlkit.evaluate(model, data.validation)}", flush=True)
    return model


def pretrain_on_reviews():
    """Returns the network, a function that draws reviews of films, and how many of each class."""
    texts, labels = reviews(RESTAURANT, 1000, seed=0)
    model = pretrain(texts.tolist(), labels.tolist(), epochs=5)

    def draw(each, seed):
        test = reviews(FILM, 300, seed + 100)
        few = reviews(FILM, each, seed)
        return tlkit.load_examples(*few, ["negative", "positive"], test=test, splits=(1, 0, 0))

    return model, draw, 8


def pretrain_on_documentation():
    """Returns the same for sentences of Python's docstrings."""
    new = {module for modules in NEW_MODULES.values() for module in modules.split()}
    names = {path.name.removesuffix(".py") for path in LIBRARY.iterdir()}
    by_module = {name: sentences_of(name) for name in sorted(names - new - {*NOT_READ.split()})}
    known = {name: some for name, some in by_module.items() if len(some) >= 60}
    texts = [text for some in known.values() for text in some]
    labels = [label for label, some in enumerate(known.values()) for _ in some]
    print(f"{len(texts)} sentences of {len(known)} modules")
    model = pretrain(texts, labels, epochs=8)
    found = [
        [s for m in modules.split() for s in sentences_of(m)] for modules in NEW_MODULES.values()
    ]

    def draw(each, seed):
        generator = np.random.default_rng(seed)
        train, test = ([], []), ([], [])
        for label, some in enumerate(found):
            order = generator.permutation(some).tolist()
            for into, rows in ((train, order[:each]), (test, order[-200:])):
                into[0].extend(rows)
                into[1].extend([label] * len(rows))
        return tlkit.load_examples(*train, [*NEW_MODULES], test=test, splits=(1, 0, 0))

    return model, draw, 20


def sentences_of(module: str) -> list[str]:
    """Returns the different sentences, 5 to 40 words, of a module's docstrings."""
    folder = LIBRARY / module
    files = [f"{folder}.py"] if Path(f"{folder}.py").exists() else sorted(folder.rglob("*.py"))
    found: dict[str, None] = {}
    for file in map(Path, files):
        if {"test", "tests"} & set(file.relative_to(LIBRARY).parts):
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                for paragraph in re.split(r"\n\s*\n", ast.get_docstring(node) or ""):
                    joined = " ".join(paragraph.split())
                    for text in re.split(r"(?<=[.!?]) ", joined if ">>>" not in joined else ""):
                        if 5 <= len(text.split()) <= 40:
                            found[text] = None
    return list(found)


if __name__ == "__main__":
    main()
