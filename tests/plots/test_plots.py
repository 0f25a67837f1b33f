import itertools
import subprocess
import sys
import types
import warnings
from types import SimpleNamespace
from typing import ClassVar

import matplotlib
import matplotlib.figure
import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.backend_bases import FigureManagerBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.transforms import Bbox
from PIL import Image

import tlkit
from tests.advice.test_choosing import score
from tlkit.advice.backbones import BackboneComparison
from tlkit.advice.learning_curve import CurvePoint, LearningCurveReport
from tlkit.continual.interpolation import InterpolationReport
from tlkit.continual.strength_reports import StrengthReport, StrengthTrial
from tlkit.errors import ArgumentError
from tlkit.evaluation.metrics import evaluate_probabilities
from tlkit.evaluation.reliability import measure_reliability
from tlkit.plots import data as data_plots
from tlkit.plots import evaluation as evaluation_plots
from tlkit.plots import training as training_plots
from tlkit.plots.drawing import MAX_IMAGES
from tlkit.plots.figure import Figure, without_pyplot
from tlkit.plots.fonts import printable
from tlkit.plots.labels import label_points

UGLY = (
    "中文类别名称很长很长的一个",
    "قطة كبيرة جدا",
    "cat 😀🦜 $x$ $y$",
    "<script>alert(1)</script>",
    "Übergrößenträger mit sehr langem Namen, wirklich",
    "_hidden",
    "b",
    "हिन्दी",
)


def names(num_classes):
    return tuple((*UGLY, *(f"class {index}" for index in range(num_classes)))[:num_classes])


def evaluation(num_classes):
    generator = np.random.default_rng(0)
    matrix = generator.poisson(0.3, (num_classes, num_classes))
    matrix += np.diag(generator.integers(0, 20_000, num_classes))
    return SimpleNamespace(class_names=names(num_classes), confusion=matrix)


def history(num_epochs):
    return [
        {"loss": 1 / epoch, "val_loss": 1.2 / epoch, "accuracy": 1 - 1 / epoch}
        for epoch in range(1, num_epochs + 1)
    ]


def mistake(number):
    return SimpleNamespace(
        truth=UGLY[number % 8], predicted=UGLY[(number + 3) % 8], probability=1 - number / 40
    )


def check_layout(figure, tmp_path):
    """Checks that all texts are within the figure, none overlap, and nothing warns."""
    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.savefig(tmp_path / "figure.svg")
        canvas.draw()
    renderer = canvas.get_renderer()
    page, boxes = figure.bbox, []
    for axes in figure.axes:
        labels = [*axes.get_xticklabels(), *axes.get_yticklabels()]
        texts = [axes.title, axes.xaxis.label, axes.yaxis.label, *labels, *axes.texts]
        for text in texts if axes.axison else [axes.title, *axes.texts]:
            low, high = axes.get_xlim() if text in axes.get_xticklabels() else axes.get_ylim()
            is_tick = text in labels
            at = text.get_position()[0 if text in axes.get_xticklabels() else 1]
            if not text.get_text() or (is_tick and not min(low, high) <= at <= max(low, high)):
                continue
            box = text.get_window_extent(renderer)
            assert page.x0 <= box.x0 + 1, text
            assert page.y0 <= box.y0 + 1, text
            assert box.x1 <= page.x1 + 1, text
            assert box.y1 <= page.y1 + 1, text
            boxes.append((text, box))
    for legend in figure.legends:
        boxes += [(text, text.get_window_extent(renderer)) for text in legend.get_texts()]
    for (first, box), (second, other) in itertools.combinations(boxes, 2):
        overlap = Bbox.intersection(box, other)
        assert overlap is None or min(overlap.width, overlap.height) <= 1, (first, second)


