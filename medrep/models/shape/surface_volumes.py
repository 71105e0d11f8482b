"""Volumes tell volume: effects on a surface are brought to what covariates do to people's volumes.

Registration loses some of the change, and so does shrinking. What covariates do to people's log volumes is regressed as motions
are, one number in place of a point (`surface_regression.py`). Each covariate's pattern gets a motion along the normal, where the
pattern is, so that the organ at the reference, moved to people's covariates, follows that. Where no place clearly moves, the
organ grows or shrinks as a whole, about its middle.

While points move from w to w + d(w), with J the derivative and n the normal, the volume grows by the integral of
d det(J) J^-T n over the surface; what is integrated is small where nothing moves, and so are the errors of few points.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from medrep.models.shape.effects import Group
from medrep.models.shape.mean_shape import Levels, Points, SmoothBasis
from medrep.models.shape.placement import Motions, along
from medrep.models.shape.surface_fields import EXACT, Columns, FieldsThrough
from medrep.models.shape.surface_regression import regressed

_STEP = 0.02  # mm
_HALFWAYS = (0.5 - 12**-0.5, 0.5 + 12**-0.5)  # Gauss's, exact for what is cubic
Slopes = Float[np.ndarray, "columns points dims dims"]


@dataclass(frozen=True, eq=False)
class SmoothSurface:
    """The template's surface, and the fields through motions of its points."""

    points: Points
    normals: Points
    areas: Levels
    basis: SmoothBasis
    smooth: FieldsThrough
    fields: FieldsThrough

    @classmethod
    def of(cls, points: Points, normals: Points, areas: Levels, basis: SmoothBasis) -> "SmoothSurface":
        """Prepare for these points; `areas` are shares of the surface that they stand for."""
        return cls(
            points, normals, areas, basis, FieldsThrough.of(points, basis), FieldsThrough.of(points, basis, EXACT)
        )

    def following(
        self,
        part: slice,
        wanted: Float[np.ndarray, " people"],
        columns: Columns,
        moves: tuple[Motions, Points],
        groups: Sequence[Group],
    ) -> Motions:
        """Let the patterns of covariates on one structure, the points `part`, follow log volumes.

        Args:
            part: Which points.
            wanted: Log volumes that people's covariates tell, up to a constant.
            columns: The design.
            moves: Smooth motions of its columns, and from the template to the organ at the reference, mm.
            groups: The columns of each covariate.

        Returns:
            Motions of the columns, mm.
        """
        motions = np.concatenate([moves[0], moves[1][None]])
        columns = np.column_stack([columns, np.ones(len(columns))])
        outward, used = np.zeros_like(motions), list[int]()
        for group in groups:
            where = (along(motions[group.columns, part], self.normals[part]) ** 2).sum(axis=0)
            if group.exchangeable:
                continue
            used += list(range(group.columns.start, group.columns.stop))
            away = self.points[part] - self.points[part].mean(axis=0)
            moved = (where / where.mean())[:, None] * self.normals[part] if where.any() else away / np.abs(away).mean()
            outward[group.columns, part] = moved
        if not used:
            return moves[0]
        outward = self.smooth.through(outward)
        own = _Volume.of(self, part, motions, outward)
        amounts = np.zeros(len(motions))
        others = [k for k in range(len(motions)) if k not in used]
        for _ in range(2):
            now = own.logs(columns, amounts)
            slopes = []
            for column in used:
                more = amounts.copy()
                more[column] += _STEP
                slopes.append((own.logs(columns, more) - now) / _STEP)
            design = np.column_stack([*slopes, columns[:, others]])
            amounts[used] += (np.linalg.pinv(design, rcond=1e-3) @ (wanted - now))[: len(used)]
        return moves[0] + (amounts[:, None, None] * outward)[:-1]

    def bent(self, motions: Motions, part: slice) -> Float[np.ndarray, "columns some dims dims"]:
        """Return derivatives of smooth fields through motions, at some points."""
        return np.stack(
            [
                self.basis.field_slopes(self.points[part], own.reshape(self.basis.count, -1))[1]
                for own in self.fields.coefficients(motions)
            ]
        )


@dataclass(frozen=True, eq=False)
class _Volume:
    """Volume of a structure whose surface moves, and moves outward by some amount for each column."""

    surface: tuple[Points, Points, Levels]
    motions: tuple[Motions, Motions]
    slopes: tuple[Slopes, Slopes]

    @classmethod
    def of(cls, surface: SmoothSurface, part: slice, motions: Motions, outward: Motions) -> "_Volume":
        areas = surface.areas[part] / surface.areas[part].sum()
        slopes = surface.bent(motions, part), surface.bent(outward, part)
        moves = np.ascontiguousarray(motions[:, part]), np.ascontiguousarray(outward[:, part])
        return cls((surface.points[part], surface.normals[part], areas), moves, slopes)

    def logs(self, columns: Columns, amounts: Float[np.ndarray, " columns"]) -> Float[np.ndarray, " people"]:
        """Return log volumes at people's covariates, as shares of the template's."""
        points, normals, areas = self.surface
        motion, outward = self.motions
        base, per = self.slopes
        motion = np.einsum("nc,cpd->npd", columns, motion + amounts[:, None, None] * outward, optimize=True)
        slopes = np.einsum("nc,cpde->npde", columns, base + amounts[:, None, None, None] * per, optimize=True)
        grown, eye = np.zeros(len(columns)), np.eye(points.shape[1])
        for way in _HALFWAYS:
            bend = eye + way * slopes
            turned = np.linalg.solve(np.swapaxes(bend, 2, 3), np.broadcast_to(normals, motion.shape)[..., None])[..., 0]
            grown += ((motion * turned).sum(axis=2) * np.linalg.det(bend)) @ areas / len(_HALFWAYS)
        away = points - points.mean(axis=0)
        share = points.shape[1] * grown / ((away * normals).sum(axis=1) @ areas)
        return np.asarray(np.log(np.maximum(1 + share, 1e-3)))


def told_by_covariates(
    log_volumes: Float[np.ndarray, " people"],
    columns: Columns,
    groups: Sequence[Group],
    people: Int[np.ndarray, " rows"],
) -> Float[np.ndarray, " people"]:
    """Return what covariates do to log volumes, as far as people who are left out bear it out."""
    alone = (log_volumes - log_volumes.mean())[:, None, None]
    return np.asarray(columns @ regressed(columns, alone, groups, np.ones((1, 1)), people)[0][:, 0, 0])
