"""The command line; it only parses arguments and calls the package."""

import dataclasses
import inspect as introspection  # `inspect` is a command
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from tlkit import __version__
from tlkit.continual.exemplars import DEFAULT_NUM_EXEMPLARS
from tlkit.continual.growth_report import METHODS
from tlkit.data.limits import MAX_PIXELS
from tlkit.data.settings import DAMAGED
from tlkit.errors import ArgumentError, TlkitError, check_choice
from tlkit.export.formats import EXPORT_FORMATS
from tlkit.runs.config import AUTO, CHOICES, RunConfig, arguments_of
from tlkit.runs.console_summary import summarize_run
from tlkit.runs.directory import Run, finished_message, is_finished
from tlkit.runs.options import RUN, option_of
from tlkit.runs.predicting import TOP
from tlkit.runs.review import MAX_SHOWN
from tlkit.runs.settings_file import as_options, read_settings
from tlkit.serving.server import MAX_MEGABYTES, MAX_MEGAPIXELS
from tlkit.utils.keras_settings import check_building
from tlkit.utils.option_names import (
    Command,
    Commands,
    Interruption,
    Parameter,
    in_options,
    names_in_options,
    parameters_of,
)
from tlkit.utils.progress import phase, progress_as_lines, progress_hidden
from tlkit.utils.signals import run_interruptible
from tlkit.utils.tensorflow_logging import load_tensorflow_quietly
from tlkit.utils.text_repr import in_line, visible

if TYPE_CHECKING:
    from tlkit.data.near_duplicate_reports import NearDuplicateReport
    from tlkit.data.reports import DataReport
    from tlkit.evaluation.prediction import Prediction

app = typer.Typer(
    name="tlkit",
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Add --quiet to any command to hide progress, and --debug to see tracebacks and the "
    "messages of TensorFlow.",
    pretty_exceptions_enable=False,
)
_INTERRUPTED = 130
_RESUMABLE = (["train"], ["add-classes"], ["forget"], ["demo"])
_SOME_FILES_SKIPPED = 1
_TRAINING, _INSPECTING, _USING = "Train", "Before training", "Use a run"
_METHODS = (AUTO, *METHODS)
FIGURE_SUFFIXES = (".png", ".svg", ".pdf")


def _whole_number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"must be a whole number. Received: {text!r}.") from None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"must be a number such as 1e-4. Received: {text!r}.") from None


def _number_or_auto(text: str) -> float | str:
    return text if text == "auto" else _number(text)


def _number_or_name(text: str) -> str | int:
    return int(text) if text.isdecimal() else text


def _completion_of(words: Iterable[str]) -> Callable[[str], list[str]]:
    """Returns a completion of an option that takes one of some words."""
    return lambda incomplete: [word for word in words if word.startswith(incomplete)]


def _backbones(incomplete: str) -> list[str]:
    from tlkit.models.catalogue import list_backbones

    return [spec.name for spec in list_backbones() if spec.name.startswith(incomplete)]


command = partial(app.command, cls=Command)
Whole = partial(typer.Option, parser=_whole_number, metavar="N")
Number = partial(typer.Option, parser=_number, metavar="X")
NumberOrAuto = partial(typer.Option, parser=_number_or_auto, metavar="X")
Flag = partial(typer.Option, metavar="")
MaxPixels = Whole(help="Leave out images with more pixels.")


def _typer_parameter(name: str) -> Any:
    """Returns typer's description of a field of `RunConfig`; its parser follows from the type."""
    field = next(field for field in arguments_of(RunConfig) if field.name == name)
    described = option_of(field)
    if not described.panel:
        return typer.Argument(metavar=described.metavar, help=described.help)
    settings: dict[str, Any] = {"help": described.help, "rich_help_panel": described.panel}
    if described.metavar:
        settings["metavar"] = described.metavar
    option_name = (f"--{described.name}",) if described.name else ()
    if name == "backbone":
        settings["autocompletion"] = _backbones
    elif words := CHOICES.get(name):
        settings["autocompletion"] = _completion_of(words)
    kind = _kind_of(field)
    if kind is bool:
        words = name.replace("_", "-")
        if field.default is None:  # neither of the two by default
            words += f"/--no-{words.removeprefix('keep-')}"
        return Flag(f"--{words}", **settings)
    if {int, str} <= set(get_args(field.type)):
        settings["parser"] = _number_or_name
    make_option = {int: Whole, float: Number, Any: NumberOrAuto}.get(kind, typer.Option)
    return make_option(*option_name, **settings)


