"""Trackers from the texts of the command line: KIND:DESTINATION."""

from collections.abc import Callable, Iterable

from tlkit.errors import ArgumentError, as_tuple, did_you_mean
from tlkit.tracking.mlflow import MlflowTracker
from tlkit.tracking.tensorboard import TensorBoardTracker
from tlkit.tracking.tracker import Tracker
from tlkit.tracking.wandb import WandbTracker

DESTINATIONS = {"tensorboard": "DIR", "mlflow": "URI", "wandb": "PROJECT"}
"""Placeholder of the destination for each kind of tracker."""

_EXAMPLES = {
    "tensorboard": "tensorboard:logs",
    "mlflow": "mlflow:http://localhost:5000",
    "wandb": "wandb:flowers",
}
_MAKERS: dict[str, Callable[[str], Tracker]] = {
    "tensorboard": TensorBoardTracker,
    "mlflow": MlflowTracker,
    "wandb": WandbTracker,
}


def trackers_of(trackers: str | Tracker | Iterable[str | Tracker] | None) -> tuple[Tracker, ...]:
    """Returns trackers, those that are given as texts among them.

    Args:
        trackers: One or several of "tensorboard:DIR", "mlflow:URI", "wandb:PROJECT" and objects of
            `tlkit.Tracker`; `None` for no tracker.

    Raises:
        ArgumentError: A text is malformed, something else is given, or a package is missing.

    Example:
        >>> from tlkit.tracking.destinations import trackers_of
        >>> [str(tracker) for tracker in trackers_of("tensorboard:logs")]
        ['tensorboard:logs']
        >>> trackers_of(None)
        ()
    """
    given = () if trackers is None else as_tuple(trackers)
    made = tuple(one if isinstance(one, Tracker) else _tracker_of(one) for one in given)
    names = [str(tracker) for tracker in made if type(tracker) in _MAKERS.values()]
    for name in names:
        if names.count(name) > 1:
            raise ArgumentError(
                f"`trackers` must be different ones. Received: {name!r} twice. Give it once."
            )
    return made


def _tracker_of(text: object) -> Tracker:
    kind, _, destination = text.partition(":") if isinstance(text, str) else ("", "", "")
    if kind in DESTINATIONS and destination.strip():
        return _MAKERS[kind](destination)
    forms = [f"{name}:{placeholder}" for name, placeholder in DESTINATIONS.items()]
    if kind in DESTINATIONS:
        what_to_do = f"Add the {DESTINATIONS[kind]} after a colon: {_EXAMPLES[kind]!r}, for example"
    else:
        what_to_do = f"Give {_EXAMPLES['tensorboard']!r}, for example"
    near = did_you_mean(kind, DESTINATIONS) if kind not in DESTINATIONS else ""
    raise ArgumentError(
        f"`trackers` must be {', '.join(forms)}, or a tlkit.Tracker. "
        f"Received: trackers={text!r}.{near} {what_to_do}."
    )