@pytest.mark.parametrize("num_epochs", [0, 1, 2, 60])
def test_curves(tmp_path, num_epochs):
    figure = training_plots.curves(history(num_epochs))
    check_layout(figure, tmp_path)
    if num_epochs:
        loss, accuracy = figure.axes
        assert [line.get_label() for line in loss.lines] == ["training", "validation"]
        assert len(loss.lines[0].get_xdata()) == num_epochs
        assert [line.get_label() for line in accuracy.lines] == ["training"]
        assert len({line.get_linestyle() for line in loss.lines}) == 2


def test_curves_of_several_stages_and_of_missing_values(tmp_path):
    epochs = [*history(3), {"loss": 0.1, "learning_rate": 1e-4}]
    figure = training_plots.curves(epochs, stages=[("head", 0), (UGLY[0], 3), (UGLY[4], 1)])
    check_layout(figure, tmp_path)
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss", "accuracy", "learning rate"]


@pytest.mark.slow
@pytest.mark.parametrize("num_classes", [2, 8, 40, 100])
def test_confusion(tmp_path, num_classes):
    figure = evaluation_plots.plot_confusion(evaluation(num_classes))
    check_layout(figure, tmp_path)
    (axes,) = figure.axes
    assert len(axes.get_yticklabels()) == min(num_classes, evaluation_plots.MAX_CLASSES_IN_MATRIX)
    assert ("40 of 100 classes" in axes.get_title()) == (num_classes == 100)
    width, height = axes.get_window_extent().size / figure.dpi / len(axes.get_yticklabels())
    assert min(width, height) > 0.2  # inches for a cell with four figures of seven points


def test_confusion_counts_are_in_their_cells():
    matrix = np.array([[5, 1200], [0, 7]])
    figure = evaluation_plots.plot_confusion(
        SimpleNamespace(class_names=("a", "b"), confusion=matrix)
    )
    cells = {text.get_position(): text.get_text() for text in figure.axes[0].texts}
    assert cells == {(0, 0): "5", (1, 0): "1.2k", (1, 1): "7"}


def test_most_confused_classes_have_the_most_mistakes():
    matrix = np.diag([9, 9, 9, 9])
    matrix[3, 1] = 5
    assert evaluation_plots.most_confused(matrix, 2).tolist() == [1, 3]
    assert evaluation_plots.most_confused(matrix, 9).tolist() == [0, 1, 2, 3]


def test_without_a_confusion_matrix_the_figure_says_why(tmp_path):
    figure = evaluation_plots.plot_confusion(SimpleNamespace(class_names=("a",), confusion=None))
    check_layout(figure, tmp_path)
    assert "no confusion matrix" in figure.axes[0].texts[0].get_text()


@pytest.mark.parametrize("count", [0, 1, 7, 30])
def test_mistakes(tmp_path, count):
    evaluated = SimpleNamespace(mistakes=tuple(map(mistake, range(count))))
    figure = evaluation_plots.plot_mistakes(
        evaluated, lambda one: np.full((9, 30, 3), 255 * one.probability)
    )
    check_layout(figure, tmp_path)
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert len(titles) == min(count, MAX_IMAGES)
    if count:
        predicted, truth, probability = titles[0].splitlines()
        assert predicted.startswith("pred: ")
        assert truth.startswith("true: ")
        assert probability == "probability 100 %"


def evaluated(paths):
    probabilities = np.tile([0.9, 0.1], (len(paths), 1))
    labels = np.ones(len(paths), np.int64)
    return evaluate_probabilities(probabilities, labels, ("a", "b"), paths=paths)