def _kind_of(field: "dataclasses.Field[Any]") -> Any:
    """Returns the type of a field's value on the command line; `Any` for a number or "auto"."""
    if option_of(field).is_path:
        return Path
    kinds = set(get_args(field.type) or [field.type]) - {type(None)}
    if kinds == {float, str}:
        return Any
    return kinds.pop() if len(kinds) == 1 and kinds <= {bool, int, float} else str


def _as_parameter(field: "dataclasses.Field[Any]") -> introspection.Parameter:
    kind = _kind_of(field)
    default = introspection.Parameter.empty
    if field.default is not dataclasses.MISSING:
        default = field.default
    return introspection.Parameter(
        field.name,
        introspection.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[
            kind | None if default is None else kind, _typer_parameter(field.name)
        ],
    )


def with_options(run: Callable[..., None]) -> Callable[..., None]:
    """Returns a command from a function that takes a config.

    Instead of `config`, the command has an option for each field of `RunConfig`.
    """
    fields = arguments_of(RunConfig)

    def command_function(**values: Any) -> None:
        config = {field.name: values.pop(field.name) for field in fields}
        run(config=_config_of(config), **values)

    parameters: list[introspection.Parameter] = []
    for parameter in introspection.signature(run).parameters.values():
        is_config = parameter.name == "config"
        parameters += map(_as_parameter, fields) if is_config else [parameter]
    vars(command_function)["__signature__"] = introspection.Signature(parameters)
    command_function.__name__, command_function.__doc__ = run.__name__, run.__doc__
    return command_function


def _config_of(parsed: Mapping[str, Any]) -> RunConfig:
    """Returns the config of a run from parsed options."""
    values: dict[str, Any] = {
        name: os.fspath(value) if isinstance(value, Path) else value
        for name, value in parsed.items()
    }
    if values["weights"] == "none":
        values["weights"] = None
    return RunConfig(**values)


def _use_settings(context: typer.Context, file: Path | None) -> Path | None:
    """Makes the settings in a file the defaults of the command."""
    if file is not None:
        context.default_map = as_options(read_settings(file))
    return file


Photos = Annotated[str, _typer_parameter("photos")]
Damaged = Annotated[str, _typer_parameter("damaged")]
Decisions = Annotated[Path | None, _typer_parameter("decisions")]
MaxMilliseconds = Annotated[float | None, _typer_parameter("max_milliseconds")]
MaxMegabytes = Annotated[float | None, _typer_parameter("max_megabytes")]
Distribute = Annotated[
    str | None,
    typer.Option(
        metavar="KIND",
        rich_help_panel=RUN,
        help="Use several devices: auto, mirrored or multi-worker.",
    ),
]
RunOut = Annotated[
    Path | None,
    typer.Option(
        metavar="RUN",
        rich_help_panel=RUN,
        help="Run directory; by default runs/NAME-N for PHOTOS called NAME.",
    ),
]
Resume = Annotated[
    bool,
    Flag("--resume/--no-resume", rich_help_panel=RUN, help="Resume an unfinished run."),
]
Trackers = Annotated[
    list[str] | None,
    typer.Option(
        "--log",
        metavar="tensorboard:DIR|mlflow:URI|wandb:PROJECT",
        rich_help_panel=RUN,
        help="Record the run with an experiment tracker; may be repeated.",
    ),
]
Settings = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        is_eager=True,
        callback=_use_settings,
        rich_help_panel=RUN,
        help="TOML file of options, such as the run.toml of a run; those given here come first.",
    ),
]
Json = Annotated[bool, Flag("--json", help="Print JSON.")]
Safe = Annotated[
    bool,
    Flag("--safe", help="Use model.keras, which runs no code, instead of the SavedModel."),
]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run.")]


