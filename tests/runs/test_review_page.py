"""The page of a review in a real browser: keys, undo, progress, and the downloaded decisions."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.data.test_decisions import digest_of
from tlkit.data.decisions import Decision, read_decisions
from tlkit.runs.review_page import check_page, write_page
from tlkit.runs.review_report import Doubt, ReviewReport, ToLabel

CLASSES = ("=cat", 'a "dog", big', "</script><b>owl", *(f"class {n}" for n in range(9)))
EARLIER = Decision("old/=1.jpg", "0a", "=cat", "move", CLASSES[1])


@pytest.fixture
def report(tmp_path):
    """Three doubts and an image without a label, under names that need care."""
    files = []
    for number, name in enumerate(["-1.png", "two, three.png", "</script>\u202e.png", "new.png"]):
        path = tmp_path / name.replace("/", "_")
        Image.fromarray(np.full((30, 40, 3), 60 * number, np.uint8)).save(path)
        files.append(path)
    likely = dict(zip(CLASSES[:9], np.linspace(0.3, 0.01, 9).tolist(), strict=True))
    doubts = tuple(
        Doubt(
            str(path), path.name, digest_of(path), CLASSES[number], kinds, CLASSES[2 - number],
            0.2, likely, 0.5, {str(files[0]): CLASSES[1]} if number == 1 else {},
        )
        for number, (path, kinds) in enumerate(
            zip(files[:3], [("label",), ("copy", "label"), ("outlier",)], strict=True)
        )
    )  # fmt: skip
    new = ToLabel(str(files[3]), "/new/new.png", digest_of(files[3]), 0.01, likely, 0.5)
    return ReviewReport(doubts, (new,), CLASSES, 9, 1, 3.0, {}, 0.5, None, decisions=(EARLIER,))


@pytest.fixture
def page(browser, report, tmp_path):
    write_page(tmp_path / "page.html", report, title="<Labels>", max_shown=9)
    context = browser.new_context(accept_downloads=True)
    page = context.new_page()
    page.problems, page.requests = [], []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("console", lambda message: page.problems.append(message.text))
    page.on("request", lambda request: page.requests.append(request.url))
    page.on("dialog", lambda dialog: dialog.accept())
    page.goto((tmp_path / "page.html").as_uri())
    yield page
    context.close()
    assert page.problems == []
    assert all(url.startswith(("file:", "data:", "blob:")) for url in page.requests)


def press(page, *keys):
    for key in keys:
        page.keyboard.press(key)


def text(page, name):
    return page.locator(f"#{name}").inner_text()


def downloaded(page, tmp_path):
    with page.expect_download() as found:
        page.click("#download")
    found.value.save_as(tmp_path / "decisions.csv")
    return read_decisions(tmp_path / "decisions.csv")


def test_keys_decide_and_the_file_has_earlier_and_new_decisions(page, report, tmp_path):
    assert text(page, "count") == "0 of 4 decided"
    assert text(page, "label") == "Label: =cat"
    press(page, "k", "Enter", "x", "2")
    assert text(page, "count") == "4 of 4 decided, not downloaded"
    assert page.locator("#progress").evaluate("bar => [bar.value, bar.max]") == [4, 4]
    first, second, third = report.doubts
    new = report.to_label[0]
    assert downloaded(page, tmp_path) == (
        EARLIER,
        Decision(first.file, first.digest, first.label, "keep"),
        Decision(second.file, second.digest, second.label, "keep"),  # its label was suggested
        Decision(third.file, third.digest, third.label, "set-aside"),
        Decision(new.file, new.digest, "", "move", CLASSES[1]),
    )
    assert text(page, "count") == "4 of 4 decided"


def test_decisions_are_undone_also_after_the_page_was_opened_again(page, report, tmp_path):
    press(page, "3", "x")
    page.reload()
    assert text(page, "count") == "2 of 4 decided, not downloaded"
    press(page, "u")
    assert text(page, "place") == "Image 2 of 4"
    page.click("#undo")
    assert text(page, "count") == "0 of 4 decided, not downloaded"
    assert page.locator("#undo").is_disabled()
    press(page, "3", "ArrowLeft", "x", "Control+z")  # the earlier decision comes back
    assert downloaded(page, tmp_path)[1].new_label == CLASSES[2]


def test_images_are_chosen_by_kind_place_and_thumbnail(page):
    page.select_option("#kind", "outlier")
    assert text(page, "place") == "Image 1 of 1"
    page.select_option("#kind", "all")
    press(page, "ArrowLeft")
    assert text(page, "label") == "No label"
    assert page.locator("#keep").is_disabled()
    press(page, "k")
    assert text(page, "count") == "0 of 4 decided"
    page.locator("#grid button").nth(1).click()
    assert page.locator("#pictures img").count() == 2
    page.select_option("#all", "class 8")  # one of those without a key
    assert page.locator("#grid span").nth(1).inner_text() == "moved to class 8"


def test_names_are_shown_as_text(page):
    press(page, "ArrowRight", "ArrowRight")
    assert text(page, "label") == "Label: </script><b>owl"
    assert r"\u202e" in page.locator("figcaption").inner_text()
    assert page.locator("b").count() == 0
    assert text(page, "title") == "<Labels>"


def test_the_page_holds_its_images_and_names_as_json(report, tmp_path):
    write_page(tmp_path / "page.html", report, title="Labels", max_shown=2)
    html = (tmp_path / "page.html").read_text("utf-8")
    content = json.loads(html.split('id="content">')[1].split("</script>")[0])
    assert [item["file"] for item in content["items"]] == [
        *(doubt.file for doubt in report.doubts[:2]),
        "/new/new.png",
    ]
    assert all(item["image"].startswith("data:image/jpeg;base64,") for item in content["items"])
    assert content["classes"] == list(CLASSES)
    check_page(tmp_path / "page.html")  # it may be replaced
