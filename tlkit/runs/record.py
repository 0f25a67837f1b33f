"""What `run.json` says of a run, for whoever reads it."""

from collections.abc import Mapping
from typing import Any


def settled_arguments(record: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments that a run went by: what was left to it is what it has chosen.

    Args:
        record: Content of `run.json`. "arguments" are those given, "auto" among them; under
            "choices" stands for each choice which "arguments" came of it, and why.

    Example:
        >>> from tlkit.runs.record import settled_arguments
        >>> choice = {"arguments": {"mode": "head"}, "reasons": ["few pictures"]}
        >>> given = {"mode": "auto", "seed": 0}
        >>> settled_arguments({"arguments": given, "choices": {"mode": choice}})
        {'mode': 'head', 'seed': 0}
    """
    settled = dict(record["arguments"])
    for choice in record.get("choices", {}).values():
        settled |= choice["arguments"]
    return settled