def test_images_are_read_from_their_files_and_without_files_a_function_is_needed(tmp_path):
    file = tmp_path / "wide.png"
    Image.new("RGB", (400, 200), (0, 99, 0)).save(file)
    (panel,) = evaluation_plots.plot_mistakes(evaluated([str(file)])).axes
    assert panel.images[0].get_array().shape == (96, 192, 3)
    assert (panel.images[0].get_array() == (0, 99, 0)).all()
    pair = SimpleNamespace(paths=(str(file),) * 2, splits=("train",) * 2, classes=("a",) * 2)
    first, second = data_plots.plot_near_duplicates(SimpleNamespace(pairs=(pair,))).axes
    assert first.images[0].get_array().shape == second.images[0].get_array().shape == (96, 192, 3)
    rule = "`read_image` must be given"
    with pytest.raises(ArgumentError, match=rf"{rule} .*'images\[3\]' is not a file"):
        evaluation_plots.plot_mistakes(evaluated(["images[3]"]))
    nameless = evaluate_probabilities(np.array([[0.9, 0.1]]), np.array([1]), ("a", "b"))
    with pytest.raises(ArgumentError, match=rf"{rule} .*'image 0' is not a file"):
        evaluation_plots.plot_mistakes(nameless)


@pytest.mark.parametrize("count", [0, 1, 4, 30])
def test_near_duplicates_are_side_by_side(tmp_path, count):
    def pair(number):
        return SimpleNamespace(
            paths=(f"/photos/{number}.jpg", f"images[{number}]"),
            splits=("train", "validation"),
            classes=("a class with a rather long name" * 2, ""),
        )

    report = SimpleNamespace(pairs=tuple(map(pair, range(count))))
    heights = iter(range(9, 999))  # images may have different sizes
    figure = data_plots.plot_near_duplicates(
        report, lambda path: np.full((next(heights), 30, 3), 99)
    )
    check_layout(figure, tmp_path)
    titles = [axes.get_title().splitlines() for axes in figure.axes if axes.get_title()]
    assert len(titles) == min(2 * count, MAX_IMAGES)
    if count:
        assert titles[0][::2] == ["1: train", "0.jpg"]
        assert titles[1] == ["1: validation", "no label", "images[0]"]


@pytest.mark.slow
@pytest.mark.parametrize("num_classes", [1, 2, 40, 100, 250])
def test_class_counts(tmp_path, num_classes):
    counts = {
        name: {"train": 3 * number, "validation": number, "test": 1}
        for number, name in enumerate(names(num_classes))
    }
    figure = data_plots.plot_class_counts(SimpleNamespace(counts=counts))
    check_layout(figure, tmp_path)
    (axes,) = figure.axes
    assert len(axes.get_yticklabels()) == min(num_classes, data_plots.MAX_CLASSES_IN_BARS)
    assert ("of 250 classes" in axes.get_title()) == (num_classes == 250)


def test_class_counts_of_images_without_a_split():
    counts = {"cat": {"all": 6}, "dog": {"all": 4}}
    figure = data_plots.plot_class_counts(SimpleNamespace(counts=counts))
    (axes,) = figure.axes
    assert [bar.get_width() for bar in axes.patches] == [6, 4]
    assert not figure.legends


def test_class_counts_of_nothing(tmp_path):
    check_layout(data_plots.plot_class_counts(SimpleNamespace(counts={})), tmp_path)
    empty = SimpleNamespace(counts={"a": {"train": 0}})
    check_layout(data_plots.plot_class_counts(empty), tmp_path)


def test_batch_grid(tmp_path):
    images = np.random.default_rng(0).uniform(-5, 260, (30, 8, 8, 3)).astype(np.float32)
    figure = data_plots.plot_batch(images, np.arange(30) % 8, UGLY)
    check_layout(figure, tmp_path)
    assert figure.axes[6].get_title() == "b"
    rows = np.array([[0, 1, 1], [0, 0, 0]])
    figure = data_plots.plot_batch(images[:2], rows, ("a", "b", "c"))
    assert [axes.get_title() for axes in figure.axes] == ["b, c", "no label"]


def measured(num_images, seed=0):
    confidence = np.random.default_rng(seed).beta(4, 1, num_images)
    is_correct = np.random.default_rng(seed + 1).random(num_images) < confidence**2
    return measure_reliability(confidence, is_correct)


