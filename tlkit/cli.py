"""The command line: wiring only."""

import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from tlkit import __version__
from tlkit.continual.exemplars import DEFAULT_NUM_EXEMPLARS
from tlkit.data.limits import MAX_PIXELS
from tlkit.data.settings import DAMAGED
from tlkit.errors import ArgumentError, TlkitError, check_choice
from tlkit.runs.console_summary import outcome_of
from tlkit.runs.directory import Run, is_finished, left_as_it_is
from tlkit.serving.server import MAX_MEGABYTES, MAX_MEGAPIXELS
from tlkit.utils.keras_settings import check_building
from tlkit.utils.option_names import (
    Command,
    Commands,
    Parameter,
    in_options,
    names_in_options,
    parameters_of,
)
from tlkit.utils.progress import phase, shown_as_lines
from tlkit.utils.signals import ended_in_order
from tlkit.utils.tensorflow_logging import load_tensorflow_quietly
from tlkit.utils.text_repr import in_line, visible

app = typer.Typer(
    name="tlkit",
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="--debug, anywhere on the line, shows TensorFlow's messages and tracebacks.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
_INTERRUPTED = 130
_CONTINUED = (["train"], ["add-classes"], ["demo"])
_SOME_LEFT_OUT = 1
_TRAINING, _LOOKING, _USING = "Train", "Look before training", "Use a run"
_DATA, _MODEL, _LEARNING = "Images", "Model", "Training"
_KEEPING, _RUN = "Going on from a run", "The run"
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


command = partial(app.command, cls=Command)
Whole = partial(typer.Option, parser=_whole_number, metavar="N")
Number = partial(typer.Option, parser=_number, metavar="X")
Flag = partial(typer.Option, metavar="")
MaxPixels = Whole(help="Images with more pixels are left out.")
Photos = Annotated[
    Path,
    typer.Argument(
        metavar="PHOTOS",
        help="Folder: CLASS/*.jpg, or train/, val/, test/ of it; or a .csv file with the columns "
        "path, label and, if wanted, group and split.",
    ),
]
Damaged = Annotated[
    str,
    typer.Option(
        metavar="keep|skip",
        rich_help_panel=_DATA,
        help="Use JPEG files that are damaged as far as they are decoded, or leave them out.",
    ),
]
MaxMilliseconds = Annotated[
    float | None,
    Number(rich_help_panel=_MODEL, help="Backbones that take longer for one image are left out."),
]
MaxMegabytes = Annotated[
    float | None,
    Number(
        rich_help_panel=_MODEL,
        help="Backbones whose file is larger, in 10⁶ bytes, are left out.",
    ),
]
Distribute = Annotated[
    str | None,
    typer.Option(
        metavar="KIND",
        rich_help_panel=_RUN,
        help="Share the work among devices: auto, mirrored or multi-worker.",
    ),
]
RunOut = Annotated[
    Path | None,
    typer.Option(
        metavar="RUN",
        rich_help_panel=_RUN,
        help="Folder to leave the run in; by default runs/NAME-N for PHOTOS called NAME.",
    ),
]
Resume = Annotated[
    bool,
    Flag("--resume/--no-resume", rich_help_panel=_RUN, help="Resume a run that is there."),
]
Safe = Annotated[
    bool,
    Flag("--safe", help="Take model.keras, which can run no code, not the SavedModel."),
]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run.")]


@app.callback(invoke_without_command=True)
def tlkit(
    context: typer.Context,
    version: Annotated[
        bool, Flag("--version", is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Teach a network that already knows how to see something new: from images to a model."""
    if version:
        _say(f"tlkit {__version__}")
    elif context.invoked_subcommand is None:
        _say(context.get_help())


@command(rich_help_panel=_TRAINING)
def train(  # noqa: PLR0917 - typer calls it by name
    photos: Photos,
    out: RunOut = None,
    from_run: Annotated[
        Path | None,
        typer.Option(
            "--from", metavar="RUN0", rich_help_panel=_KEEPING, help="Go on from a finished run."
        ),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            rich_help_panel=_MODEL,
            help="mobilenet_v2, resnet50, ...; auto compares some.",
        ),
    ] = None,
    backbones: Annotated[
        str | None,
        typer.Option(
            metavar="A[=FILE],B",
            rich_help_panel=_MODEL,
            help="With --backbone auto: what it chooses among.",
        ),
    ] = None,
    max_milliseconds: MaxMilliseconds = None,
    max_megabytes: MaxMegabytes = None,
    weights: Annotated[
        str,
        typer.Option(
            metavar="FILE|none", rich_help_panel=_MODEL, help="Where the weights come from."
        ),
    ] = "pretrained",
    image_size: Annotated[
        int | None, Whole(rich_help_panel=_MODEL, help="Side of the images in pixels.")
    ] = None,
    mode: Annotated[
        str,
        typer.Option(
            metavar="MODE",
            rich_help_panel=_LEARNING,
            help="What trains: head, fine-tune, or auto, which goes by measurements.",
        ),
    ] = "auto",
    unfreeze: Annotated[
        str | None,
        typer.Option(
            metavar="GROUP",
            rich_help_panel=_LEARNING,
            help="First group of layers that trains, the number of groups, or all.",
        ),
    ] = None,
    epochs: Annotated[
        int | None, Whole(rich_help_panel=_LEARNING, help="Passes over the images, at most.")
    ] = None,
    learning_rate: Annotated[
        float | None, Number(rich_help_panel=_LEARNING, help="The highest rate.")
    ] = None,
    layer_decay: Annotated[
        float | None,
        Number(
            rich_help_panel=_LEARNING,
            help="A group's rate against that of the group behind it.",
        ),
    ] = None,
    anchor: Annotated[
        Any,
        typer.Option(
            parser=_number_or_auto,
            metavar="X",
            rich_help_panel=_KEEPING,
            help="Hold weights near those of RUN0, so strongly, or auto.",
        ),
    ] = None,
    importance: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            rich_help_panel=_KEEPING,
            help="Hold by importance: fisher, mas, ...",
        ),
    ] = None,
    old_photos: Annotated[
        Path | None,
        typer.Option(metavar="DIR", rich_help_panel=_KEEPING, help="Images of what RUN0 learned."),
    ] = None,
    augment: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            rich_help_panel=_DATA,
            help="Augmentation: none, light, default or strong.",
        ),
    ] = None,
    class_weight: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", rich_help_panel=_LEARNING, help="balanced weighs rare classes more."
        ),
    ] = None,
    reject_unknown: Annotated[
        bool,
        Flag(
            "--reject-unknown",
            rich_help_panel=_MODEL,
            help="Let the model also say «none of these».",
        ),
    ] = False,
    batch_size: Annotated[int, Whole(rich_help_panel=_LEARNING, help="Images per step.")] = 32,
    seed: Annotated[
        int,
        Whole(rich_help_panel=_RUN, help="Of the split, weights, orders, augmentation."),
    ] = 0,
    max_pixels: Annotated[
        int, Whole(rich_help_panel=_DATA, help="Images with more pixels are left out.")
    ] = MAX_PIXELS,
    damaged: Damaged = "keep",
    resume: Resume = True,
    distribute: Distribute = None,
) -> None:
    """Train a classifier on a folder of photographs and export it."""
    from tlkit.runs.train import train_run

    was_finished = out is not None and is_finished(out)
    run = train_run(
        photos,
        out=out,
        from_run=from_run,
        backbone=backbone,
        backbones=backbones,
        max_milliseconds=max_milliseconds,
        max_megabytes=max_megabytes,
        weights=None if weights == "none" else weights,
        image_size=image_size,
        mode=mode,
        unfreeze=_group(unfreeze),
        epochs=epochs,
        learning_rate=learning_rate,
        layer_decay=layer_decay,
        anchor=anchor,
        importance=importance,
        old_photos=old_photos,
        augment=augment,
        class_weight=class_weight,
        reject_unknown=reject_unknown,
        batch_size=batch_size,
        seed=seed,
        max_pixels=max_pixels,
        damaged=damaged,
        resume=resume,
        distribute=distribute,
    )
    _say_what_came(run, was_finished)


@command(rich_help_panel=_USING)
def evaluate(  # noqa: PLR0917 - typer calls it by name
    run: RunFolder,
    photos: Photos,
    max_pixels: Annotated[int | None, MaxPixels] = None,
    damaged: Annotated[
        str | None,
        typer.Option(
            metavar="keep|skip",
            help="What to do with damaged JPEG files; as the run did if not given.",
        ),
    ] = None,
    distribute: Distribute = None,
    as_json: Annotated[bool, Flag("--json", help="Print JSON.")] = False,
) -> None:
    """Measure a run's model on other photographs of its classes."""
    from tlkit.runs.inference import evaluate_run

    with phase("evaluating"):
        report = evaluate_run(
            run, photos, max_pixels=max_pixels, damaged=damaged, distribute=distribute
        )
    if as_json:
        _say(json.dumps(report.as_dict(), ensure_ascii=False))
    else:
        _say_report(report)


@command(rich_help_panel=_USING)
def predict(
    run: Annotated[
        Path, typer.Argument(metavar="RUN_OR_EXPORT", help="Folder of a run or of a SavedModel.")
    ],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE", help="Images.")],
    as_json: Annotated[bool, Flag("--json", help="Print JSON.")] = False,
    safe: Safe = False,
) -> None:
    """Say what is in images.

    Files that cannot be used are named on standard error, and the status is 1.

    A SavedModel is a program that TensorFlow runs: use --safe with one of somebody you do not
    trust.
    """
    from tlkit.runs.inference import predict_with

    with phase("predicting"):
        predictions = predict_with(run, images, safe=safe)
    said = [one for one in predictions if not one.reason]
    if as_json:
        _say(json.dumps([one.as_dict() for one in said], ensure_ascii=False))
    else:
        for one in said:
            _say(str(one))
    for one in predictions:
        if one.reason:
            print(f"tlkit: {in_line(f'{one.path}: {one.reason}')}", file=sys.stderr)
    if len(said) < len(predictions):
        raise typer.Exit(_SOME_LEFT_OUT)


@command(rich_help_panel=_USING)
def export(
    run: RunFolder,
    to: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write; must not exist.")],
    file_format: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="saved_model|keras|litert|litert_float16|litert_int8|onnx",
            help="What to write.",
        ),
    ] = "saved_model",
    version: Annotated[
        int | None, Whole(help="Write DIR/N, as TensorFlow Serving wants it.")
    ] = None,
) -> None:
    """Write a run's model in another place or format, proven equal to it."""
    from tlkit.runs.inference import export_run

    with phase("exporting"):
        report = export_run(run, to, file_format, version=version)
    _say_report(report)


@command(rich_help_panel=_USING)
def serve(  # noqa: PLR0917 - typer calls it by name
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="Folder of a finished run or of a SavedModel.")
    ],
    port: Annotated[int, Whole(help="Port to listen on.")] = 8000,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    max_megabytes: Annotated[
        int, Whole(help="The most that a picture file may have, in 2**20 bytes.")
    ] = MAX_MEGABYTES,
    max_megapixels: Annotated[
        int, Whole(help="The most that a picture may have, in 2**20 pixels.")
    ] = MAX_MEGAPIXELS,
    access_log: Annotated[
        bool, Flag("--access-log/--no-access-log", help="A line for each request.")
    ] = True,
    safe: Safe = False,
) -> None:
    """Answer images over HTTP, with a page to drop them on.

    A SavedModel is a program that TensorFlow runs: use --safe with one of somebody you do not
    trust.
    """
    from tlkit.serving.server import quick_end
    from tlkit.serving.server import serve as serve_run

    ended = quick_end()
    serve_run(
        run,
        port=port,
        host=host,
        max_megabytes=max_megabytes,
        max_megapixels=max_megapixels,
        access_log=access_log,
        safe=safe,
        say=_say,
    )
    ended()


