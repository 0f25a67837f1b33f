"""The outcome of a run: at most fifteen lines, the result first."""

from pathlib import Path

from tlkit.runs.console_summary import MAX_LINES, outcome_of
from tlkit.runs.directory import Run
from tlkit.runs.record import RunRecord

FIGURES = {"accuracy": 0.86, "num_images": 100, "interval": [0.779, 0.915], "loss": 0.5}
STAGE = {"name": "head", "seconds": 7.2, "num_trainable": 485}


def run_with(metrics, record, class_names=("a", "b")):
    return Run(
        Path("runs/flowers-1"),
        class_names,
        {"validation": None, "test": FIGURES, "stages": [STAGE], **metrics},
        RunRecord.from_json(
            {
                "finished": True,
                "arguments": {"photos": "/flowers", "backbone": "resnet20", "max_pixels": 9},
                "seed": 0,
                "image_size": [32, 32],
                "data": {
                    "fingerprint": "",
                    "num_images": {"train": 1800, "validation": 0, "test": 100},
                },
                "seconds": {"data": 60.0, "training": 15.0},
                **record,
            }
        ),
    )


def test_a_run_as_a_dictionary_has_the_content_of_its_files():
    content = run_with({}, {}).as_dict()
    assert list(content) == ["path", "class_names", "metrics", "record"]
    assert content["record"]["arguments"]["backbone"] == "resnet20"
    assert content["metrics"]["test"] == FIGURES


def test_the_result_comes_first_with_its_number_and_interval():
    assert outcome_of(run_with({}, {})).splitlines() == [
        "test accuracy 86.0 % (n = 100, 95 % CI 77.9 to 91.5 %)",
        "model: resnet20; trained: head (485 parameters, 7 s)",
        "data: 1,800 for train, 100 for test; 2 classes: a, b",
        "time: 1 min 15 s",
        "run: runs/flowers-1: look at report.html, give away saved_model; details in log.txt",
    ]


def test_all_that_a_run_can_find_is_fifteen_lines_and_names_break_none():
    metrics = {
        "validation": FIGURES,
        "old_task": {"before": 0.9, "after": 0.8},
        "against_probe": {
            "accuracies": [0.5, 0.75],
            "verdict": "the second is better",
            "num_images": 100,
            "p_value": 0.012,
        },
        "calibration": {"temperature": 1.25, "notes": []},
        "rejection": {"threshold": 1.0},
    }
    choices = {str(number): {"arguments": {}, "reasons": ["why"]} for number in range(9)}
    run = run_with(metrics, {"choices": choices}, tuple(f"two\nlines {n}" for n in range(300)))
    lines = outcome_of(run).splitlines()
    assert len(lines) == MAX_LINES == 15
    assert lines[0].startswith("test accuracy 86.0 %")
    assert lines[2] == "earlier images: 90.0 % before, 80.0 % after"
    assert "(the probe 50.0 %, this model 75.0 % of 100 images, p = 0.012)" in lines[3]
    assert lines[4] == "probabilities: calibrated with the temperature 1.25"
    assert lines[-1].startswith("run: runs/flowers-1: ")


def test_what_was_chosen_by_trials_is_said_and_not_the_first_trial():
    choices = {
        "mode": {"arguments": {}, "reasons": ["the head alone", "few images"]},
        "anchor": {
            "arguments": {},
            "reasons": ["before: new task 24.3 %", "chosen: 3.72, for the best mean"],
        },
    }
    lines = outcome_of(run_with({}, {"choices": choices})).splitlines()
    assert "chosen mode: the head alone" in lines
    assert "chosen anchor: 3.72, for the best mean" in lines


def test_a_grown_run_says_what_its_old_classes_lost():
    growth = {"old_before": 0.95, "old_after": 0.94, "new_before": 0.0, "new_after": 1.0}
    lines = outcome_of(run_with({}, {"growth": growth})).splitlines()
    assert lines[1:3] == [
        "old classes: 95.0 % before, 94.0 % after",
        "new classes: 0.0 % before, 100.0 % after",
    ]