@pytest.mark.parametrize("num_images", [1, 20, 1000])
def test_reliability(tmp_path, num_images):
    one = measured(num_images)
    figure = evaluation_plots.plot_reliability(one, title=UGLY[4])
    check_layout(figure, tmp_path)
    upper, lower = figure.axes
    drawn = upper.lines[1].get_xydata()
    filled = one.counts > 0
    np.testing.assert_allclose(drawn[:, 0], one.confidence[filled])
    np.testing.assert_allclose(drawn[:, 1], one.accuracy[filled])
    assert sum(bar.get_height() for bar in lower.patches) == num_images


def test_reliability_of_several_differs_in_more_than_colour(tmp_path):
    several = {name: measured(200, seed) for seed, name in enumerate(UGLY[3:6])}
    figure = evaluation_plots.plot_reliability(several)
    check_layout(figure, tmp_path)
    upper, lower = figure.axes
    assert len({line.get_marker() for line in upper.lines if line.get_markersize() == 5}) == 3
    assert len({bar.get_hatch() for bar in lower.patches}) == 3
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert len(texts) == 4
    assert texts[3] == f"_hidden: error {100 * several['_hidden'].error:.1f} %"


def test_reliability_of_reports(tmp_path):
    evaluation = evaluated(["a.jpg"] * 30)
    by_report = evaluation_plots.plot_reliability(evaluation)
    by_measurement = evaluation_plots.plot_reliability(evaluation.reliability)
    drawn = [figure.axes[0].lines[1].get_xydata() for figure in (by_report, by_measurement)]
    np.testing.assert_array_equal(*drawn)
    calibration = SimpleNamespace(before=measured(200), after=measured(200, 5))
    for argument in (calibration, {"before": evaluation, "after": calibration.after}):
        figure = evaluation_plots.plot_reliability(argument)
        check_layout(figure, tmp_path)
        texts = [text.get_text() for text in figure.legends[0].get_texts()]
        assert [text.partition(":")[0] for text in texts[1:]] == ["before", "after"]
    with pytest.raises(ArgumentError, match="`measured` must contain at most 3 measurements"):
        evaluation_plots.plot_reliability(dict.fromkeys("abcd", evaluation))


def make_stage(name, change, *groups):
    trainable = SimpleNamespace(groups=groups)
    return SimpleNamespace(name=name, weight_change=change, trainable=trainable)


@pytest.mark.parametrize("num_stages", [0, 1, 2, 7])
def test_drift(tmp_path, num_stages):
    change = {"stem": 0.0, UGLY[0]: 0.0, UGLY[4]: 3e-4, "head": 1.5}
    stages = [make_stage(UGLY[n], change, UGLY[4], "head") for n in range(num_stages)]
    figure = training_plots.plot_drift(SimpleNamespace(stages=stages))
    check_layout(figure, tmp_path)
    for axes in figure.axes if num_stages else ():
        texts = [text.get_text() for text in axes.texts]
        assert texts == ["0, frozen", "0, frozen", "0.03 %", "150 %"]
        low, high = axes.get_xlim()
        ends = [bar.get_x() + bar.get_width() for bar in axes.patches]
        np.testing.assert_allclose(ends, [low, low, 0.03, 150])
        assert high > 150


@pytest.mark.parametrize("change", [0.001, 0.025, 0.05, 0.09, 0.3])
def test_drift_of_one_group_has_ticks_at_any_magnitude(change):
    trainable = SimpleNamespace(groups=("head",))
    stage = SimpleNamespace(name="head", weight_change={"head": change}, trainable=trainable)
    panel = training_plots.plot_drift(SimpleNamespace(stages=[stage])).axes[0]
    low, high = panel.get_xlim()
    assert any(low <= tick <= high for tick in panel.get_xticks())


def test_drift_of_unchanged_groups_and_of_groups_that_were_zero(tmp_path):
    unchanged = make_stage("unchanged", {"stem": 0.0, "head": 0.0}, "head")
    figure = training_plots.plot_drift(SimpleNamespace(stages=[unchanged]))
    check_layout(figure, tmp_path)
    assert [text.get_text() for text in figure.axes[0].texts] == ["0, frozen", "0, unchanged"]
    new = make_stage("new", {"stem": 0.01, "head": float("inf")}, "stem", "head")
    figure = training_plots.plot_drift(SimpleNamespace(stages=[new]))
    check_layout(figure, tmp_path)
    assert [text.get_text() for text in figure.axes[0].texts] == ["1 %", "from zero"]


