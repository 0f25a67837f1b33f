"""The console summary of a run: at most fifteen lines, the result first."""

from pathlib import Path

from tlkit.runs.console_summary import MAX_LINES, summarize_run
from tlkit.runs.directory import Run
from tlkit.runs.record import RunRecord

SCORES = {"accuracy": 0.86, "num_images": 100, "interval": [0.779, 0.915], "loss": 0.5}
STAGE = {"name": "head", "seconds": 7.2, "num_trainable": 485}


def run_with(metrics, record, class_names=("a", "b")):
    return Run(
        Path("runs/flowers-1"),
        class_names,
        {"validation": None, "test": SCORES, "stages": [STAGE], **metrics},
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


def test_the_dictionary_of_a_run_has_the_content_of_its_files():
    content = run_with({}, {}).as_dict()
    assert list(content) == ["path", "class_names", "metrics", "record"]
    assert content["record"]["arguments"]["backbone"] == "resnet20"
    assert content["metrics"]["test"] == SCORES


def test_the_result_comes_first_with_number_of_images_and_interval():
    run = run_with({}, {})
    assert summarize_run(run).splitlines() == [
        "test accuracy 86.0 % (n = 100, 95 % CI 77.9-91.5)",
        "model: resnet20; trained: head (485 parameters, 7.2 s)",
        "data: 1,800 for train, 100 for test; 2 classes: a, b",
        "time: 1 min 15 s",
        "run: runs/flowers-1 (report.html: the report; saved_model: the model to deploy; "
        "log.txt: the log)",
    ]
    assert str(run).splitlines()[1:] == ["test accuracy 86.0 % (n = 100, 95 % CI 77.9-91.5)"]


def test_the_longest_summary_has_fifteen_lines_and_names_do_not_break_lines():
    metrics = {
        "validation": SCORES,
        "old_task": {"before": 0.9, "after": 0.8},
        "shipped": {"model": "fine-tuned", "reason": "because"},
        "against_probe": {
            "accuracies": [0.5, 0.75],
            "verdict": "the second is better",
            "num_images": 100,
            "p_value": 0.012,
        },
        "learning_curve": {
            "gain": 0.021,
            "gain_interval": [0.01, 0.033],
            "metric": "accuracy",
        },
        "calibration": {"temperature": 1.25, "notes": []},
        "rejection": {"threshold": 1.0},
    }
    choices = {str(number): {"arguments": {}, "reasons": ["why"]} for number in range(9)}
    run = run_with(metrics, {"choices": choices}, tuple(f"two\nlines {n}" for n in range(300)))
    lines = summarize_run(run).splitlines()
    assert len(lines) == MAX_LINES == 15
    assert lines[0] == "exported: the fine-tuned model; because"
    assert lines[1].startswith("test accuracy 86.0 %")
    assert lines[3] == "accuracy on images of the earlier run: 90.0 % before, 80.0 % after"
    assert lines[4] == (
        "head alone and fine-tuned: fine-tuning is better (accuracy: 50.0 % and 75.0 %; n = 100, "
        "p = 0.012)"
    )
    assert lines[5] == (
        "twice as many training images: about +2.1 points of accuracy (80 % interval 1.0 to 3.3, "
        "estimated with a head on the features of the backbone)"
    )
    assert lines[6] == "probabilities: calibrated with temperature 1.25"
    assert lines[-1].startswith("run: runs/flowers-1 (")


def test_an_unknown_gain_of_more_images_takes_no_line():
    unknown = {"gain": None, "gain_interval": None, "why_not": "too few images"}
    assert summarize_run(run_with({"learning_curve": unknown}, {})) == summarize_run(
        run_with({}, {})
    )


def test_the_choice_is_shown_and_not_the_first_trial_before_it():
    choices = {
        "mode": {"arguments": {}, "reasons": ["the head alone", "few images"]},
        "anchor": {
            "arguments": {},
            "reasons": ["before: new task 24.3 %", "chosen: 3.72, for the best mean"],
        },
    }
    lines = summarize_run(run_with({}, {"choices": choices})).splitlines()
    assert "chosen mode: the head alone" in lines
    assert "chosen anchor: 3.72, for the best mean" in lines


def test_added_classes_show_the_accuracy_of_old_and_new_classes():
    growth = {"old_before": 0.95, "old_after": 0.94, "new_before": 0.0, "new_after": 1.0}
    lines = summarize_run(run_with({}, {"growth": growth})).splitlines()
    assert lines[1:3] == [
        "accuracy on old classes: 95.0 % before, 94.0 % after",
        "accuracy on new classes: 0.0 % before, 100.0 % after",
    ]


def test_the_gain_and_cost_of_test_time_views_are_stated():
    views = {"name": "flip", "milliseconds": [2.0, 3.5], "comparison": None}
    start = "test-time views (flip): "
    cost = "; 3.5 ms for an image instead of 2.0"
    lines = summarize_run(run_with({"test_time_views": views}, {})).splitlines()
    assert f"{start}their gain was not measured, there are no validation images{cost}" in lines
    measured = views | {"comparison": {"accuracies": [0.78, 0.8]}}
    lines = summarize_run(run_with({"test_time_views": measured}, {})).splitlines()
    assert f"{start}validation accuracy 80.0 %, with one view 78.0 %{cost}" in lines
