"""Damaged files: reported with the decoder's message, and left out on request."""

import os
import re
import subprocess
import sys

import pytest

import tlkit
from tests.data.image_bytes import drawing, encoded
from tlkit.data.decoder_messages import capture_stderr, drop_log_lines, find_error, forward_lines
from tlkit.errors import ArgumentError
from tlkit.runs.inference import evaluate_run

EXTRANEOUS = (
    r"Corrupt JPEG data: \d extraneous bytes before marker 0xd9"  # some of the nine are read ahead
)


def with_extraneous_bytes(image):
    """A JPEG file with extra bytes between pixels and end marker, as a flipped bit causes them."""
    content = encoded(image, "JPEG")
    assert content.endswith(b"\xff\xd9")
    return content[:-2] + bytes(9) + content[-2:]


def of_unknown_revision(image):
    """A JPEG file with an unusual header and intact pixels."""
    content = encoded(image, "JPEG")
    return content[:11] + b"\x07" + content[12:]


@pytest.fixture
def damaged_photos(photos):
    """A folder with one damaged file per class, among more files than one capture covers."""
    for number, name in enumerate(("red", "green")):
        image = drawing(40 + number, 30)
        (photos / name / "rotten.jpg").write_bytes(with_extraneous_bytes(image))
        (photos / name / "odd.jpg").write_bytes(of_unknown_revision(drawing(50 + number, 30)))
    return photos


def test_a_damaged_file_is_reported_with_the_decoders_message_and_used(damaged_photos, capfd):
    report = tlkit.inspect_folder(damaged_photos)
    assert [(one.path, one.class_name) for one in report.damaged] == [
        (str(damaged_photos / "green" / "rotten.jpg"), "green"),
        (str(damaged_photos / "red" / "rotten.jpg"), "red"),
    ]
    assert all(re.fullmatch(EXTRANEOUS, one.reason) for one in report.damaged)
    assert report.counts == {"green": {"all": 32}, "red": {"all": 32}}
    assert not report.skipped
    (note,) = report.notes
    assert note.startswith("2 damaged images are used")
    assert re.search(rf"  red: \S+/red/rotten.jpg: {EXTRANEOUS}", str(report))
    assert "rotten.jpg" in report._repr_html_()
    assert "JPEG data" not in capfd.readouterr().err  # it is in the report
    assert tlkit.inspect_folder(damaged_photos) == report  # cached


def test_damaged_files_can_be_left_out(damaged_photos):
    data = tlkit.load_folder(damaged_photos, image_size=8, splits=(1, 0, 0), damaged="skip")
    assert data.report.counts == {"green": {"train": 31}, "red": {"train": 31}}
    assert all(re.fullmatch(EXTRANEOUS, one.reason) for one in data.report.skipped)
    assert len(data.report.skipped) == 2
    assert data.report.formats == {"jpeg": 62}
    assert not data.report.damaged
    assert tlkit.inspect_folder(damaged_photos, damaged="skip").skipped == data.report.skipped
    manifest = damaged_photos / "m.csv"
    rows = [
        f"{path.relative_to(damaged_photos)},{path.parent.name}"
        for path in damaged_photos.rglob("*.jpg")
    ]
    manifest.write_text("\n".join(["path,label", *rows]), encoding="utf-8")
    listed = tlkit.load_manifest(manifest, image_size=8, damaged="skip")
    assert listed.report.skipped == data.report.skipped
    kept = tlkit.load_folder(damaged_photos, image_size=8, splits=(1, 0, 0))
    assert kept.train.num_images == 64


def test_the_argument_damaged_is_checked_first(tmp_path):
    for load in (tlkit.load_folder, tlkit.inspect_folder, tlkit.load_manifest):
        with pytest.raises(ArgumentError, match=r"`damaged` must be one of 'keep', 'skip'"):
            load(tmp_path / "nowhere", damaged="drop")
    with pytest.raises(ArgumentError, match="`damaged` must be one of"):
        evaluate_run(tmp_path / "run", tmp_path, damaged="drop")
    with pytest.raises(ArgumentError, match="`damaged` must be one of"):
        tlkit.train_run(tmp_path / "nowhere", out=tmp_path / "run", damaged="drop")


def test_an_undecodable_file_is_skipped_with_the_decoders_reason(photos):
    content = encoded(drawing(), "JPEG")
    frame = content.index(b"\xff\xc0")
    (photos / "red" / "twelve.jpg").write_bytes(
        content[: frame + 4] + b"\x0d" + content[frame + 5 :]
    )
    (photos / "red" / "cut.gif").write_bytes(encoded(drawing(), "GIF")[:400])
    skipped = tlkit.inspect_folder(photos).skipped
    assert {os.path.basename(one.path): one.reason for one in skipped} == {
        "twelve.jpg": "truncated or damaged JPEG: Unsupported JPEG data precision 13",
        "cut.gif": "truncated or damaged GIF: Invalid GIF data (size 400), failed to open gif "
        "file: No screen descriptor detected",
    }


def test_lines_of_tensorflows_log_are_not_reported_as_reasons():
    log = (
        "E0000 00:00:1.5 12 local_rendezvous.cc:100] INVALID_ARGUMENT: jpeg::Uncompress failed",
        "\t [[{{function_node cond_1}}{{node cond/DecodeJpeg}}]]",
    )
    assert find_error(log) == ""
    assert find_error(("Unsupported marker type 0x12", *log)) == "Unsupported marker type 0x12"
    assert drop_log_lines(("bad Huffman code", *log)) == ("bad Huffman code",)


def test_other_output_on_standard_error_is_forwarded(capfd):
    with capture_stderr() as heard:
        os.write(2, b"a library's line\nCorrupt JPEG data: bad Huffman code\n")
    assert heard.lines == ("a library's line", "Corrupt JPEG data: bad Huffman code")
    forward_lines(heard.lines)
    assert capfd.readouterr().err == "a library's line\n"
    with pytest.raises(OSError, match="too long a name"), capture_stderr():
        _write_and_fail()
    assert capfd.readouterr().err == "said before it failed\n"


def _write_and_fail():
    os.write(2, b"said before it failed\n")
    raise OSError("too long a name")


def test_python_output_is_visible_during_a_capture():
    code = (
        "import os, sys\n"
        "from tlkit.data.decoder_messages import capture_stderr\n"
        "with capture_stderr() as heard:\n"
        "    print('a bar', file=sys.stderr)\n"
        "    os.write(2, b'Corrupt JPEG data: bad Huffman code')\n"
        "print('behind', file=sys.stderr)\n"
        "assert heard.lines == ('Corrupt JPEG data: bad Huffman code',)\n"
        "os.close(2)\n"
        "with capture_stderr() as heard:\n"
        "    pass\n"
        "assert heard.lines == ()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "a bar\nbehind\n")
