"""The command line: output on standard output and standard error, and exit status.

Commands that load TensorFlow run once in a process of their own, where its messages would be seen;
others are called in the tests' process, which has TensorFlow loaded.
"""

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import typer
from PIL import Image

from tests.conftest import saved_history, write_photos, written_losses
from tlkit import __version__ as package_version
from tlkit import cli
from tlkit.data.folders import load_folder


def tlkit(*arguments, **others):
    command = [sys.executable, "-c", "import tlkit.cli; tlkit.cli.main()", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False, **others
    )


@pytest.fixture
def called(monkeypatch, capfd):
    """Calls the command line without a new process."""

    def call(*arguments, cwd="."):
        monkeypatch.setattr(sys, "argv", ["tlkit", *map(str, arguments)])
        monkeypatch.chdir(cwd)
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return subprocess.CompletedProcess(sys.argv, ended.value.code or 0, *capfd.readouterr())

    return call


QUICK = ["--backbone", "resnet20", "--weights", "none", "--mode", "head"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    photos = write_photos(folder / "photos", {"green": 30, "red": 30})
    done = tlkit("train", photos, "--out", folder / "run", *QUICK)
    assert done.returncode == 0, done.stderr
    return photos, folder / "run", done


def unexpected_lines(text):
    """Lines that are neither progress nor notes about it."""
    own = re.compile(r"\[\d+/\d+\] |  \S|.*[, ][\d.]+ (s|min)( \d+ s)?( left)?$")
    return [line for line in text.splitlines() if not own.match(line)]


def test_train_prints_a_summary_and_nothing_else(finished):
    _, run, done = finished
    assert unexpected_lines(done.stderr) == []
    lines = done.stdout.splitlines()
    assert lines[0].startswith("test accuracy 100.0 % (n = 9, 95 % CI 70.1-100.0)")
    assert len(lines) <= 15
    assert "validation accuracy" in done.stdout
    assert lines[-1].startswith(f"run: {run} (report.html: the report")


def test_train_shows_its_phases_by_name_and_number(finished):
    _, run, done = finished
    numbers = re.findall(r"^\[(\d+)/(\d+)\] (.*?)(?:[,:].*)?$", done.stderr, re.MULTILINE)
    first = dict.fromkeys(numbers)  # each is shown when it starts, and while it runs
    assert [int(number) for number, _, _ in first] == list(range(1, len(first) + 1))
    assert {total for _, total, _ in first} == {str(len(first))}
    assert [name for _, _, name in first] == [
        *("loading TensorFlow", "data", "model", "projecting the cost", "training"),
        *("evaluation", "learning curve", "explaining mistakes", "export"),
        *("statistics of the head", "report"),
    ]
    log = (run / "log.txt").read_text()
    assert f"[{len(first)}/{len(first)}] report: " in log
    assert "head: weight change " in log
    assert "head: weight change " not in done.stdout + done.stderr


@pytest.mark.slow
def test_train_chooses_and_prints_its_choices(tmp_path, photos):
    arguments = ["train", photos, "--out", tmp_path / "run", "--backbone", "auto"]
    arguments += ["--backbones", "resnet20,resnet20=nowhere.h5", "--epochs", "1"]
    done = tlkit(*arguments)
    assert done.returncode == 0, done.stderr
    assert unexpected_lines(done.stderr) == []
    assert "chosen backbone: resnet20" in done.stdout
    assert "fine-tune all groups" in done.stdout
    assert "parameters are trainable: about " in done.stderr
    assert "epoch 1 of 1: loss " in done.stderr
    assert re.search(r"validation accuracy \d+\.\d %, \d", done.stderr)
    again = tlkit(*arguments)
    assert again.returncode == 0
    assert "is already finished" in again.stdout


def test_train_does_not_change_a_finished_run(finished, called):
    photos, run, _ = finished
    done = called("train", photos, "--out", run, *QUICK)
    assert done.returncode == 0
    assert "is already finished; nothing was changed" in done.stdout


@pytest.mark.slow
def test_evaluate_and_predict_and_export(finished, called, tmp_path):
    _, run, _ = finished
    more = write_photos(tmp_path / "more", {"green": 6, "red": 6}, seed=1)
    done = tlkit("evaluate", run, more)
    assert done.returncode == 0, done.stderr
    assert unexpected_lines(done.stderr) == []
    assert "(n = 12, " in done.stdout
    image = more / "red" / "000.jpg"
    done = tlkit("predict", run, image, "--json")
    assert done.returncode == 0, done.stderr
    (answer,) = json.loads(done.stdout)
    assert answer["label"] == "red"
    assert answer["probabilities"]["red"] > 0.5
    done = tlkit("export", run, "--to", tmp_path / "out", "--format", "keras")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "model.keras").is_file()
    done = called("export", run, "--to", tmp_path / "saved", "--version", "1")
    assert "in a fresh process" in done.stdout, done.stderr
    assert {path.name for path in (tmp_path / "saved").iterdir()} == {"1", "batching.config"}
    assert "red" in called("predict", tmp_path / "saved" / "1", image).stdout
    for command, *rest in (("predict", image), ("serve", "--port", "0")):
        done = called(command, tmp_path / "saved", *rest)
        assert done.returncode == 2
        assert done.stderr.endswith(f"Give {str(tmp_path / 'saved' / '1')!r}.\n")


