"""Runs that are recorded by experiment trackers, in Python and at the shell."""

import json

import pytest
from typer.testing import CliRunner

import tlkit
from tests.conftest import write_photos
from tests.runs.test_train import ARGUMENTS
from tests.tracking.test_tensorboard import read, text
from tests.tracking.test_tracking import Recorder
from tlkit import cli
from tlkit.runs.config import Choice
from tlkit.runs.team import Team

TUNING = {**ARGUMENTS, "mode": "fine-tune", "epochs": 2}


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """A finished fine-tuning, with a recorder, event files and a tracker that fails."""
    folder = tmp_path_factory.mktemp("tuned")
    photos = write_photos(folder / "photos", {"green": 30, "red": 30})
    recorder, messages = Recorder(), []
    run = tlkit.train_run(
        photos,
        out=folder / "run",
        trackers=[recorder, f"tensorboard:{folder / 'logs'}", Recorder("epoch")],
        log=messages.append,
        **TUNING,
    )
    return run, recorder, messages


def test_a_tracker_gets_the_settings_epochs_metrics_and_files(tuned):
    run, recorder, _ = tuned
    check, start, first, second, metrics, *files, end = recorder.calls
    assert (check, end) == (("check",), ("finish", "finished"))
    assert start[1] == "run"
    settings = start[2]
    assert {settings[name] for name in ("mode", "backbone")} == {"fine-tune", "tiny_resnet"}
    assert settings["weights"] == "none"
    assert (settings["epochs"], settings["out"]) == (2, str(run.path))
    assert "learning_rate" not in settings
    assert None not in settings.values()
    assert [call[:3] for call in (first, second)] == [
        ("epoch", "fine-tune", 1),
        ("epoch", "fine-tune", 2),
    ]
    assert [call[3] for call in (first, second)] == pytest.approx(run.history["loss"], rel=1e-5)
    assert metrics[1]["test/accuracy"] == run.metrics["test"]["accuracy"]
    assert metrics[1]["validation/num_images"] == run.metrics["validation"]["num_images"]
    assert metrics[1]["seconds"] > 0
    assert files == [
        ("artifact", run.path / "report.html"),
        ("artifact", run.path / "model_card.md"),
    ]


def test_event_files_have_the_epochs_of_the_history(tuned):
    run, _, _ = tuned
    values = read(run.path.parent / "logs" / "run")
    for name, per_epoch in run.history.items():
        for epoch, value in enumerate(per_epoch, start=1):
            assert values[f"fine-tune/{name}", epoch] == pytest.approx(value, rel=1e-5), name
    assert values["fine-tune/learning_rate", 1] > values["fine-tune/learning_rate", 2] >= 0
    assert text(values, "model_card.md") == (run.path / "model_card.md").read_text("utf-8")


def test_a_tracker_that_fails_does_not_end_the_run(tuned):
    run, _, messages = tuned
    assert run.record["finished"]
    about = [message for message in messages if message.startswith("Recorder")]
    assert len(about) == 2
    assert "at epoch 1 of fine-tune (server gone at epoch); the run continues" in about[0]
    assert "lacks a part of this run" in about[1]
    log = (run.path / "log.txt").read_text("utf-8")
    assert all(message in log for message in about)


def test_trackers_do_not_belong_to_the_run(tuned):
    run, _, _ = tuned
    recorder, messages = Recorder(), []
    photos = run.run_record.config.photos
    again = tlkit.train_run(photos, out=run.path, trackers=recorder, log=messages.append, **TUNING)
    assert again.metrics == run.metrics
    assert recorder.calls == []
    assert "Recorder: nothing is tracked, as the run is already finished" in messages
    for name in ("run.json", "run.toml"):
        assert "tracker" not in (run.path / name).read_text("utf-8")


def test_a_head_without_epochs_is_tracked_too(tmp_path, photos):
    recorder = Recorder()
    tlkit.train_run(photos, out=tmp_path / "run", mode="head", trackers=recorder, **ARGUMENTS)
    names = ["check", "start", "metrics", "artifact", "artifact", "finish"]
    assert [call[0] for call in recorder.calls] == names