@pytest.mark.slow
@pytest.mark.parametrize(("count", "spread"), [(2, 0), (8, 0.05), (20, 0.02), (20, 1)])
def test_labels_beside_points_do_not_overlap(tmp_path, count, spread):
    figure = Figure(figsize=(6.4, 1.5 + 0.2 * max(count, 12)), layout="constrained")
    axes = figure.subplots()
    x = np.exp(spread * np.random.default_rng(0).normal(size=count))
    y = np.linspace(0.9, 0.8, count) if spread else np.full(count, 0.9)
    axes.plot(x, y, "o")
    axes.set(xlim=(min(x) / 2, max(x) * 3), ylim=(0.7, 1), xticks=[], yticks=[])
    texts = [printable(f"{index} {UGLY[index % 8]}", 16) for index in range(count)]
    points = list(zip(x, y, strict=True))
    label_points(axes, points, texts, spans=[(value - 0.02, value + 0.02) for value in y])
    check_layout(figure, tmp_path)
    for label, point, text in zip(axes.texts, points, texts, strict=True):
        assert label.get_text() == text
        assert label.xy == point
    markers = axes.transData.transform(points)
    boxes = [label.get_window_extent() for label in axes.texts]
    assert not any(box.contains(*marker) for box in boxes for marker in markers)


def arguments_by_function():
    """Arguments for each public function, by the function's name."""
    stages = [
        make_stage("head", {"conv4": 0.0, "conv5": 0.0, "head": 0.4}, "head"),
        make_stage("fine-tune", {"conv4": 0.0, "conv5": 0.02, "head": 0.1}, "conv5", "head"),
    ]
    stages[0].history, stages[1].history, stages[1].kept_epoch = [], history(4), 3
    report = SimpleNamespace(stages=stages)
    counts = {name: {"train": 50, "validation": 8, "test": 7} for name in UGLY}
    pair = SimpleNamespace(paths=("a", "b"), splits=("train", "test"), classes=("x", "y"))
    pixels = np.random.default_rng(0).integers(0, 255, (8, 9, 12, 3), np.uint8)
    matrix = tlkit.ForgettingMatrix(UGLY[:2], scenario="domain-incremental")
    for row in ([0.5, 0.5], [0.9, 0.6], [0.7, 0.9]):
        matrix.record(row)
    before, free, anchored = (
        StrengthTrial(strength, accuracy=accuracy, loss=1.0, drift=drift)
        for strength, accuracy, drift in ((0.0, 0.5, 0.0), (0.0, 0.9, 3.0), (0.4, 0.88, 1.0))
    )
    losses = np.linspace(2, 1, 20)
    return {
        "plot_backbones": [BackboneComparison((score("vgg16", 0.9, 10),), {}, 100, 2)],
        "plot_batch": [pixels, np.arange(8), UGLY],
        "plot_class_counts": [SimpleNamespace(counts=counts)],
        "plot_confusion": [evaluation(4)],
        "plot_drift": [report],
        "plot_forgetting": [matrix],
        "plot_interpolation": [InterpolationReport((0.0, 1.0), {"old": (0.9, 0.5)}, {}, "")],
        "plot_learning_curve": [
            LearningCurveReport(
                1000,
                measured=(CurvePoint(200, 0.7, 0.02), CurvePoint(800, 0.8, 0.01)),
                forecast=tuple(CurvePoint(n, 0.8, interval=(0.7, 0.9)) for n in (200, 1000, 2000)),
                gain=0.0,
                gain_interval=(0.0, 0.0),
            )
        ],
        "plot_learning_rates": [
            SimpleNamespace(
                rates=np.logspace(-5, 0, 20),
                losses=losses,
                smoothed=losses,
                suggestion=1e-3,
                suggestions={"steepest": 1e-3},
            )
        ],
        "plot_mistakes": [SimpleNamespace(mistakes=[mistake(0), mistake(1)]), lambda _: pixels[0]],
        "plot_near_duplicates": [SimpleNamespace(pairs=(pair,)), lambda _: pixels[1]],
        "plot_reliability": [measured(200)],
        "plot_strengths": [StrengthReport(before, (free, anchored), 0.4, 0.05, 50, "")],
        "plot_training": [report],
    }


