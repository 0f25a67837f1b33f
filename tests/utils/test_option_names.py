"""Messages of the command line have option names instead of Python's argument names."""

import pytest

from tlkit import cli
from tlkit.utils.option_names import in_options, names_in_options, parameters_of


def known(command):
    import typer

    return parameters_of(typer.main.get_group(cli.app).commands[command].params)


@pytest.mark.parametrize(
    ("command", "message", "shown"),
    [
        (
            "train",
            "`from_run` must be X. Received: from_run='a b'.",
            "--from must be X. Received: --from 'a b'.",
        ),
        (
            "train",
            "Use mode='fine-tune'. Give weights=PATH.",
            "Use --mode fine-tune. Give --weights PATH.",
        ),
        ("train", "Received: weights=None, epochs=None.", "Received: --weights none, no --epochs."),
        ("train", "Received: seed=-1. Give 0.", "Received: --seed -1. Give 0."),
        ("train", "Received: learning_rate=1e-05.", "Received: --learning-rate 1e-05."),
        ("train", "learning_rate=nan, anchor=inf", "--learning-rate nan, --anchor inf"),
        ("train", "backbones=['vgg16=none', 'b']", "--backbones vgg16=none,b"),
        ("train", "leave `reject_unknown` out (--reject-unknown).", "leave --reject-unknown out."),
        ("train", "reject_unknown=True, resume=False", "--reject-unknown, --no-resume"),
        ("train", "Received: photos='it\\'s mine'.", "Received: PHOTOS 'it'\"'\"'s mine'."),
        (
            "export",
            "`format` must be one. Received: format='x'.",
            "--format must be one. Received: --format x.",
        ),
        ("predict", "`run` must be complete", "RUN_OR_EXPORT must be complete"),
        ("predict", "`images` must be files", "IMAGE must be files"),
        ("evaluate", "`as_json` and `json`", "--json and --json"),
    ],
)
def test_arguments_become_options(command, message, shown):
    assert in_options(message, known(command)) == shown


@pytest.mark.parametrize(
    "message",
    [
        "Received: 'seed=1/epochs=2', a folder",  # the user's text is in quotes
        "[Errno 28] No space left on device: '/runs/seed=1'",
        "`model.save_weights` and `labels`, num_classes=3",
        "the file's epochs, the network's own",
        "x.seed=3, my_seed=3, --seed=3",
    ],
)
def test_text_that_is_no_argument_is_unchanged(message):
    assert in_options(message, known("train")) == message


def test_reports_keep_names_of_files_and_classes():
    text = "a/seed=1/`b`.jpg: max_pixels=9, see `weights` and `labels` (raise `max_pixels`)"
    shown = "a/seed=1/`b`.jpg: max_pixels=9, see --weights and `labels` (raise --max-pixels)"
    assert names_in_options(text, known("train")) == shown


def test_other_commands_have_other_options():
    message = "`unfreeze` must be a group. Received: unfreeze='x'."
    assert in_options(message, known("inspect")) == message
