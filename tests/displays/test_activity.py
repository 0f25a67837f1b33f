"""What is said of an activity: how far it is, and how long it takes."""

from tlkit.displays.activity import Activity, state_of


def test_the_time_that_is_left_follows_from_what_is_done(monkeypatch):
    monkeypatch.setattr("time.monotonic", lambda: 130.0)
    images = Activity("features", 800, "images", done=200, started=100.0)
    assert images.count == "200 of 800 images"
    assert images.time == "about 1 min 30 s left"  # 30 s for 200 of them
    images.done = 800
    assert images.time == "30 s"


def test_a_state_names_the_phase_and_what_goes_on_in_it(monkeypatch):
    monkeypatch.setattr("time.monotonic", lambda: 107.0)
    training = Activity("training", number=(5, 11), is_phase=True, started=90.0)
    epochs = Activity("epochs", 6, done=1, started=95.0)
    steps = Activity("steps", 30, done=10, started=106.0)
    assert state_of([training]) == "[5/11] training, 17 s"
    assert (
        state_of([training, epochs, steps])
        == "[5/11] training: epochs 1 of 6: steps 10 of 30, about 2 s left"
    )
    assert state_of([]) == ""
    assert training.ended == "[5/11] training: 17 s"
    assert (
        Activity("images", None, "images", done=7, started=106.5).ended == "images: 7 images, 0.5 s"
    )


def test_a_skipped_phase_keeps_its_number_and_took_no_time():
    probe = Activity("probe", number=(11, 12), is_phase=True, is_skipped=True)
    assert probe.title == probe.ended == "[11/12] probe: skipped"