@app.callback(invoke_without_command=True)
def tlkit(
    context: typer.Context,
    version: Annotated[
        bool, Flag("--version", is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Transfer learning for image classification: from a folder of images to a model."""
    if version:
        _log(f"tlkit {__version__}")
    elif context.invoked_subcommand is None:
        _log(context.get_help())


@command(rich_help_panel=_TRAINING)
@with_options
def train(
    *,
    out: RunOut = None,
    config: RunConfig,
    settings: Settings = None,
    resume: Resume = True,
    distribute: Distribute = None,
    trackers: Trackers = None,
    as_json: Json = False,
) -> None:
    """Train a classifier on a folder of images and export it."""
    from tlkit.runs.train import make_run

    was_finished = out is not None and is_finished(out)
    run = make_run(config, out=out, resume=resume, distribute=distribute, trackers=trackers)
    _print_summary(run, was_finished, as_json=as_json)


@command(rich_help_panel=_USING)
def evaluate(  # noqa: PLR0917 - typer calls it by name
    run: RunFolder,
    photos: Photos,
    max_pixels: Annotated[int | None, MaxPixels] = None,
    damaged: Annotated[
        str | None,
        typer.Option(
            metavar="keep|skip",
            help="Use or leave out damaged JPEG files; by default as in the run.",
        ),
    ] = None,
    distribute: Distribute = None,
    as_json: Json = False,
) -> None:
    """Evaluate a run's model on other images of its classes."""
    from tlkit.runs.inference import evaluate_run

    with phase("evaluating"):
        report = evaluate_run(
            run, photos, max_pixels=max_pixels, damaged=damaged, distribute=distribute
        )
    if as_json:
        _print_json(report.as_dict())
    else:
        _print_report(report)


@command(rich_help_panel=_USING)
def predict(  # noqa: PLR0917 - typer calls it by name
    run: Annotated[
        Path, typer.Argument(metavar="RUN_OR_EXPORT", help="Folder of a run or of a SavedModel.")
    ],
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE",
            help="Image files, folders, patterns such as 'new/*.jpg', ZIP or tar archives, or "
            "addresses such as s3://bucket/new; - for a list of them on standard input, one in "
            "each line.",
        ),
    ],
    csv: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a table, one row for each file.")
    ] = None,
    top: Annotated[int, Whole(help="Classes of each image in the table.")] = TOP,
    sort_into: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Link the images into a folder for each class."),
    ] = None,
    copy: Annotated[bool, Flag("--copy", help="Copy images, in place of links.")] = False,
    as_json: Json = False,
    json_lines: Annotated[
        bool, Flag("--json-lines", help="Print a JSON object for each file, as it is predicted.")
    ] = False,
    batch_size: Annotated[int, Whole(help="Images per step.")] = 32,
    safe: Safe = False,
) -> None:
    """Classify images: a few, or a folder of any size into a table.

    Files that cannot be used are listed with the reason, and the status is 1.

    A SavedModel is a program that TensorFlow executes: use --safe for one from an untrusted
    source.
    """
    from tlkit.runs.predicting import predict_run

    if as_json and json_lines:
        raise ArgumentError(
            "`json_lines` must be left out with --json. Received: both. Use one of them."
        )
    has_summary = csv is not None or sort_into is not None
    predictions: list[Prediction] = []

    def show(prediction: "Prediction") -> None:
        if json_lines:
            _print_json(prediction.as_dict())
        elif as_json and not prediction.reason:
            predictions.append(prediction)
        elif not has_summary and not prediction.reason:
            _log(str(prediction))

    with phase("predicting"):
        report = predict_run(
            run,
            [given for image in images for given in _from_standard_input(image)],
            csv=csv,
            sort_into=sort_into,
            copy=copy,
            top=top,
            batch_size=batch_size,
            safe=safe,
            at_prediction=show,
        )
    if as_json:
        _print_json([prediction.as_dict() for prediction in predictions])
    elif has_summary and not json_lines:
        _print_report(report)
    if not has_summary:
        for path, reason in report.unusable:
            print(f"tlkit: {in_line(f'{path}: {reason}')}", file=sys.stderr)
    if report.unusable:
        raise typer.Exit(_SOME_FILES_SKIPPED)


