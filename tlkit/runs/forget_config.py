"""The config of a run that forgets images of a finished run."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tlkit.runs.config import check_type
from tlkit.runs.follow_up_config import FollowUpConfig

FORGET = "forget"
"""Name of the command in `run.json`."""

_DIGEST_BYTES = 16


@dataclass(frozen=True, kw_only=True)
class ForgetConfig(FollowUpConfig):
    """The arguments of a `forget_run`, including those that its parent run decides.

    The images are not named in it, as that would tell that they were there: they only have a
    fingerprint, by which the same command is recognised.

    Attributes:
        num_images: Number of images that were named.
        fingerprint: Fingerprint of their digests, see `fingerprint_of`.
        class_names: The classes to forget as a whole.

    Example:
        >>> from tlkit.runs.forget_config import ForgetConfig, fingerprint_of
        >>> config = ForgetConfig(
        ...     from_run="/runs/1", photos="/data/cows", num_images=1,
        ...     fingerprint=fingerprint_of(["0a"]), class_names=("cow",),
        ... )
        >>> ForgetConfig.from_json(config.to_json()) == config
        True
    """

    num_images: int
    fingerprint: str
    class_names: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """Returns the "arguments" of `run.json`."""
        return {
            **self.shared_json(FORGET),
            "num_images": self.num_images,
            "fingerprint": self.fingerprint,
            "class_names": list(self.class_names),
            "batch_size": int(self.batch_size),
            "max_pixels": int(self.max_pixels),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "ForgetConfig":
        """Reads the output of `to_json`.

        Raises:
            KeyError: An entry is missing.
            TypeError: An entry has the wrong type.
            ArgumentError: A value is invalid.
        """
        cls.check_paths(content)
        check_type(content["num_images"], int)
        check_type(content["fingerprint"], str)
        check_type(content["class_names"], list)
        names = (
            *("from_run", "photos", "num_images", "fingerprint", "batch_size", "max_pixels"),
            *(name for name in ("damaged", "decisions") if name in content),
        )
        arguments = {name: content[name] for name in names}
        return cls(**arguments, class_names=tuple(content["class_names"]), kept=True)


def fingerprint_of(digests: Iterable[str]) -> str:
    """Returns a fingerprint of images, whatever their order."""
    text = "\n".join(sorted(set(digests)))
    return hashlib.blake2b(text.encode(), digest_size=_DIGEST_BYTES).hexdigest()
