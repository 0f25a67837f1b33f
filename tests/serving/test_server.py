"""Starting and stopping the server, and input with which it does not start."""

import http.client
import importlib.util
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import keras
import pytest

import tlkit
from tests.serving.image_bodies import image
from tlkit import cli
from tlkit.errors import ArgumentError
from tlkit.evaluation.safe_model import SafeModel
from tlkit.runs.predicting import predict_with
from tlkit.serving import server
from tlkit.serving.model import ServedModel
from tlkit.serving.server import LOOPBACK, serve
from tlkit.utils.tensorflow_logging import LOADING


@pytest.mark.slow
def test_the_server_answers_until_it_is_interrupted_and_then_stops_cleanly(exported):
    code = (
        "import sys; from tlkit.serving.server import serve; "
        "serve(sys.argv[1], port=0, log=lambda text: print(text, flush=True)); print('ended')"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(exported)], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            line = process.stdout.readline()
            assert line.startswith("Open http://127.0.0.1:")
            port = int(line.split(":")[2].split("/")[0])
            connection = http.client.HTTPConnection(LOOPBACK, port, timeout=60)
            connection.request("POST", "/predict", image())
            assert connection.getresponse().status == 200
            connection.close()
            process.send_signal(signal.SIGINT)
            assert process.stdout.read() == "ended\n"
            assert process.wait(30) == 0
        finally:
            process.kill()


