"""Adapter for PCNtoolkit 1.3: growth charts by its warped Bayesian linear regression, or by its hierarchical one.

Settings are those of its tutorials 02_BLR, 04_HBR_SHASH and 06_transfer_extend. Three things are not: what it evaluates and
saves after each fit is left out, which only saves it time; quantiles come from one pass instead of one for each level; the log
density of the hierarchical model is the logarithm of the mean over draws, where the toolkit averages logarithms, which scores
it lower. Its z and its quantiles are both means over draws, as the toolkit has them, so that one is not quite the other's.
"""

from __future__ import annotations

import logging
import os
import tempfile
import warnings
from collections.abc import Iterator
from importlib.metadata import version

import numpy as np
import pandas as pd
from scipy.special import logsumexp
from scipy.stats import norm
from threadpoolctl import threadpool_limits
from xarray import DataArray

# what it would otherwise write into the home folder
_SCRATCH = tempfile.TemporaryDirectory(prefix="peer-pcntoolkit-")
os.environ["PCN_HOME_DIR"] = _SCRATCH.name

from pcntoolkit import (  # noqa: E402
    BLR,
    HBR,
    BsplineBasisFunction,
    NormativeModel,
    NormData,
    SHASHbLikelihood,
    make_prior,
    normative_model,
)
from pcntoolkit.math_functions.shash import m1m2  # noqa: E402
from pcntoolkit.util.output import Output  # noqa: E402

VERSION = f"pcntoolkit {version('pcntoolkit')}"
DRAWS_USED = 1000  # of the posterior, for quantiles and densities; z uses all
# two threads on matrices this small made the linear one a hundred times slower on a busy machine
threadpool_limits(limits=1)
Output.set_show_messages(False)
logging.getLogger("pymc").setLevel(logging.ERROR)


class _Bare(NormativeModel):  # type: ignore[misc]  # untyped
    """The toolkit's model without what it evaluates, plots and saves."""

    def predict(self, data: NormData) -> NormData:
        """Return the data as they are; z are asked for with ``compute_zscores``."""
        return data

    def save(self, path: str | None = None) -> None:
        """Save nothing."""


normative_model.NormativeModel = _Bare  # which `transfer` makes


