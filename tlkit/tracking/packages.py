"""Packages of experiment trackers, which are imported only when one is asked for."""

import importlib
from typing import Any

from tlkit.errors import ArgumentError


def import_package(name: str, destination: str, *, extra: str) -> Any:
    """Returns the imported package of a tracker.

    Args:
        name: Name of the package.
        destination: The tracker as the user gave it, for the message.
        extra: The extra of tlkit that installs the package.

    Raises:
        ArgumentError: The package is not installed, or cannot be imported.

    Example:
        >>> from tlkit.tracking.packages import import_package
        >>> import_package("tensorboard", "tensorboard:logs", extra="tensorboard").__name__
        'tensorboard'
    """
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        problem = f"cannot be imported ({error})"
    else:
        # A folder of that name in the current one, such as that of W&B's files, can be imported
        if getattr(module, "__file__", None) is not None:
            return module
        problem = "is not installed: what is imported under its name is a folder"
    raise ArgumentError(
        f"`trackers` must be those whose packages are installed. Received: "
        f"trackers={destination!r}, and {name} {problem}. Install it with: "
        f"pip install 'tlkit[{extra}]'."
    )
