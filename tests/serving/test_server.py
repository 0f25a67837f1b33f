"""How the server starts and ends, and what keeps it from starting."""

import http.client
import importlib.util
import re
import shutil
import signal
import subprocess
import sys

import pytest

import tlkit
from tests.serving.pictures import picture
from tlkit.errors import ArgumentError
from tlkit.finished_run import predict_with
from tlkit.serving import server
from tlkit.serving.model import ServedModel
from tlkit.serving.server import LOOPBACK, listen, serve


def test_it_answers_until_it_is_interrupted_and_then_ends_in_order(exported):
    code = (
        "import sys; from tlkit.serving.server import serve; "
        "serve(sys.argv[1], port=0, say=lambda text: print(text, flush=True)); print('ended')"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(exported)], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            said = process.stdout.readline()
            assert said.startswith("Open http://127.0.0.1:")
            port = int(said.split(":")[2].split("/")[0])
            connection = http.client.HTTPConnection(LOOPBACK, port, timeout=60)
            connection.request("POST", "/predict", picture())
            assert connection.getresponse().status == 200
            connection.close()
            process.send_signal(signal.SIGINT)
            assert process.stdout.read() == "ended\n"
            assert process.wait(30) == 0
        finally:
            process.kill()


def test_a_port_that_is_taken_is_refused_before_the_model_is_loaded(tmp_path):
    with listen(LOOPBACK, 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ArgumentError, match=rf"`port` must be free.*port={port}"):
            serve(tmp_path, port=port)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"port": -1}, "`port` must be a whole number of at least 0"),
        ({"port": 70000}, "`port` must be at most 65535"),
        ({"host": "no.such.host.invalid", "port": 0}, "`host` an address of this machine"),
        ({"max_megabytes": 0}, "`max_megabytes` must be a whole number of at least 1"),
        ({"max_megapixels": 0}, "`max_megapixels` must be a whole number of at least 1"),
    ],
)
def test_wrong_arguments_are_refused(tmp_path, arguments, match):
    with pytest.raises(ArgumentError, match=match):
        serve(tmp_path, **arguments)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ArgumentError, match=r"`folder` must be that of a finished run"):
        serve(tmp_path, port=0)


def cut(content):
    return content[: len(content) // 2]


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("assets/serving.json", cut),
        ("assets/serving.json", lambda content: content.replace(b"softmax", b"sofmax")),
        (
            "assets/serving.json",
            lambda content: re.sub(rb'"max_pixels": \d+', b'"max_pixels": null', content),
        ),
        ("assets/class_names.txt", cut),
        ("assets/class_names.txt", lambda content: b""),
        ("assets/class_names.txt", lambda content: content + b"one more\n"),
        ("variables/variables.data-00000-of-00001", cut),
    ],
)
def test_a_damaged_model_is_refused(exported, tmp_path, name, damage):
    folder = shutil.copytree(exported, tmp_path / "damaged")
    content = (folder / name).read_bytes()
    assert damage(content) != content
    (folder / name).write_bytes(damage(content))
    (tmp_path / "a.png").write_bytes(picture("png"))
    with pytest.raises(tlkit.ExportError, match=r"A SavedModel must be whole.*Export it again"):
        ServedModel(folder, 2**20)
    with pytest.raises(tlkit.ExportError, match=r"A SavedModel must be whole.*Export it again"):
        predict_with(folder, [tmp_path / "a.png"])


def test_an_export_beside_other_formats_is_found(exported, tmp_path):
    shutil.copytree(exported, tmp_path / "exported" / "saved_model")
    (tmp_path / "a.png").write_bytes(picture("png"))
    (prediction,) = predict_with(tmp_path / "exported", [tmp_path / "a.png"])
    served = ServedModel(tmp_path / "exported", 2**20).answer((tmp_path / "a.png").read_bytes())
    assert served["label"] == prediction.label


def test_a_run_is_served_from_its_saved_model(exported, tmp_path):
    shutil.copytree(exported, tmp_path / "run" / "saved_model")
    model = ServedModel(tmp_path / "run", 2**20)
    assert model.answer(picture())["labels"]


def test_a_missing_package_is_named_with_what_installs_it(tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        server, "find_spec", lambda name: (name != "uvicorn" and find(name)) or None
    )
    with pytest.raises(ArgumentError, match=r"Received: no uvicorn.*tlkit\[serve\]"):
        serve(tmp_path)
