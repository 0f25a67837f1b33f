"""The routes of the server: answers, refusals, and limits under load."""

import json
import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request

from tests.data.image_bytes import GIF_HEAD, gif_frame, with_scans
from tests.serving.conftest import MAX_BYTES, MAX_PIXELS, NAMES
from tests.serving.image_bodies import bad_bodies, bomb, image
from tlkit.evaluation.prediction_stream import predict_exported
from tlkit.serving import app, bodies
from tlkit.serving.model import ServedModel


def form_of(*files, boundary="xyz"):
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="{name}.jpg"'
        f"\r\nContent-Type: image/jpeg\r\n\r\n".encode()
        + content
        + b"\r\n"
        for name, content in files
    ]
    headers = {"Content_Type": f"multipart/form-data; boundary={boundary}"}
    return b"".join(parts) + f"--{boundary}--\r\n".encode(), headers


def resident_megabytes():
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("memory is read from /proc, which is not here")
    return int(re.search(r"VmRSS:\s+(\d+)", status.read_text()).group(1)) / 1024


@pytest.mark.parametrize("form", ["jpeg", "png", "gif", "bmp", "webp"])
def test_answers_are_the_predictions_of_the_export(client, exported, tmp_path, form):
    content = image(form)
    (tmp_path / "file").write_bytes(content)
    (expected,) = predict_exported(exported, tmp_path / "file")
    status, answer = client.predict(content)
    assert status == 200
    assert answer["label"] == expected.label
    assert answer["labels"] == list(expected.labels)
    assert list(answer["probabilities"]) == list(NAMES)
    assert answer["probabilities"] == pytest.approx(expected.probabilities, abs=1e-6)
    assert set(answer) == {"label", "labels", "probability", "probabilities"}


def test_a_form_with_one_file_is_accepted(client):
    content = image()
    body, headers = form_of(("anything", content))
    assert client.predict(body, **headers) == client.predict(content)
    for files in ((), (("a", content), ("b", content))):
        body, headers = form_of(*files)
        status, answer = client.predict(body, **headers)
        assert status == 400
        assert f"Received: {len(files)}" in answer["error"]


@pytest.mark.parametrize(
    ("body", "headers", "expected"),
    [
        (b"", {}, (400, "Received: nothing")),
        (b"hello", {}, (415, "JPEG, PNG, GIF, BMP, WebP, TIFF, AVIF or HEIC")),
        (image()[:200], {}, (415, "200 bytes that are none")),
        (with_scans(101), {}, (415, "more than 100 scans")),
        (b"\xff\xd8" + 10_000 * b"\xff" + image("jpeg")[2:], {}, (415, "segments and padding")),
        (GIF_HEAD + 20_000 * b"\x21\xfe\0" + b";", {}, (415, "more blocks than are read")),
        (GIF_HEAD + 50_000 * gif_frame() + b";", {}, (200, "")),
        (b"II*\0" + bytes(99), {}, (415, "none (truncated or damaged file: ")),
        (image("tiff"), {}, (200, "")),
        (bomb(), {}, (413, "at most 1,048,576 pixels")),
        (image("bmp", (1100, 1000)), {}, (413, "at most 1,048,576 bytes")),
        (image(), {"Content_Type": "multipart/form-data"}, (400, "boundary")),
        (image(), {"Content_Type": "multipart/form-data; boundary=x"}, (400, "")),
        (b"x" * 5 * MAX_BYTES, {}, (413, "at most 1,048,576 bytes")),
    ],
)
def test_invalid_images_are_refused_in_json(client, body, headers, expected):
    status, answer = client.predict(body, **headers)
    assert status == expected[0]
    assert expected[1] in answer.get("error", "")


def test_a_body_that_is_declared_huge_is_refused_before_it_is_sent(client):
    head = f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {10**12}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", client.port), timeout=20) as sending:
        sending.sendall(head.encode())
        assert sending.recv(4096).startswith(b"HTTP/1.1 413")


def test_health_has_classes_and_limits(client):
    status, content, _ = client.request("GET", "/health")
    assert status == 200
    assert json.loads(content) == {
        "status": "ok",
        "class_names": list(NAMES),
        "max_bytes": MAX_BYTES,
        "max_pixels": MAX_PIXELS,
    }


def test_other_paths_methods_and_hosts_are_refused(client):
    for method, path, expected in (("GET", "/secret", 404), ("GET", "/predict", 405)):
        status, content, _ = client.request(method, path)
        assert (status, list(json.loads(content))) == (expected, ["error"])
    status, content, _ = client.request("GET", "/health", Host="evil.example")
    assert (status, list(json.loads(content))) == (400, ["error"])


