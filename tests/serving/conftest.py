"""A server with a small model on a free port of this machine, and a client for it."""

import http.client
import json
import threading

import keras
import pytest

import tlkit
from tests.conftest import set_seeds

pytest.importorskip("starlette", reason="needs starlette")
pytest.importorskip("uvicorn", reason="needs uvicorn")
pytest.importorskip("httptools", reason="needs httptools")
pytest.importorskip("prometheus_client", reason="needs prometheus-client")
pytest.importorskip("python_multipart", reason="needs python-multipart")

from tlkit.serving.model import ServedModel
from tlkit.serving.server import LOOPBACK, listen, make_server, open_port

NAMES = ("ant", "bee", "猫 & <dog>")
MAX_BYTES = 2**20
MAX_PIXELS = 2**20


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    set_seeds(0)
    inputs = keras.Input((12, 16, 3))
    x = keras.layers.Rescaling(1 / 255)(inputs)
    x = keras.layers.Flatten()(keras.layers.Conv2D(8, 3)(x))
    folder = tmp_path_factory.mktemp("served") / "exported"
    model = keras.Model(inputs, keras.layers.Dense(3)(x))
    tlkit.export_model(model, folder, NAMES, fresh_process=False)
    return folder


class Client:
    """A client of the server that makes a connection for each request."""

    def __init__(self, port):
        self.port = port
        self.address = f"http://{LOOPBACK}:{port}/"

    def request(self, method, path, body=None, **headers):
        connection = http.client.HTTPConnection(LOOPBACK, self.port, timeout=60)
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, response.read(), response.headers
        finally:
            connection.close()

    def predict(self, body, **headers):
        """Returns the status and the JSON."""
        status, content, _ = self.request("POST", "/predict", body, **headers)
        return status, json.loads(content)


@pytest.fixture(scope="session")
def client(exported):
    with listen(LOOPBACK, 0) as listener:
        model = ServedModel(exported, MAX_PIXELS)
        server = make_server(model, listener, max_bytes=MAX_BYTES)
        open_port(listener)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield Client(listener.getsockname()[1])
        server.should_exit = True
        thread.join(30)
    assert not thread.is_alive()
