"""The choice of the strategy, and training on two devices of one machine."""

import json

import numpy as np
import pytest
import tensorflow as tf

import tlkit
from tests.distribution import jobs, processes
from tlkit.distribution.cluster import Cluster, read_cluster
from tlkit.distribution.workers import Workers
from tlkit.errors import ArgumentError
from tlkit.runs.team import Team

TWO = {"worker": ["a:1", "b:2"]}
TASK = {"type": "worker", "index": 0}


def set_cluster(monkeypatch, cluster, task):
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": task}))


def test_without_several_devices_it_is_the_default(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert tlkit.distribution_strategy() is tf.distribute.get_strategy()
    assert read_cluster() is None


def test_one_worker_alone_is_the_default(monkeypatch):
    set_cluster(monkeypatch, {"worker": ["a:1"]}, {"type": "worker", "index": 0})
    assert tlkit.distribution_strategy() is tf.distribute.get_strategy()
    with pytest.raises(ArgumentError, match="TF_CONFIG has one worker only"):
        tlkit.distribution_strategy("multi-worker")


def test_the_chief_has_the_first_index(monkeypatch):
    set_cluster(monkeypatch, {"chief": ["c:3"], **TWO}, {"type": "worker", "index": 1})
    assert read_cluster() == Cluster(("c:3", "a:1", "b:2"), 2)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("many", "`kind` must be one of 'auto', 'mirrored', 'multi-worker'"),
        ("mirrored", "`kind` must be 'auto' if there is only one device"),
        ("multi-worker", "unless TF_CONFIG has several workers.*has nothing"),
    ],
)
def test_an_unavailable_kind_is_refused(monkeypatch, kind, message):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(ArgumentError, match=message):
        tlkit.distribution_strategy(kind)


def test_a_run_names_its_own_argument(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(ArgumentError, match=r"^`distribute` must be 'auto'.*distribute='mirrored'"):
        Team("mirrored")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "JSONDecodeError"),
        ("[]", "TypeError"),
        (json.dumps({"cluster": TWO}), "KeyError: 'task'"),
        (json.dumps({"cluster": TWO, "task": {"type": "worker", "index": 2}}), "IndexError"),
        (
            json.dumps({"cluster": {**TWO, "ps": ["c:3"]}, "task": {"type": "ps", "index": 0}}),
            "tasks of the type 'ps'",
        ),
        (
            json.dumps(
                {"cluster": {"worker": ["a:1"] * 2}, "task": {"type": "worker", "index": 0}}
            ),
            "an address is repeated",
        ),
    ],
)
def test_a_wrong_cluster_is_named(monkeypatch, text, problem):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(
        ArgumentError, match=f"`TF_CONFIG` must have the addresses of all.*{problem}"
    ):
        tlkit.distribution_strategy()


def test_several_workers_are_refused_once_tensorflow_has_computed(monkeypatch):
    tf.zeros(1) + 1
    set_cluster(monkeypatch, TWO, {"type": "worker", "index": 0})
    with pytest.raises(ArgumentError, match=r"Call tlkit.distribution_strategy\(\) first"):
        tlkit.distribution_strategy()


def test_a_model_made_outside_the_scope_is_refused():
    data = jobs.random_images()
    model = jobs.classifier(data)
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    with strategy.scope(), pytest.raises(ArgumentError, match="a model created under no strategy"):
        tlkit.fine_tune(model, data, epochs=1)


def test_one_process_communicates_with_itself():
    workers = Workers(tf.distribute.get_strategy())
    assert (workers.index, workers.num_workers, workers.is_chief) == (0, 1, True)
    values = np.array([1.5, -2.0], "float32")
    np.testing.assert_array_equal(workers.from_chief([values])[0], values)
    np.testing.assert_array_equal(workers.merge(values), values)
    assert workers.bytes_from_chief(None) is None
    assert workers.bytes_from_chief(b"abc") == b"abc"
    assert workers.chief_says(True)
    assert not workers.all(False)


def test_an_unknown_kind_of_distribution_of_a_run_is_refused(tmp_path):
    message = "`distribute` must be one of 'auto', 'mirrored', 'multi-worker'"
    with pytest.raises(ArgumentError, match=message):
        tlkit.train_run(tmp_path, out=tmp_path / "run", distribute="many")


@pytest.mark.parametrize("number", [1, 2, 3, 20])
def test_shards_of_a_split_are_complete_and_disjoint(number):
    split = jobs.random_images().train
    whole = list(split.dataset(shuffle=True, epochs=range(2), first_batch=1))
    shards = [
        list(split.dataset(shuffle=True, epochs=range(2), first_batch=1, shard=(i, number)))
        for i in range(number)
    ]
    for step, (images, labels) in enumerate(whole):
        for index, shard in enumerate(shards):
            np.testing.assert_array_equal(shard[step][0], images[index::number])
            np.testing.assert_array_equal(shard[step][1], labels[index::number])
    assert {len(shard) for shard in shards} == {len(whole)}


def test_an_invalid_shard_is_refused():
    with pytest.raises(ArgumentError, match="`shard` must be"):
        jobs.random_images().train.dataset(shard=(2, 2))


@pytest.mark.slow
def test_two_devices_of_one_machine_compute_what_one_computes(tmp_path):
    processes.run("mirrored", tmp_path, 1)
    for kind in jobs.KINDS_MIRRORED:
        _, gradients, report = jobs.alone(kind)
        content = json.loads((tmp_path / f"report-{kind}-0.json").read_text(encoding="utf-8"))
        jobs.assert_same_figures(content["history"][0], report.stages[-1].history[0])
        found = jobs.load(tmp_path / f"gradients-{kind}-0.npz")
        for a, b in zip(found, gradients, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5 * np.abs(b).max())
        assert "2 replicas on one machine" in " ".join(content["notes"])
    together, alone = json.loads((tmp_path / "evaluated.json").read_text(encoding="utf-8"))
    assert together == pytest.approx(alone, rel=1e-5)
    refused = json.loads((tmp_path / "refused.json").read_text(encoding="utf-8"))
    for name, message in {
        "metrics": "`metrics` must be created under the model's strategy",
        "loss": "`loss` must be reduced by 'sum_over_batch_size' or 'mean' on several replicas",
        "batch_size": "`batch_size` must be at least the number of replicas",
        "rate": "`model` must not be created under a strategy for find_learning_rate",
        "cost": "`model` must not be created under a strategy for estimate_cost",
        "importance": "`model` must not be created under a strategy for estimate_importance",
        "expand": "`model` must not be created under a strategy for expand",
    }.items():
        assert message in refused[name]