def test_the_page_may_load_nothing_from_other_sites(client):
    status, content, headers = client.request("GET", "/")
    assert status == 200
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert b"<script>" not in content
    assert b"http" not in content.replace(b"http-equiv", b"")
    assert client.request("GET", "/page.js")[2]["Content-Type"].startswith("text/javascript")


def test_500_requests_of_8_clients_are_answered_in_bounded_memory(client):
    contents = [image(form, seed=seed) for form in ("jpeg", "png") for seed in range(4)]
    expected = [client.predict(content)[1] for content in contents]
    for content in contents:
        client.predict(content)
    before = resident_megabytes()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: client.predict(contents[n % 8]), range(500)))
    for number, (status, answer) in enumerate(answers):
        assert status == 200
        assert answer["probabilities"] == pytest.approx(expected[number % 8]["probabilities"])
    assert resident_megabytes() - before < 100


def test_200_invalid_bodies_get_4xx_and_a_valid_one_after_them_200(client):
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(client.predict, bad_bodies(200, MAX_BYTES)))
    assert len(answers) == 200
    assert {status for status, _ in answers} == {400, 413, 415}
    assert all(list(answer) == ["error"] for _, answer in answers)
    assert client.predict(image())[0] == 200
    assert json.loads(client.request("GET", "/health")[1])["status"] == "ok"


def test_clients_that_disconnect_or_are_slow_delay_no_others(client, monkeypatch):
    monkeypatch.setattr(bodies, "BODY_SECONDS", 0.3)
    head = b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5000\r\n\r\n12345"
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", client.port)) as leaving:
            leaving.sendall(head)
    with socket.create_connection(("127.0.0.1", client.port), timeout=20) as slow:
        slow.sendall(head)
        assert client.predict(image())[0] == 200
        time.sleep(0.5)
        assert slow.recv(4096).startswith(b"HTTP/1.1 408")


def slow_client(client, sent, declared):
    """A client that has sent a part of its body and keeps the connection open."""
    head = f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {declared}\r\n\r\n"
    sending = socket.create_connection(("127.0.0.1", client.port), timeout=20)
    sending.sendall(head.encode() + b"x" * sent)
    return sending


def test_an_answer_that_takes_too_long_gets_503(client, monkeypatch):
    monkeypatch.setattr(app, "MODEL_SECONDS", 0.1)
    monkeypatch.setattr(ServedModel, "answer", lambda *_: time.sleep(0.5))
    status, answer = client.predict(image())
    assert status == 503
    assert answer["error"].startswith("The server is busy")


def test_nothing_is_computed_for_a_client_that_has_left(client, monkeypatch):
    async def is_disconnected(_):
        return True

    asked = []
    monkeypatch.setattr(Request, "is_disconnected", is_disconnected)
    monkeypatch.setattr(ServedModel, "answer", lambda *_: asked.append(1) or {})
    assert client.request("POST", "/predict", image())[0] == app._CLIENT_LEFT
    assert not asked


def test_more_slow_clients_than_bodies_delay_no_others(client, monkeypatch):
    monkeypatch.setattr(bodies, "BODY_SECONDS", 3600.0)
    with ExitStack() as connections:
        for _ in range(app.MAX_BODIES + 1):
            connections.enter_context(slow_client(client, 5, 5000))
        assert client.predict(image())[0] == 200


def test_bodies_beyond_the_memory_limit_get_503(client, monkeypatch):
    monkeypatch.setattr(bodies, "BODY_SECONDS", 3600.0)
    before, number = resident_megabytes(), 0
    with ExitStack() as connections:
        while (answer := client.predict(image()))[0] != 503:
            assert answer[0] == 200
            number += 1
            assert number < 100
            connections.enter_context(slow_client(client, MAX_BYTES - 1, MAX_BYTES))
        assert answer[1]["error"].startswith("The server is busy")
        for _ in range(2 * app.MAX_BODIES):
            connections.enter_context(slow_client(client, MAX_BYTES - 1, MAX_BYTES))
        assert client.predict(image())[0] == 503
        assert json.loads(client.request("GET", "/health")[1])["status"] == "ok"
        assert resident_megabytes() - before < 2 * app.MAX_BODIES * MAX_BYTES / 2**20
    deadline = time.monotonic() + 60
    while client.predict(image())[0] != 200:
        assert time.monotonic() < deadline


def test_requests_beyond_the_limit_get_503():
    few = bodies.Bodies(1, 100)
    with few.reserve() as first:
        assert first.take(60)
        assert not first.take(41)
        assert first.take(40)
        with pytest.raises(HTTPException, match="busy"), few.reserve():
            pass
    with few.reserve() as second:
        assert second.take(100)
