"""Who a simulated brain belongs to: its anatomy in a few numbers, from covariates and the person's own identity."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from medrep.simulate.age import age_curve
from medrep.simulate.participants import require_columns
from medrep.simulate.seeding import stream


@dataclass(frozen=True)
class BrainEffects:
    """How age, sex and diagnosis change the anatomy.

    An age effect is a pair (linear, quadratic) of ``linear * t + quadratic * max(0, t)^2`` with t = (age - 50) / 10.

    Attributes:
        ventricle_age: Change of the ventricles' width, as a fraction.
        cortex_age: Change of the cortex's thickness, mm.
        sulcus_age: Change of the sulci's half-width, mm.
        contrast_age: Change of white minus grey matter, intensity units.
        hippocampus_age: Change of the hippocampus's width, as a fraction.
        head_male: Length of a man's head over a woman's.
        hippocampus_patient: Width of a patient's hippocampus over a control's.
    """

    ventricle_age: tuple[float, float] = (0.06, 0.06)
    cortex_age: tuple[float, float] = (-0.10, -0.03)
    sulcus_age: tuple[float, float] = (0.06, 0.05)
    contrast_age: tuple[float, float] = (-12.0, -3.0)
    hippocampus_age: tuple[float, float] = (-0.02, -0.01)
    head_male: float = 1.05
    hippocampus_patient: float = 0.7


BRAIN_EFFECTS = BrainEffects()


@dataclass(frozen=True)
class Wave:
    """A plane wave through the head, ``sin(vector . p + phase)``.

    Attributes:
        vector: Radians a mm along x, y and z.
        phase: Radians.
        weight: What the wave carries: its amplitude (1 number) or a displacement in mm (3 numbers).
    """

    vector: tuple[float, float, float]
    phase: float
    weight: tuple[float, ...]


@dataclass(frozen=True)
class Brain:
    """One person's anatomy, enough to render it on any grid.

    Attributes:
        participant_id: Whose brain it is.
        head_scale: Length over the template's.
        cortex_mm: Thickness of the cortex.
        sulcus_mm: Half-width of the sulci.
        ventricle_scale: Width of the ventricles over the template's.
        ventricle_asymmetry: Log ratio of the right to the left ventricle's width.
        hippocampus_scale: Width of the hippocampi over the template's.
        grey: Intensity of grey matter.
        contrast: White minus grey matter, intensity units.
        deformation: The person's smooth displacement of the template, mm.
        folds: The waves whose zero level is the pattern of sulci.
        noise_sd: Receiver noise, intensity units.
        noise_seed: Seed of that noise.
    """

    participant_id: str
    head_scale: float
    cortex_mm: float
    sulcus_mm: float
    ventricle_scale: float
    ventricle_asymmetry: float
    hippocampus_scale: float
    grey: float
    contrast: float
    deformation: tuple[Wave, ...]
    folds: tuple[Wave, ...]
    noise_sd: float
    noise_seed: int


def draw_brains(participants: pd.DataFrame, *, seed: int, effects: BrainEffects = BRAIN_EFFECTS) -> tuple[Brain, ...]:
    """Draw everybody's anatomy.

    What is the person's own is drawn from the id and the seed alone, and the covariates act on top: the same person at
    another age keeps the folds, the deformation and the noise, which gives true counterfactuals. Site plays no part;
    plant it with `apply_site_effect`.

    Args:
        participants: A table with participant_id, age (years), sex (F or M) and diagnosis (control or patient).
        seed: Any integer from 0.
        effects: How the covariates act.

    Returns:
        One brain a row, in the table's order.

    Raises:
        CovariateError: If a column, a value or a level is not usable.
    """
    require_columns(participants, ["participant_id", "age", "sex", "diagnosis"])
    pattern = _draw_folds(stream(seed, "brains", "folds"))
    rows = zip(
        participants["participant_id"].astype(str),
        participants["age"].astype(float),
        participants["sex"].astype(str),
        participants["diagnosis"].astype(str),
        strict=True,
    )
    return tuple(_draw_brain(*row, pattern, seed, effects) for row in rows)


def _draw_brain(
    person: str, age: float, sex: str, diagnosis: str, pattern: tuple[Wave, ...], seed: int, effects: BrainEffects
) -> Brain:
    rng = stream(seed, "brains", person)
    own = rng.standard_normal(7)
    folds = tuple(Wave(wave.vector, wave.phase + float(rng.normal(0.0, 0.6)), wave.weight) for wave in pattern)
    deformation = tuple(
        Wave(_vector(rng, 55.0, 110.0), float(rng.uniform(0.0, 2 * np.pi)), _triple(rng.normal(0.0, 1.0, 3)))
        for _ in range(4)
    )
    hippocampus = (1.0 + age_curve(age, *effects.hippocampus_age)) * np.exp(0.05 * own[4])
    return Brain(
        participant_id=person,
        # The template stands between the sexes: each is half the ratio away from it.
        head_scale=float(effects.head_male ** (0.5 if sex == "M" else -0.5) * np.exp(0.02 * own[0])),
        cortex_mm=float(3.4 + 0.12 * own[1] + age_curve(age, *effects.cortex_age)),
        sulcus_mm=float(max(0.2, 0.75 + 0.06 * own[2] + age_curve(age, *effects.sulcus_age))),
        ventricle_scale=float((1.0 + age_curve(age, *effects.ventricle_age)) * np.exp(0.10 * own[3])),
        ventricle_asymmetry=float(0.08 * own[5]),
        hippocampus_scale=float(hippocampus * (effects.hippocampus_patient if diagnosis == "patient" else 1.0)),
        grey=540.0,
        contrast=float(240.0 + 8.0 * own[6] + age_curve(age, *effects.contrast_age)),
        deformation=deformation,
        folds=folds,
        noise_sd=12.0,
        noise_seed=int(rng.integers(2**32)),
    )


def _draw_folds(rng: np.random.Generator) -> tuple[Wave, ...]:
    return tuple(
        Wave(_vector(rng, 24.0, 38.0), float(rng.uniform(0.0, 2 * np.pi)), (float(rng.uniform(0.7, 1.3)),))
        for _ in range(9)
    )


def _vector(rng: np.random.Generator, shortest: float, longest: float) -> tuple[float, float, float]:
    direction = rng.standard_normal(3)
    return _triple(2 * np.pi / rng.uniform(shortest, longest) * direction / np.linalg.norm(direction))


def _triple(values: np.ndarray) -> tuple[float, float, float]:
    x, y, z = values.tolist()
    return x, y, z


def brain_truth(brains: Sequence[Brain], *, effects: BrainEffects = BRAIN_EFFECTS) -> dict[str, Any]:
    """Describe what the covariates do to the brains, and what each person's brain came to.

    Args:
        brains: From `draw_brains`.
        effects: The effects that they were drawn with.

    Returns:
        A dictionary ready for JSON: the effects, and per participant the scalar parameters of `Brain`.
    """
    scalars = ("head_scale", "cortex_mm", "sulcus_mm", "ventricle_scale", "hippocampus_scale", "grey", "contrast")
    return {
        "age": {
            "curve": "linear * t + quadratic * max(0, t)^2, t = (age - 50) / 10",
            **{
                name.removesuffix("_age"): {"linear": value[0], "quadratic": value[1]}
                for name, value in asdict(effects).items()
                if name.endswith("_age")
            },
            "unit": {
                "ventricle": "fraction of width",
                "cortex": "mm",
                "sulcus": "mm",
                "contrast": "intensity",
                "hippocampus": "fraction of width",
            },
        },
        "sex": {"reference": "F", "M": {"head": effects.head_male, "unit": "ratio of length"}},
        "diagnosis": {
            "reference": "control",
            "patient": {"hippocampus": effects.hippocampus_patient, "unit": "ratio of width"},
        },
        "participants": {brain.participant_id: {name: getattr(brain, name) for name in scalars} for brain in brains},
    }
