"""Connections: slow clients and ambiguous requests do not keep others from an answer."""

import json
import socket
import threading
import time
from contextlib import ExitStack, contextmanager

import pytest

from tests.serving.conftest import MAX_BYTES, MAX_PIXELS, NAMES, Client
from tests.serving.image_bodies import image
from tlkit.serving import bodies, connections, server
from tlkit.serving.model import ServedModel
from tlkit.serving.server import LOOPBACK, listen, make_server, open_port


@contextmanager
def running(exported):
    with listen(LOOPBACK, 0) as listener:
        running_server = make_server(
            ServedModel(exported, MAX_PIXELS), listener, max_bytes=MAX_BYTES
        )
        open_port(listener)
        thread = threading.Thread(target=running_server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield Client(listener.getsockname()[1])
        finally:
            running_server.should_exit = True
            thread.join(30)
    assert not thread.is_alive()


@contextmanager
def connected(client, *sent):
    with socket.create_connection((LOOPBACK, client.port), timeout=20) as connection:
        for content in sent:
            connection.sendall(content)
        yield connection


def received(connection):
    """The data received until the server closes the connection."""
    content = b""
    try:
        while more := connection.recv(4096):
            content += more
    except ConnectionResetError:
        pass
    return content


HEAD = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n"


@pytest.mark.parametrize("sent", [b"", b"G", HEAD])
def test_unfinished_heads_do_not_keep_out_new_requests(exported, monkeypatch, sent):
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 8)
    with running(exported) as client, ExitStack() as stack:
        slow = [stack.enter_context(connected(client, sent)) for _ in range(30)]
        for _ in range(3):
            assert client.request("GET", "/health")[0] == 200
            assert client.predict(image())[0] == 200
        assert received(slow[0]) == b""  # the first one was closed


@pytest.mark.parametrize(("sent", "answer"), [(b"", b""), (HEAD, b"HTTP/1.1 408 ")])
def test_a_head_that_is_not_sent_in_time_ends_the_connection(exported, monkeypatch, sent, answer):
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.2)
    with running(exported) as client, connected(client, sent) as connection:
        assert received(connection).startswith(answer)
        with connected(client, HEAD + b"\r\n") as second:
            assert second.recv(4096).startswith(b"HTTP/1.1 200")
            second.sendall(sent or b"\r\n")  # the head of another request on the same connection
            assert b"health" not in received(second)


def test_a_head_that_is_too_long_is_refused(client):
    field = b"X-Filler: %s\r\n" % (b"x" * 1000)
    with connected(client, HEAD + 60 * field) as connection:
        connection.settimeout(0.3)
        with pytest.raises(TimeoutError):  # this length is still allowed
            connection.recv(4096)
        connection.settimeout(20)
        connection.sendall(20 * field)
        assert received(connection).startswith(b"HTTP/1.1 431 ")
    assert client.request("GET", "/health")[0] == 200


@pytest.mark.parametrize("chunked_first", [True, False])
def test_a_request_with_two_lengths_gets_one_answer(client, chunked_first):
    lengths = [b"Transfer-Encoding: chunked\r\n", b"Content-Length: 5\r\n"]
    head = b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\n" + b"".join(
        lengths if chunked_first else lengths[::-1]
    )
    smuggled = HEAD + b"\r\n"
    with connected(client, head + b"\r\n0\r\n\r\n" + smuggled) as connection:
        answers = received(connection)
    assert answers.startswith(b"HTTP/1.1 400")
    assert answers.count(b"HTTP/1.1 ") == 1


def test_a_body_in_chunks_of_one_byte_is_read(client):
    content = image()
    chunked = b"".join(b"1\r\n%c\r\n" % byte for byte in content) + b"0\r\n\r\n"
    head = b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    with connected(client, head + chunked) as connection:
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")


def test_a_slow_body_is_dropped_if_a_new_request_needs_its_slot(exported, monkeypatch):
    monkeypatch.setattr("tlkit.serving.app.MAX_REQUESTS", 2)
    monkeypatch.setattr(bodies, "SLOW_SECONDS", 0.1)
    head = b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 500\r\n\r\n"
    with running(exported) as client, ExitStack() as stack:
        slow = [stack.enter_context(connected(client, head, b"x")) for _ in range(2)]
        time.sleep(0.3)
        assert client.request("GET", "/ready")[0] == 200
        assert client.predict(image())[0] == 200
        assert slow[0].recv(4096).startswith(b"HTTP/1.1 408")


def test_without_a_free_slot_the_server_is_not_ready(exported, monkeypatch):
    monkeypatch.setattr("tlkit.serving.app.MAX_REQUESTS", 1)
    monkeypatch.setattr(bodies, "SLOW_SECONDS", 1000)
    head = b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 500\r\n\r\n"
    with running(exported) as client, connected(client, head, b"x"):
        wait_until(lambda: client.request("GET", "/ready")[0] == 503)
        assert client.predict(image())[0] == 503
        assert client.request("GET", "/health")[0] == 200


def wait_until(condition):
    for _ in range(200):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("the condition did not become true")


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "no-cors"},
    ],
)
def test_requests_of_other_sites_pages_are_refused(client, headers):
    status, answer = client.predict(image(), **headers)
    assert status == 403
    assert "Open its own page" in answer["error"]


def test_the_servers_own_page_and_links_from_other_sites_are_accepted(client):
    own = f"http://127.0.0.1:{client.port}"
    assert client.predict(image(), Origin=own, Sec_Fetch_Site="same-origin")[0] == 200
    followed = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"}
    assert client.request("GET", "/", **followed)[0] == 200


def test_metrics_count_the_requests(exported):
    with running(exported) as client:
        client.predict(image())
        client.predict(b"no image")
        client.request("GET", "/a/path/nobody/knows")
        status, content, headers = client.request("GET", "/metrics")
        text = content.decode()
    assert status == 200
    assert headers["Content-Type"].startswith("text/plain; version=")
    assert 'tlkit_http_requests_total{path="/predict",status="200"} 1.0' in text
    assert 'tlkit_http_requests_total{path="/predict",status="415"} 1.0' in text
    assert 'tlkit_http_requests_total{path="other",status="404"} 1.0' in text
    assert "tlkit_model_seconds_count 2.0" in text
    assert "tlkit_http_requests_in_progress 1.0" in text
    assert "process_resident_memory_bytes" in text


def test_the_server_is_ready_as_soon_as_it_is_reachable(client):
    status, content, _ = client.request("GET", "/ready")
    assert (status, json.loads(content)) == (200, {"ready": True})
    assert json.loads(client.request("GET", "/health")[1])["class_names"] == list(NAMES)
