"""Memory, disk and processor time that training and export of volumes take, said before they are taken.

Estimates of models that fit each column by itself, whose memory hangs on voxels and not on people: what is kept of a voxel, the
bands in which batch effects are shrunk, and a few whole images. The constants were measured on whole heads at 1 mm. Those of
networks, whose memory hangs on the people of a step, were measured on heads at 2 mm; their time is that of a training which never
stops early.
"""

import os
from dataclasses import dataclass

from medrep.errors import ModelError

_PROGRAM, _EXPORT = 0.4e9, 0.2e9  # bytes of the program that trains, and of one that exports
_STEPS = 0.3e9  # and of MONAI, where a spacing or a shape is asked for
_IMAGES, _WRITTEN_IMAGES = 7, 9  # whole images in float32 at hand while one is placed, or transformed and written
_SPAN, _FIELDS = 20, 4  # columns of the span of slow effects, and copies of a level's fields, at a time
_FIT, _COMPONENTS, _TRACES = 6.5e-8, 3e-8, 1.5e-8  # seconds a cell
_BACKGROUND = 1.8e-7  # and more a cell where there is no mask: columns that are background of some people
_BANDS, _REPORT = 2.2e-8, 1e-6  # seconds a voxel of the grid and field, and a voxel of the fit
_START, _IMPORTED = 3.0, 4.0  # seconds until the first image is read, and to write what is found; and to load MONAI
_TRANSFORMED, _WRITTEN = 7.4e-8, 1.1e-7  # seconds a voxel that is changed, and that is packed
_MOST, _SHARE = 4e9, 0.5
_ACTIVATIONS, _DRAWN = 54, 250  # whole images in float32 for each person of a batch, and for the report
_EPOCH, _BELOW = 7e-7, 5.2e-7  # seconds a voxel and person, of an epoch and of the layers below the network
_SCANNER, _ANCHORED, _SHOWN = 1.1e-6, 3e-7, 3.3e-5  # the same of fitting and undoing a scanner; of the report, a voxel
_NETWORK, _LOADED, _MOVED = 0.65e9, 9.0, 3.6e-7  # bytes and seconds of the program; seconds a voxel moved and written


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
        first: Of the people, those whose images are read before it is known which voxels are fitted.
        resampled: Whether a spacing or a shape is asked for.
    """

    people: int
    voxels: int
    columns: int
    seconds: float = 0.0
    first: int = 0
    resampled: bool = False


@dataclass(frozen=True)
class ColumnFits:
    """Fits of single columns, as far as their size tells what they take.

    Attributes:
        effects: Rows of the design.
        levels: Of all batches.
        components: How many are kept.
        calibrators: People by whom batch effects are told.
        single: Whether numbers are float32.
    """

    effects: int
    levels: int
    components: int
    calibrators: int
    single: bool

    def requirements(self, images: Images) -> Requirements:
        """Estimate what training on images takes, and export of them."""
        number = 4 if self.single else 8
        model = number * images.columns * (self.effects + 2 * self.levels + 1 + self.components)
        moments = number * images.columns * (self.effects + 2 * self.levels + 2) + 4 * images.columns * self.calibrators
        bands = number * images.columns * (_SPAN + _FIELDS * self.levels)
        whole, program = _IMAGES * 4 * images.voxels, images.resampled * _STEPS
        cells, begun = images.people * images.columns, _START + images.resampled * _IMPORTED
        fit = cells * (_FIT + _TRACES + (_COMPONENTS if self.components else 0))
        fit += 0 if images.columns < images.voxels else cells * _BACKGROUND
        fields = 2 * (self.calibrators + self.levels)
        return Requirements(
            _PROGRAM + program + whole + max(moments + bands, model + moments),
            4.0 * (cells + images.first * images.voxels),
            begun + images.people * images.seconds + fit + fields * images.voxels * _BANDS + images.columns * _REPORT,
            float(model),
            _EXPORT + max(program + _WRITTEN_IMAGES * 4.0 * images.voxels, model),
            begun + images.people * (images.seconds + images.columns * _TRANSFORMED + images.voxels * _WRITTEN),
        )


@dataclass(frozen=True)
class NetworkFit:
    """Fits of a network and of the layers below it, as far as their size tells what they take.

    Attributes:
        kept: Numbers that are kept of each voxel.
        batch: People of a step; 0 where no network is trained.
        epochs: At most, in all.
        scanned: People that a scanner's layer is told from; 0 without one.
    """

    kept: float
    batch: float
    epochs: int
    scanned: int

    def requirements(self, images: Images) -> Requirements:
        """Estimate what training on images takes, and export of them."""
        trained, scanned, model = self.batch > 0, self.scanned > 0, 4.0 * images.voxels * self.kept
        below = images.people * (_BELOW + scanned * _ANCHORED) + self.scanned * _SCANNER
        work = below + self.epochs * images.people * _EPOCH
        return Requirements(
            _NETWORK + model + 4 * images.voxels * max(self.batch * _ACTIVATIONS, _DRAWN),
            4.0 * images.people * images.voxels * (1 + scanned + 3 * trained),
            _LOADED + images.people * images.seconds + images.voxels * (work + _SHOWN),
            model,
            _NETWORK + _IMAGES * 4 * images.voxels + model,
            _LOADED + images.people * (images.seconds + images.voxels * (_ANCHORED + _MOVED)),
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
