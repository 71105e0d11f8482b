"""Effects of covariates on how an organ lies in its image: a pose is no shape.

Of person i, A_i brings the image's world to the coordinates of the model's grid (what `input.align` does), and P_i the template
onto their organ there (`rigid.py`). With G_i = A_i^-1 P_i, m the middle of the template and R_i the rotation in G_i, the pose is

    translation  G_i(m), mm along the axes of the world (right, anterior, superior),
    rotation     the rotation vector of R_i R^-1, degrees about these axes, R the mean rotation.

So it is what the alignment took out and what is left of it, together, whatever the alignment. Each of these numbers is regressed
on the covariates by the linear model, levels of a batch shrunk; the intervals are those of ordinary least squares, Student's t,
and where people come again, or are related, those of a sandwich in which a person, or a family, counts once.

**Moving it.** With d and w what translation and rotation are expected to change by, and c the centre of the person's organ: the
organ whose shape was moved is laid onto the person's own as `rigid.py` does, so that what moves the whole is not counted twice,
and goes where x -> c + d + exp(w) (x - c) brings it. d and w are zero where the covariates are the same, and additive over
covariates.

Where people's images share no space, a position is how images were cut or how heads lay, and no anatomy.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.special import stdtr, stdtrit

from medrep._persisted import persisted
from medrep.cohort.dataset import Dataset
from medrep.cohort.grid import Columns
from medrep.models.linear.design import contrasts
from medrep.models.linear.model import LinearModel
from medrep.models.linear.settings import LinearSettings
from medrep.models.shape.placement import STRAYED
from medrep.models.shape.rigid import Poses, nearest_rotation, turns_of

SHIFTS = ("right", "anterior", "superior")
TURNS = ("pitch", "roll", "yaw")
"""Turns about the axes to the right, to the front and up: above 0 the front goes up, the top right, the right side forward."""
POSE = (*SHIFTS, *TURNS)


def pose_columns(
    motions: Float[np.ndarray, "people corners corners"], middle: Float[np.ndarray, " dims"]
) -> Float[np.ndarray, "people columns"]:
    """Return translations, mm, and rotations from their mean, degrees: six numbers a person, three in the plane.

    Args:
        motions: From the coordinates of the template to each person's; they may scale.
        middle: Of the template, mm.
    """
    dims = len(middle)
    places = motions[:, :dims, :dims] @ middle + motions[:, :dims, dims]
    turned = np.stack([nearest_rotation(own[:dims, :dims]) for own in motions])
    mean = nearest_rotation(turned.mean(axis=0))
    turns = np.stack([turns_of(nearest_rotation(own @ mean.T)) for own in turned])
    return np.concatenate([places, np.degrees(turns)], axis=1)


@persisted(
    sizes={
        "columns": lambda read: read["effects"].columns.count,
        "rows": lambda read: len(read["effects"].coefficients) + len(read["effects"].batches.location),
    }
)
@dataclass(frozen=True, eq=False)
class PoseModel:
    """Effects of covariates on how an organ lies.

    Attributes:
        effects: Of translations, mm, and rotations, degrees.
        errors: Covariance of each column's coefficients, of effects and then of levels, in squares of its unit.
        freedom: Degrees of freedom that these are known with.
        apart: How far people's organs lie apart, root mean square, a share of their size.
        in_effects: Whether the shape model counts position as an effect.
    """

    effects: LinearModel
    errors: Float[np.ndarray, "columns rows rows"]
    freedom: int
    apart: float
    in_effects: bool

    @classmethod
    def fit(
        cls, poses: Poses, frames: Float[np.ndarray, "people 4 4"], dataset: Dataset, spline_degrees: int
    ) -> "PoseModel":
        """Fit on people of training.

        Args:
            poses: How they lie in the coordinates of the grid.
            frames: World -> coordinates of the grid of each, mm.
            dataset: Their covariates, in the same order.
            spline_degrees: Degrees of freedom of a continuous covariate's effect.
        """
        columns = pose_columns(np.linalg.inv(frames) @ poses.motions, poses.middle)
        people = Dataset(
            columns,
            dataset.covariates,
            dataset.schema,
            Columns(POSE, len(POSE), None),
            dataset.participants,
            groups=dataset.groups,
        )
        settings = LinearSettings(
            spline_degrees, scale=False, gain="no", components=0, borrow="columns", visits="independent"
        )
        effects = LinearModel.fit(people, settings)[0]
        errors, freedom = _errors(effects, people)
        places = columns[:, : len(SHIFTS)]
        apart = float(np.sqrt(((places - places.mean(axis=0)) ** 2).sum(axis=1).mean())) / poses.size
        return cls(effects, errors, freedom, apart, poses.in_effects)

    @property
    def shared_space(self) -> bool:
        """True if organs lie so near to one another that a position may be anatomy."""
        return self.apart <= STRAYED

    def change(self, frame: pd.DataFrame, target: Mapping[str, str | float]) -> Float[np.ndarray, "people columns"]:
        """Return by how much translation, mm, and rotation, degrees, are expected to change; 0 where nothing is moved.

        Args:
            frame: People's covariates.
            target: Covariate -> value that everybody gets.
        """
        nothing = np.zeros((len(frame), self.effects.columns.count))
        return np.asarray(self.effects.remove(self.effects.dataset(nothing, frame), target))

    def table(self) -> pd.DataFrame:
        """Return what each covariate does, a row a contrast and column: estimate, 95 % interval and p of Student's t."""
        schema, design = self.effects.schema, self.effects.design
        home, rows = schema.references(schema.names), list[dict[str, object]]()
        for contrast in contrasts(schema):
            before = pd.DataFrame(
                {name: [value] for name, value in {**home, contrast.covariate: contrast.before}.items()}
            )
            after = before.assign(**{contrast.covariate: [contrast.after]})
            estimate = self.change(before, {contrast.covariate: contrast.after})[0]
            away = (design.full(after) - design.full(before))[0]
            error = np.sqrt(np.maximum(np.einsum("r,crs,s->c", away, self.errors, away), 0))
            half = error * stdtrit(self.freedom, 0.975)
            p = 2 * stdtr(self.freedom, -np.abs(np.divide(estimate, error, out=np.zeros_like(error), where=error > 0)))
            for k, name in enumerate(self.effects.columns.names):
                rows.append(
                    {
                        "covariate": contrast.covariate,
                        "before": contrast.before,
                        "after": contrast.after,
                        "pose": name,
                        "unit": "mm" if name in SHIFTS else "degree",
                        "estimate": estimate[k],
                        "ci_low": estimate[k] - half[k],
                        "ci_high": estimate[k] + half[k],
                        "p": p[k],
                    }
                )
        return pd.DataFrame(rows)


