"""Reads `Example:` in a docstring as the section of examples that it is."""

import re
from typing import Any

import griffe


class Examples(griffe.Extension):
    """Renames the section, which the parser knows in the plural alone."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Is called for every object that was read from the source."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(
                r"^(\s*)Example:$", r"\1Examples:", obj.docstring.value, flags=re.MULTILINE
            )
