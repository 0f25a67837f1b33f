"""Data frames of pandas, which is imported only when one is made."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tlkit.errors import ArgumentError

if TYPE_CHECKING:
    import pandas


def dataframe_of(columns: Mapping[str, Sequence[object]]) -> "pandas.DataFrame":
    """Returns a data frame of columns of the same length, in their order.

    Raises:
        ArgumentError: pandas is not installed.

    Example:
        >>> from tlkit.utils.dataframes import dataframe_of
        >>> dataframe_of({"epoch": [1, 2], "loss": [0.5, 0.25]})  # doctest: +SKIP
           epoch  loss
        0      1  0.50
        1      2  0.25
    """
    try:
        import pandas
    except ImportError as error:
        raise ArgumentError(
            "`to_dataframe` needs the package pandas. Received: it cannot be imported "
            f"({error}). Install it with: pip install 'tlkit[pandas]'; `history` has the same "
            "values without it."
        ) from error
    return pandas.DataFrame({name: list(values) for name, values in columns.items()})