def _errors(effects: LinearModel, people: Dataset) -> tuple[Float[np.ndarray, "columns rows rows"], int]:
    """Return the covariance of each column's coefficients by least squares, and its degrees of freedom."""
    design, frame = effects.design, people.covariates
    present = design.batches(frame).sum(axis=0) > 0
    basis = design.contrasts(present)
    reduced = design.full(frame) @ basis
    rank = int(np.linalg.matrix_rank(reduced))
    inverse = np.linalg.pinv(reduced.T @ reduced, hermitian=True)
    rest = people.values - reduced @ (inverse @ reduced.T @ people.values)
    persons, whose = np.unique(people.units, return_inverse=True)
    freedom = max(len(persons) - rank, 1)
    if len(persons) == len(rest):
        noise = (rest**2).sum(axis=0) / freedom
        covariance = noise[:, None, None] * inverse
    else:
        sums = np.zeros((len(persons), rest.shape[1], reduced.shape[1]))
        np.add.at(sums, whose, rest[:, :, None] * reduced[:, None, :])
        covariance = np.einsum("ij,pcj,pck,kl->cil", inverse, sums, sums, inverse, optimize=True)
        covariance *= len(persons) / freedom
    return np.einsum("ri,cij,sj->crs", basis, covariance, basis, optimize=True), freedom
