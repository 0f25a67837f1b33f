"""One recorded run, as each tracker gets it."""

FILES = {"report.html": "<html>ä</html>", "model_card.md": "# Card of ä"}
SETTINGS = {"out": "/runs/flowers-1", "epochs": 2, "refit": False, "resize": "a|b <c>"}
EPOCHS = [
    {"loss": 0.5, "val_accuracy": 0.75, "learning_rate": 1e-3},
    {"loss": 0.25, "val_accuracy": 1.0, "learning_rate": 1e-4},
]
METRICS = {"test/accuracy": 0.875, "seconds": 12.5}


def record_run(tracker, folder, status="finished", epochs=EPOCHS):
    """Calls all methods of a tracker, as a run does."""
    tracker.check()
    tracker.start("flowers-1", SETTINGS)
    for epoch, figures in enumerate(epochs, start=1):
        tracker.log_epoch("fine-tune", epoch, figures)
    tracker.log_metrics(METRICS)
    for name, text in FILES.items():
        (folder / name).write_text(text, encoding="utf-8")
        tracker.log_artifact(folder / name)
    tracker.finish(status)