@command(rich_help_panel=_LOOKING)
def inspect(
    photos: Photos,
    near_duplicates: Annotated[
        bool, Flag("--near-duplicates", help="Find pictures that look alike, too.")
    ] = False,
    max_pixels: Annotated[int, MaxPixels] = MAX_PIXELS,
    damaged: Damaged = "keep",
) -> None:
    """Check a folder of photographs: counts, unreadable files, duplicates, leaks."""
    from tlkit.data.inspection import inspect_listing
    from tlkit.data.manifests import list_pictures

    check_choice("damaged", damaged, DAMAGED)
    with phase("inspecting"):
        listing = list_pictures(photos, argument="photos")
        load_tensorflow_quietly()
        if not near_duplicates:
            text = str(inspect_listing(listing, max_pixels=max_pixels, damaged=damaged))
        else:
            from tlkit.data.near_duplicates import audit_listing

            report, alike = audit_listing(listing, max_pixels=max_pixels, damaged=damaged)
            text = f"{report}\n{alike}"
    _say_report(text)


@command(name="add-classes", rich_help_panel=_TRAINING)
def add_classes(  # noqa: PLR0917 - typer calls it by name
    run: RunFolder,
    photos: Photos,
    out: RunOut = None,
    exemplars: Annotated[int, Whole(help="Features of each old class that are replayed.")] = (
        DEFAULT_NUM_EXEMPLARS
    ),
    align: Annotated[
        bool, Flag("--align", help="Scale new weights to the size of the old ones.")
    ] = False,
    batch_size: Annotated[int, Whole(help="Images per step.")] = 32,
    max_pixels: Annotated[int | None, MaxPixels] = None,
    resume: Resume = True,
) -> None:
    """Add the classes of a folder to a finished run, and keep the old ones as they are.

    Further pictures of old classes in the folder only hold their place against the new ones: old
    classes learn nothing from them. tlkit train --from is for that.
    """
    from tlkit.runs.add_classes import add_classes_run

    was_finished = out is not None and is_finished(out)
    grown = add_classes_run(
        run,
        photos,
        out=out,
        exemplars=exemplars,
        align=align,
        batch_size=batch_size,
        max_pixels=max_pixels,
        resume=resume,
    )
    _say_what_came(grown, was_finished)


