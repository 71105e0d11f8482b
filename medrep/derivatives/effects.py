"""Effects of covariates on an organ, as meshes, maps, a table and a figure."""

from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from mpl_toolkits.mplot3d.art3d import Poly3DCollection

from medrep._files import atomic_file, write_json
from medrep.cohort.grid import grid_lattice
from medrep.cohort.meshing import mesh_lattice
from medrep.cohort.surfaces import Surface
from medrep.derivatives.bids import write_tsv
from medrep.derivatives.meshes import write_mesh, write_shape_map
from medrep.errors import ModelError
from medrep.models import Model
from medrep.models.linear.design import Contrast, contrasts
from medrep.models.shape.displacement import SurfaceDisplacement
from medrep.models.shape.pose import SHIFTS, TURNS, PoseModel

_CELLS = 96
_VIEWS = {"from the left": (0, 180), "from the front": (0, 90), "from above": (90, 270)}


def write_effects(folder: Path, model: Model, centre: Float[np.ndarray, "3"]) -> pd.DataFrame:
    """Write template.surf.gii, for each contrast a mesh and maps on it, effects.tsv and effects.png; `centre` is the grid's, mm.

    Of several structures there is a mesh and maps of each. The table has covariate, before, after, mean_mm with its interval,
    volumes, and the share of the surface whose interval leaves out zero.
    """
    structures = model.columns.structures or ("",)
    rows, drawn = [], []
    for structure in structures:
        write_mesh(folder / f"{_named('template', structure)}.surf.gii", _shifted(_organ(model, {}, structure), centre))
    for contrast, structure in product(contrasts(model.schema), structures):
        surface = _organ(model, {contrast.covariate: contrast.before}, structure)
        after = _organ(model, {contrast.covariate: contrast.after}, structure)
        normals, areas = _vertex_normals(surface)
        motion = model.surface_displacement(contrast, surface.vertices, normals)
        low, high = motion.interval()
        name = _named(f"{contrast.covariate}-{_plain(contrast.before)}to{_plain(contrast.after)}", structure)
        write_mesh(folder / f"{name}.surf.gii", _shifted(surface, centre))
        maps = {"mm": motion.millimetres, "ci_low": low, "ci_high": high}
        write_shape_map(folder / f"{name}.shape.gii", maps)
        own: dict[str, object] = {"structure": structure} if structure else {}
        rows.append(own | _row(contrast, motion, areas, surface.volume, after.volume))
        drawn.append((surface, motion, structure))
    table = pd.DataFrame(rows)
    write_tsv(folder / "effects.tsv", table)
    _draw(folder / "effects.png", drawn)
    return table


def _named(name: str, structure: str) -> str:
    return f"{name}_label-{structure}" if structure else name


def write_pose(folder: Path, pose: PoseModel) -> pd.DataFrame:
    """Write pose.tsv, what covariates do to how organs lie (`PoseModel.table`), and pose.json, what that is worth."""
    table = pose.table()
    write_tsv(folder / "pose.tsv", table)
    about = {
        "Description": "Position, not shape: how an organ as a whole lies in its image, by covariates.",
        "Translation": f"mm along the axes of the image's world: {', '.join(SHIFTS)}",
        "Rotation": f"degrees about these axes: {', '.join(TURNS)} (above 0: the front goes up, the top to the right, the right"
        " side forward)",
        "CentresApartPercent": round(100 * pose.apart, 1),
        "SharedSpace": pose.shared_space,
        "InEffects": pose.in_effects,
    }
    write_json(folder / "pose.json", about)
    return table


def _row(
    contrast: Contrast, motion: SurfaceDisplacement, areas: Float[np.ndarray, " vertices"], before: float, after: float
) -> dict[str, object]:
    mean, low, high = motion.mean(areas)
    bounds = motion.interval()
    clear = (bounds[0] > 0) | (bounds[1] < 0)
    return {
        "covariate": contrast.covariate,
        "before": contrast.before,
        "after": contrast.after,
        "mean_mm": mean,
        "ci_low": low,
        "ci_high": high,
        "volume_before_mm3": before,
        "volume_after_mm3": after,
        "volume_change_percent": 100 * (after / before - 1),
        "surface_share_not_zero": float(areas[clear].sum() / areas.sum()),
    }


def _organ(model: Model, values: dict[str, float | str], structure: str) -> Surface:
    """Return the organ at some values, the other covariates at their reference, in the coordinates of the grid."""
    if model.columns.grid is None:
        raise ModelError("a shape model needs a grid")
    return mesh_lattice(model.expected_level(values, structure), grid_lattice(model.columns.grid), _CELLS)


def _shifted(surface: Surface, centre: Float[np.ndarray, "3"]) -> Surface:
    return Surface(surface.vertices + centre, surface.faces)


def _vertex_normals(surface: Surface) -> tuple[Float[np.ndarray, "vertices 3"], Float[np.ndarray, " vertices"]]:
    """Return outward unit normals of vertices, and a third of the area of the triangles around each, mm2."""
    sums, areas = np.zeros_like(surface.vertices), np.zeros(len(surface.vertices))
    for corner in range(3):
        np.add.at(sums, surface.faces[:, corner], surface.face_vectors)
        np.add.at(areas, surface.faces[:, corner], surface.face_areas / 3)
    return sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12), areas


def _draw(path: Path, drawn: list[tuple[Surface, SurfaceDisplacement, str]]) -> None:
    figure = Figure(figsize=(3 * len(_VIEWS) + 1, 2.8 * len(drawn) + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    for line, (surface, motion, structure) in enumerate(drawn):
        most = max(float(np.abs(motion.millimetres).max()), 1e-3)
        colours = ScalarMappable(Normalize(-most, most), "RdBu_r")
        shade = colours.to_rgba(motion.millimetres[surface.faces].mean(axis=1))
        axes = []
        for column, (view, (up, around)) in enumerate(_VIEWS.items()):
            axis = figure.add_subplot(len(drawn), len(_VIEWS), line * len(_VIEWS) + column + 1, projection="3d")
            axis.add_collection3d(Poly3DCollection(surface.corners, facecolors=shade, edgecolors="none"))
            low, high = surface.vertices.min(axis=0), surface.vertices.max(axis=0)
            axis.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), zlim=(low[2], high[2]))
            axis.set_box_aspect(high - low)
            axis.view_init(up, around)
            axis.set_axis_off()
            shown = f"{motion.contrast.name} {structure}".rstrip()
            axis.set_title(f"{shown}\n{view}" if column == 0 else view, fontsize=9)
            axes.append(axis)
        figure.colorbar(colours, ax=axes, shrink=0.7, label="mm outward")
    with atomic_file(path) as partial:
        figure.savefig(partial, format="png", dpi=110)


def _plain(value: float | str) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return "".join(letter if letter.isalnum() or letter == "." else "_" for letter in text)