@pytest.mark.parametrize(
    ("error", "status"), [(KeyboardInterrupt, "killed"), (tlkit.TrainingError, "failed")]
)
def test_a_run_that_ends_early_is_closed_and_resumed_as_another(
    error, status, tmp_path, photos, monkeypatch
):
    first = Recorder()

    def stop_after_one_epoch(self):
        if any(call[0] == "epoch" for call in first.calls):
            raise error("stopped")

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("tlkit.runs.clock.Clock.save_now", stop_after_one_epoch)
        with pytest.raises(error):
            tlkit.train_run(photos, out=out, trackers=first, **TUNING)
    assert first.calls[-1] == ("finish", status)
    assert [call[2] for call in first.calls if call[0] == "epoch"] == [1]
    second = Recorder()
    run = tlkit.train_run(photos, out=out, trackers=second, **TUNING)
    epochs = [call[2:] for call in second.calls if call[0] == "epoch"]
    assert [epoch for epoch, _ in epochs] == [1, 2]
    assert [loss for _, loss in epochs] == pytest.approx(run.history["loss"], rel=1e-5)
    assert second.calls[-1] == ("finish", "finished")


def test_a_training_on_all_images_is_a_stage_of_its_own(tmp_path, photos):
    recorder = Recorder()
    tlkit.train_run(photos, out=tmp_path / "run", refit=True, trackers=recorder, **TUNING)
    stages = [call[1] for call in recorder.calls if call[0] == "epoch"]
    assert stages[:2] == ["fine-tune"] * 2
    assert set(stages[2:]) <= {"refit"}


def test_only_the_chief_tracks(tmp_path, photos, monkeypatch):
    """A worker that is not the chief waits for it after its training."""
    monkeypatch.setattr(Team, "__init__", lambda self, _: vars(self).update(_workers=None))
    monkeypatch.setattr(Team, "is_chief", False, raising=False)
    recorder = Recorder()
    with pytest.raises(RuntimeError, match="the chief has not finished the run"):
        tlkit.train_run(photos, out=tmp_path / "run", trackers=recorder, **TUNING)
    assert recorder.calls == []


def called(*arguments):
    return CliRunner().invoke(cli.app, ["train", *map(str, arguments)])


def test_options_are_passed_on_by_the_command(monkeypatch):
    seen = []
    monkeypatch.setattr("tlkit.runs.train.make_run", lambda config, **others: seen.append(others))
    monkeypatch.setattr(cli, "_print_summary", lambda *_, **others: None)
    assert called("photos", "--log", "tensorboard:logs", "--log", "wandb:a").exit_code == 0
    assert called("photos").exit_code == 0
    assert [others["trackers"] for others in seen] == [["tensorboard:logs", "wandb:a"], None]


@pytest.mark.parametrize("given", ["mlflow", "tensorboard:"])
def test_malformed_options_are_refused_before_any_work(given, tmp_path, photos):
    with pytest.raises(tlkit.ArgumentError, match="`trackers` must be tensorboard:DIR"):
        tlkit.train_run(photos, out=tmp_path / "run", trackers=given)
    assert not (tmp_path / "run").exists()


def test_the_command_names_its_own_option(monkeypatch, tmp_path, photos, capsys):
    arguments = ["tlkit", "train", str(photos), "--out", str(tmp_path / "run"), "--log", "mlflow"]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit, match="2"):
        cli.run_command()
    line = capsys.readouterr().err
    assert line.startswith("tlkit: --log must be tensorboard:DIR, mlflow:URI, wandb:PROJECT")
    assert "Received: --log mlflow. Add the URI" in line


def test_event_files_among_the_images_are_refused(tmp_path, photos):
    with pytest.raises(tlkit.RunError, match="`trackers` must lie outside `photos`"):
        tlkit.train_run(photos, out=tmp_path / "run", trackers=f"tensorboard:{photos / 'logs'}")
    assert not (photos / "logs").exists()


def test_choices_replace_auto_and_lists_are_texts(tuned, tmp_path):
    from dataclasses import replace

    from tlkit.runs.config import RunConfig
    from tlkit.runs.tracked import settings_of

    run, _, _ = tuned
    config = RunConfig(photos="photos", backbone="auto", backbones=["resnet20", "vgg16=none"])
    choice = Choice({"mode": "head", "backbone": "vgg16", "image_size": 64}, ["few images"])
    record = replace(run.run_record, config=config, choices={"mode": choice})
    settings = settings_of(record, tmp_path)
    assert (settings["mode"], settings["backbone"], settings["image_size"]) == ("head", "vgg16", 64)
    assert settings["backbones"] == "resnet20,vgg16=none"
    json.dumps(settings)
