"""What only some uses need and an installation may lack: pip's extras, and the one line that names the one to install."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec

from medrep.errors import MedrepError


@dataclass(frozen=True)
class Extra:
    """Packages that are installed together.

    Attributes:
        use: What needs them.
        packages: Module -> what it is called where it is installed from.
    """

    use: str
    packages: Mapping[str, str]


EXTRAS: Mapping[str, Extra] = {
    "connectivity": Extra("connectivity from 4-D images (kind connectivity)", {"nilearn": "nilearn"}),
    "shapes": Extra(
        "the work on organs (kind shape)", {"igl": "libigl", "skimage": "scikit-image", "trimesh": "trimesh"}
    ),
    "ray": Extra("--engine ray", {"ray": "Ray"}),
}


class ExtraError(MedrepError, ImportError):
    """An extra that is not installed; an ImportError, as who imports a module expects."""


def lacking(extra: str, error: ImportError) -> ExtraError:
    """Return what is said where a module of an extra cannot be imported.

    Args:
        extra: A key of `EXTRAS`.
        error: What the import ended with.
    """
    wanted = EXTRAS[extra]
    names = ", ".join(wanted.packages.values())
    install = f"install it with: pip install 'medrep[{extra}]'"
    culprit = (error.name or "").partition(".")[0]
    if any(module == culprit or find_spec(module) is None for module in wanted.packages):
        return ExtraError(f"{wanted.use} needs {names}; {install}")
    return ExtraError(f"{wanted.use} needs {names}, of which something cannot be imported ({error}); {install}")
