"""What a fitted conditional VAE is made of, and how it is saved."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from medrep.cohort.covariates import CovariateSchema
from medrep.cohort.grid import Columns, Grid
from medrep.errors import ModelError
from medrep.models.base import check_arrays
from medrep.models.context import context_vector
from medrep.models.copula import Marginals
from medrep.models.factors import FactorModel
from medrep.models.latent_layer import LatentLayer, prefixed
from medrep.models.linear import LinearModel
from medrep.models.linear_settings import LinearSettings
from medrep.models.residuals import unstandardise
from medrep.models.scanner_layer import ScannerLayer
from medrep.models.vae_network import build_network
from medrep.models.vae_settings import VaeSettings
from medrep.nn.autoencoder import Autoencoder
from medrep.training.schedule import Schedule


@dataclass(frozen=True, eq=False)
class VaeParts:
    """The fitted parts, in the order data pass through them.

    Attributes:
        scanner: Between images as scanned and as the anchor's scanner would have made them.
        linear: Smooth effects, and location and scale of batches.
        network: Encoder and decoder of what is left.
        factors: Factor model of what is left.
        latents: What is done to latents on the way out.
        marginals: Distributions of single columns, for samples.
        effect_covariance: Covariance of the columns of the linear layer's `Design.closed` among training people, the
            intercept not counted.
    """

    scanner: ScannerLayer
    linear: LinearModel
    network: Autoencoder
    factors: FactorModel
    latents: LatentLayer
    marginals: Marginals
    effect_covariance: Float[np.ndarray, "effects effects"]

    def draw(
        self, schema: CovariateSchema, frame: pd.DataFrame, rng: np.random.Generator
    ) -> Float[np.ndarray, "people columns"]:
        """Draw people: z from its prior, the decoder's mean, noise in the shape of what latents leave, and the effects."""
        context, latents = context_vector(schema, frame, schema.names), len(self.latents.gram)
        mean, log_scale = self.network.decode(self.network.prior.sample(len(frame), latents, rng), context)
        beyond = self.factors.loadings[latents:]
        noise = rng.standard_normal((len(frame), len(beyond))) @ beyond
        if (
            self.linear.columns.grid is None
        ):  # neighbouring voxels share their noise: drawn one by one it is none of a scan
            noise += rng.standard_normal(mean.shape) * np.sqrt(self.factors.noise)
        usual = np.sqrt((beyond**2).sum(axis=0) + self.factors.noise)
        ratio = np.divide(np.exp(log_scale), usual, out=np.zeros(mean.shape), where=usual > 0)
        data = self.marginals.draw(rng, len(frame), self.linear.sd == 0)
        whole = mean + ratio * noise
        drawn = unstandardise(self.linear, whole, frame, schema.names, data, np.empty_like(data), drawn=True)
        return drawn if self.linear.columns.grid is None else self.linear.masses.drawn(drawn, rng)


def parts_state(
    parts: VaeParts, schema: CovariateSchema, columns: Columns, settings: VaeSettings
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return JSON content and arrays."""
    linear, linear_arrays = parts.linear.state()
    latents, latent_arrays = parts.latents.state()
    scanner, scanner_arrays = parts.scanner.state()
    groups = {
        "linear": linear_arrays,
        "latents": latent_arrays,
        "scanner": scanner_arrays,
        "network": {name: tensor.numpy() for name, tensor in parts.network.state_dict().items()},
        "factors": {"loadings": parts.factors.loadings, "noise": parts.factors.noise},
        "marginals": parts.marginals.arrays(),
        "effects": {"covariance": parts.effect_covariance},
    }
    content = {
        "settings": asdict(settings),
        "schema": schema.to_json(),
        "names": list(columns.names),
        "grid": None if columns.grid is None else columns.grid.to_json(),
        "linear": linear,
        "latents": latents,
        "scanner": scanner,
    }
    return content, {f"{group}.{name}": array for group, own in groups.items() for name, array in own.items()}


def restore_parts(
    content: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> tuple[CovariateSchema, Columns, VaeSettings, VaeParts]:
    """Rebuild what `parts_state` described.

    Raises:
        ModelError: Arrays that are absent or do not belong to the description.
    """
    schema = CovariateSchema.from_json(content["schema"])
    grid = None if content["grid"] is None else Grid.from_json(content["grid"])
    names = tuple(content["names"])
    columns = Columns(names, grid.size if grid else len(names), grid)
    settings = _settings(content["settings"])
    linear = LinearModel.restore(content["linear"], prefixed(arrays, "linear."))
    latents = LatentLayer.restore(content["latents"], prefixed(arrays, "latents."))
    width, effects = len(latents.gram), sum(len(term.centre) for term in linear.design.closed().terms)
    arrays = _with_parts_of_interactions(arrays, effects)
    factors = len(arrays.get("factors.loadings", ()))
    drawn, real = (len(arrays.get(f"marginals.{name}", ())) for name in ("drawn", "real"))
    wanted = {
        "factors.loadings": (factors, columns.count),
        "factors.noise": (columns.count,),
        "effects.covariance": (effects, effects),
        "latents.gram": (width, width),
        "marginals.drawn": (drawn, columns.count),
        "marginals.real": (real, columns.count),
        "marginals.step": (columns.count,),
        # Their shapes are checked where they are loaded; that they are finite is not.
        "latents.moments.mean": latents.moments.mean.shape,
        "latents.moments.covariance": latents.moments.covariance.shape,
    }
    check_arrays(arrays, wanted)
    network = build_network(latents.trained_schema(schema), columns, width, settings)
    weights = {name: torch.as_tensor(array) for name, array in prefixed(arrays, "network.").items()}
    check_arrays(
        {name: tensor.numpy() for name, tensor in weights.items()},
        {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()},
    )
    if strangers := sorted(set(weights) - set(network.state_dict())):
        raise ModelError(f"the network has no {', '.join(strangers)}; the weights are of another model")
    network.load_state_dict(weights)
    marginals = Marginals.load({f.name: arrays[f"marginals.{f.name}"] for f in fields(Marginals)})
    parts = VaeParts(
        ScannerLayer.restore(content["scanner"], prefixed(arrays, "scanner.")),
        linear,
        network,
        FactorModel(arrays["factors.loadings"], arrays["factors.noise"]),
        latents,
        marginals,
        arrays["effects.covariance"],
    )
    return schema, columns, settings, parts


def _with_parts_of_interactions(arrays: Mapping[str, np.ndarray], effects: int) -> dict[str, np.ndarray]:
    """Return the arrays; models saved before parts of interactions had a covariance know nothing of these."""
    covariance = arrays.get("effects.covariance", np.zeros((0, 0)))
    missing = effects - len(covariance)
    if "effects.covariance" not in arrays or missing <= 0 or covariance.shape != (len(covariance),) * 2:
        return dict(arrays)
    return {**arrays, "effects.covariance": np.pad(covariance, (0, missing))}


def _settings(content: Mapping[str, Any]) -> VaeSettings:
    linear = {**content["linear"], "interactions": tuple(map(tuple, content["linear"]["interactions"]))}
    own: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in content.items()}
    own |= {"linear": LinearSettings(**linear), "training": Schedule(**content["training"])}
    return VaeSettings(**own)