class Peer:
    """A chart of each column, with site as batch effect and age by B-splines.

    Args:
        age_bounds: Ignored: knots are those of the training ages.
        method: ``blr``, with a sinh-arcsinh warp, or ``hbr``, with a sinh-arcsinh likelihood.
        levels: Probabilities of the quantiles.
        sex: ``batch``, as in its tutorials, or ``covariate``.
        adapt: Sites whose training people are not fitted on, but what the model is told of later.
        later: ``transfer``, to each of these sites by itself, or ``extend``, to all of them at once, which fits again on people
            drawn from the model and theirs, and needs sex as batch.
        draws: Kept in each of the four chains of ``hbr``.
        tune: Draws before these.
        reference: Ignored: nothing is moved.
        seed: Ignored: the toolkit hands none to its sampler.
    """

    def __init__(  # noqa: PLR0913
        self,
        age_bounds: tuple[float, float] | None,  # noqa: ARG002
        method: str,
        levels: list[float],
        sex: str = "batch",
        adapt: tuple[str, ...] = (),
        later: str = "transfer",
        draws: int = 1500,
        tune: int = 500,
        reference: str | None = None,  # noqa: ARG002
        seed: int = 0,  # noqa: ARG002
    ) -> None:
        self._method, self._levels, self._sex, self._adapt = method, np.asarray(levels), sex, adapt
        self._later = later
        self._draws = {"draws": draws, "tune": tune}
        self._template = _warped() if method == "blr" else _hierarchical(**self._draws)

    def fit(self, features: np.ndarray, table: pd.DataFrame) -> None:
        """Fit on people x features and their age, sex and site, then tell the model of each site of ``adapt``."""
        new = table["site"].isin(self._adapt).to_numpy()
        self._model = _Bare(self._template, save_dir=_SCRATCH.name)
        self._transferred: dict[str, NormativeModel] = {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._model.fit(self._data(features[~new], table[~new]))
            if self._later == "extend" and self._adapt:
                self._transferred = dict.fromkeys(self._adapt, self._extended(features[new], table[new]))
                return
            for site in self._adapt:
                own = (table["site"] == site).to_numpy()
                self._transferred[site] = self._model.transfer(self._data(features[own], table[own]))

    def apply(self, features: np.ndarray, table: pd.DataFrame) -> np.ndarray:
        """Return z of new people."""
        z = np.empty(features.shape)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for model, rows in self._by_model(table):
                data = model.compute_zscores(self._data(features[rows], table[rows]))
                own = data.Z.sel(response_vars=_names(features))
                z[rows] = own.transpose("observations", "response_vars").to_numpy()
        return z

    def extras(self, features: np.ndarray, table: pd.DataFrame) -> dict[str, np.ndarray]:
        """Return ``log_density`` (people x features) and ``quantiles`` (levels x people x features), in units of the data."""
        log_density, quantiles = np.empty(features.shape), np.empty((len(self._levels), *features.shape))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for model, rows in self._by_model(table):
                data = self._data(features[rows], table[rows])
                model.preprocess(data)
                for k, name in enumerate(_names(features)):
                    log_density[rows, k], quantiles[:, rows, k] = self._distribution(model, data, name)
        return {"log_density": log_density, "quantiles": quantiles}

    def _extended(self, features: np.ndarray, table: pd.DataFrame) -> NormativeModel:
        # what the toolkit's `extend` does; in 1.3.0 that stops, for merged people keep the sites of the first part alone
        drawn = self._model.synthesize(covariate_range_per_batch_effect=True)
        values = drawn.Y.sel(response_vars=_names(features)).transpose("observations", "response_vars").to_numpy()
        people = pd.DataFrame({"age": drawn.X.sel(covariates="age").to_numpy()})
        for name in ("sex", "site"):
            people[name] = drawn.batch_effects.sel(batch_effect_dims=name).to_numpy()
        extended = _Bare(_hierarchical(**self._draws) if self._method == "hbr" else _warped(), save_dir=_SCRATCH.name)
        extended.fit(self._data(np.concatenate([values, features]), pd.concat([people, table])))
        return extended

    def _by_model(self, table: pd.DataFrame) -> Iterator[tuple[NormativeModel, np.ndarray]]:
        known = ~table["site"].isin(self._adapt).to_numpy()
        if known.any():
            yield self._model, known
        for site, model in self._transferred.items():
            if (table["site"] == site).any():
                yield model, (table["site"] == site).to_numpy()

    def _distribution(self, model: NormativeModel, data: NormData, name: str) -> tuple[np.ndarray, np.ndarray]:
        X, batches, _, Y, _ = model.extract_data(data.sel(response_vars=name))
        scaler, own = model.outscalers[name], model[name]
        if self._method == "blr":
            density, scaled = own.elemwise_logp(X, batches, Y).to_numpy(), self._warped_quantiles(own)
        else:
            density, scaled = self._hierarchical_parts(own, X, batches, Y)
        spread = float(scaler.inverse_transform(np.ones(1))[0] - scaler.inverse_transform(np.zeros(1))[0])
        return density - np.log(spread), scaler.inverse_transform(scaled)

    def _data(self, features: np.ndarray, table: pd.DataFrame) -> NormData:
        names = _names(features)
        frame = pd.DataFrame(features, columns=names).assign(
            age=table["age"].to_numpy(),
            site=table["site"].to_numpy(),
            sex=table["sex"].to_numpy() if self._sex == "batch" else (table["sex"] == "M").to_numpy(float),
        )
        covariates, batches = (["age"], ["sex", "site"]) if self._sex == "batch" else (["age", "sex"], ["site"])
        return NormData.from_dataframe("people", frame, covariates, batches, names)

    def _warped_quantiles(self, own: BLR) -> np.ndarray:
        # elemwise_logp leaves mean and variance of each person, in the warped space
        return own.warp.invf(norm.ppf(self._levels)[:, None] * np.sqrt(own.s2) + own.ys, own.gamma)

    def _hierarchical_parts(
        self, own: HBR, X: DataArray, batches: DataArray, Y: DataArray
    ) -> tuple[np.ndarray, np.ndarray]:
        drawn: list[np.ndarray] = []

        def keep(*parameters: np.ndarray) -> np.ndarray:
            drawn.extend(np.asarray(values) for values in parameters)
            return drawn[0]

        own.generic_MCMC_apply(X, batches, Y, keep, {})
        used = np.linspace(0, drawn[0].shape[1] - 1, min(DRAWS_USED, drawn[0].shape[1])).astype(int)
        mu, sigma, epsilon, delta = (values[:, used] for values in drawn)
        epsilon, delta = epsilon[:1], delta[:1]  # the same for everybody
        centre, second = (np.asarray(moment) for moment in m1m2(epsilon, delta))
        width = np.sqrt(second - centre**2)
        standard = (Y.to_numpy()[:, None] - mu) / sigma * width + centre
        u = np.sinh(delta * np.arcsinh(standard) - epsilon)
        density = norm.logpdf(u) + np.log(delta * np.sqrt((1 + u**2) / (1 + standard**2)) * width / sigma)
        quantiles = [
            (mu + sigma * (np.sinh((np.arcsinh(z) + epsilon) / delta) - centre) / width).mean(axis=1)
            for z in norm.ppf(self._levels)
        ]
        return logsumexp(density, axis=1) - np.log(density.shape[1]), np.stack(quantiles)


def _names(features: np.ndarray) -> list[str]:
    return [f"x{k:03d}" for k in range(features.shape[1])]


def _curve() -> BsplineBasisFunction:
    return BsplineBasisFunction(basis_column=0, nknots=5, degree=3)


def _warped() -> BLR:
    return BLR(
        name="template",
        basis_function_mean=_curve(),
        heteroskedastic=True,
        warp_name="warpsinharcsinh",
        fixed_effect=True,
        fixed_effect_slope=True,
        fixed_effect_var_slope=True,
    )


def _hierarchical(draws: int, tune: int) -> HBR:
    spread = make_prior(dist_name="Normal", dist_params=(0.0, 1.0), mapping="softplus", mapping_params=(0.0, 3.0))
    level = make_prior(random=True, mu=make_prior(dist_name="Normal", dist_params=(0.0, 1.0)), sigma=spread)
    slope = make_prior(dist_name="Normal", dist_params=(0.0, 10.0))
    mu = make_prior(linear=True, slope=slope, intercept=level, basis_function=_curve())
    sigma = make_prior(
        linear=True,
        slope=make_prior(dist_name="Normal", dist_params=(0.0, 2.0)),
        intercept=make_prior(dist_name="Normal", dist_params=(1.0, 1.0)),
        basis_function=_curve(),
        mapping="softplus",
        mapping_params=(0.0, 3.0),
    )
    epsilon = make_prior(dist_name="Normal", dist_params=(0.0, 1.0))
    delta = make_prior(dist_name="Normal", dist_params=(1.0, 1.0), mapping="softplus", mapping_params=(0.0, 3.0, 0.6))
    return HBR(
        name="template",
        cores=2,
        progressbar=False,
        draws=draws,
        tune=tune,
        chains=4,
        nuts_sampler="nutpie",
        likelihood=SHASHbLikelihood(mu, sigma, epsilon, delta),
    )