def test_predict_lists_unusable_files_and_exits_with_status_1(finished, called, tmp_path):
    photos, run, _ = finished
    bad = tmp_path / "bad\x1b[2J.jpg"
    bad.write_text("no image")
    good = [photos / "red" / "000.jpg", photos / "green" / "000.jpg"]
    done = called("predict", run, good[0], bad, good[1], "--json")
    assert done.returncode == 1
    answers = json.loads(done.stdout)
    assert [(one["index"], one["path"]) for one in answers] == [
        (0, str(good[0])),
        (2, str(good[1])),
    ]
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("tlkit: ")]
    assert line == f"tlkit: {tmp_path}/bad\\u001b[2J.jpg: not an image: text"
    assert called("predict", run, *good).returncode == 0
    assert called("predict", run, bad).returncode == 2


def test_predict_writes_a_table_of_a_folder(finished, called, tmp_path):
    photos, run, _ = finished
    table = tmp_path / "table.csv"
    done = called("predict", run, photos, "--csv", table, "--sort-into", tmp_path / "sorted")
    assert done.returncode == 0, done.stderr
    assert "60 images predicted" in done.stdout
    assert len(done.stdout.splitlines()) < 10
    with table.open(newline="", encoding="utf-8") as file:
        labels = {row["file"]: row["label"] for row in csv.DictReader(file)}
    assert labels == {str(path): path.parent.name for path in sorted(photos.rglob("*.jpg"))}
    (photos / "red" / "notes.txt").write_text("no image")
    done = called("predict", run, photos / "red", "--csv", table)
    assert done.returncode == 1
    assert "1 file cannot be used" in done.stdout
    (photos / "red" / "notes.txt").unlink()
    done = called("predict", run, photos, "--copy")
    assert done.returncode == 2
    assert done.stderr.startswith("tlkit: --copy must be left out without --sort-into")


def test_predict_prints_lines_of_a_list_on_standard_input(finished, called, monkeypatch):
    photos, run, _ = finished
    files = [photos / "red" / "000.jpg", photos / "red" / "missing.jpg"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(map(str, files)) + "\n\n"))
    done = called("predict", run, "-", "--json-lines")
    assert done.returncode == 1
    first, second = map(json.loads, done.stdout.splitlines())
    assert (first["path"], first["label"]) == (str(files[0]), "red")
    assert "No such file" in second["reason"]
    done = called("predict", run, files[0], "--json-lines", "--json")
    assert done.returncode == 2
    assert "--json-lines must be left out with --json" in done.stderr


