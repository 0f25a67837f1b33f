"""Candidates are checked by name before anything is built."""

import pytest

from tlkit.advice.candidates import DEFAULT_BACKBONES, parse_candidates, with_absolute_paths
from tlkit.errors import ArgumentError


def test_a_string_and_a_list_give_the_same_candidates():
    listed = ["resnet20", "mobilenet_025=a b.h5", "vgg16=none"]
    assert parse_candidates(", ".join(listed)) == parse_candidates(listed)
    assert list(parse_candidates(DEFAULT_BACKBONES)) == list(DEFAULT_BACKBONES)


def test_weights_paths_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    entries = parse_candidates("resnet20,resnet20=none,vgg16=imagenet,resnet20=w.h5,vgg16@64=a@b")
    whole = with_absolute_paths(entries)
    files = [f"resnet20={tmp_path}/w.h5", f"vgg16@64={tmp_path}/a@b"]
    assert whole == ["resnet20", "resnet20=none", "vgg16=imagenet", *files]
    assert with_absolute_paths(parse_candidates(whole)) == whole


def test_a_candidate_may_have_a_size_of_its_own():
    entries = parse_candidates("resnet20,resnet20@40,resnet20@40=none")
    assert [one.image_size for one in entries.values()] == [None, 40, 40]
    assert [one.weights for one in entries.values()] == ["pretrained", "pretrained", "none"]
    assert {one.name for one in entries.values()} == {"resnet20"}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("", "one or more backbones"),
        ([], "one or more backbones"),
        (["resnet20", 3], "one or more backbones"),
        ("resnet20,,vgg16", "one or more backbones"),
        ("resnet20,resnet20", "'resnet20' more than once"),
        ("resnet20,resnet20=pretrained", "'resnet20=pretrained', which is the same as 'resnet20'"),
        ("vgg16=imagenet,vgg16", "'vgg16', which is the same as 'vgg16=imagenet'"),
        ("resnet20=w.h5,resnet20=./w.h5", "'resnet20=./w.h5', which is the same"),
        ("resnet8", "mean 'resnet50'"),
        ("resnet20@40,resnet20@040", "'resnet20@040', which is the same as 'resnet20@40'"),
        ("resnet20@0", "positive whole numbers, NAME@PIXELS. Received: 'resnet20@0'"),
        ("resnet20@=none", "positive whole numbers, NAME@PIXELS. Received: 'resnet20@=none'"),
    ],
)
def test_invalid_names_raise(names, message):
    with pytest.raises(ArgumentError, match=message):
        parse_candidates(names, argument="backbones")
