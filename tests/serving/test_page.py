"""The page in a real browser: an image is dropped, and its prediction is shown.

Without a browser the tests are skipped, or fail if TLKIT_BROWSER_REQUIRED is set.
"""

import base64

import pytest

from tests.serving.conftest import NAMES
from tests.serving.image_bodies import image

DROP = """async ([content, name]) => {
  const bytes = Uint8Array.from(atob(content), (one) => one.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name, { type: "image/png" }));
  const target = document.getElementById("drop");
  for (const kind of ["dragenter", "dragover", "drop"]) {
    target.dispatchEvent(
      new DragEvent(kind, { dataTransfer: transfer, bubbles: true, cancelable: true }));
  }
}"""


@pytest.fixture
def page(browser, client):
    page = browser.new_page()
    page.problems = []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.goto(client.address)
    yield page
    page.close()
    assert page.problems == []


def shown(page, selector):
    return page.locator(selector).all_inner_texts()


def expect_label(page, label):
    page.wait_for_function(
        "label => document.getElementById('label').textContent === label", arg=label
    )


def test_no_prediction_is_shown_before_an_image_is_dropped(page):
    for selector in ("#image", "#label", "#error"):
        assert page.locator(selector).is_hidden()
    assert shown(page, "#probabilities li") == []


def test_a_dropped_image_is_classified(page, client):
    content = image("png")
    _, expected = client.predict(content)
    page.evaluate(DROP, [base64.b64encode(content).decode(), "one.png"])
    expect_label(page, expected["label"])
    probabilities = sorted(expected["probabilities"].items(), key=lambda pair: -pair[1])
    rows = [row.replace("\n", " ").split() for row in shown(page, "#probabilities li")]
    assert [" ".join(row[:-2]) for row in rows] == [name for name, _ in probabilities]
    assert [row[-2] for row in rows] == [f"{100 * value:.1f}" for _, value in probabilities]
    assert page.locator("#image").evaluate("image => image.naturalWidth") == 40
    assert shown(page, "#classes") == [", ".join(NAMES)]
    assert page.locator("#error").is_hidden()


def test_several_images_may_be_chosen_one_after_another(page, client, tmp_path):
    for seed in range(3):
        file = tmp_path / f"{seed}.jpg"
        file.write_bytes(image(seed=seed))
        page.set_input_files("#file", file)
        expect_label(page, client.predict(file.read_bytes())[1]["label"])
        assert len(shown(page, "#probabilities li")) == len(NAMES)


def test_the_error_about_a_file_that_is_no_image_is_shown(page, tmp_path):
    (tmp_path / "notes.jpg").write_text("notes")
    page.set_input_files("#file", tmp_path / "notes.jpg")
    page.wait_for_selector("#error:not([hidden])")
    assert "JPEG, PNG, GIF, BMP, WebP, TIFF, AVIF or HEIC" in shown(page, "#error")[0]
    assert page.locator("#label").is_hidden()
    assert page.locator("#image").is_hidden()
    assert shown(page, "#probabilities li") == []
