"""What the images are that a model takes, in the descriptions inside exported files."""

from dataclasses import dataclass

from tlkit.data.settings import GREY, RESIZES, RGB


@dataclass(frozen=True)
class ImageInput:
    """The images that a model takes.

    Attributes:
        height: In pixels.
        width: In pixels.
        channels: Number of channels.
        resize: "stretch", "crop" or "pad", see `load_folder`; `None` if it is not known.
    """

    height: int
    width: int
    channels: int
    resize: str | None = None

    def __str__(self) -> str:
        kind = {GREY: "grey", RGB: "RGB"}.get(self.channels, f"{self.channels}-channel")
        resizing = "" if self.resize is None else f", {RESIZES[self.resize]}"
        return f"{kind} values 0...255, {self.width} x {self.height} pixels{resizing}"