@command(rich_help_panel=_LOOKING)
def compare(  # noqa: PLR0917 - typer calls it by name
    photos: Photos,
    backbones: Annotated[
        str | None,
        typer.Option(metavar="A[=FILE],B", help="NAME, NAME=WEIGHTS_FILE or NAME=none (random)."),
    ] = None,
    max_milliseconds: MaxMilliseconds = None,
    max_megabytes: MaxMegabytes = None,
    budget: Annotated[
        float | None,
        Number(metavar="SECONDS", help="For all backbones to see the photographs; else a sample."),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw accuracy against cost: .png, .svg or .pdf."),
    ] = None,
    as_json: Annotated[bool, Flag("--json", help="Print JSON.")] = False,
) -> None:
    """Compare backbones on a folder of photographs before training any."""
    from tlkit.advice.candidates import DEFAULT_BACKBONES, check_limits, parse_candidates
    from tlkit.data.manifests import load_pictures

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
            load_pictures(photos, argument="photos"),
            list(entries),
            image_size="own",
            max_milliseconds=max_milliseconds,
            max_megabytes=max_megabytes,
            budget=budget,
        )
    _ = comparison.best  # where there is none, it says why
    if as_json:
        _say(json.dumps(comparison.as_dict(), ensure_ascii=False))
    else:
        _say_report(comparison)
    if plot is not None:
        from tlkit.plots.backbones import plot_backbones
        from tlkit.plots.figure import DOTS_PER_INCH
        from tlkit.utils.files import written_aside

        with written_aside(plot) as aside:
            plot_backbones(comparison).savefig(aside, dpi=DOTS_PER_INCH, bbox_inches="tight")