def _from_standard_input(image: str) -> list[str]:
    """Returns the paths on standard input for "-", one in each line; else the path itself."""
    if image != "-":
        return [image]
    return [line for line in sys.stdin.read().splitlines() if line.strip()]


@command(rich_help_panel=_USING)
def export(  # noqa: PLR0917 - typer calls it by name
    run: RunFolder,
    to: Annotated[Path, typer.Option(metavar="DIR", help="New or empty folder to write to.")],
    file_format: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="|".join(EXPORT_FORMATS),
            autocompletion=_completion_of(EXPORT_FORMATS),
            help="Format of the export.",
        ),
    ] = "saved_model",
    version: Annotated[int | None, Whole(help="Write to DIR/N, for TensorFlow Serving.")] = None,
    calibrate: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Images to calibrate litert_full_int8; by default training images of the run.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Export a run's model to another folder or format, and check the export against it."""
    from tlkit.runs.inference import export_run

    with phase("exporting"):
        report = export_run(run, to, file_format, version=version, calibrate=calibrate)
    if as_json:
        _print_json(dataclasses.asdict(report))
    else:
        _print_report(report)


@command(rich_help_panel=_USING)
def serve(  # noqa: PLR0917 - typer calls it by name
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="Folder of a finished run or of a SavedModel.")
    ],
    port: Annotated[int, Whole(help="Port to listen on.")] = 8000,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    max_megabytes: Annotated[
        int, Whole(help="Largest image file, in 2**20 bytes.")
    ] = MAX_MEGABYTES,
    max_megapixels: Annotated[int, Whole(help="Largest image, in 2**20 pixels.")] = MAX_MEGAPIXELS,
    access_log: Annotated[
        bool, Flag("--access-log/--no-access-log", help="Log each request.")
    ] = True,
    safe: Safe = False,
) -> None:
    """Classify images over HTTP, with a page to drop them on.

    A SavedModel is a program that TensorFlow executes: use --safe for one from an untrusted
    source.
    """
    from tlkit.serving.server import serve as serve_run
    from tlkit.serving.server import skip_teardown

    set_done = skip_teardown()
    serve_run(
        run,
        port=port,
        host=host,
        max_megabytes=max_megabytes,
        max_megapixels=max_megapixels,
        access_log=access_log,
        safe=safe,
        log=_log,
    )
    set_done()


@command(rich_help_panel=_INSPECTING)
def inspect(  # noqa: PLR0917 - typer calls it by name
    photos: Photos,
    near_duplicates: Annotated[
        bool, Flag("--near-duplicates", help="Also find near-duplicates.")
    ] = False,
    max_pixels: Annotated[int, MaxPixels] = MAX_PIXELS,
    damaged: Damaged = "keep",
    decisions: Decisions = None,
    as_json: Json = False,
) -> None:
    """Check a folder of images: counts, unreadable files, duplicates, leaks."""
    from tlkit.data.inspection import inspect_listing
    from tlkit.data.manifests import list_images

    check_choice("damaged", damaged, DAMAGED)
    with phase("inspecting"):
        listing = list_images(photos, argument="photos", decisions=decisions)
        load_tensorflow_quietly()
        duplicates = None
        if not near_duplicates:
            report = inspect_listing(listing, max_pixels=max_pixels, damaged=damaged)
        else:
            from tlkit.data.near_duplicates import audit_listing

            report, duplicates = audit_listing(listing, max_pixels=max_pixels, damaged=damaged)
    found: dict[str, DataReport | NearDuplicateReport] = {"data": report}
    if duplicates is not None:
        found["near_duplicates"] = duplicates
    if as_json:
        _print_json({name: dataclasses.asdict(one) for name, one in found.items()})
    else:
        _print_report("\n".join(map(str, found.values())))


