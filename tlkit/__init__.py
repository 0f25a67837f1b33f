"""tlkit: transfer learning on Keras 3, from a folder of images to an exported model.

Public names are loaded when they are first used, so that importing tlkit does not load TensorFlow.
"""

# Imported modules have a leading underscore, as completion would offer them otherwise
import importlib as _importlib
import typing as _typing

__version__ = "0.1.0"

_MODULES = {
    "tlkit.data.folders": ("load_folder",),
    "tlkit.data.manifests": ("load_manifest",),
    "tlkit.data.arrays": ("load_arrays",),
    "tlkit.data.examples": ("load_examples",),
    "tlkit.data.tfds": ("load_tfds",),
    "tlkit.data.hugging_face": ("load_dataset",),
    "tlkit.data.inspection": ("inspect_folder",),
    "tlkit.data.near_duplicates": ("find_near_duplicates",),
    "tlkit.models.assembly": ("build_classifier",),
    "tlkit.models.catalogue": (
        "list_backbones",
        "register_backbone",
    ),
    "tlkit.models.flip_views": ("average_flips",),
    "tlkit.models.input_size": ("at_image_size",),
    "tlkit.models.groups": (
        "layer_groups",
        "set_trainable",
    ),
    "tlkit.models.surgery": (
        "add_classes",
        "align_new_classes",
        "consolidate",
        "widen_layer",
    ),
    "tlkit.distribution.strategies": ("distribution_strategy",),
    "tlkit.training.head": ("train_head",),
    "tlkit.training.fine_tuning": ("fine_tune",),
    "tlkit.data.class_weighting": ("ClassWeighting",),
    "tlkit.training.lora": ("Lora",),
    "tlkit.training.stages": (
        "Stage",
        "gradual_plan",
    ),
    "tlkit.continual.weight_anchor": ("WeightAnchor",),
    "tlkit.continual.anchors": ("anchor_weights",),
    "tlkit.continual.importance": (
        "accumulate_importance",
        "estimate_importance",
    ),
    "tlkit.continual.synaptic": ("SynapticPath",),
    "tlkit.continual.strength": ("choose_anchor",),
    "tlkit.continual.interpolation": (
        "interpolate_weights",
        "sweep_interpolation",
    ),
    "tlkit.continual.distillation": ("distill_from",),
    "tlkit.continual.forgetting": ("ForgettingMatrix",),
    "tlkit.continual.guard": ("ForgettingGuard",),
    "tlkit.continual.class_means": ("mean_features",),
    "tlkit.continual.expansion": ("expand",),
    "tlkit.continual.exact": (
        "add_to_statistics",
        "gather_statistics",
        "remove_from_statistics",
        "with_exact_head",
    ),
    "tlkit.advice.backbones": ("compare_backbones",),
    "tlkit.advice.cost": ("estimate_cost",),
    "tlkit.advice.learning_curve": ("learning_curve",),
    "tlkit.advice.learning_rate": ("find_learning_rate",),
    "tlkit.advice.recommendation": ("recommend",),
    "tlkit.advice.similarity": ("measure_similarity",),
    "tlkit.training.store": ("FeatureStore",),
    "tlkit.evaluation.metrics": ("evaluate",),
    "tlkit.evaluation.prediction": ("predict",),
    "tlkit.evaluation.comparison": ("compare_models",),
    "tlkit.evaluation.explanation": ("explain",),
    "tlkit.evaluation.calibration": ("calibrate",),
    "tlkit.advice.rejection": (
        "fit_rejection",
        "measure_rejection",
    ),
    "tlkit.export.exporting": ("export_model",),
    "tlkit.runs.train": ("train_run",),
    "tlkit.tracking.tracker": ("Tracker",),
    "tlkit.runs.from_settings": ("train_from_config",),
    "tlkit.runs.add_classes": ("add_classes_run",),
    "tlkit.runs.forget": ("forget_run",),
    "tlkit.runs.directory": ("load_run",),
    "tlkit.runs.predicting": (
        "predict_files",
        "predict_run",
    ),
    "tlkit.runs.review": ("review_labels",),
    "tlkit.errors": (
        "TlkitError",
        "ArgumentError",
        "DataError",
        "WeightsError",
        "TrainingError",
        "RunError",
        "ExportError",
        "StorageError",
        "KerasSettingsError",
    ),
    "tlkit.plots.backbones": ("plot_backbones",),
    "tlkit.plots.data": (
        "plot_batch",
        "plot_class_counts",
        "plot_near_duplicates",
    ),
    "tlkit.plots.evaluation": (
        "plot_confusion",
        "plot_mistakes",
        "plot_reliability",
    ),
    "tlkit.plots.learning_curve": ("plot_learning_curve",),
    "tlkit.plots.training": (
        "plot_drift",
        "plot_learning_rates",
        "plot_training",
    ),
    "tlkit.plots.continual": (
        "plot_forgetting",
        "plot_interpolation",
        "plot_strengths",
    ),
}

