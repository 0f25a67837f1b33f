"""Damaged files: the report says what the decoder says of each; an option leaves them out."""

import os
import re
import subprocess
import sys

import pytest

import tlkit
from tests.data.image_bytes import drawing, encoded
from tlkit.data.decoder_messages import error_in, listening, pass_on, without_log
from tlkit.errors import ArgumentError
from tlkit.runs.inference import evaluate_run

EXTRANEOUS = r"Corrupt JPEG data: \d extraneous bytes before marker 0xd9"  # some are read ahead


def with_extraneous_bytes(image):
    """A JPEG file with bytes between its pixels and its end, as a flipped bit leaves them."""
    content = encoded(image, "JPEG")
    assert content.endswith(b"\xff\xd9")
    return content[:-2] + bytes(9) + content[-2:]


def of_unknown_revision(image):
    """A JPEG file whose header is unusual and whose pixels are as they should be."""
    content = encoded(image, "JPEG")
    return content[:11] + b"\x07" + content[12:]


@pytest.fixture
def rotten(photos):
    """The folder with one damaged file in each class, among more files than are read together."""
    for number, name in enumerate(("red", "green")):
        image = drawing(40 + number, 30)
        (photos / name / "rotten.jpg").write_bytes(with_extraneous_bytes(image))
        (photos / name / "odd.jpg").write_bytes(of_unknown_revision(drawing(50 + number, 30)))
    return photos


def test_a_damaged_file_is_named_with_what_the_decoder_says_and_used(rotten, capfd):
    report = tlkit.inspect_folder(rotten)
    assert [(one.path, one.class_name) for one in report.damaged] == [
        (str(rotten / "green" / "rotten.jpg"), "green"),
        (str(rotten / "red" / "rotten.jpg"), "red"),
    ]
    assert all(re.fullmatch(EXTRANEOUS, one.reason) for one in report.damaged)
    assert report.counts == {"green": {"all": 32}, "red": {"all": 32}}
    assert not report.skipped
    (note,) = report.notes
    assert note.startswith("2 images are damaged and used all the same")
    assert re.search(rf"  red: \S+/red/rotten.jpg: {EXTRANEOUS}", str(report))
    assert "rotten.jpg" in report._repr_html_()
    assert "JPEG data" not in capfd.readouterr().err  # it is said in the report, with a name
    assert tlkit.inspect_folder(rotten) == report  # remembered


def test_damaged_files_are_left_out_where_that_is_wanted(rotten):
    data = tlkit.load_folder(rotten, image_size=8, splits=(1, 0, 0), damaged="skip")
    assert data.report.counts == {"green": {"train": 31}, "red": {"train": 31}}
    assert all(re.fullmatch(EXTRANEOUS, one.reason) for one in data.report.skipped)
    assert len(data.report.skipped) == 2
    assert data.report.formats == {"jpeg": 62}
    assert not data.report.damaged
    assert tlkit.inspect_folder(rotten, damaged="skip").skipped == data.report.skipped
    manifest = rotten / "m.csv"
    rows = [f"{path.relative_to(rotten)},{path.parent.name}" for path in rotten.rglob("*.jpg")]
    manifest.write_text("\n".join(["path,label", *rows]), encoding="utf-8")
    listed = tlkit.load_manifest(manifest, image_size=8, damaged="skip")
    assert listed.report.skipped == data.report.skipped
    kept = tlkit.load_folder(rotten, image_size=8, splits=(1, 0, 0))
    assert kept.train.num_images == 64


def test_what_is_done_with_damaged_files_is_checked_first(tmp_path):
    for load in (tlkit.load_folder, tlkit.inspect_folder, tlkit.load_manifest):
        with pytest.raises(ArgumentError, match=r"`damaged` must be one of 'keep', 'skip'"):
            load(tmp_path / "nowhere", damaged="drop")
    with pytest.raises(ArgumentError, match="`damaged` must be one of"):
        evaluate_run(tmp_path / "run", tmp_path, damaged="drop")
    with pytest.raises(ArgumentError, match="`damaged` must be one of"):
        tlkit.train_run(tmp_path / "nowhere", out=tmp_path / "run", damaged="drop")


def test_a_file_that_cannot_be_decoded_has_the_decoders_reason(photos):
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


def test_tensorflows_log_is_no_reason():
    log = (
        "E0000 00:00:1.5 12 local_rendezvous.cc:100] INVALID_ARGUMENT: jpeg::Uncompress failed",
        "\t [[{{function_node cond_1}}{{node cond/DecodeJpeg}}]]",
    )
    assert error_in(log) == ""
    assert error_in(("Unsupported marker type 0x12", *log)) == "Unsupported marker type 0x12"
    assert without_log(("bad Huffman code", *log)) == ("bad Huffman code",)


def test_what_others_write_to_standard_error_meanwhile_is_shown(capfd):
    with listening() as heard:
        os.write(2, b"a library's line\nCorrupt JPEG data: bad Huffman code\n")
    assert heard.lines == ("a library's line", "Corrupt JPEG data: bad Huffman code")
    pass_on(heard.lines)
    assert capfd.readouterr().err == "a library's line\n"
    with pytest.raises(OSError, match="too long a name"), listening():
        _speak_and_fail()
    assert capfd.readouterr().err == "said before it failed\n"


def _speak_and_fail():
    os.write(2, b"said before it failed\n")
    raise OSError("too long a name")


def test_python_writes_to_standard_error_as_ever_while_decoders_are_listened_to():
    code = (
        "import os, sys\n"
        "from tlkit.data.decoder_messages import listening\n"
        "with listening() as heard:\n"
        "    print('a bar', file=sys.stderr)\n"
        "    os.write(2, b'Corrupt JPEG data: bad Huffman code')\n"
        "print('behind', file=sys.stderr)\n"
        "assert heard.lines == ('Corrupt JPEG data: bad Huffman code',)\n"
        "os.close(2)\n"
        "with listening() as heard:\n"
        "    pass\n"
        "assert heard.lines == ()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "a bar\nbehind\n")