@command(rich_help_panel=_INSPECTING)
def review(  # noqa: PLR0917 - typer calls it by name
    photos: Photos,
    out: Annotated[
        Path | None,
        typer.Option(metavar="PAGE", help="The page to write; by default NAME-review.html."),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Take the features from the network of a finished run."),
    ] = None,
    backbone: Annotated[str | None, _typer_parameter("backbone")] = None,
    weights: Annotated[str, _typer_parameter("weights")] = "pretrained",
    image_size: Annotated[
        int | None, Whole(help="Height and width of the images in pixels.")
    ] = None,
    resize: Annotated[str | None, _typer_parameter("resize")] = None,
    unlabelled: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Also rank these images: which to label next."),
    ] = None,
    decisions: Decisions = None,
    max_shown: Annotated[int, Whole(help="Doubts, and images to label, on the page.")] = MAX_SHOWN,
    max_pixels: Annotated[int, MaxPixels] = MAX_PIXELS,
    damaged: Damaged = "keep",
    seed: Annotated[int, Whole(help="Seed of the folds.")] = 0,
    as_json: Json = False,
) -> None:
    """Find doubtful labels, and decide on them on a page; images are not changed."""
    from tlkit.runs.review import default_page, review_labels

    with phase("reviewing"):
        report = review_labels(
            photos,
            run=run,
            backbone=backbone,
            weights=None if weights == "none" else weights,
            image_size=image_size,
            resize=resize,
            unlabelled=unlabelled,
            decisions=decisions,
            out=default_page(photos) if out is None else out,
            max_shown=max_shown,
            max_pixels=max_pixels,
            damaged=damaged,
            seed=seed,
        )
    if as_json:
        _print_json(report.as_dict())
    else:
        _print_report(report)


@command(name="add-classes", rich_help_panel=_TRAINING)
def add_classes(  # noqa: PLR0917 - typer calls it by name
    run: RunFolder,
    photos: Photos,
    out: RunOut = None,
    method: Annotated[
        str,
        typer.Option(
            metavar="|".join(_METHODS),
            autocompletion=_completion_of(_METHODS),
            help="exact: the head of all images together, from sums over their features; replay: "
            "fixed old logits, against stored features of old images; isolated: fixed old logits, "
            "without old images; auto: exact if the run keeps these sums, else replay.",
        ),
    ] = "auto",
    exemplars: Annotated[
        int | None,
        Whole(
            help="With replay: stored features of each old class, "
            f"{DEFAULT_NUM_EXEMPLARS} by default."
        ),
    ] = None,
    align: Annotated[
        bool, Flag("--align", help="Scale the new weights to the norm of the old ones.")
    ] = False,
    batch_size: Annotated[int, Whole(help="Images per step.")] = 32,
    max_pixels: Annotated[int | None, MaxPixels] = None,
    decisions: Decisions = None,
    resume: Resume = True,
    as_json: Json = False,
) -> None:
    """Add the classes of a folder to a finished run.

    With the method exact, the head is that of all images together, and learns from further images
    of old classes too. Otherwise the logits of old classes do not change, and further images of
    them only balance them against the new ones.
    """
    from tlkit.runs.add_classes import add_classes_run

    was_finished = out is not None and is_finished(out)
    grown = add_classes_run(
        run,
        photos,
        out=out,
        method=method,
        exemplars=exemplars,
        align=align,
        batch_size=batch_size,
        max_pixels=max_pixels,
        decisions=decisions,
        resume=resume,
    )
    _print_summary(grown, was_finished, as_json=as_json)


@command(rich_help_panel=_TRAINING)
def forget(  # noqa: PLR0917 - typer calls it by name
    run: RunFolder,
    out: RunOut = None,
    images: Annotated[
        Path | None,
        typer.Option(
            metavar="LIST",
            help="File with one image per line: its path, or the digest of its content.",
        ),
    ] = None,
    class_names: Annotated[
        list[str] | None,
        typer.Option("--class", metavar="NAME", help="A class to forget; may be repeated."),
    ] = None,
    batch_size: Annotated[int, Whole(help="Images per step.")] = 32,
    max_pixels: Annotated[int | None, MaxPixels] = None,
    resume: Resume = True,
    as_json: Json = False,
) -> None:
    """Make the head of a finished run forget images or classes, exactly.

    The run must keep statistics of its head. The images are subtracted from them, and the head is
    solved from the rest. A network below the head that was trained on the images has still seen
    them.
    """
    from tlkit.runs.forget import forget_run, read_image_list

    was_finished = out is not None and is_finished(out)
    smaller = forget_run(
        run,
        images=() if images is None else read_image_list(images),
        class_names=class_names or (),
        out=out,
        batch_size=batch_size,
        max_pixels=max_pixels,
        resume=resume,
    )
    _print_summary(smaller, was_finished, as_json=as_json)