PLOTS = [name for name in tlkit.__all__ if name.startswith("plot_")]


def titles_of(figure):
    return [figure.get_suptitle(), *(axes.get_title() for axes in figure.axes)]


@pytest.mark.slow
@pytest.mark.parametrize("name", PLOTS)
def test_every_plot_has_a_title_and_draws_in_given_axes(name, tmp_path):
    arguments = arguments_by_function()[name]
    figure = getattr(tlkit, name)(*arguments)
    check_layout(figure, tmp_path)
    title = next(title for title in titles_of(figure) if title)
    whole = matplotlib.figure.Figure(figsize=(12, 5), layout="constrained")
    left, right = whole.subplots(1, 2)
    assert getattr(tlkit, name)(*arguments, ax=right) is whole
    assert right.get_title() == title
    assert not left.has_data()
    assert not left.get_title()
    panels = [right, *right.child_axes]
    assert any(panel.has_data() or panel.images for panel in panels)
    # all drawings are within the axes, below their title
    whole.draw_without_rendering()
    for panel in right.child_axes:
        box = panel.get_window_extent()
        assert right.bbox.x0 - 1 <= box.x0 <= box.x1 <= right.bbox.x1 + 1
        assert right.bbox.y0 - 1 <= box.y0 <= box.y1 <= right.bbox.y1 + 1
        assert panel.title.get_window_extent().y1 <= right.title.get_window_extent().y0 + 1
    with pytest.raises(tlkit.ArgumentError, match=r"`ax` must be a matplotlib\.axes\.Axes"):
        getattr(tlkit, name)(*arguments, ax=whole)


def test_a_flat_sweep_has_no_suggestion():
    (sweep,) = arguments_by_function()["plot_learning_rates"]
    titles = titles_of(tlkit.plot_learning_rates(sweep))
    assert "Learning-rate sweep: learning_rate=1.0e-03 is suggested" in titles
    sweep.suggestions = {}
    titles = titles_of(tlkit.plot_learning_rates(sweep))
    assert "Learning-rate sweep: learning_rate=1.0e-03 is the default" in titles


def test_the_kept_epoch_is_marked():
    def stage(num_epochs, kept):
        groups = SimpleNamespace(groups=("head",))
        return SimpleNamespace(history=history(num_epochs), trainable=groups, kept_epoch=kept)

    report = SimpleNamespace(stages=[stage(4, 2), stage(0, None), stage(3, None), stage(5, 4)])
    for panel in training_plots.plot_training(report).axes:
        kept = [line for line in panel.lines if line.get_label() == "kept"]
        assert [set(line.get_xdata()) for line in kept] == [{2}, {11}]


class Shown(FigureManagerBase):
    """A backend's window; `windows` holds the shown figures."""

    windows: ClassVar[list[Figure]] = []

    def show(self):
        self.windows.append(self.canvas.figure)


class Canvas(FigureCanvasAgg):
    manager_class = Shown


@pytest.fixture
def windows(monkeypatch):
    """The figures shown by pyplot with a backend that has windows."""
    backend = types.ModuleType("backend_with_windows")
    backend.FigureCanvas, backend.FigureManager = Canvas, Shown
    monkeypatch.setitem(sys.modules, backend.__name__, backend)
    monkeypatch.setattr(Shown, "windows", [])
    pyplot.switch_backend(f"module://{backend.__name__}")
    yield Shown.windows
    pyplot.close("all")
    pyplot.switch_backend("agg")