def test_escape_sequences_in_names_do_not_reach_the_terminal(called, tmp_path):
    names = ("red\x1b[31m", "gr\u202eeen")
    photos = write_photos(tmp_path / "photos", dict.fromkeys(names, 3))
    (photos / names[0] / "0\x1b]0;title\x07\n.jpg").write_bytes(b"")
    done = called("inspect", photos)
    assert done.returncode == 0, done.stderr
    assert {"\x1b", "\x07", "\u202e"}.isdisjoint(done.stdout + done.stderr)
    assert "red\\u001b[31m  " in done.stdout
    assert r"0\u001b]0;title\u0007\u000a.jpg: empty file" in done.stdout
    assert r"gr\u202eeen" in done.stdout
    done = called("inspect", tmp_path / "nowhere\x1b[2J")
    assert done.returncode == 2
    assert "\x1b" not in done.stderr


@pytest.mark.slow
def test_add_classes_trains_and_prints_accuracies(finished, tmp_path):
    _, run, _ = finished
    counts = {"green": 0, "red": 0, "violet": 12}  # the third class has another colour
    photos = write_photos(tmp_path / "photos", counts)
    for name in ("green", "red"):
        (photos / name).rmdir()
    arguments = ["add-classes", run, photos, "--out", tmp_path / "run2", "--exemplars", "3"]
    arguments += ["--align", "--no-resume"]
    done = tlkit(*arguments)
    assert done.returncode == 0, done.stderr
    assert unexpected_lines(done.stderr) == []
    log = (tmp_path / "run2" / "log.txt").read_text()
    assert "2 old classes, 1 new: violet" in log
    assert "6 stored features of old images were replayed" in log
    assert "before weights were aligned: old" in log
    assert "accuracy on old classes: 100.0 % before, " in done.stdout
    assert "3 classes: green, red, violet" in done.stdout
    assert f"run: {tmp_path / 'run2'} (report.html" in done.stdout
    assert (tmp_path / "run2" / "saved_model").is_dir()
    again = tlkit(*arguments)
    assert again.returncode == 2
    assert "--no-resume" in again.stderr
    assert len(unexpected_lines(again.stderr)) == 1