@command(rich_help_panel=_INSPECTING)
def compare(  # noqa: PLR0917 - typer calls it by name
    photos: Photos,
    backbones: Annotated[
        str | None,
        typer.Option(
            metavar="A[=FILE],B",
            help="Candidates: NAME, NAME@PIXELS, NAME=WEIGHTS_FILE, NAME=none (random weights), "
            "FILE.keras[:PREPROCESSING] or keras_hub:PRESET.",
        ),
    ] = None,
    max_milliseconds: MaxMilliseconds = None,
    max_megabytes: MaxMegabytes = None,
    budget: Annotated[
        float | None,
        Number(metavar="SECONDS", help="Time for all backbones; a sample is used if it is short."),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Plot accuracy against cost: .png, .svg or .pdf."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare backbones on a folder of images before training."""
    from tlkit.advice.candidates import DEFAULT_BACKBONES, check_limits, parse_candidates
    from tlkit.data.manifests import load_images

    names = DEFAULT_BACKBONES if backbones is None else backbones
    entries = parse_candidates(names, argument="backbones")
    check_limits(max_milliseconds=max_milliseconds, max_megabytes=max_megabytes, budget=budget)
    if plot is not None:
        _check_figure_file(plot)
    with phase("comparing"):
        load_tensorflow_quietly()
        check_building()
        from tlkit.advice.backbones import compare_backbones

        comparison = compare_backbones(
            load_images(photos, argument="photos"),
            list(entries),
            image_size="own",
            max_milliseconds=max_milliseconds,
            max_megabytes=max_megabytes,
            budget=budget,
        )
    _ = comparison.best  # raises with the reasons if there is none
    if as_json:
        _print_json(comparison.as_dict())
    else:
        _print_report(comparison)
    if plot is not None:
        from tlkit.plots.backbones import plot_backbones
        from tlkit.plots.figure import DOTS_PER_INCH
        from tlkit.utils.files import written_aside

        with written_aside(plot) as aside:
            plot_backbones(comparison).savefig(aside, dpi=DOTS_PER_INCH, bbox_inches="tight")


@command(rich_help_panel=_INSPECTING)
def backbones(
    as_json: Json = False,
) -> None:
    """List the backbones: sizes, cost, accuracy, licence of the weights, and which are here."""
    from tlkit.models.catalogue import backbone_table, list_backbones

    specs = list_backbones()
    if as_json:
        _print_json([spec.as_dict() for spec in specs])
    else:
        _log(backbone_table(specs))


@command(rich_help_panel="The cache")
def cache(
    clear: Annotated[bool, Flag("--clear", help="Remove the whole content.")] = False,
    limit: Annotated[
        float | None,
        Number(metavar="GB", help="Remove the least recently used entries down to this size."),
    ] = None,
    older_than: Annotated[
        float | None, Number(metavar="DAYS", help="Remove entries that were not used for so long.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show the content of the cache, or remove all or some of it."""
    from tlkit.utils.cache import (
        cache_entries,
        cache_limit,
        cache_root,
        check_bounds,
        clear_cache,
        describe_cache,
        trim_cache,
    )
    from tlkit.utils.formatting import GIGABYTE

    check_bounds(limit=limit, older_than=older_than)
    if clear and (limit, older_than) != (None, None):
        raise ArgumentError(
            "`clear` must be given alone, as it removes the whole cache. Received: clear=True "
            f"with limit={limit!r} and older_than={older_than!r}. Leave out it or these."
        )
    removed = None
    if clear:
        removed = clear_cache()
    elif limit is not None or older_than is not None:
        max_bytes = None if limit is None else round(limit * GIGABYTE)
        removed = trim_cache(max_bytes=max_bytes, older_than=older_than)
    if not as_json:
        _log(describe_cache() if removed is None else str(removed))
    elif removed is not None:
        _print_json(dataclasses.asdict(removed))
    else:
        entries = map(dataclasses.asdict, cache_entries())
        _print_json({"root": cache_root(), "limit": cache_limit(), "entries": [*entries]})


@command(rich_help_panel=_TRAINING)
def demo(
    out: Annotated[Path, typer.Option(metavar="RUN", help="Run directory.")] = Path("tlkit-demo"),
    as_json: Json = False,
) -> None:
    """Train, evaluate and export once, offline, on handwritten digits."""
    from tlkit.runs.demo import run_demo

    if as_json:
        _print_run(run_demo(out, log=lambda text: None))
    else:
        run_demo(out, log=_log)


def main() -> None:
    """Runs the command line and exits cleanly on a signal; see `run_command`."""
    run_interruptible(run_command, interruption_hint)


def interruption_hint() -> str:
    """Returns the end of the line about a signal: that the command can be resumed, if it can."""
    commands = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    return "; the same command resumes the run" if commands[:1] in _RESUMABLE else ""


def run_command() -> None:
    """Runs the command line; an error is one plain line and a status.

    `--debug`, anywhere among the arguments, shows TensorFlow's messages and tracebacks, and
    `--quiet` hides progress.
    """
    arguments = [given for given in sys.argv[1:] if given not in ("--debug", "--quiet")]
    debug = "--debug" in sys.argv[1:]
    if debug:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "0")
    hidden = progress_hidden() if "--quiet" in sys.argv[1:] else nullcontext()
    try:
        with progress_as_lines(), hidden:
            status = app(args=arguments, standalone_mode=False)
    except (TlkitError, typer.TyperException, OSError) as error:
        if debug:
            raise
        message = str(error)
        if isinstance(error, typer.TyperException):
            message = f"{error.format_message()} {_see_help(error)}"
        message = in_options(" ".join(message.split()), _parameters(arguments))
        print(f"tlkit: {visible(message)}", file=sys.stderr)
        sys.exit(2)
    except Interruption as interruption:
        raise interruption.error from None
    if status == _INTERRUPTED:
        raise KeyboardInterrupt
    sys.exit(status)


def _parameters(arguments: list[str]) -> dict[str, Parameter]:
    """Returns the parameters of the command in the arguments."""
    commands = typer.main.get_group(app).commands
    name = next((argument for argument in arguments if argument in commands), None)
    return {} if name is None else parameters_of(commands[name].params)


def _see_help(error: typer.TyperException) -> str:
    """Returns a sentence that refers to the help of the command, if there is one."""
    context = getattr(error, "ctx", None)
    command = "" if context is None or context.parent is None else f" {context.info_name}"
    return f"See tlkit{command} --help."


def _check_figure_file(path: Path) -> None:
    is_writable = path.parent.is_dir() and os.access(path.parent, os.W_OK | os.X_OK)
    if path.suffix.lower() not in FIGURE_SUFFIXES or not is_writable or path.is_dir():
        raise ArgumentError(
            f"`plot` must be a file that ends in {', '.join(FIGURE_SUFFIXES)}, in a writable "
            f"folder. Received: plot={str(path)!r}. Use --plot backbones.png, for example."
        )


def _print_summary(run: Run, was_finished: bool, *, as_json: bool) -> None:
    if as_json:
        _print_run(run)
        return
    if was_finished:
        _log(finished_message(run.path))
    _print_report(summarize_run(run))


def _print_run(run: Run) -> None:
    _print_json({"run": run.path, "class_names": run.class_names, "metrics": run.metrics})


def _print_json(content: object) -> None:
    """Prints JSON in one line; paths are strings in it."""
    _log(json.dumps(content, ensure_ascii=False, default=str))


def _print_report(report: object) -> None:
    """Prints a report with the command's option names instead of Python's argument names."""
    _log(names_in_options(str(report), _parameters(sys.argv[1:])))


def _log(text: str) -> None:
    print(visible(text), flush=True)
