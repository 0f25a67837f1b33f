"""The settings of a run in a file."""

import pytest
from typer.testing import CliRunner

import tlkit
from tests.runs.test_train import ARGUMENTS
from tlkit import cli
from tlkit.errors import ArgumentError
from tlkit.runs.config import RunConfig
from tlkit.runs.settings_file import as_options, read_settings, write_settings

CONFIGS = [
    RunConfig(photos="photos"),
    RunConfig(photos='a "b" \\ \x7f é\n', weights=None, backbone="resnet20", mode="head"),
    RunConfig(
        photos="photos",
        from_run="run",
        learning_rate=1e-5,
        anchor="auto",
        unfreeze=2,
        refit=True,
        seed=7,
    ),
    RunConfig(
        photos="photos",
        backbone="auto",
        backbones=["resnet20", "vgg16=w.h5"],
        keep_statistics=False,
        max_megabytes=9.0,
    ),
]


class MadeError(Exception):
    """Ends a command where its run would begin."""


@pytest.fixture
def made(monkeypatch):
    """The configs that the command line would run."""
    configs = []

    def make_run(config, **others):
        configs.append(config)
        raise MadeError

    # imported first, so that it keeps the original
    monkeypatch.setattr("tlkit.runs.from_settings.make_run", make_run)
    monkeypatch.setattr("tlkit.runs.train.make_run", make_run)
    return configs


def called(*arguments):
    return CliRunner().invoke(cli.app, ["train", *map(str, arguments)])


@pytest.mark.parametrize("config", CONFIGS)
def test_what_a_run_writes_repeats_it(config, tmp_path, made):
    write_settings(config, tmp_path / "run.toml")
    assert RunConfig(**read_settings(tmp_path / "run.toml")) == config
    called("--config", tmp_path / "run.toml")
    with pytest.raises(MadeError):
        tlkit.train_from_config(tmp_path / "run.toml")
    assert made == [config, config]


def test_the_command_line_comes_before_the_file(tmp_path, made):
    file = tmp_path / "settings.toml"
    file.write_text(
        'photos = "photos"\nimage-size = 128\nbatch_size = 8\nrefit = true\n'
        'weights = "none"\nlearning-rate = 1e-3\n'
    )
    called("--config", file)
    called("others", "--batch-size", "4", "--config", file)
    first, second = made
    assert (first.image_size, first.batch_size, first.refit) == (128, 8, True)
    assert first.learning_rate == 0.001
    assert second.batch_size == 4
    assert second.photos == RunConfig(photos="others").photos
    assert second.image_size == 128
    with pytest.raises(MadeError):
        tlkit.train_from_config(file, epochs=3, batch_size=2)
    assert (made[-1].epochs, made[-1].batch_size, made[-1].image_size) == (3, 2, 128)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs = ", "`config` must be a TOML file"),
        ("[training]\nepochs = 3", r"must hold options.*'training'"),
        ("image-siz = 3", "'image-siz'.*Did you mean 'image-size'"),
        ("epochs = 2026-01-01", "must hold texts, numbers.*epochs"),
        ("backbones = [1]", "must hold texts, numbers.*backbones"),
    ],
)
def test_a_wrong_file_is_named(text, message, tmp_path):
    file = tmp_path / "settings.toml"
    file.write_text(text)
    with pytest.raises(ArgumentError, match=message):
        read_settings(file)


def test_wrong_values_and_changes_are_named(tmp_path):
    file = tmp_path / "settings.toml"
    file.write_text('epochs = "many"')
    with pytest.raises(ArgumentError, match="`photos` must be given"):
        tlkit.train_from_config(file)
    with pytest.raises(ArgumentError, match=r"`epoch` must be an argument.*Did you mean 'epochs'"):
        tlkit.train_from_config(file, photos="photos", epoch=3)
    with pytest.raises(ArgumentError, match="`epochs` must be"):
        tlkit.train_from_config(file, photos="photos")
    done = called("photos", "--config", file)
    assert done.exit_code == 2
    assert "must be a whole number" in done.output
    with pytest.raises(ArgumentError, match=r"TOML file.*No such file"):
        tlkit.train_from_config(tmp_path / "none.toml")


def test_numbers_are_texts_and_flags_are_not_on_the_command_line():
    settings = {"epochs": 3, "refit": True, "weights": None, "backbones": ["a", "b"]}
    expected = {"epochs": "3", "refit": True, "weights": "none", "backbones": "a,b"}
    assert as_options(settings) == expected


def test_a_run_is_repeated_from_its_own_file(photos, tmp_path):
    run = tlkit.train_run(photos, out=tmp_path / "run", mode="head", **ARGUMENTS)
    again = tlkit.train_from_config(run.path / "run.toml", out=tmp_path / "again")
    assert again.record["arguments"] == run.record["arguments"]
    assert again.metrics["test"]["loss"] == run.metrics["test"]["loss"]