@command(rich_help_panel="The cache")
def cache(
    clear: Annotated[bool, Flag("--clear", help="Remove all of it.")] = False,
    limit: Annotated[
        float | None,
        Number(metavar="GB", help="Remove what was used longest ago until so much is left."),
    ] = None,
    older_than: Annotated[
        float | None, Number(metavar="DAYS", help="Remove what was not used for so long.")
    ] = None,
) -> None:
    """Show what the cache holds, or remove all or some of it."""
    from tlkit.utils.cache import check_bounds, clear_cache, describe_cache, trim_cache
    from tlkit.utils.formatting import GIGABYTE

    check_bounds(limit=limit, older_than=older_than)
    if clear and (limit, older_than) != (None, None):
        raise ArgumentError(
            "`clear` must be given alone, as it removes all of the cache. Received: clear=True "
            f"with limit={limit!r} and older_than={older_than!r}. Leave it or these out."
        )
    if clear:
        _say(str(clear_cache()))
    elif limit is not None or older_than is not None:
        max_bytes = None if limit is None else round(limit * GIGABYTE)
        _say(str(trim_cache(max_bytes=max_bytes, older_than=older_than)))
    else:
        _say(describe_cache())


@command(rich_help_panel=_TRAINING)
def demo(
    out: Annotated[Path, typer.Option(metavar="RUN", help="Folder to leave the run in.")] = Path(
        "tlkit-demo"
    ),
) -> None:
    """Run everything once, offline, on handwritten digits."""
    from tlkit.runs.demo import run_demo

    run_demo(out, say=_say)


