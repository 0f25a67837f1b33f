"""Errors about Keras's process-wide settings name the setting and its source."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import tlkit
from tlkit.models.weights import load_weights_file
from tlkit.utils.keras_settings import check_backend


def python(code, keras_json=None, home=None, **variables):
    """Runs code in a process with a settings file and variables; returns status and lines."""
    environment = {**os.environ, **variables}
    if "KERAS_BACKEND" not in variables:
        del environment["KERAS_BACKEND"]
    if home is not None:
        environment["KERAS_HOME"] = str(home)
        (home / "keras.json").write_text(json.dumps(keras_json))
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        timeout=120,
    )
    return done.returncode, (done.stdout + done.stderr).splitlines()


USE_EACH_NAME = """
import sys, tlkit
for name in ("build_classifier", "train_head", "load_folder", "evaluate"):
    try:
        getattr(tlkit, name)
    except tlkit.KerasSettingsError as error:
        print(error)
assert tlkit.list_backbones() and tlkit.load_run and tlkit.train_run
assert not {"keras", "tensorflow"} & set(sys.modules)
"""


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_the_error_of_each_name_that_needs_keras_names_the_variable(backend):
    status, lines = python(USE_EACH_NAME, KERAS_BACKEND=backend)
    assert status == 0, lines
    assert len(lines) == 4
    for line in lines:
        assert line == (
            "`KERAS_BACKEND` must be 'tensorflow' or unset. Received: "
            f"KERAS_BACKEND='{backend}' in the environment. Unset it, or set "
            "KERAS_BACKEND=tensorflow before Keras is imported."
        )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backend": "torch"}, "must be 'tensorflow'. Received: backend='torch'. Change it there"),
        (
            {"floatx": "bfloat16"},
            "`floatx` in '{file}' must be 'float16' or 'float32' or 'float64'",
        ),
        ({"image_data_format": "first"}, "Received: image_data_format='first'. Correct it there"),
        ({"epsilon": 1}, "`epsilon` in '{file}' must be a number with a decimal point"),
        ([], "'{file}' must contain a JSON object"),
    ],
)
def test_the_error_of_the_command_line_names_keras_json_in_one_line(
    tmp_path, photos, settings, message
):
    code = f"import sys; sys.argv = ['tlkit', 'inspect', {str(photos)!r}]; import tlkit.cli as c"
    status, lines = python(f"{code}; c.main()", settings, tmp_path)
    assert status == 2
    assert len(lines) == 1
    assert lines[0].startswith("tlkit: ")
    assert message.format(file=tmp_path / "keras.json") in lines[0]


def test_the_variable_overrides_the_file_as_in_keras(tmp_path, monkeypatch):
    (tmp_path / "keras.json").write_text('{"backend": "jax"}')
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.delitem(sys.modules, "keras")
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    check_backend()
    monkeypatch.setenv("KERAS_BACKEND", "")
    with pytest.raises(tlkit.KerasSettingsError, match=r"keras.json' must be 'tensorflow'"):
        check_backend()
    (tmp_path / "keras.json").write_text("no JSON, which Keras ignores")
    check_backend()


def test_another_backend_that_is_already_imported_is_refused(monkeypatch):
    monkeypatch.setattr(keras.config, "backend", lambda: "jax")
    with pytest.raises(tlkit.KerasSettingsError, match="Start Python with KERAS_BACKEND=tensorfl"):
        check_backend()


@pytest.fixture
def channels_first():
    keras.config.set_image_data_format("channels_first")
    yield
    keras.config.set_image_data_format("channels_last")


@pytest.mark.usefixtures("channels_first")
@pytest.mark.parametrize("weights", ["pretrained", None])
def test_channels_first_is_refused_for_any_weights(weights):
    with pytest.raises(tlkit.KerasSettingsError, match="`image_data_format` must be 'channels_la"):
        tlkit.build_classifier("resnet20", ["a", "b"], weights=weights)


@pytest.mark.usefixtures("channels_first")
def test_a_run_refuses_channels_first_before_it_reads_the_images(photos, tmp_path):
    with pytest.raises(tlkit.KerasSettingsError, match="Received: image_data_format='channels_fi"):
        tlkit.train_run(photos, out=tmp_path / "run", backbone="resnet20", mode="head")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("policy", ["float16", "bfloat16", "float64", "int8_from_float32"])
def test_a_policy_with_weights_in_another_precision_is_refused(policy):
    keras.config.set_dtype_policy(policy)
    try:
        with pytest.raises(tlkit.KerasSettingsError, match=f"Received: dtype_policy='{policy}'"):
            tlkit.build_classifier("resnet20", ["a", "b"])
    finally:
        keras.config.set_dtype_policy("float32")


@pytest.mark.slow
def test_the_error_names_a_settings_file_with_half_precision(tmp_path):
    code = "import tlkit\ntry: tlkit.build_classifier('resnet20', ['a', 'b'])\n"
    status, lines = python(
        f"{code}except tlkit.KerasSettingsError as e: print(e)", {"floatx": "float16"}, tmp_path
    )
    assert status == 0, lines
    assert f"dtype_policy='float16' (from '{tmp_path / 'keras.json'}')" in "\n".join(lines)


def test_building_without_eager_execution_is_refused():
    with tf.Graph().as_default(), pytest.raises(tlkit.KerasSettingsError, match="eagerly"):
        tlkit.build_classifier("resnet20", ["a", "b"])


@pytest.mark.parametrize("weights", ["pretrained", None])
def test_a_stateless_scope_is_refused_for_any_weights(weights):
    with (
        keras.StatelessScope(),
        pytest.raises(tlkit.KerasSettingsError, match=r"an open keras\.StatelessScope.* before"),
    ):
        tlkit.build_classifier("resnet20", ["a", "b"], weights=weights)
    tlkit.build_classifier("resnet20", ["a", "b"], weights=weights)


def test_open_name_scopes_do_not_change_the_loaded_weights():
    plain = tlkit.build_classifier("resnet20", ["a", "b"])
    with keras.name_scope("mine"), keras.name_scope("deeper"):
        scoped = tlkit.build_classifier("resnet20", ["a", "b"])
    assert scoped.weights[0].path == "mine/deeper/stage1_stem_conv/kernel"
    for old, new in zip(plain.weights[:-2], scoped.weights[:-2], strict=True):  # all but the head
        np.testing.assert_array_equal(old, new)


def test_a_name_scope_left_open_by_a_failed_build_is_no_error():
    scope = keras.name_scope("left")
    scope.__enter__()
    try:
        model = tlkit.build_classifier("resnet20", ["a", "b"])
    finally:
        scope.__exit__(None, None, None)
    assert model.weights[0].path == "left/stage1_stem_conv/kernel"


def test_the_error_explains_names_that_differ_in_keras_counters_only(tmp_path):
    def network():
        return keras.Sequential([keras.Input((4,)), keras.layers.Dense(2), keras.layers.Dense(2)])

    saved = network()
    file = tmp_path / "weights.npz"
    np.savez(file, **{weight.path: weight for weight in saved.weights})
    with pytest.raises(
        tlkit.WeightsError, match=r"automatic layer names.*clear_session\(\) before"
    ):
        load_weights_file(network(), file)
    load_weights_file(saved, file)
