"""Two workers on loopback compute what one process computes with the same batches."""

import fcntl
import json
import os

import numpy as np
import pytest

import tlkit
from tests.conftest import saved_history, write_photos, written_losses
from tests.distribution import jobs, processes

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def worked(tmp_path_factory):
    """The folder with the results of two workers, computed once for all of pytest's workers."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    folder, done = root / "two-workers", root / "two-workers-done"
    with (root / "two-workers-lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            write_photos(folder / "photos", {"green": 21, "red": 20})
            write_photos(folder / "more", {"green": 20, "red": 20}, seed=9)
            processes.run("work", folder, 2)
            done.touch()
    return folder


def read(folder, name):
    return json.loads((folder / name).read_text(encoding="utf-8"))


def relative(values, reference):
    norm = np.sqrt(sum(float(np.square(b, dtype=np.float64).sum()) for b in reference))
    pairs = zip(values, reference, strict=True)
    return np.sqrt(sum(float(np.square(a - b, dtype=np.float64).sum()) for a, b in pairs)) / norm


def assert_same_weights(folder, name):
    one, other = (jobs.load(folder / name.format(index)) for index in range(2))
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", jobs.KINDS)
def test_the_first_gradients_are_those_of_one_process(worked, kind):
    expected = jobs.alone(kind)[1]
    for index in range(2):
        gradients = jobs.load(worked / f"gradients-{kind}-{index}.npz")
        assert relative(gradients, expected) < 1e-5


@pytest.mark.parametrize("kind", jobs.KINDS)
def test_the_epochs_figures_are_those_of_one_process(worked, kind):
    expected = jobs.alone(kind)[2].stages[-1].history[0]
    for index in range(2):
        logged = read(worked, f"report-{kind}-{index}.json")["history"][0]
        jobs.assert_same_figures(logged, expected)


@pytest.mark.parametrize("kind", jobs.KINDS)
def test_the_weights_of_both_workers_are_bit_identical(worked, kind):
    assert_same_weights(worked, f"weights-{kind}-{{}}.npz")


def test_the_kinds_differ_so_that_their_agreement_is_meaningful():
    plain = jobs.alone("plain")
    assert relative(jobs.alone("anchored")[1], plain[1]) > 1e-2
    for kind in jobs.KINDS_MIRRORED:
        assert relative(jobs.alone(kind)[0].get_weights(), plain[0].get_weights()) > 1e-6


def test_the_command_line_writes_one_run_on_the_chief(worked):
    run = tlkit.load_run(worked / "run-0")
    assert not (worked / "run-1").exists()
    assert (worked / "run-0" / "saved_model" / "saved_model.pb").is_file()
    data = tlkit.load_folder(worked / "photos", image_size=32, batch_size=16)
    report = tlkit.evaluate(run.load_model(), data.validation, run.class_names)
    assert report.accuracy == run.metrics["validation"]["accuracy"]
    assert report.loss == pytest.approx(run.metrics["validation"]["loss"], rel=1e-4)
    for index in range(2):  # the other worker has the figures too
        output = (worked / f"log-{index}.txt").read_text(encoding="utf-8")
        assert "validation accuracy" in output
    log = (worked / "run-0" / "log.txt").read_text(encoding="utf-8")
    assert "sharded over 2 replicas on 2 workers" in log


def test_an_anchor_is_chosen_by_the_chief_and_applied_on_both(worked):
    assert not (worked / "anchored-1").exists()
    run = tlkit.load_run(worked / "anchored-0")
    (strength,) = run.record["choices"]["anchor"]["arguments"].values()
    assert run.record["arguments"]["anchor"] == "auto"
    assert run.metrics["old_task"]["strength"] == strength > 0
    assert run.metrics["old_task"]["importance"] == "mas"
    assert run.metrics["old_task"]["trials"] == run.record["choices"]["anchor"]["reasons"]
    stage = run.metrics["stages"][-1]
    assert any("anchored with strength" in note for note in stage["notes"])
    for index in range(2):
        output = (worked / f"log-{index}.txt").read_text(encoding="utf-8")
        assert ("strength of the anchor:" in output) == (index == 0)


def test_a_finished_run_is_evaluated_by_both(worked):
    run = tlkit.load_run(worked / "run-0")
    expected = run.metrics["test"]
    for index in range(2):
        accuracy, loss, num_images = read(worked, f"evaluated-{index}.json")
        assert (accuracy, num_images) == (expected["accuracy"], expected["num_images"])
        assert loss == pytest.approx(expected["loss"], rel=1e-4)


def test_the_report_says_how_batches_were_sharded(worked):
    notes = " ".join(read(worked, "report-plain-0.json")["notes"])
    assert "batches of 16 images, 8 on each, sharded over 2 replicas on 2 workers" in notes
    assert "learning rates are those of one device with the same batches, and not scaled" in notes


def test_head_and_evaluation_are_those_of_one_process(worked):
    data = jobs.random_images()
    model = tlkit.build_classifier("resnet20", data.class_names)
    report = tlkit.train_head(model, data)
    expected = tlkit.evaluate(model, data.train, data.class_names)
    for index in range(2):
        measured = read(worked, f"measured-{index}.json")
        assert measured["passes"] == [data.train.num_images + data.validation.num_images, 0]
        # every other one of 33 images to train on, and of 17 to validate on
        assert measured["own_passes"] == [[17 + 9, 0], [16 + 8, 0]][index]
        assert "features sharded over 2 workers" in measured["notes"]
        assert measured["accuracy"] == report.accuracy_after
        assert measured["train"] == pytest.approx(
            [expected.accuracy, expected.loss, data.train.num_images], rel=1e-4
        )


def test_both_train_on_stored_activations(worked):
    one, other = (read(worked, f"measured-{index}.json") for index in range(2))
    assert one["history"] == other["history"]
    assert len(one["history"]) == 2  # the head, then the last groups
    assert "trained on stored activations" in one["tuned"][0]
    assert_same_weights(worked, "weights-measured-{}.npz")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dataset", "`images` must be the result of load_folder, load_arrays or load_tfds"),
        ("float16", "`precision` must not be 'mixed_float16' on several replicas"),
        ("statistics", "`batch_norm` must be 'affine' or 'frozen' on several"),
        ("seed", "`model, data and arguments` must be the same on every worker"),
        ("path", "`anchor` must be a constraint that works on several replicas"),
        ("images", "`images` must be the same on every worker"),
    ],
)
def test_calls_that_do_not_support_several_workers_are_refused(worked, name, message):
    for index in range(2):
        assert message in read(worked, f"refused-{index}.json")[name]


def test_plain_keras_still_cannot_train_on_several_workers(worked):
    """Fails when keras-team/keras#20585 is fixed: remove tlkit/training/keras_workers.py then."""
    for index in range(2):
        assert "PerReplica" in (worked / f"keras-{index}.txt").read_text(encoding="utf-8")


