"""Memory, disk and processor time that training and export of volumes take, said before they are taken.

Estimates of the linear model, whose memory hangs on voxels and not on people: what is kept of each voxel, the bands in which
batch effects are shrunk, and a few whole images. The constants were measured on whole heads at 1 mm. Those of the conditional
VAE, whose memory hangs on the people of a batch, were measured on heads at 2 mm; its time is that of a training which never stops
early.
"""

import os
from dataclasses import dataclass

import pandas as pd

from medrep.cohort.covariates import CovariateSchema
from medrep.cohort.inputs import AUTO, SAMPLED, VolumeInput
from medrep.config import Config
from medrep.errors import ModelError
from medrep.models.linear.design import Design
from medrep.models.linear.fit import LARGE, calibrator_count
from medrep.models.linear.model import LinearModel
from medrep.models.linear.settings import LinearSettings
from medrep.models.vae.settings import VaeSettings

_PROGRAM = 0.65e9  # bytes of the program with what reads and places images
_IMAGES = 7  # whole images in float32 at hand while one is placed, transformed or written
_SPAN, _FIELDS = 20, 4  # columns of the span of slow effects, and copies of a level's fields, at a time
_FIT, _COMPONENTS, _TRACES = 4e-8, 3e-8, 1.5e-8  # seconds a cell
_BANDS, _REPORT = 4e-8, 2.5e-6  # seconds a voxel of the grid and field, and a voxel of the fit
_START = 9.0  # seconds until the first image is read, and to write what is found
_TRANSFORMED, _WRITTEN = 1.2e-7, 2.4e-7  # seconds a voxel that is changed, and that is packed
_MOST, _SHARE = 4e9, 0.5
_ACTIVATIONS, _DRAWN = 54, 250  # whole images in float32 for each person of a batch, and for the report
_EPOCH, _BELOW = 7e-7, 5.2e-7  # seconds a voxel and person, of an epoch and of the layers below the network
_SCANNER, _ANCHORED, _SHOWN = 1.1e-6, 3e-7, 3.3e-5  # the same of fitting and undoing a scanner; of the report, a voxel
_STRENGTHS, _FEWEST_JUDGES = 4, 8  # that are tried at most, and people without whom none is


@dataclass(frozen=True)
class Requirements:
    """Costs of training and export, estimated.

    Attributes:
        train_memory: Bytes.
        train_disk: Bytes of the scratch file, beside OUT.
        train_seconds: Processor time.
        model: Bytes of the model's folder.
        export_memory: Bytes of each process.
        export_seconds: Processor time of all people.
        network: Whether a network is trained, which may stop early and has no use for a mask.
    """

    train_memory: float
    train_disk: float
    train_seconds: float
    model: float
    export_memory: float
    export_seconds: float
    network: bool = False

    def lines(self, masked: bool) -> list[str]:
        """Return what is said of it, and what would make it less where it is much."""
        said = [
            f"train takes about {_size(self.train_memory)} of memory, {_size(self.train_disk)} of disk"
            f" {'beside OUT and in TMPDIR' if self.network else 'beside OUT'} and {'at most ' if self.network else ''}"
            f"{_time(self.train_seconds)} of processor time; the model {_size(self.model)}",
            f"export takes about {_size(self.export_memory)} of memory a process and {_time(self.export_seconds)} of processor"
            " time in all",
        ]
        return [*said, self.much(masked)] if self.train_memory > usual_memory() else said

    def much(self, masked: bool) -> str:
        """Return what would make a training smaller that takes more memory than is usual."""
        taken, usual = _size(self.train_memory), _size(usual_memory())
        return f"training takes about {taken} of memory, more than {usual}: {self.cure(masked)}"

    def cure(self, masked: bool) -> str:
        """Return what would make a training smaller."""
        coarser = "resample to larger voxels (--set 'input.spacing=[2, 2, 2]')"
        if self.network:
            return f"take fewer people a step (--set settings.training.batch=8), or {coarser}"
        return coarser if masked else f"give a mask (--mask auto), or {coarser}"


@dataclass(frozen=True)
class Images:
    """Size of a cohort's images.

    Attributes:
        people: How many there are.
        voxels: Of the common grid.
        columns: Of them, those that are fitted.
        seconds: Processor time of reading and placing one.
    """

    people: int
    voxels: int
    columns: int
    seconds: float = 0.0


