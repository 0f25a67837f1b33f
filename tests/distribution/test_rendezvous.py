"""Workers wait for each other for a limited time, report it, and can be interrupted."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading

import pytest

import tlkit
from tests.distribution.processes import ROOT, free_ports
from tlkit.distribution import rendezvous
from tlkit.distribution.cluster import Cluster
from tlkit.distribution.rendezvous import meet


@pytest.fixture
def quick(monkeypatch):
    """Shortens the intervals."""
    monkeypatch.setattr(rendezvous, "_TRY_SECONDS", 0.02)
    monkeypatch.setattr(rendezvous, "SAY_SECONDS", 0.05)


def addresses_of(number, host="localhost"):
    return tuple(f"{host}:{port}" for port in free_ports(number))


def has_ipv6():
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return socket.has_dualstack_ipv6()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]"])
def test_workers_continue_when_all_have_started(quick, host):
    if host == "[::1]" and not has_ipv6():
        pytest.skip("this machine has no IPv6")
    addresses, failed, listeners = addresses_of(3, host), [], []

    def start(index):
        try:
            meet(Cluster(addresses, index), lambda text: None, wait_seconds=60)
            # as TensorFlow's server, which others may reach instead of this worker
            port = int(addresses[index].rpartition(":")[2])
            dual = socket.has_dualstack_ipv6()
            family = socket.AF_INET6 if dual else socket.AF_INET
            listeners.append(socket.create_server(("", port), family=family, dualstack_ipv6=dual))
        except (tlkit.TlkitError, OSError) as error:
            failed.append(error)

    workers = [threading.Thread(target=start, args=(index,)) for index in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(100)
    for listener in listeners:
        listener.close()
    assert not failed
    assert len(listeners) == 3


def test_missing_workers_are_reported_until_the_time_is_over(quick):
    addresses, messages = addresses_of(2), []
    message = rf"must be started within 0 s.*no answer from {addresses[1]}.*Start the same command"
    with pytest.raises(tlkit.TrainingError, match=message):
        meet(Cluster(addresses, 0), messages.append, wait_seconds=0.4)
    assert messages
    assert messages[0].startswith(f"waiting for 1 of 2 workers: {addresses[1]} (0 of 0 s)")
    socket.create_server(("", int(addresses[0].rpartition(":")[2]))).close()  # it is free again


def test_a_port_in_use_is_refused():
    addresses = addresses_of(2)
    with socket.create_server(("", int(addresses[0].rpartition(":")[2]))):
        message = f"a free port for this worker. Received: '{addresses[0]}' .another program"
        with pytest.raises(tlkit.ArgumentError, match=message):
            meet(Cluster(addresses, 0), lambda text: None)


@pytest.mark.parametrize(
    "address",
    [
        *("host", "host:", ":2222", "host:many", "host:0", "host:70000"),
        *("::1:2222", "2001:db8::1:2222", "[::1:2222", "[::1]", "[host]:2222", "http://host:2222"),
    ],
)
def test_an_invalid_address_is_named(address):
    with pytest.raises(tlkit.ArgumentError, match=re.escape(f"HOST:PORT. Received: '{address}'")):
        meet(Cluster(("localhost:1", address), 0), lambda text: None)


def test_an_address_that_this_machine_cannot_reach_is_named_before_any_wait(monkeypatch):
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    with pytest.raises(tlkit.ArgumentError, match=r"can reach. Received: '\[::1\]:2222'.*no IPv6"):
        meet(Cluster(("localhost:1", "[::1]:2222"), 0), lambda text: None)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_waiting_chief_reports_it_and_ends_on_a_signal(tmp_path, kind, status):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    task = {"cluster": {"worker": addresses_of(2)}, "task": {"type": "worker", "index": 0}}
    code = (
        "import sys, tlkit.distribution.rendezvous as r, tlkit.__main__\n"
        "r.SAY_SECONDS = 0.1\n"
        f"sys.argv = ['tlkit', 'train', 'nowhere', '--out', {str(tmp_path / 'run')!r}, "
        "'--distribute', 'multi-worker']\n"
        "tlkit.__main__.main()\n"
    )
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "TF_CONFIG": json.dumps(task), "CUDA_VISIBLE_DEVICES": "-1"},
        )
    finally:
        signal.signal(signal.SIGINT, before)
    with process:
        for line in process.stderr:
            if "waiting for 1 of 2 workers" in line:
                break
        process.send_signal(kind)
        *_, last = process.stderr
    assert process.returncode == status
    reason = "interrupted" if kind == signal.SIGINT else "ended by SIGTERM"
    assert last == f"tlkit: {reason}; the same command resumes the run.\n"
