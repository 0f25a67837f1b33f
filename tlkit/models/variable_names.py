"""Unique names of a model's variables."""

from collections import Counter

import keras

from tlkit.utils.keras_private import inner_layers, own_variables


def variable_names(model: keras.Model) -> dict[int, str]:
    """Returns a mapping from the id of each variable to its name: its path, if that is unique.

    Layers of two nested models may have the same names, and their variables then have the same
    paths: these are prefixed with the names of the nested models (`left/conv/kernel`), and numbered
    if they are still not unique. A saved and loaded model has the same names.

    Example:
        >>> import keras
        >>> from tlkit.models.variable_names import variable_names
        >>> def nested(name):
        ...     layers = [keras.Input((4,)), keras.layers.Dense(4, name="fc", use_bias=False)]
        ...     return keras.Sequential(layers, name=name)
        >>> model = keras.Sequential([keras.Input((4,)), nested("left"), nested("right")])
        >>> sorted(variable_names(model).values())
        ['left/fc/kernel', 'right/fc/kernel']
    """
    variables = {id(variable): variable for variable in model.variables}
    paths = Counter(variable.path for variable in variables.values())
    nested: dict[int, str] = {}
    _add_nested(model, "", nested)
    names: dict[int, str] = {}
    taken = {path for path, count in paths.items() if count == 1}
    for key, variable in variables.items():
        if paths[variable.path] == 1:
            names[key] = variable.path
            continue
        name = base = nested.get(key, variable.path)
        number = 1
        while name in taken:
            number += 1
            name = f"{base}#{number}"
        taken.add(name)
        names[key] = name
    return names


def _add_nested(layer: keras.layers.Layer, route: str, names: dict[int, str]) -> None:
    """Adds the variables of a layer to `names`, named by the layers that contain them."""
    for variable in own_variables(layer):
        names.setdefault(id(variable), f"{route}{variable.name}")
    for inner in inner_layers(layer):
        _add_nested(inner, f"{route}{inner.name}/", names)
