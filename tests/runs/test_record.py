"""The record of a run: replaced, never mutated, and read back as it was written."""

import dataclasses
import json

import pytest

import tlkit
from tlkit.runs.config import Choice, RunConfig
from tlkit.runs.record import DataRecord, RunRecord, read_record, write_record

RECORD = RunRecord(
    config=RunConfig(photos="/photos", backbone="resnet20"),
    seed=0,
    image_size=(32, 48),
    data=DataRecord("7588f85d", {"train": 40, "validation": 5, "test": 5}),
    choices={"mode": Choice({"mode": "head"}, ["few images"], measured=["near"])},
    versions={"tlkit": "0.1.0"},
    seconds={"data": 1.5},
    cost={"num_trainable": 5},
    is_finished=True,
)


def test_a_record_is_read_back_as_it_was_written(tmp_path):
    write_record(tmp_path, RECORD)
    assert read_record(tmp_path) == RECORD
    content = json.loads((tmp_path / "run.json").read_text())
    assert content == RECORD.to_json()
    assert list(content) == [
        "finished",
        "arguments",
        "versions",
        "seed",
        "image_size",
        "split_table",
        "data",
        "choices",
        "seconds",
        "cost",
    ]
    assert RECORD.resolved.mode == "head"
    assert read_record(tmp_path / "nowhere") is None


def test_a_choice_makes_a_new_record():
    more = RECORD.with_choice("anchor", Choice({"anchor": 0.5}, ["tried"]))
    assert list(RECORD.choices) == ["mode"]
    assert list(more.choices) == ["mode", "anchor"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        RECORD.seed = 1


def test_entries_that_earlier_versions_lack_may_be_missing():
    content = RECORD.to_json()
    for name in ("split_table", "choices", "seconds", "cost", "versions"):
        del content[name]
    read = RunRecord.from_json(content)
    assert read.split_table is None
    assert (read.choices, read.seconds, read.cost) == ({}, {}, None)
    assert read.config == RECORD.config


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        ({"data": []}, r"\[\] has the wrong type"),
        ({"seconds": {"data": "long"}}, "'long' has the wrong type"),
        ({"seed": None}, "None has the wrong type"),
        ({"cost": 3}, "3 has the wrong type"),
        ({"choices": {"mode": {"arguments": {"mood": 1}, "reasons": []}}}, "mood"),
        ({"choices": {"mode": {"arguments": {"mode": "x"}, "reasons": []}}}, "`mode` must be"),
    ],
)
def test_the_error_about_a_damaged_file_says_what_is_wrong(tmp_path, damage, problem):
    (tmp_path / "run.json").write_text(json.dumps({**RECORD.to_json(), **damage}))
    with pytest.raises(tlkit.RunError, match=rf"run\.json is damaged \(.*{problem}"):
        read_record(tmp_path)


def test_a_file_of_another_program_is_not_a_run(tmp_path):
    (tmp_path / "run.json").write_text('{"name": "mine"}')
    assert read_record(tmp_path) is None