def requirements(config: Config, schema: CovariateSchema, frame: pd.DataFrame, images: Images) -> Requirements | None:
    """Estimate what training takes; None of data or models of which that is not known.

    Args:
        config: What is fitted.
        schema: The covariates.
        frame: Those of the people.
        images: Size of their images.
    """
    settings, section = config.settings, config.input.section
    if isinstance(settings, VaeSettings) and isinstance(section, VolumeInput):
        return _of_network(settings, schema, images)
    if (
        config.model != LinearModel.kind
        or not isinstance(settings, LinearSettings)
        or not isinstance(section, VolumeInput)
    ):
        return None
    design = Design.fit(schema, frame, settings.spline_degrees, settings.interactions)
    levels = sum(len(schema.levels(name)) for name in schema.batches)
    effects = 1 + sum(len(term.centre) for term in design.terms)
    number = 4 if images.columns > LARGE else 8
    calibrators = min(calibrator_count(images.columns), images.people)
    model = number * images.columns * (effects + 2 * levels + 1 + settings.components)
    moments = number * images.columns * (effects + 2 * levels + 2) + 4 * images.columns * calibrators
    bands = number * images.columns * (_SPAN + _FIELDS * levels)
    whole = _IMAGES * 4 * images.voxels
    cells = images.people * images.columns
    first = min(images.people, SAMPLED) * images.voxels if section.mask == AUTO else 0
    fit = cells * (_FIT + _TRACES + (_COMPONENTS if settings.components else 0))
    fields = 2 * (calibrators + levels)
    return Requirements(
        _PROGRAM + whole + max(moments + bands, model + moments),
        4.0 * (cells + first),
        _START + images.people * images.seconds + fit + fields * images.voxels * _BANDS + images.columns * _REPORT,
        float(model),
        _PROGRAM + whole + model,
        _START + images.people * (images.seconds + images.columns * _TRANSFORMED + images.voxels * _WRITTEN),
    )


def _of_network(settings: VaeSettings, schema: CovariateSchema, images: Images) -> Requirements:
    """Estimate what a conditional VAE of volumes takes; its export is that of the scanner and linear layers."""
    training, cells = settings.training, images.people * images.voxels
    judged = settings.validation * images.people >= _FEWEST_JUDGES and settings.body != "linear"
    stages = 0 if not judged else 1 if settings.strength >= 0 or settings.independence == "none" else _STRENGTHS
    fitted = (1 - settings.validation) * images.people
    batch = fitted / max(1, round(fitted / training.batch)) if judged else 0
    levels = [len(schema.levels(name)) for name in schema.batches]
    scanned = settings.scanner == "yes" or (settings.scanner == "auto" and len(levels) == 1)
    looked_at = min(images.people, sum(levels) * max(24, min(64, 2**24 // images.voxels))) if scanned else 0
    effects = 2 + len(schema.names) * settings.linear.spline_degrees + 2 * sum(levels)
    model = 4.0 * images.voxels * (2 * settings.latents + effects)
    work = (
        looked_at * _SCANNER
        + images.people * (_BELOW + scanned * _ANCHORED)
        + (stages + judged) * training.epochs * images.people * _EPOCH
    )
    return Requirements(
        _PROGRAM + model + 4 * images.voxels * max(batch * _ACTIVATIONS, _DRAWN),
        4.0 * cells * (1 + scanned + (1 + 2) * judged),
        _START + images.people * images.seconds + images.voxels * (work + _SHOWN),
        model,
        _PROGRAM + _IMAGES * 4 * images.voxels + model,
        _START + images.people * (images.seconds + images.voxels * (_ANCHORED + _TRANSFORMED + _WRITTEN)),
        network=True,
    )


def refuse_beyond(needed: Requirements | None, memory: float, masked: bool) -> None:
    """Refuse a training that takes more memory than it may.

    Args:
        needed: What it takes; None: nobody knows.
        memory: Bytes; 0: nobody has said.
        masked: Whether there is a mask already.

    Raises:
        ModelError: How much, and what to change.
    """
    if needed is not None and 0 < memory < needed.train_memory:
        raise ModelError(
            f"training takes about {_size(needed.train_memory)} of memory, and --memory allows {_size(memory)}:"
            f" {needed.cure(masked)}, or allow more"
        )


def usual_memory() -> float:
    """Return how much memory is no reason to say anything, bytes: half of what the machine has, and 4 GB at most."""
    try:
        whole = float(os.sysconf("SC_PAGE_SIZE")) * float(os.sysconf("SC_PHYS_PAGES"))
    except (ValueError, OSError):
        return _MOST
    return min(_SHARE * whole, _MOST)


def _size(count: float) -> str:
    return f"{count / 1e9:.2g} GB" if count >= 1e8 else f"{max(count / 1e6, 1):.0f} MB"


def _time(seconds: float) -> str:
    minutes = seconds / 60
    return f"{seconds:.0f} s" if minutes < 2 else f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.0f} h"
