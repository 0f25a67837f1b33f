"""Training of vision transformers: blocks as groups, with all that groups are for."""

import numpy as np
import pytest

import tlkit
from tests.conftest import set_seeds
from tests.training.test_resume import Stop
from tlkit.export.formats import EXPORT_FORMATS

pytest.importorskip("keras_hub", reason="KerasHub is not installed: pip install 'tlkit[hub]'")

from tests.models.hub import save_preset

NAMES = ["dark", "light"]
BLOCKS = [f"vit_encoder_transformer_block_{number}" for number in (1, 2)]


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    return save_preset("vit", tmp_path_factory.mktemp("vit") / "preset")


@pytest.fixture
def data():
    """Random images, those of one class brighter, in batches of 16."""
    generator = np.random.default_rng(0)
    labels = np.arange(64) % 2
    images = generator.uniform(0, 180, (64, 32, 32, 3)) + 60 * labels[:, None, None, None]
    return tlkit.load_arrays(images.astype("uint8"), labels, NAMES, batch_size=16)


@pytest.fixture
def model(preset):
    set_seeds(0)
    return tlkit.build_classifier(preset, NAMES, dropout=0.0)


@pytest.mark.slow
def test_gradual_unfreezing_moves_exactly_the_named_blocks(model, data):
    stages = [tlkit.Stage(name, epochs=1) for name in ("head", *reversed(BLOCKS))]
    report = tlkit.fine_tune(model, data, stages=stages, kept_fraction=1.0)
    moved = [
        {name for name, value in stage.weight_change.items() if value > 0}
        for stage in report.stages[-3:]
    ]
    assert moved == [{"head"}, {"head", BLOCKS[1]}, {"head", *BLOCKS}]


@pytest.mark.slow
def test_rates_fall_from_block_to_block(preset, data):
    changes = []
    for decay in (1.0, 0.1):
        model = tlkit.build_classifier(preset, NAMES, dropout=0.0)
        report = tlkit.fine_tune(
            model, data, epochs=1, layer_decay=decay, kept_fraction=1.0, augment="none"
        )
        changes.append(report.stages[-1].weight_change)
    whole, decayed = changes
    ratios = [decayed[name] / whole[name] for name in (*BLOCKS, "head")]
    assert ratios[0] < ratios[1] / 3
    assert ratios[1] < ratios[2] / 3


@pytest.mark.slow
def test_stored_activations_train_as_the_whole_graph_does(preset, data, monkeypatch):
    monkeypatch.setattr("tlkit.training.frozen.has_bfloat16", lambda: False)
    whole_batches = tlkit.load_arrays(
        *[np.concatenate(part) for part in zip(*data.train.dataset(), strict=True)],
        NAMES,
        batch_size=64,
    )
    weights, notes = [], []
    for arguments in ({}, {"views": 0}):
        set_seeds(0)
        model = tlkit.build_classifier(preset, NAMES, dropout=0.0)
        tlkit.train_head(model, whole_batches)
        report = tlkit.fine_tune(
            model, whole_batches, unfreeze=BLOCKS[1], epochs=2, augment="none", **arguments
        )
        weights.append(model.get_weights())
        notes.append(" ".join(report.stages[-1].notes))
    assert "stored activations, 1 view of" in notes[0]
    assert "the whole graph runs" in notes[1]
    for one, other in zip(*weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_a_resumed_training_is_bit_identical(preset, data, tmp_path):
    def tune(folder, callbacks=()):
        set_seeds(0)
        model = tlkit.build_classifier(preset, NAMES)
        tlkit.fine_tune(
            model, data, unfreeze=BLOCKS[0], epochs=3, run_directory=folder, callbacks=callbacks
        )
        return model.get_weights()

    expected = tune(tmp_path / "whole")
    for epoch, batch in ((0, 1), (1, 2), (2, 0)):
        with pytest.raises(KeyboardInterrupt):
            tune(tmp_path / "stopped", [Stop(epoch, batch)])
    for one, other in zip(expected, tune(tmp_path / "stopped"), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_old_logits_survive_new_classes(model, data):
    images = np.concatenate([batch for batch, _ in data.test.dataset()])
    old = model(images).numpy()
    grown = tlkit.add_classes(model, ["grey", "black"])
    np.testing.assert_array_equal(grown(images).numpy()[:, :2], old)
    assert [group.name for group in tlkit.layer_groups(grown)][1:3] == BLOCKS


@pytest.mark.slow
def test_anchors_hold_blocks_and_adapters_train_attention(preset, data):
    changes = []
    for strength in (0.0, 10.0):
        model = tlkit.build_classifier(preset, NAMES, dropout=0.0)
        anchor = tlkit.anchor_weights(model, strength) if strength else None
        report = tlkit.fine_tune(
            model, data, epochs=2, learning_rate=1e-2, anchor=anchor, kept_fraction=1.0
        )
        changes.append(report.stages[-1].weight_change[BLOCKS[0]])
    assert changes[1] < changes[0] / 2
    model = tlkit.build_classifier(preset, NAMES, dropout=0.0)
    before = {v.path: v.numpy() for v in model.trainable_variables}
    tlkit.fine_tune(model, data, epochs=1, adapters="lora:2", kept_fraction=1.0)
    for name in ("query", "key", "value", "attention_output"):
        variable = next(v for v in model.trainable_variables if f"{name}/kernel" in v.path)
        difference = variable.numpy() - before[variable.path]
        singular = np.linalg.svd(difference.reshape(16, 16), compute_uv=False)
        assert singular[0] > 0
        assert singular[2] < 1e-3 * singular[0]


@pytest.mark.slow
@pytest.mark.parametrize("family", ["vit", "dinov3", "swin"])
def test_exports_agree_with_the_model(family, tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("ai_edge_litert")
    model = tlkit.build_classifier(save_preset(family, tmp_path / "preset"), NAMES)
    size = model.input_shape[1:3]
    images = np.random.default_rng(0).integers(0, 255, (8, *size, 3), "uint8")
    formats = ("saved_model", "litert", "onnx")
    report = tlkit.export_model(model, tmp_path / "out", NAMES, formats=formats, samples=images)
    assert [one.name for one in report.formats] == list(formats)
    for one in report.formats:
        assert one.difference <= EXPORT_FORMATS[one.name].largest_difference