@pytest.mark.slow
def test_the_command_answers_open_requests_and_then_exits(exported):
    command = [sys.executable, "-m", "tlkit", "serve", str(exported), "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            port = int(process.stdout.readline().split(":")[2].split("/")[0])
            body = image()
            with socket.create_connection((LOOPBACK, port), timeout=60) as connection:
                head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
                connection.sendall(head.replace("x", LOOPBACK, 1).encode() + body[:99])
                time.sleep(0.3)
                process.send_signal(signal.SIGINT)
                time.sleep(0.3)
                connection.sendall(body[99:])  # the open request is answered
                assert connection.recv(4096).startswith(b"HTTP/1.1 200")
            assert process.wait(30) == 0
            lines = process.stderr.read().splitlines()
            (line,) = (one for one in lines if not one.startswith(LOADING))  # shown if it is slow
            assert line.endswith('"POST /predict HTTP/1.1" 200')
        finally:
            process.kill()


def test_functions_registered_with_atexit_still_run():
    code = (
        "import atexit; from tlkit.serving.server import skip_teardown; done = skip_teardown(); "
        "atexit.register(print, 'cleaned up'); print('served'); done()"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "served\ncleaned up\n"


def write_keras(folder, layers, names=("ant", "bee")):
    folder.mkdir()
    model = keras.Sequential([keras.Input((8, 8, 3)), *layers, keras.layers.Dense(2)])
    model.save(folder / "model.keras")
    (folder / "class_names.json").write_text(json.dumps(names))
    return model


def test_a_model_of_kerass_own_layers_is_used_in_safe_mode(tmp_path):
    model = write_keras(tmp_path / "theirs", [keras.layers.Flatten()])
    (tmp_path / "a.png").write_bytes(image("png"))
    (expected,) = tlkit.predict(model, tmp_path / "a.png", ["ant", "bee"])
    (prediction,) = predict_with(tmp_path / "theirs", [tmp_path / "a.png"], safe=True)
    assert prediction.probabilities == pytest.approx(expected.probabilities, abs=1e-6)
    served = ServedModel(tmp_path / "theirs", 2**20, safe=True)
    answer = served.answer((tmp_path / "a.png").read_bytes())
    assert answer["probabilities"] == pytest.approx(expected.probabilities, abs=1e-6)


def test_safe_mode_runs_no_code_of_a_model(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(keras.layers.Lambda, "call", lambda self, x: calls.append(x) or x)
    write_keras(tmp_path / "theirs", [keras.layers.Flatten(), keras.layers.Lambda(lambda x: x)])
    calls.clear()
    for load in (lambda folder: ServedModel(folder, 2**20, safe=True), SafeModel):
        with pytest.raises(tlkit.ExportError, match=r"without custom code.*[Ll]ambda"):
            load(tmp_path / "theirs")
    with pytest.raises(tlkit.ExportError, match=r"without custom code"):
        predict_with(tmp_path / "theirs", [tmp_path / "a.png"], safe=True)
    assert not calls


@pytest.mark.parametrize("name", ["model.keras", "class_names.json"])
def test_safe_mode_needs_both_files(tmp_path, name):
    write_keras(tmp_path / "theirs", [keras.layers.Flatten()])
    (tmp_path / "theirs" / name).write_bytes(b"[[[")
    with pytest.raises(tlkit.ExportError, match=f"Received: .*{name}"):
        SafeModel(tmp_path / "theirs")
    (tmp_path / "theirs" / name).unlink()
    with pytest.raises(ArgumentError, match=f"without {name}"):
        SafeModel(tmp_path / "theirs")


@pytest.mark.parametrize("start", [serve, cli.serve])
def test_the_server_uses_safe_mode_if_asked(tmp_path, monkeypatch, start):
    monkeypatch.setattr(server, "skip_teardown", lambda: None)
    (tmp_path / "theirs" / "saved_model").mkdir(parents=True)
    with pytest.raises(ArgumentError, match=r"without model\.keras"):
        start(tmp_path / "theirs", port=0, safe=True)


def test_the_port_accepts_no_connection_before_the_model_is_loaded(tmp_path, monkeypatch):
    listeners, listen = [], server.listen

    def listen_and_note(*given):
        listeners.append(listen(*given))
        return listeners[0]

    monkeypatch.setattr(server, "listen", listen_and_note)

    def load(*_, **__):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(listeners[0].getsockname(), timeout=5)
        raise ArgumentError("not loaded")

    monkeypatch.setattr("tlkit.serving.model.ServedModel", load)
    with pytest.raises(ArgumentError, match="not loaded"):
        serve(tmp_path, port=0)


def test_a_port_that_is_taken_is_refused_before_the_model_is_loaded(tmp_path):
    with socket.create_server((LOOPBACK, 0)) as taken:
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
def test_invalid_arguments_are_refused(tmp_path, arguments, match):
    with pytest.raises(ArgumentError, match=match):
        serve(tmp_path, **arguments)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ArgumentError, match=r"`folder` must be a finished run"):
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
    (tmp_path / "a.png").write_bytes(image("png"))
    with pytest.raises(tlkit.ExportError, match=r"A SavedModel must be intact.*Export it again"):
        ServedModel(folder, 2**20)
    with pytest.raises(tlkit.ExportError, match=r"A SavedModel must be intact.*Export it again"):
        predict_with(folder, [tmp_path / "a.png"])


def test_an_export_beside_other_formats_is_found(exported, tmp_path):
    shutil.copytree(exported, tmp_path / "exported" / "saved_model")
    (tmp_path / "a.png").write_bytes(image("png"))
    (prediction,) = predict_with(tmp_path / "exported", [tmp_path / "a.png"])
    served = ServedModel(tmp_path / "exported", 2**20).answer((tmp_path / "a.png").read_bytes())
    assert served["label"] == prediction.label


def test_a_run_is_served_from_its_saved_model(exported, tmp_path):
    shutil.copytree(exported, tmp_path / "run" / "saved_model")
    model = ServedModel(tmp_path / "run", 2**20)
    assert model.answer(image())["labels"]


def test_the_error_names_a_missing_package_and_how_to_install_it(tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        server, "find_spec", lambda name: (name != "uvicorn" and find(name)) or None
    )
    with pytest.raises(ArgumentError, match=r"environment without uvicorn.*tlkit\[serve\]"):
        serve(tmp_path)