def test_pyplot_shows_the_drawn_figures(windows):
    figure = training_plots.curves(history(3))
    assert matplotlib.get_backend() == "module://backend_with_windows"
    pyplot.show()
    assert windows == [figure]
    figure.show()
    assert windows == [figure, figure]
    assert figure.get_size_inches().tolist() == pytest.approx([9.2, 3.7])
    pyplot.close(figure)
    assert not pyplot.get_fignums()
    figure.show()
    assert windows == [figure] * 3


def test_figures_of_reports_are_not_registered_with_pyplot(windows):
    with without_pyplot():
        figure = training_plots.curves(history(3))
    pyplot.show()
    assert windows == []
    figure.show()
    assert windows == [figure]


def test_a_backend_without_windows_keeps_no_figure():
    before = dict(matplotlib.rcParams)
    for _ in range(25):  # pyplot would warn from the 21st on
        figure = training_plots.curves(history(2))
    assert not pyplot.get_fignums()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that the backend cannot show figures
        figure.show()
    assert not pyplot.get_fignums()
    assert dict(matplotlib.rcParams) == before


def test_drawing_does_not_import_pyplot():
    code = (
        "import sys\nfrom tlkit.plots.training import curves\n"
        "curves([{'loss': 1.0}])._repr_png_()\nsys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_notebook_shows_a_figure_once(windows, monkeypatch):
    displayed = []
    ipython = types.ModuleType("IPython")
    ipython.version_info = (9, 0)  # read by matplotlib at the first drawing
    ipython.get_ipython = lambda: SimpleNamespace(kernel=None)
    ipython.display = types.ModuleType("IPython.display")
    ipython.display.Image = lambda data: data
    ipython.display.display = displayed.append
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", ipython.display)
    figure = training_plots.curves(history(3))
    figure._ipython_display_()
    assert [image[:4] for image in displayed] == [b"\x89PNG"]
    assert not pyplot.get_fignums()  # otherwise the inline backend would show it again
    figure.show()
    assert len(displayed) == 2
    assert windows == []
    ipython.get_ipython = lambda: None
    with pytest.raises(NotImplementedError):
        figure._ipython_display_()


def test_training_curves_have_stages_and_no_penalties_of_single_groups():
    def stage(group, num_epochs):
        epochs = [
            {**epoch, "anchor_conv4": 0.1, "anchor_share": 0.2} for epoch in history(num_epochs)
        ]
        return SimpleNamespace(history=epochs, trainable=SimpleNamespace(groups=(group, "head")))

    report = SimpleNamespace(stages=[stage("head", 0), stage("conv5", 2), stage("conv4", 3)])
    figure = training_plots.plot_training(report)
    assert [panel.get_ylabel() for panel in figure.axes] == ["loss", "accuracy", "anchor share"]
    assert [text.get_text() for text in figure.axes[0].texts] == ["conv5", "conv4"]
    assert len(figure.axes[0].lines[0].get_xdata()) == 5


@pytest.mark.parametrize("name", [name for name in tlkit.__all__ if name.startswith("plot_")])
def test_objects_that_cannot_be_drawn_are_refused(name):
    arguments = [np.zeros((2, 3)), [], []] if name == "plot_batch" else [object()]
    with pytest.raises(tlkit.ArgumentError, match="must be"):
        getattr(tlkit, name)(*arguments)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((0, 4, 4, 3)), [], "must be a batch"),
        (np.zeros((4, 4, 4, 3)), [0, 1], "and as many labels"),
        (np.zeros((2, 4, 4, 3)), [0, 9], "labels of 10 classes"),
        (np.zeros((2, 4, 4, 3)), np.eye(2, 4), "labels of 4 classes"),
    ],
)
def test_an_invalid_batch_is_refused(images, labels, message):
    with pytest.raises(tlkit.ArgumentError, match=message):
        tlkit.plot_batch(images, labels, ["a", "b"])