_HOME = {name: module for module, names in _MODULES.items() for name in names}

_WITHOUT_KERAS = (
    "tlkit.errors",
    "tlkit.data.class_weighting",
    "tlkit.models.catalogue",
    "tlkit.runs.train",
    "tlkit.runs.from_settings",
    "tlkit.runs.directory",
    "tlkit.runs.add_classes",
    "tlkit.runs.forget",
    "tlkit.runs.predicting",
    "tlkit.runs.review",
    "tlkit.tracking.tracker",
    "tlkit.continual.forgetting",
    "tlkit.plots.continual",
    "tlkit.plots.data",
    "tlkit.plots.evaluation",
    "tlkit.plots.training",
)
"""Modules that do not import Keras; for all others the backend of Keras is checked first."""

# A constant instead of `TYPE_CHECKING` would save two milliseconds, but completion ignores it
if _typing.TYPE_CHECKING:  # for type checkers and completion; at run time the table above is used
    from tlkit.advice.backbones import compare_backbones as compare_backbones
    from tlkit.advice.cost import estimate_cost as estimate_cost
    from tlkit.plots.backbones import plot_backbones as plot_backbones
    from tlkit.advice.learning_curve import learning_curve as learning_curve
    from tlkit.advice.learning_rate import find_learning_rate as find_learning_rate
    from tlkit.advice.recommendation import recommend as recommend
    from tlkit.advice.rejection import (
        fit_rejection as fit_rejection,
        measure_rejection as measure_rejection,
    )
    from tlkit.advice.similarity import measure_similarity as measure_similarity
    from tlkit.continual.anchors import anchor_weights as anchor_weights
    from tlkit.continual.class_means import mean_features as mean_features
    from tlkit.continual.distillation import distill_from as distill_from
    from tlkit.continual.exact import (
        add_to_statistics as add_to_statistics,
        gather_statistics as gather_statistics,
        remove_from_statistics as remove_from_statistics,
        with_exact_head as with_exact_head,
    )
    from tlkit.continual.expansion import expand as expand
    from tlkit.plots.continual import (
        plot_forgetting as plot_forgetting,
        plot_interpolation as plot_interpolation,
        plot_strengths as plot_strengths,
    )
    from tlkit.continual.forgetting import ForgettingMatrix as ForgettingMatrix
    from tlkit.continual.guard import ForgettingGuard as ForgettingGuard
    from tlkit.continual.importance import (
        accumulate_importance as accumulate_importance,
        estimate_importance as estimate_importance,
    )
    from tlkit.continual.interpolation import (
        interpolate_weights as interpolate_weights,
        sweep_interpolation as sweep_interpolation,
    )
    from tlkit.continual.strength import choose_anchor as choose_anchor
    from tlkit.continual.synaptic import SynapticPath as SynapticPath
    from tlkit.continual.weight_anchor import WeightAnchor as WeightAnchor
    from tlkit.data.arrays import load_arrays as load_arrays
    from tlkit.data.examples import load_examples as load_examples
    from tlkit.data.folders import load_folder as load_folder
    from tlkit.data.hugging_face import load_dataset as load_dataset
    from tlkit.data.inspection import inspect_folder as inspect_folder
    from tlkit.data.manifests import load_manifest as load_manifest
    from tlkit.data.near_duplicates import find_near_duplicates as find_near_duplicates
    from tlkit.data.tfds import load_tfds as load_tfds
    from tlkit.distribution.strategies import distribution_strategy as distribution_strategy
    from tlkit.errors import (
        ArgumentError as ArgumentError,
        DataError as DataError,
        ExportError as ExportError,
        StorageError as StorageError,
        KerasSettingsError as KerasSettingsError,
        RunError as RunError,
        TlkitError as TlkitError,
        TrainingError as TrainingError,
        WeightsError as WeightsError,
    )
    from tlkit.evaluation.calibration import calibrate as calibrate
    from tlkit.evaluation.comparison import compare_models as compare_models
    from tlkit.evaluation.explanation import explain as explain
    from tlkit.evaluation.metrics import evaluate as evaluate
    from tlkit.evaluation.prediction import predict as predict
    from tlkit.export.exporting import export_model as export_model
    from tlkit.models.flip_views import average_flips as average_flips
    from tlkit.models.input_size import at_image_size as at_image_size
    from tlkit.runs.add_classes import add_classes_run as add_classes_run
    from tlkit.runs.forget import forget_run as forget_run
    from tlkit.models.assembly import build_classifier as build_classifier
    from tlkit.models.catalogue import (
        list_backbones as list_backbones,
        register_backbone as register_backbone,
    )
    from tlkit.models.groups import layer_groups as layer_groups, set_trainable as set_trainable
    from tlkit.models.surgery import (
        add_classes as add_classes,
        align_new_classes as align_new_classes,
        consolidate as consolidate,
        widen_layer as widen_layer,
    )
    from tlkit.plots.data import (
        plot_batch as plot_batch,
        plot_class_counts as plot_class_counts,
        plot_near_duplicates as plot_near_duplicates,
    )
    from tlkit.plots.evaluation import (
        plot_confusion as plot_confusion,
        plot_mistakes as plot_mistakes,
        plot_reliability as plot_reliability,
    )
    from tlkit.plots.learning_curve import plot_learning_curve as plot_learning_curve
    from tlkit.plots.training import (
        plot_drift as plot_drift,
        plot_learning_rates as plot_learning_rates,
        plot_training as plot_training,
    )
    from tlkit.runs.train import train_run as train_run
    from tlkit.tracking.tracker import Tracker as Tracker
    from tlkit.runs.from_settings import train_from_config as train_from_config
    from tlkit.runs.directory import load_run as load_run
    from tlkit.runs.predicting import predict_files as predict_files, predict_run as predict_run
    from tlkit.runs.review import review_labels as review_labels
    from tlkit.training.fine_tuning import fine_tune as fine_tune
    from tlkit.training.head import train_head as train_head
    from tlkit.data.class_weighting import ClassWeighting as ClassWeighting
    from tlkit.training.lora import Lora as Lora
    from tlkit.training.stages import Stage as Stage, gradual_plan as gradual_plan
    from tlkit.training.store import FeatureStore as FeatureStore
else:
    __all__ = ["__version__", *sorted(_HOME)]  # noqa: PLE0604 - names of the table above

    def __getattr__(name):  # noqa: ANN001, ANN202 - with annotations, checkers accept any name
        if name not in _HOME:
            from tlkit.errors import did_you_mean

            raise AttributeError(
                f"module 'tlkit' has no attribute {name!r}.{did_you_mean(name, __all__)}",
                name=name,  # without `obj`, as tracebacks would add Python's own suggestion
            )
        if _HOME[name] not in _WITHOUT_KERAS:
            from tlkit.utils.keras_settings import check_backend

            check_backend()
        value = getattr(_importlib.import_module(_HOME[name]), name)
        globals()[name] = value
        return value

    def __dir__():  # noqa: ANN202
        return __all__
