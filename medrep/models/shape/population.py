"""Learning a population of shapes: template, effects of covariates, and how people differ besides.

    h_i ~ N(0, C),    s_i = T(v + g_i(v)) with v = p + h_i(p) and g_i = F X_i G, seen through `registration.py`

by rounds of expectation (everybody's h_i and its covariance, Laplace) and maximisation: G so that nothing of h goes with
covariates (`effects.py`), C as the mean of what is left and of what is not known, shrunk towards the smooth prior. What everybody
shares goes into the template: T(p) becomes T(p + mean field), so that at the reference and without identity the organ is the
template's zero level.

The last round registers everybody to the organ at the reference, with covariates among what people differ by and free to lie
anywhere, and learns the effects from where surfaces lie (`surface_effects.py`), unless settings say otherwise or people come
again: then how they change tells the effects (`repeated.py`).
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from jaxtyping import Float
from threadpoolctl import threadpool_limits

from medrep._persisted import Read, given, persisted
from medrep.cohort.dataset import Dataset
from medrep.cohort.grid import Lattice, grid_lattice
from medrep.cohort.inputs import FINEST
from medrep.errors import ModelError
from medrep.models.shape.effects import Equations, Group, Told, fit_effects, resampled_effects
from medrep.models.shape.mean_shape import (
    LevelFunction,
    Levels,
    MeanShape,
    Moves,
    Observations,
    Points,
    Posterior,
    SmoothBasis,
    register,
    soft_volumes,
    solve_back,
)
from medrep.models.shape.placement import STRAYED, Placement, rigid_motions
from medrep.models.shape.repeated import FIRST_ALIKE, Visits, told_together
from medrep.models.shape.settings import ShapeSettings
from medrep.models.shape.surface_effects import Seen, resampled_changes, surface_effects
from medrep.models.shape.surface_fields import FieldsThrough, pulled_back

Coefficients = Float[np.ndarray, " coefficients"]

_SURFACE_POINTS = 1000  # of each structure
_ALIGNED = 0.01  # share of the organ's size
_FIRST_NOISE, _LEAST_NOISE = 0.03, 0.002  # shares of the organ's size


def _coefficients(read: Read) -> int:
    """Return how many numbers a field has."""
    return int(read["modes"].count) * (read["template"].lattice.dims if read["settings"].field == "displacement" else 1)


@persisted(sizes={"coefficients": _coefficients})
@dataclass(frozen=True, eq=False)
class Population:
    """A learned population; the coefficients of a field are those of one mode side by side (mode-major).

    Attributes:
        template: T.
        modes: What fields are made of.
        moves: What fields do.
        effects: G, a row a column of the design.
        covariance: C.
        noise: Standard deviation of a signed distance, mm.
        size: The organ's size, mm: root mean square distance of its surface from its centre.
    """

    template: LevelFunction
    modes: SmoothBasis
    moves: Moves = field(metadata=given(lambda read: read["settings"].field))
    effects: Float[np.ndarray, "columns coefficients"]
    covariance: Float[np.ndarray, "coefficients coefficients"]
    noise: float
    size: float

    @property
    def outputs(self) -> int:
        """Numbers a field has at a point."""
        return self.template.lattice.dims if self.moves == "displacement" else 1

    def precision(self) -> Float[np.ndarray, "coefficients coefficients"]:
        """Return the inverse of C."""
        return np.linalg.inv(self.covariance)

    def mean_shape(self, effect: Coefficients) -> MeanShape:
        """Return the organ at some covariates, without identity; ``effect`` are the coefficients of what they do."""
        return MeanShape(self.template, self.modes, effect.reshape(self.modes.count, -1), self.moves == "displacement")

    def decoded(self, points: Points, effect: Coefficients, identity: Coefficients) -> Float[np.ndarray, " levels"]:
        """Return the level of every structure at points, mm, with an identity at some covariates, both coefficients of fields."""
        field = self.modes.field(points, identity.reshape(self.modes.count, -1))
        return self.mean_shape(effect).seen(points, field)


@dataclass(frozen=True, eq=False)
class Learning:
    """Result of the learning of a population.

    `rest` is everybody's own, coefficients of identities, `spread` their covariance as these people show it (the population's is
    shrunk), `resampled` effects learned from resampled people, and `errors` the registration error of each round, mm.
    """

    population: Population
    rest: Float[np.ndarray, "people coefficients"]
    spread: Float[np.ndarray, "coefficients coefficients"]
    resampled: Float[np.ndarray, "draws columns coefficients"]
    errors: tuple[float, ...]


def _start_population(
    data: Float[np.ndarray, "people levels"],
    lattice: Lattice,
    columns: int,
    settings: ShapeSettings,
    structures: tuple[str, ...],
) -> Population:
    """Return what is believed before the first round: the mean signed distance, and smooth fields."""
    mean = np.zeros(data.shape[1])
    for row in data:
        mean += np.asarray(row, np.float64) / len(data)
    nodes, sizes = lattice.nodes(), []
    named = [f"structures {name}" for name in structures] or ["organs"]
    for name, own in zip(named, mean.reshape(len(named), -1), strict=True):
        surface = nodes[np.abs(own) < max(lattice.spacing)]
        if not len(surface) or own.min() > 0:
            raise ModelError(f"the people's {name} do not overlap; set input.align to centre or rigid")
        sizes.append(float(np.sqrt(((surface - surface.mean(axis=0)) ** 2).sum(axis=1).mean())))
    # Fields are fine enough for the smallest structure, down to half of the largest: lattices grow with the cube.
    size = max(min(sizes), FINEST * max(sizes))
    template = LevelFunction.through(lattice, mean)

    def distance(points: Points) -> Levels:
        return np.abs(template.everywhere(points).reshape(template.count, -1)).min(axis=0)

    modes = SmoothBasis.around(nodes[0], nodes[-1], distance, size, settings.modes * template.count)
    moves: Moves = settings.field
    width = modes.count * (lattice.dims if moves == "displacement" else 1)
    return Population(template, modes, moves, np.zeros((columns, width)), np.eye(width), _FIRST_NOISE * size, size)


def fit_population(
    dataset: Dataset,
    columns: Float[np.ndarray, "people columns"],
    groups: list[Group],
    settings: ShapeSettings,
    seed: int,
    say: Callable[[str], None],
) -> Learning:
    """Learn from training people's signed distances on a grid, mm, and X, `columns`.

    `groups` are those of the columns (`effects.py`), `seed` that of the points that are looked at; `say` is called with a line a
    round.
    """
    data, lattice = dataset.values, grid_lattice(settings.check(dataset.columns))
    visits = _visits(dataset, settings)
    design, kept = np.concatenate([columns, visits.away], axis=1), columns.shape[1]
    groups = [*groups, *(Group(slice(k, k + 1)) for k in range(kept, design.shape[1]))]
    population = _start_population(data, lattice, design.shape[1], settings, dataset.columns.structures)
    # What everybody shares is a column of ones, which goes into the template.
    X = np.concatenate([np.ones((len(design), 1)), design], axis=1)
    # Where people come again, how they change tells effects, and visits are weighed together.
    by_surface = settings.by_surface and kept > 0 and design.shape[1] == kept
    apart = [replace(g, columns=slice(g.columns.start + 1, g.columns.stop + 1)) for g in groups]
    errors: list[float] = []
    prior, alike = None, FIRST_ALIKE
    for number in range(1, settings.rounds + 1):
        if by_surface and number == settings.rounds:
            break
        equations = Equations(np.insert(population.effects, 0, 0.0, axis=0))
        codes, unknown, error = _registered(population, data, X, equations, settings, seed, (visits, alike))
        errors.append(error)
        say(f"round {number} of {settings.rounds}: {error:.3f} mm between template and people")
        effects = fit_effects(equations, apart, population.outputs, prior)
        mean, rows, prior = effects.rows[0], effects.rows[1:], effects.prior
        rest = codes - mean - design @ (rows - population.effects)
        alike = visits.alike(rest, population.precision())
        spread = (rest.T @ rest + unknown) / len(rest)
        population = replace(
            population,
            template=LevelFunction.through(lattice, population.mean_shape(mean).values(lattice.nodes())),
            effects=rows,
            covariance=_shrunk(spread, len(visits.counts), settings.shrinkage),
            noise=max(error, _LEAST_NOISE * population.size),
        )
    if by_surface:
        learned = _by_surface(population, dataset, columns, groups, settings, seed)
        say(f"round {settings.rounds} of {settings.rounds}: {learned.errors[0]:.3f} mm between template and people")
        return replace(learned, errors=(*errors, *learned.errors))
    rng = np.random.default_rng([seed, 43])
    told = dataset.participants is not None or dataset.groups is not None
    whose = dataset.units[visits.order].tolist() if told else None
    draws = resampled_effects(effects, equations, apart, population.outputs, settings.bootstrap, rng, whose)
    population = replace(population, effects=population.effects[:kept])
    return Learning(population, rest, spread, draws[:, 1 : 1 + kept], tuple(errors))


def best_known(
    rest: Float[np.ndarray, "people coefficients"],
    spread: Float[np.ndarray, "coefficients coefficients"],
    count: int,
) -> Float[np.ndarray, "coefficients latents"]:
    """Return the directions of identities, of unit variance and uncorrelated, that people's shapes tell best.

    What no shape tells, such as motion along the surface, comes last.
    """
    values, vectors = np.linalg.eigh(spread)
    whiten = vectors / np.sqrt(values)
    right = np.linalg.svd((rest - rest.mean(axis=0)) @ whiten, full_matrices=False)[2][:count]
    signs = np.sign(right[np.arange(len(right)), np.abs(right).argmax(axis=1)])
    return whiten @ (right * signs[:, None]).T


def _registered(
    population: Population,
    data: np.ndarray,
    columns: np.ndarray,
    equations: Equations,
    settings: ShapeSettings,
    seed: int,
    known: tuple[Visits, float],
) -> tuple[np.ndarray, np.ndarray, float]:
    """Count everybody into the equations; return identities, the sum of their covariances, and the root mean square error, mm.

    `known` are whose the rows are, and how alike those of one person.
    """
    precision, (visits, alike) = population.precision(), known
    codes, unknown = np.zeros((len(data), len(precision))), np.zeros_like(precision)
    squares, met = 0.0, list[Posterior]()
    order = visits.order.tolist()
    for place, posterior in enumerate(
        _posteriors(population, data, columns @ equations.rows, precision, settings, seed, order)
    ):
        codes[order[place]] = posterior.mean
        covariance = posterior.covariance()
        unknown += covariance
        squares += posterior.error**2
        met.append(posterior)
        if len(met) < visits.counts[visits.person[place]]:
            continue
        own = columns[order[place + 1 - len(met) : place + 1]]
        if len(met) == 1:
            told = Told(precision @ posterior.mean, precision - precision @ covariance @ precision)
            equations.add(own[0], told)
        else:
            turn, rows = told_together(met, precision, alike)
            for row, told in zip(turn @ own, rows, strict=True):
                equations.add(row, told)
        met = []
    return codes, unknown, float(np.sqrt(squares / len(data)))


def _posteriors(
    population: Population,
    data: np.ndarray,
    means: np.ndarray,
    precision: np.ndarray,
    settings: ShapeSettings,
    seed: int,
    order: Sequence[int],
) -> Iterator[Posterior]:
    """Register everybody in an order to what is expected of them, coefficients of fields."""
    lattice = population.template.lattice

    def one(subject: int) -> Posterior:
        rng = np.random.default_rng([seed, 41, subject])
        own = LevelFunction.through(lattice, data[subject])
        observations = Observations.of(own, data[subject], population.size, settings.points, rng)
        return register(observations, population.mean_shape(means[subject]), precision, population.noise)

    with threadpool_limits(limits=1, user_api="blas"), ThreadPoolExecutor(settings.threads) as pool:
        yield from pool.map(one, order)


def _by_surface(
    population: Population,
    dataset: Dataset,
    columns: Float[np.ndarray, "people columns"],
    groups: list[Group],
    settings: ShapeSettings,
    seed: int,
) -> Learning:
    """Register everybody to the organ at the reference, and learn from where its surface lies in them."""
    data, modes, lattice = dataset.values, population.modes, population.template.lattice
    surface = population.template.surface(_SURFACE_POINTS)
    points, several = surface.points, population.template.count
    expected = columns @ population.effects
    precision = np.linalg.inv(population.covariance + np.cov(expected.T, bias=True))
    placement = placement_of(population, dataset, settings)
    if placement != "kept":
        precision = _free(precision, FieldsThrough.of(points, modes).coefficients(rigid_motions(points)).T)
    codes, unknown, squares = np.zeros_like(expected), np.zeros_like(precision), 0.0
    places, volumes = np.zeros((len(data), *points.shape)), np.zeros((len(data), several))
    for subject, posterior in enumerate(
        _posteriors(population, data, np.zeros_like(expected), precision, settings, seed, range(len(data)))
    ):
        codes[subject] = posterior.mean
        unknown += posterior.covariance()
        squares += posterior.error**2
        before = points - modes.field(points, posterior.mean.reshape(modes.count, -1))
        lying = solve_back(points, before, modes, posterior.mean)
        places[subject] = LevelFunction.through(lattice, data[subject]).onto_surface(lying, surface.structures)
        volumes[subject] = soft_volumes(data[subject].reshape(several, -1), max(lattice.spacing))
    error = float(np.sqrt(squares / len(data)))
    seen = Seen(surface, places, np.log(volumes))
    who = pd.factorize(dataset.units)[0]
    learned = surface_effects(seen, columns, groups, modes, placement, who)
    mean, rows = pulled_back(learned.motions, learned.mean, points, modes, columns, groups)
    rng = np.random.default_rng([seed, 43])
    drawn = [_drawn(who, rng) for _ in range(settings.bootstrap)]
    draws = rows - resampled_changes(seen, columns, groups, modes, placement, who, drawn)
    rest = codes - mean - columns @ rows
    spread = (rest.T @ rest + unknown) / len(rest)
    found = replace(
        population,
        template=LevelFunction.through(lattice, population.mean_shape(mean).values(lattice.nodes())),
        effects=rows,
        covariance=_shrunk(spread, len(rest), settings.shrinkage),
        noise=max(error, _LEAST_NOISE * population.size),
    )
    return Learning(found, rest, spread, draws, (error,))


def placement_of(population: Population, dataset: Dataset, settings: ShapeSettings) -> Placement:
    """Return how effects that were learned from these people treat position; those of codes have it in them: ``kept``."""
    if not settings.by_surface or _visits(dataset, settings).away.shape[1]:
        return "kept"
    return settings.placement if settings.placement != "auto" else _placement(population, dataset.values)


def _visits(dataset: Dataset, settings: ShapeSettings) -> Visits:
    return Visits.of(dataset if settings.visits == "auto" else replace(dataset, participants=None))


def _placement(population: Population, data: np.ndarray) -> Placement:
    """Tell by how far people's centres, of their surfaces' areas, lie apart whether position means something."""
    lattice = population.template.lattice
    nodes, step = lattice.nodes(), max(lattice.spacing)
    centres = np.zeros((len(data), lattice.dims))
    for subject, row in enumerate(data):
        shell = np.clip(1 - np.abs(np.asarray(row, np.float64).reshape(-1, len(nodes))) / step, 0, 1).sum(axis=0)
        centres[subject] = shell @ nodes / shell.sum()
    apart = float(np.sqrt(((centres - centres.mean(axis=0)) ** 2).sum(axis=1).mean())) / population.size
    return "kept" if _ALIGNED < apart < STRAYED else "still"


def _free(precision: np.ndarray, motions: np.ndarray) -> np.ndarray:
    """Let fields be any sum of some motions, columns of coefficients, as if these cost nothing."""
    pulled = precision @ motions
    return precision - pulled @ np.linalg.solve(motions.T @ pulled, pulled.T)


def _drawn(who: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw persons again, with all their rows."""
    count = int(who.max()) + 1
    return np.concatenate([np.flatnonzero(who == person) for person in rng.integers(0, count, count)])


def _shrunk(spread: np.ndarray, people: int, shrinkage: float) -> np.ndarray:
    """Return C: what people show, shrunk towards the smooth prior."""
    smooth = np.trace(spread) / len(spread) * np.eye(len(spread))
    return (people * spread + shrinkage * smooth) / (people + shrinkage)
