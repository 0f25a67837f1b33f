"""The formats that a run is asked for beside those that every run holds."""

import dataclasses

from tlkit.errors import ExportError
from tlkit.export.formats import EXPORT_FORMATS
from tlkit.runs.config import RunConfig
from tlkit.runs.context import RunContext
from tlkit.runs.export_images import NUM_SAMPLES
from tlkit.runs.measuring import Measured
from tlkit.runs.results import FurtherExport
from tlkit.utils.files import staging_beside


def export_further(
    measured: Measured, config: RunConfig, context: RunContext
) -> tuple[FurtherExport, ...]:
    """Exports the model that a run ships to further formats, into the run directory.

    The run is complete without them: one that cannot be written is logged with the reason.

    Args:
        measured: The model, and the images at its size.
        config: The config with the formats.
        context: The context of the run.

    Returns:
        An entry for each format.
    """
    exports = tuple(_export(measured, name, config, context) for name in config.formats or ())
    for one in exports:
        context.log(str(one))
    return exports


def _export(measured: Measured, name: str, config: RunConfig, context: RunContext) -> FurtherExport:
    from tlkit.export.exporting import export_model

    data, spec = measured.data, EXPORT_FORMATS[name]
    held_out = data.test or data.validation
    paths = (held_out or data.train).paths
    with staging_beside(context.out / spec.path) as aside:
        folder = aside / "export"
        try:
            report = export_model(
                measured.served,
                folder,
                data.class_names,
                formats=(name,),
                samples=paths[:: -(-len(paths) // NUM_SAMPLES)],
                max_pixels=config.max_pixels,
                resize=data.resize,
                calibrate=data.train if spec.needs_images else None,
                test=held_out if spec.is_held_to_accuracy else None,
            )
        except ExportError as error:
            return FurtherExport(name, "", str(error))
        (folder / spec.path).replace(context.out / spec.path)
    (exported,) = report.formats
    placed = dataclasses.replace(exported, path=context.out / spec.path)
    return FurtherExport(name, spec.path, str(placed), exported.comparison)
