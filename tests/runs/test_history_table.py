"""The history of a run: as Keras has it, and as a data frame."""

import numpy as np
import pytest

import tlkit
from tests.runs.test_train import ARGUMENTS
from tlkit.runs.history_table import read_history_table

HEADER = "stage,epoch,loss,accuracy,val_loss,val_accuracy\n"


def test_missing_figures_are_nan_and_unmeasured_ones_left_out():
    history = read_history_table(f"{HEADER}head,1,0.5,,,\nfine-tune,1,0.25,1.0,,\n")
    assert history.stages == ["head", "fine-tune"]
    assert history.epochs == [1, 1]
    assert list(history.figures) == ["loss", "accuracy"]
    assert history.figures["loss"] == [0.5, 0.25]
    assert np.isnan(history.figures["accuracy"][0])
    assert read_history_table(HEADER).figures == {}


def test_a_run_has_the_history_of_its_training(tmp_path, photos, columns_of):
    run = tlkit.train_run(
        photos, out=tmp_path / "run", mode="fine-tune", unfreeze="head", epochs=2, **ARGUMENTS
    )
    history = run.history
    assert list(history) == ["loss", "accuracy", "val_loss", "val_accuracy"]
    assert {len(values) for values in history.values()} == {2}
    columns = columns_of(run)
    assert columns == {"stage": ["fine-tune"] * 2, "epoch": [1, 2], **history}
    assert tlkit.load_run(run.path).history == history
    for text in ("stage,epoch\n", f"{HEADER}fine-tune,one,1,1,1,1\n", f"{HEADER}fine-tune,1\n"):
        (run.path / "history.csv").write_text(text)
        with pytest.raises(tlkit.RunError, match=r"history\.csv"):
            _ = run.history
    (run.path / "history.csv").unlink()
    with pytest.raises(tlkit.RunError, match=r"history\.csv"):
        run.to_dataframe()
