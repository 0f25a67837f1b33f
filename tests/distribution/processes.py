"""Worker processes on loopback, which are ended with the test."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 300


def free_ports(number):
    """Returns ports that were free a moment ago."""
    sockets = [socket.socket() for _ in range(number)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


class Worker:
    """A process of `tests.distribution.jobs`, with its output in a file."""

    def __init__(self, command, environment, log):
        self.log = log
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=file, stderr=file, start_new_session=True
            )

    def wait(self, seconds=SECONDS):
        """Returns the exit status."""
        return self.process.wait(seconds)

    def kill(self):
        """Kills it, as if its machine failed."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)

    @property
    def output(self):
        """Its output so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")


@contextmanager
def started(job, folder, number, **environment):
    """Starts a job in `number` processes, each with its own cache, and ends all of them."""
    folder.mkdir(parents=True, exist_ok=True)
    addresses = [f"localhost:{port}" for port in free_ports(number)]
    workers = []
    try:
        for index in range(number):
            given = {
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "TLKIT_CACHE": str(folder / f"cache-{index}"),
                "CUDA_VISIBLE_DEVICES": "-1",
                **environment,
            }
            if number > 1:
                task = {"type": "worker", "index": index}
                given["TF_CONFIG"] = json.dumps({"cluster": {"worker": addresses}, "task": task})
            command = [sys.executable, "-m", "tests.distribution.jobs", job, str(folder)]
            workers.append(Worker([*command, str(index)], given, folder / f"log-{index}.txt"))
        yield workers
    finally:
        for worker in workers:
            worker.kill()


def run(job, folder, number, **environment):
    """Runs a job to its end."""
    with started(job, folder, number, **environment) as workers:
        ends = time.monotonic() + SECONDS
        for worker in workers:
            status = worker.wait(max(1.0, ends - time.monotonic()))
            assert status == 0, f"status {status}: {worker.output[-4000:]}"


def wait_for(condition, what, seconds=SECONDS):
    """Waits until a condition holds."""
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, what
        time.sleep(0.05)
