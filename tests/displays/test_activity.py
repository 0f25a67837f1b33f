"""Progress of an activity as text: count, elapsed and remaining time."""

from tlkit.displays.activity import Activity, describe_progress, duration


def test_remaining_time_is_extrapolated_from_the_processed_items(monkeypatch):
    monkeypatch.setattr("time.monotonic", lambda: 130.0)
    images = Activity("features", 800, "images", done=200, started=100.0)
    assert images.count == "200 of 800 images"
    assert images.time == "about 1 min 30 s left"  # 30 s for 200 of them
    images.done = 800
    assert images.time == "30 s"


def test_progress_names_the_phase_and_the_counters_within_it(monkeypatch):
    monkeypatch.setattr("time.monotonic", lambda: 107.0)
    training = Activity("training", number=(5, 11), is_phase=True, started=90.0)
    epochs = Activity("epochs", 6, done=1, started=95.0)
    steps = Activity("steps", 30, done=10, started=106.0)
    assert describe_progress([training]) == "[5/11] training, 17 s"
    assert (
        describe_progress([training, epochs, steps])
        == "[5/11] training: epochs 1 of 6: steps 10 of 30, about 2 s left"
    )
    assert describe_progress([]) == ""
    assert training.ended == "[5/11] training: 17 s"
    assert (
        Activity("images", None, "images", done=7, started=106.5).ended == "images: 7 images, 0.5 s"
    )


def test_durations_have_units_that_are_easy_to_read():
    assert duration(0) == "0.0 s"
    assert duration(2.3) == "2.3 s"
    assert duration(2.3, digits=0) == "2 s"
    assert duration(213.2) == "3 min 33 s"
    assert duration(7500) == "2 h 5 min"


def test_a_skipped_phase_shows_its_number_and_no_time():
    probe = Activity("probe", number=(11, 12), is_phase=True, is_skipped=True)
    assert probe.title == probe.ended == "[11/12] probe: skipped"