def test_a_killed_worker_ends_the_other_and_the_job_can_be_resumed(tmp_path):
    def steps(index):
        file = tmp_path / f"steps-{index}.txt"
        return [line.split() for line in file.read_text().splitlines()] if file.exists() else []

    with processes.started("resume", tmp_path, 2) as (chief, other):
        processes.wait_for(
            lambda: ["1", "0"] in steps(1) or chief.process.poll() is not None, "no second epoch"
        )
        other.kill()
        assert chief.wait(120) == 1, chief.output
        assert "tlkit.errors.TrainingError: All 2 workers must run until the end" in chief.output
    assert (tmp_path / "run-0" / "training.npz").is_file()
    assert not (tmp_path / "run-1").exists()
    for index in range(2):
        (tmp_path / f"steps-{index}.txt").unlink()
    processes.run("resume", tmp_path, 2)
    reports = [read(tmp_path, f"report-{index}.json") for index in range(2)]
    assert int(steps(0)[0][0]) > 0
    assert len(reports[0]["history"]) == 4
    assert reports[0] == reports[1]
    assert_same_weights(tmp_path, "weights-{}.npz")


def test_a_killed_chief_ends_the_other_and_the_same_command_resumes(tmp_path):
    write_photos(tmp_path / "photos", {"green": 21, "red": 20})
    run = tmp_path / "run-0"

    def epochs():
        return len(saved_history(run)) if (run / "training.npz").exists() else 0

    with processes.started("command", tmp_path, 2) as (chief, other):
        processes.wait_for(lambda: epochs() or other.process.poll() is not None, "no first epoch")
        chief.kill()
        assert other.wait(120) == 2, other.output
        (line,) = [line for line in other.output.splitlines() if line.startswith("tlkit: ")]
        assert line.startswith("tlkit: All 2 workers must run until the end.")
        assert "start the same command on every worker again" in line
    saved = saved_history(run)
    assert 0 < len(saved) < jobs.COMMAND_EPOCHS
    processes.run("command", tmp_path, 2)
    losses = written_losses(run)
    assert losses[: len(saved)] == [epoch["loss"] for epoch in saved]
    assert len(losses) > len(saved)
    assert not (tmp_path / "run-1").exists()
