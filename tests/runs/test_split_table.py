"""Names in the split table: never formulas in a spreadsheet, and unchanged when read back."""

import csv
import io

import pytest

from tlkit.runs.split_table import FORMAT, SplitRow, read_split_table, split_table

NAMES = ('=HYPERLINK("http://x","y")', "'=1", "+1", "@x", "cat", "two\nlines", "'quoted'")


def test_names_are_not_formulas_and_are_read_back_unchanged():
    rows = [SplitRow("train", name, f"{n}a", f"-photos/{name}") for n, name in enumerate(NAMES)]
    text = split_table(rows)
    cells = [cell for row in csv.reader(io.StringIO(text)) for cell in row]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@"))]
    assert {"'" + NAMES[0], "''=1", "cat", "'quoted'"} <= set(cells)
    assert read_split_table(text, FORMAT) == rows


@pytest.mark.parametrize("name", ["=1", "'=1"])
def test_tables_of_earlier_versions_are_read_without_unescaping(name):
    text = f"split,class,digest,path\ntrain,{name},0a,x.jpg\n"
    assert read_split_table(text, None) == [SplitRow("train", name, "0a", "x.jpg")]
