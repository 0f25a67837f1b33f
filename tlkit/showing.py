"""How records show themselves where they are a notebook cell's last value."""

from html import escape


class ShownAsText:
    """A record that a notebook shows as `print` does, line by line, every name escaped.

    Example:
        >>> from tlkit.showing import ShownAsText
        >>> class Answer(ShownAsText):
        ...     def __str__(self):
        ...         return "<42>"
        >>> Answer()._repr_html_()
        '<pre>&lt;42&gt;</pre>'
    """

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"