def main() -> None:
    """Runs the command line, and ends it in order where a signal does; see `run_command`."""
    ended_in_order(run_command, interruption_hint)


def interruption_hint() -> str:
    """What the line about a signal says of the command that it has ended."""
    commands = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    return "; the same command continues" if commands[:1] in _CONTINUED else ""


def run_command() -> None:
    """Runs the command line; what goes wrong ends as one plain line and a status.

    `--debug`, anywhere on the line, shows TensorFlow's messages and tracebacks.
    """
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    debug = len(arguments) < len(sys.argv) - 1
    if debug:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "0")
    try:
        with shown_as_lines():
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
    if status == _INTERRUPTED:
        raise KeyboardInterrupt
    sys.exit(status)


def _parameters(arguments: list[str]) -> dict[str, Parameter]:
    """What the command that is called takes."""
    commands = typer.main.get_group(app).commands
    called = next((argument for argument in arguments if argument in commands), None)
    return {} if called is None else parameters_of(commands[called].params)


def _see_help(error: typer.TyperException) -> str:
    """Names the help that lists what may be given; it knows the command, if there is one."""
    context = getattr(error, "ctx", None)
    command = "" if context is None or context.parent is None else f" {context.info_name}"
    return f"See tlkit{command} --help."


def _check_figure_file(path: Path) -> None:
    is_there = path.parent.is_dir() and os.access(path.parent, os.W_OK | os.X_OK)
    if path.suffix.lower() not in FIGURE_SUFFIXES or not is_there or path.is_dir():
        raise ArgumentError(
            f"`plot` must be a file that ends in {', '.join(FIGURE_SUFFIXES)}, in a folder that "
            f"can be written to. Received: plot={str(path)!r}. Write --plot backbones.png, say."
        )


def _group(unfreeze: str | None) -> str | int | None:
    """A number of groups, or a name."""
    return int(unfreeze) if unfreeze is not None and unfreeze.isdecimal() else unfreeze


def _say_what_came(run: Run, was_finished: bool) -> None:
    if was_finished:
        _say(left_as_it_is(run.path))
    _say_report(outcome_of(run))


def _say_report(report: object) -> None:
    """Says a report in the words of the command that was called."""
    _say(names_in_options(str(report), _parameters(sys.argv[1:])))


def _say(text: str) -> None:
    print(visible(text), flush=True)