@pytest.mark.skipif(os.name == "nt", reason="needs a shell")
@pytest.mark.parametrize("closed", ["2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_error(closed, tmp_path):
    command = f'exec "$0" -m tlkit inspect nowhere {closed}'
    done = subprocess.run(["sh", "-c", command, sys.executable], cwd=tmp_path, check=False)
    assert done.returncode == 2


@pytest.mark.slow
def test_inspect_and_cache(finished, called, cache):
    photos, _, _ = finished
    done = tlkit("inspect", photos)
    assert done.returncode == 0, done.stderr
    assert "green" in done.stdout
    (cache / "mine.txt").touch()
    done = called("cache")
    assert str(cache) in done.stdout
    assert "MB  files" in done.stdout
    assert called("cache", "--limit", "-1").returncode == 2
    refused = called("cache", "--clear", "--limit", "20")
    assert refused.returncode == 2
    assert "--clear must be given alone" in refused.stderr
    assert called("cache", "--older-than", "36500").stdout.startswith("0.0 MB removed")
    done = called("cache", "--clear")
    assert done.returncode == 0, done.stderr
    assert "removed" in done.stdout
    assert str(cache / "mine.txt") in done.stdout
    assert [path.name for path in cache.iterdir()] == ["mine.txt"]


def test_backbones_are_listed_without_keras():
    done = tlkit("backbones")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 52
    entries = json.loads(tlkit("backbones", "--json").stdout)
    assert [entry["name"] for entry in entries][:2] == ["resnet20", "vgg16"]
    assert entries[1]["num_parameters"] == 14_714_688


@pytest.mark.slow
def test_compare_prints_plots_and_respects_limits(photos, tmp_path):
    figure = tmp_path / "figure.png"
    backbones = "resnet20,vgg16,resnet20=nowhere.h5"
    arguments = ["--backbones", backbones, "--max-megabytes", "20", "--budget", "600"]
    done = tlkit("compare", photos, *arguments, "--plot", figure)
    assert done.returncode == 0, done.stderr
    assert unexpected_lines(done.stderr) == []
    number = load_folder(photos, image_size=32).train.num_images
    assert f"linear head on features (n = {number} training images" in done.stdout
    assert "left out: vgg16: 58.9 MB, above --max-megabytes 20" in done.stdout
    assert "nowhere.h5'. Check the path." in done.stdout
    with Image.open(figure) as image:
        assert min(image.size) > 300
    done = tlkit("compare", photos, *arguments, "--json")
    content = json.loads(done.stdout)
    assert [score["name"] for score in content["scores"]] == ["resnet20"]
    assert list(content["left_out"]) == ["vgg16", "resnet20=nowhere.h5"]


def test_a_manifest_is_accepted_instead_of_a_folder(finished, called, tmp_path):
    photos, run, _ = finished
    files = sorted(photos.rglob("*.jpg"))
    copy = tmp_path / "copy.png"
    Image.open(files[0]).save(copy)
    lines = ["path,label", *(f"{file},{file.parent.name}" for file in files), f"{copy},red"]
    (tmp_path / "m.csv").write_text("\n".join(lines))
    done = called("inspect", tmp_path / "m.csv")
    assert done.returncode == 0, done.stderr
    assert "red            31" in done.stdout
    assert "images compared" not in done.stdout
    done = called("inspect", tmp_path / "m.csv", "--near-duplicates")
    assert done.returncode == 0, done.stderr
    assert unexpected_lines(done.stderr) == []
    assert "61 different images compared: 1 near-duplicate pair (" in done.stdout
    assert "With different labels (1)" in done.stdout
    done = called("evaluate", run, tmp_path / "m.csv")
    assert done.returncode == 0, done.stderr


def test_the_bound_of_pixels_can_be_set(finished, called, tmp_path):
    photos, run, _ = finished
    done = called("inspect", photos, "--max-pixels", "1599")
    assert "more than the bound of 1599 (raise --max-pixels)" in done.stdout
    assert "max_pixels" not in done.stdout
    done = called("evaluate", run, photos, "--max-pixels", "1599")
    assert done.returncode == 2
    assert "60 files that cannot be used" in done.stderr
    done = called("train", photos, "--out", tmp_path / "run", *QUICK, "--max-pixels", "1599")
    assert done.returncode == 2
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "nowhere", "--out", "run"], "PHOTOS nowhere, which does not exist"),
        (["train", "nowhere"], "PHOTOS must be a folder of images. Received: PHOTOS nowhere,"),
        (["train", "photos", "--out", "run", "--from", "nowhere"], "--from must be the folder of"),
        (["train", "photos", "--out", "w.txt/run"], "w.txt' is a file"),
        (
            ["train", "photos", "--out", "run", "--seed", "-1"],
            "--seed must be a whole number of at least 0, below 4294967296. Received: --seed -1. ",
        ),
        (["train", "photos", "--out", "run", *QUICK, "--epochs", "3"], "fine-tune"),
        (["train", "photos", "--out", "run", "--backbone", "resnet8"], "resnet50"),
        (["train", "photos", "--out", "run", "--mode", "tune"], "fine-tune"),
        (["train", "photos", "--out", "run", "--backbones", "resnet20"], "--backbone auto"),
        (
            ["train", "photos", "--out", "run", "--backbone", "auto", "--backbones", "resnet8"],
            "resnet50",
        ),
        (
            ["train", "photos", "--out", "run", "--backbone", "auto", "--backbones", "vgg16=no.h5"],
            "no.h5",
        ),
        (["train", "photos", "--out", "run", "--max-megabytes", "9"], "--backbone auto"),
        (["compare", "nowhere"], "Received: PHOTOS nowhere"),
        (["compare", "nowhere.csv"], "Received: PHOTOS nowhere.csv"),
        (["compare", "photos", "--backbones", ""], "--backbones must be one or more"),
        (["compare", "photos", "--backbones", "resnet8"], "mean 'resnet50'"),
        (["compare", "photos", "--backbones", "resnet20=no.h5"], "weights='no.h5'. Check the path"),
        (["compare", "nowhere", "--max-milliseconds", "0"], "--max-milliseconds 0.0"),
        (["compare", "nowhere", "--budget", "-1"], "--budget -1.0"),
        (["compare", "nowhere", "--plot", "figure.txt"], "--plot figure.txt"),
        (["compare", "nowhere", "--plot", "gone/figure.png"], "in a writable folder"),
        (["compare", "nowhere", "--plot", "folder.png"], "--plot folder.png"),
        (["train", "caf\udce9", "--out", "run"], "PHOTOS must have a path in valid Unicode"),
        (
            ["train", "photos", "--out", "run", *QUICK, "--reject-unknown"],
            "or leave out --reject-unknown.",
        ),
        (["train", "photos", "--out", "run", "--epochs", "many"], "many"),
        (["train", "photos", "--out", "run", "--learning-rate", "0"], "--learning-rate 0"),
        (["train"], "Missing argument 'PHOTOS'. See tlkit train --help."),
        (["train", "empty", "--out", "run"], "Received: PHOTOS empty"),
        (["inspect", "nowhere"], "Received: PHOTOS nowhere"),
        (["train", "m.csv", "--out", "run"], "'gone.jpg'. Correct the paths"),
        (["inspect", "nowhere.csv", "--near-duplicates"], "Received: PHOTOS nowhere.csv"),
        (["train", "one", "--out", "run"], "class"),
        (["train", "photos", "--out", "photos"], "--out must lie outside PHOTOS"),
        (["train", "photos", "--out", "one"], "holds no run"),
        (["train", "photos", "--out", "run", "--from", "photos"], "finished run"),
        (["train", "photos", "--out", "run", *QUICK[:2], "--weights", "w.txt"], "w.txt"),
        (["train", "photos", "--out", "run", *QUICK[:4], "--unfreeze", "stage5"], "stage3"),
        (["train", "photos", "--out", "run", "--layer-decay", "2"], "--layer-decay 2.0"),
        (["predict", "photos", "photos/red/000.jpg"], "finished run"),
        (["evaluate", "photos", "photos"], "finished run"),
        (["export", "photos", "--to", "x"], "finished run"),
        (["exprot"], "Did you mean 'export'? See tlkit --help."),
        (["serve", "photos", "--max-megabytes", "0"], "--max-megabytes must be a whole number"),
        (["serve", "photos", "--max-megapixels", "x"], "must be a whole number. Received: 'x'"),
        (["predict", "photos", "x.jpg"], "RUN_OR_EXPORT must be the folder of a finished run"),
        (["train", "photos", *QUICK, "--unfreeze", "2"], "--unfreeze must be left out with --mode"),
        (["train", "photos", "--distribute", "x"], "--distribute must be one of 'auto', "),
        (["demo", "--out", "photos"], "holds no run"),
        (["review", "nowhere"], "Received: PHOTOS nowhere"),
        (["review", "photos", "--out", "w.txt"], "--out must be a new .html file"),
        (["review", "photos", "--run", "one"], "--run must be the folder of a finished run"),
        (["review", "photos", "--run", "x", "--backbone", "vgg16"], "be left out with --run"),
        (["review", "photos", "--unlabelled", "w.txt"], "--unlabelled must be a folder of images"),
        (["review", "photos", "--decisions", "m.csv"], "--decisions must be a CSV file with the"),
        (
            ["train", "photos", "--out", "run", "--decisions", "d.csv"],
            "unknown class 'blue' in line 2",
        ),
        (["inspect", "photos", "--decisions", "m.csv"], "--decisions must be a CSV file with the"),
    ],
)
def test_invalid_input_is_an_error_of_one_line(called, tmp_path, photos, arguments, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "folder.png").mkdir()
    write_photos(tmp_path / "one", {"only": 3})
    (tmp_path / "w.txt").write_text("no weights")
    (tmp_path / "m.csv").write_text("path,label\ngone.jpg,a\n")
    columns = "file,digest,label,decision,new_label"
    (tmp_path / "d.csv").write_text(f"{columns}\nred/gone.jpg,0a,red,move,blue\n")
    before = sorted(path for path in tmp_path.rglob("*") if "cache" not in str(path))
    done = called(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stdout
    (line,) = unexpected_lines(done.stderr)
    assert line.startswith("tlkit: ")
    assert message in line
    assert done.stderr.splitlines()[-1] == line
    assert sorted(path for path in tmp_path.rglob("*") if "cache" not in str(path)) == before


def test_debug_shows_the_traceback(tmp_path):
    done = tlkit("inspect", tmp_path / "nowhere", "--debug")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_run_stays_unfinished_and_refuses_other_arguments(tmp_path, photos, kind):
    # background jobs ignore Ctrl-C, which children inherit: the default handler is set here
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "import tlkit.cli; tlkit.cli.main()"
    )
    command = [sys.executable, "-c", code]
    arguments = ["train", photos, "--out", tmp_path / "run", *QUICK[:4], "--epochs", "200"]
    process = subprocess.Popen(
        [*command, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (tmp_path / "run" / "run.json").exists():
        time.sleep(0.05)
        assert process.poll() is None, process.communicate()
    time.sleep(1.0)
    os.kill(process.pid, kind)
    _, errors = process.communicate(timeout=60)
    if kind != signal.SIGKILL:
        assert process.returncode == 128 + kind
        text = "interrupted" if kind == signal.SIGINT else "ended by SIGTERM"
        line = errors.splitlines()[-1]  # between them: whether the head alone can be used
        assert line.startswith(f"tlkit: {text};")
        assert line.endswith("; the same command resumes the run.")
        assert "Traceback" not in errors
        assert not [path for path in (tmp_path / "run").iterdir() if path.name.startswith(".")]
    assert not json.loads((tmp_path / "run" / "run.json").read_text())["finished"]
    other = tlkit(*arguments[:-1], "1")
    assert other.returncode == 2
    assert "--epochs 200 instead of 1" in other.stderr


@pytest.mark.slow
def test_a_run_that_was_killed_in_training_is_resumed(tmp_path, photos):
    command = [sys.executable, "-c", "import tlkit.cli; tlkit.cli.main()"]
    run = tmp_path / "run"
    arguments = ["train", photos, "--out", run, *QUICK[:4], "--unfreeze", "all", "--epochs", "6"]
    process = subprocess.Popen(
        [*command, *map(str, arguments)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    reached = 0
    while not reached:
        time.sleep(0.1)
        assert process.poll() is None, process.communicate()
        if (run / "training.npz").exists():
            reached = len(saved_history(run))
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    saved = saved_history(run)
    assert len(saved) < 6

    done = tlkit(*arguments, "--debug")
    assert done.returncode == 0, done.stderr
    assert json.loads((run / "run.json").read_text())["finished"]
    assert not (run / "training.npz").exists()
    assert written_losses(run)[: len(saved)] == [epoch["loss"] for epoch in saved]


def test_without_a_command_the_help_is_shown_without_python_types(called):
    done = called()
    assert done.returncode == 0
    assert done.stderr == ""
    assert done.stdout == called("-h").stdout == called("--help").stdout
    shown = done.stdout + "".join(called(name, "-h").stdout for name in COMMANDS)
    assert not re.findall(r"<\w+>|\b(TEXT|INTEGER|FLOAT|PATH|BOOLEAN|DIRECTORY)\b", shown)
    for panel in ("Train", "Before training", "Use a run", "Model", "Training from a run"):
        assert f"─ {panel} ─" in shown


COMMANDS = ("train", "evaluate", "predict", "export", "serve", "inspect", "add-classes", "compare")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_each_option_in_full_in_eighty_columns(called, name, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    shown = called(name, "-h").stdout
    for param in typer.main.get_group(cli.app).commands[name].params:
        for option in (*param.opts, *param.secondary_opts):
            assert not option.startswith("-") or re.search(rf"{option}\b", shown), option


def test_the_version_is_that_of_the_package(called):
    done = called("--version")
    assert (done.returncode, done.stdout) == (0, f"tlkit {package_version}\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--version"],
        ["-h"],
        [],
        ["train", "-h"],
        ["train", "nowhere"],
        ["train", "x", "--mode", "y"],
        ["review", "nowhere"],
    ],
)
def test_help_version_and_checks_of_arguments_do_not_load_tensorflow(arguments, tmp_path):
    code = (
        f"import sys; sys.argv = ['tlkit', *{arguments!r}]\n"
        "import tlkit.cli\ntry:\n    tlkit.cli.main()\nexcept SystemExit:\n    pass\n"
        "sys.exit(int(bool({'tensorflow', 'keras'} & set(sys.modules))))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_run_without_a_folder_gets_the_next_number_and_unfinished_ones_are_resumed(
    called, photos, tmp_path, monkeypatch
):
    first = called("train", photos, *QUICK, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert "run directory: runs/photos-1" in first.stderr

    def interrupt(*arguments, **others):
        raise OSError("the plug was pulled")

    with monkeypatch.context() as patch:
        patch.setattr("tlkit.training.head.extract_features", interrupt)
        stopped = called("train", photos, *QUICK, cwd=tmp_path)
    assert "run directory: runs/photos-2" in stopped.stderr
    assert stopped.stderr.endswith("tlkit: the plug was pulled\n")
    other = called("train", photos, *QUICK, "--batch-size", "7", cwd=tmp_path)
    assert "run directory: runs/photos-3" in other.stderr
    again = called("train", photos, *QUICK, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "resuming the unfinished run in runs/photos-2" in again.stderr
    log = (tmp_path / "runs" / "photos-2" / "log.txt").read_text()
    assert "ended by OSError: the plug was pulled" in log
    assert log.count("] loading TensorFlow\n") == 2  # one for each session
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == [
        "photos-1",
        "photos-2",
        "photos-3",
    ]


def test_an_interrupted_command_says_what_can_be_used(called, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        error = KeyboardInterrupt()
        error.add_note("RUN holds the head alone, which can be used")
        raise error

    monkeypatch.setattr("tlkit.runs.train.make_run", interrupted)
    ended = called("train", "photos", "--out", tmp_path / "run")
    assert ended.returncode == 130
    assert ended.stderr.endswith(
        "tlkit: interrupted; RUN holds the head alone, which can be used; the same command resumes "
        "the run.\n"
    )


def test_each_command_with_a_result_prints_it_as_json(finished, called, tmp_path, monkeypatch):
    photos, run, _ = finished
    monkeypatch.setenv("TLKIT_CACHE", str(tmp_path / "cache"))

    def answer(*arguments):
        done = called(*arguments, "--json", "--quiet")
        assert done.returncode == 0, done.stderr
        assert not done.stderr
        return json.loads(done.stdout)

    again = answer("train", photos, "--out", run, *QUICK)  # finished, and returned unchanged
    assert again["run"] == str(run)
    assert again["class_names"] == ["green", "red"]
    assert again["metrics"] == json.loads((run / "metrics.json").read_text())
    exported = answer("export", run, "--to", tmp_path / "export", "--format", "keras")
    assert [one["name"] for one in exported["formats"]] == ["keras"]
    found = answer("inspect", photos, "--near-duplicates")
    assert sum(found["data"]["counts"]["green"].values()) == 30
    assert found["near_duplicates"]["num_images"] == 60
    page = tmp_path / "page.html"
    found = answer("review", photos, "--backbone", "resnet20", "--out", page)
    assert (found["num_images"], found["page"]) == (60, str(page))
    assert page.is_file()
    assert {entry["kind"] for entry in answer("cache")["entries"]} >= {"files"}
    assert answer("cache", "--clear")["num_bytes"] > 0
    assert answer("cache")["entries"] == []


def test_quiet_hides_progress_and_leaves_results_and_errors(finished, called):
    photos, _, _ = finished
    shown, hidden = called("inspect", photos), called("--quiet", "inspect", photos)
    assert not hidden.stderr
    assert hidden.stdout == shown.stdout
    failed = called("inspect", photos / "nowhere", "--quiet")
    assert failed.returncode == 2
    assert failed.stderr.startswith("tlkit: ")


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("tlkit ev", ["evaluate"]),
        ("tlkit train photos --mode f", ["fine-tune"]),
        ("tlkit train photos --backbone resnet2", ["resnet20"]),
        ("tlkit export run --format o", ["onnx"]),
        ("tlkit add-classes run new --method e", ["exact"]),
    ],
)
def test_the_shell_completes_commands_and_values(words, completed):
    position = str(len(words.split()) - 1)
    variables = {"_TLKIT_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": position}
    # the program's name is that of the variable
    program = "import sys, tlkit.cli; sys.argv = ['tlkit']; tlkit.cli.main()"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, **variables},
    )
    assert done.stdout.split() == completed, done.stderr
