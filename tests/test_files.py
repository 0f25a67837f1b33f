import json
from pathlib import Path

import numpy as np
import pytest

from tlkit.files import write_json, written_aside


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_nothing_is_left_after_a_failure(tmp_path, error):
    with pytest.raises(error), written_aside(tmp_path / "new" / "deep" / "file") as aside:  # noqa: PT012
        aside.write_text("half")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_what_stands_there_stays_after_a_failure(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "old").touch()
    with pytest.raises(ValueError, match="half"), written_aside(tmp_path / "folder") as aside:  # noqa: PT012
        aside.mkdir()
        raise ValueError("half")
    assert [path.name for path in tmp_path.rglob("*")] == ["folder", "old"]


def test_files_and_folders_are_replaced_whole(tmp_path):
    for content in ("first", "second"):
        with written_aside(tmp_path / "folder") as aside:
            aside.mkdir()
            (aside / content).touch()
        with written_aside(tmp_path / "file") as aside:
            aside.write_text(content)
    found = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*"))
    assert found == ["file", "folder", "folder/second"]
    assert (tmp_path / "file").read_text() == "second"


def test_a_link_stays_and_what_it_points_to_is_written(tmp_path):
    (tmp_path / "large" / "there").mkdir(parents=True)
    for link, target in (("folder", "large/there"), ("new", "large/new")):
        (tmp_path / link).symlink_to(tmp_path / target)
        with written_aside(tmp_path / link) as aside:
            aside.mkdir()
            (aside / "whole").touch()
        assert (tmp_path / link).is_symlink()
        assert [path.name for path in (tmp_path / target).iterdir()] == ["whole"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "large", "new"]


def test_the_folder_one_stands_in_can_be_written(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with written_aside(Path()) as aside:
        aside.mkdir()
        (aside / "whole").touch()
    found = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*"))
    assert found == ["here", "here/whole"]


def test_any_name_can_be_replaced(tmp_path):
    (tmp_path / "replaced").mkdir()
    with written_aside(tmp_path / "replaced") as aside:
        aside.mkdir()
        (aside / "whole").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["replaced", "whole"]


def test_json_is_written_in_utf_8(tmp_path):
    write_json(tmp_path / "names.json", ["猫", 1.5, None])
    assert "猫" in (tmp_path / "names.json").read_bytes().decode()
    assert json.loads((tmp_path / "names.json").read_text("utf-8")) == ["猫", 1.5, None]


def test_json_holds_numpy_numbers(tmp_path):
    write_json(tmp_path / "numbers.json", {"seed": np.int64(3), "rate": np.float32(0.5)})
    assert json.loads((tmp_path / "numbers.json").read_text()) == {"seed": 3, "rate": 0.5}
    with pytest.raises(TypeError, match="Object of type set is not JSON serializable"):
        write_json(tmp_path / "set.json", {1})
    assert not (tmp_path / "set.json").exists()
