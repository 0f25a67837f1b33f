"""The command line: wiring only."""

import dataclasses
import inspect as introspection  # `inspect` is a command
import json
import os
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from tlkit import __version__
from tlkit.continual.exemplars import DEFAULT_NUM_EXEMPLARS
from tlkit.data.limits import MAX_PIXELS
from tlkit.data.settings import DAMAGED
from tlkit.errors import ArgumentError, TlkitError, check_choice
from tlkit.runs.config import RunConfig, arguments_of
from tlkit.runs.console_summary import summarize_run
from tlkit.runs.directory import Run, finished_message, is_finished
from tlkit.runs.options import RUN, option_of
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
from tlkit.utils.progress import phase, progress_as_lines
from tlkit.utils.signals import run_interruptible
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
NumberOrAuto = partial(typer.Option, parser=_number_or_auto, metavar="X")
Flag = partial(typer.Option, metavar="")
MaxPixels = Whole(help="Images with more pixels are left out.")


def _offered(name: str) -> Any:
    """Returns how typer offers a field of `RunConfig`: what it parses follows from the type."""
    field = next(one for one in arguments_of(RunConfig) if one.name == name)
    said = option_of(field)
    if not said.panel:
        return typer.Argument(metavar=said.metavar, help=said.help)
    shown: dict[str, Any] = {"help": said.help, "rich_help_panel": said.panel}
    if said.metavar:
        shown["metavar"] = said.metavar
    own = (f"--{said.name}",) if said.name else ()
    kind = _kind_of(field)
    if kind is bool:
        return Flag(f"--{name.replace('_', '-')}", **shown)
    offers = {int: Whole, float: Number, Any: NumberOrAuto}.get(kind, typer.Option)
    return offers(*own, **shown)


def _kind_of(field: "dataclasses.Field[Any]") -> Any:
    """What the command line gives for a field; `Any` for a number or a word."""
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
        annotation=Annotated[kind | None if default is None else kind, _offered(field.name)],
    )


def with_options(run: Callable[..., None]) -> Callable[..., None]:
    """Returns a command of a function that takes a config.

    In the place of `config` it has an option for each field of `RunConfig`.
    """
    fields = arguments_of(RunConfig)

    def called(**values: Any) -> None:
        given = {field.name: values.pop(field.name) for field in fields}
        run(config=_config_of(given), **values)

    parameters: list[introspection.Parameter] = []
    for own in introspection.signature(run).parameters.values():
        parameters += map(_as_parameter, fields) if own.name == "config" else [own]
    vars(called)["__signature__"] = introspection.Signature(parameters)
    called.__name__, called.__doc__ = run.__name__, run.__doc__
    return called


def _config_of(given: Mapping[str, Any]) -> RunConfig:
    """The config of a run, from words of the command line."""
    values: dict[str, Any] = {
        name: os.fspath(value) if isinstance(value, Path) else value
        for name, value in given.items()
    }
    if values["weights"] == "none":
        values["weights"] = None
    values["unfreeze"] = _group(values["unfreeze"])
    return RunConfig(**values)


Photos = Annotated[Path, _offered("photos")]
Damaged = Annotated[str, _offered("damaged")]
MaxMilliseconds = Annotated[float | None, _offered("max_milliseconds")]
MaxMegabytes = Annotated[float | None, _offered("max_megabytes")]
Distribute = Annotated[
    str | None,
    typer.Option(
        metavar="KIND",
        rich_help_panel=RUN,
        help="Share the work among devices: auto, mirrored or multi-worker.",
    ),
]
RunOut = Annotated[
    Path | None,
    typer.Option(
        metavar="RUN",
        rich_help_panel=RUN,
        help="Folder to leave the run in; by default runs/NAME-N for PHOTOS called NAME.",
    ),
]
Resume = Annotated[
    bool,
    Flag("--resume/--no-resume", rich_help_panel=RUN, help="Resume a run that is there."),
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
        _log(f"tlkit {__version__}")
    elif context.invoked_subcommand is None:
        _log(context.get_help())


@command(rich_help_panel=_TRAINING)
@with_options
def train(
    *,
    out: RunOut = None,
    config: RunConfig,
    resume: Resume = True,
    distribute: Distribute = None,
) -> None:
    """Train a classifier on a folder of images and export it."""
    from tlkit.runs.train import make_run

    was_finished = out is not None and is_finished(out)
    run = make_run(config, out=out, resume=resume, distribute=distribute)
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
    """Measure a run's model on other images of its classes."""
    from tlkit.runs.inference import evaluate_run

    with phase("evaluating"):
        report = evaluate_run(
            run, photos, max_pixels=max_pixels, damaged=damaged, distribute=distribute
        )
    if as_json:
        _log(json.dumps(report.as_dict(), ensure_ascii=False))
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
        _log(json.dumps([one.as_dict() for one in said], ensure_ascii=False))
    else:
        for one in said:
            _log(str(one))
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
        int, Whole(help="The most that an image file may have, in 2**20 bytes.")
    ] = MAX_MEGABYTES,
    max_megapixels: Annotated[
        int, Whole(help="The most that an image may have, in 2**20 pixels.")
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


@command(rich_help_panel=_LOOKING)
def inspect(
    photos: Photos,
    near_duplicates: Annotated[
        bool, Flag("--near-duplicates", help="Find images that look alike, too.")
    ] = False,
    max_pixels: Annotated[int, MaxPixels] = MAX_PIXELS,
    damaged: Damaged = "keep",
) -> None:
    """Check a folder of images: counts, unreadable files, duplicates, leaks."""
    from tlkit.data.inspection import inspect_listing
    from tlkit.data.manifests import list_images

    check_choice("damaged", damaged, DAMAGED)
    with phase("inspecting"):
        listing = list_images(photos, argument="photos")
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

    Further images of old classes in the folder only hold their place against the new ones: old
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
        Number(metavar="SECONDS", help="For all backbones to see the images; else a sample."),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw accuracy against cost: .png, .svg or .pdf."),
    ] = None,
    as_json: Annotated[bool, Flag("--json", help="Print JSON.")] = False,
) -> None:
    """Compare backbones on a folder of images before training any."""
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
    _ = comparison.best  # where there is none, it says why
    if as_json:
        _log(json.dumps(comparison.as_dict(), ensure_ascii=False))
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
        _log(str(clear_cache()))
    elif limit is not None or older_than is not None:
        max_bytes = None if limit is None else round(limit * GIGABYTE)
        _log(str(trim_cache(max_bytes=max_bytes, older_than=older_than)))
    else:
        _log(describe_cache())


@command(rich_help_panel=_TRAINING)
def demo(
    out: Annotated[Path, typer.Option(metavar="RUN", help="Folder to leave the run in.")] = Path(
        "tlkit-demo"
    ),
) -> None:
    """Run everything once, offline, on handwritten digits."""
    from tlkit.runs.demo import run_demo

    run_demo(out, log=_log)


def main() -> None:
    """Runs the command line, and ends it in order where a signal does; see `run_command`."""
    run_interruptible(run_command, interruption_hint)


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
        with progress_as_lines():
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
        _log(finished_message(run.path))
    _say_report(summarize_run(run))


def _say_report(report: object) -> None:
    """Says a report in the words of the command that was called."""
    _log(names_in_options(str(report), _parameters(sys.argv[1:])))


def _log(text: str) -> None:
    print(visible(text), flush=True)
