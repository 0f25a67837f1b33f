import re
from pathlib import Path

import tlkit
from tlkit.utils.cache import ClearReport
from tlkit.utils.formatting import fraction_text, interval, megabytes, percent


def test_fractions_are_written_in_per_cent():
    assert percent(0) == "0.0 %"
    assert percent(1) == "100.0 %"
    assert percent(0.126, 0) == "13 %"
    assert interval((0.0, 1 / 3)) == "0.0-33.3 %"


def test_an_accuracy_is_written_with_its_number_of_images_and_interval():
    assert fraction_text(0.5, 8) == "50.0 % (n = 8)"
    assert fraction_text(0.5, 8, (0.215, 0.785)) == "50.0 % (n = 8, 95 % CI 21.5-78.5)"
    assert fraction_text(1, 1234) == "100.0 % (n = 1,234)"


def test_sizes_are_written_in_decimal_megabytes_or_gigabytes():
    assert megabytes(0) == "0.0 MB"
    assert megabytes(10**6 * 999) == "999.0 MB"
    assert megabytes(10**9) == "1.0 GB"
    assert megabytes(1234.5e9) == "1,234.5 GB"
    assert str(ClearReport(Path("c"), 5 * 10**6, ())).startswith("5.0 MB removed")


def test_no_other_module_formats_fractions_or_sizes_by_itself():
    package = Path(tlkit.__file__).parent
    written = re.compile(r"\{100 \* [^{}]+:\.[01]f\} %|\* ?100:\.|\.[0-9]f\} [MG]B")
    found = [
        path.name
        for path in package.rglob("*.py")
        if written.search(path.read_text(encoding="utf-8"))
    ]
    assert found == ["formatting.py"]
