"""tlkit: transfer learning on Keras 3, from a folder of photographs to an exported model.

The public names are loaded when they are first used: importing tlkit loads no TensorFlow.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_MODULES = {
    "tlkit.data.folders": ("load_folder",),
    "tlkit.data.manifests": ("load_manifest",),
    "tlkit.data.arrays": ("load_arrays",),
    "tlkit.data.tfds": ("load_tfds",),
    "tlkit.data.inspection": ("inspect_folder",),
    "tlkit.data.near_duplicates": ("find_near_duplicates",),
    "tlkit.models.assembly": ("build_classifier",),
    "tlkit.models.catalogue": ("list_backbones", "register_backbone"),
    "tlkit.models.groups": ("layer_groups", "set_trainable"),
    "tlkit.models.surgery": (
        "add_classes",
        "align_new_classes",
        "consolidate",
        "widen_layer",
    ),
    "tlkit.distribution.strategies": ("distribution_strategy",),
    "tlkit.training.head": ("train_head",),
    "tlkit.training.fine_tuning": ("fine_tune",),
    "tlkit.training.stages": ("Stage", "gradual_plan"),
    "tlkit.continual.weight_anchor": ("WeightAnchor",),
    "tlkit.continual.anchors": ("anchor_weights",),
    "tlkit.continual.importance": ("accumulate_importance", "estimate_importance"),
    "tlkit.continual.synaptic": ("SynapticPath",),
    "tlkit.continual.strength": ("choose_anchor",),
    "tlkit.continual.interpolation": ("interpolate_weights", "sweep_interpolation"),
    "tlkit.continual.distillation": ("distill_from",),
    "tlkit.continual.forgetting": ("ForgettingMatrix",),
    "tlkit.continual.guard": ("ForgettingGuard",),
    "tlkit.continual.class_means": ("mean_features",),
    "tlkit.continual.expansion": ("expand",),
    "tlkit.advice.backbones": ("compare_backbones",),
    "tlkit.advice.cost": ("estimate_cost",),
    "tlkit.advice.learning_rate": ("find_learning_rate",),
    "tlkit.advice.recommendation": ("recommend",),
    "tlkit.advice.similarity": ("measure_similarity",),
    "tlkit.training.store": ("FeatureStore",),
    "tlkit.evaluation.metrics": ("evaluate",),
    "tlkit.evaluation.prediction": ("predict",),
    "tlkit.evaluation.comparison": ("compare_models",),
    "tlkit.evaluation.explanation": ("explain",),
    "tlkit.evaluation.calibration": ("calibrate",),
    "tlkit.advice.rejection": ("fit_rejection", "measure_rejection"),
    "tlkit.export": ("export_model",),
    "tlkit.run": ("train_run",),
    "tlkit.growing_run": ("add_classes_run",),
    "tlkit.run_directory": ("load_run",),
    "tlkit.errors": (
        "TlkitError",
        "ArgumentError",
        "DataError",
        "WeightsError",
        "TrainingError",
        "RunError",
        "ExportError",
    ),
}
_FIGURES = {
    "plot_backbones": ("tlkit.advice.figures", "backbones"),
    "plot_batch": ("tlkit.plots.data", "batch_grid"),
    "plot_class_counts": ("tlkit.plots.data", "class_counts"),
    "plot_confusion": ("tlkit.plots.evaluation", "confusion"),
    "plot_drift": ("tlkit.plots.training", "drift"),
    "plot_forgetting": ("tlkit.continual.figures", "forgetting"),
    "plot_interpolation": ("tlkit.continual.figures", "interpolation"),
    "plot_learning_rates": ("tlkit.plots.training", "learning_rates"),
    "plot_mistakes": ("tlkit.plots.evaluation", "mistakes"),
    "plot_near_duplicates": ("tlkit.plots.data", "near_duplicates"),
    "plot_reliability": ("tlkit.plots.evaluation", "reliability"),
    "plot_strengths": ("tlkit.continual.figures", "strengths"),
    "plot_training": ("tlkit.plots.training", "training"),
}
"""Where a module has a shorter name than the package."""

_HOME = {name: (module, name) for module, names in _MODULES.items() for name in names} | _FIGURES

__all__ = ["__version__", *sorted(_HOME)]  # noqa: PLE0604 - names of the table above


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'tlkit' has no attribute {name!r}")
    module, attribute = _HOME[name]
    value = getattr(importlib.import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
