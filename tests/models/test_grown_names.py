import pytest

from tlkit.models.grown_names import GrownName, parse_name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("fc", GrownName("fc")),
        ("fc__grown12", GrownName("fc", 12)),
        ("fc__reads3", GrownName("fc", 0, 3)),
        ("fc__grown2__reads3", GrownName("fc", 2, 3)),
        ("fc__sum", GrownName("fc", role="sum")),
        ("fc__grown2__activation", GrownName("fc", 2, role="activation")),
        ("fc__classes", GrownName("fc", role="classes")),
        ("fc__depthwise__grown1", GrownName("fc__depthwise", 1)),
    ],
)
def test_names_are_parsed_and_formatted(name, expected):
    found = parse_name(name, ["fc", "fc__depthwise", name])
    assert found == expected
    assert str(found) == name
    assert found.is_plain == (name == "fc")
    assert found.number == max(expected.part, expected.reads)


@pytest.mark.parametrize(
    "name", ["fc__depthwise", "fc__grown", "fc_grown1", "other__grown1", "__sum"]
)
def test_other_names_are_plain(name):
    assert parse_name(name, ["fc", name]) == GrownName(name)
