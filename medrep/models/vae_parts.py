"""What a fitted conditional VAE is made of, and how it is saved."""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from medrep._persisted import Arrays, Read, converted, persisted, stored
from medrep._structuring import check_arrays
from medrep.cohort.covariates import CovariateSchema
from medrep.errors import ModelError
from medrep.models.context import context_vector
from medrep.models.copula import Marginals
from medrep.models.factors import FactorModel
from medrep.models.latent_layer import LatentLayer
from medrep.models.linear import LinearModel
from medrep.models.residuals import unstandardise
from medrep.models.scanner_layer import ScannerLayer
from medrep.models.vae_network import build_network
from medrep.nn.autoencoder import Autoencoder


def _weights(network: Autoencoder) -> Arrays:
    return {name: tensor.numpy() for name, tensor in network.state_dict().items()}


def _network(arrays: Arrays, read: Read) -> Autoencoder:
    """Build the network that the settings describe, and give it its weights.

    Raises:
        ModelError: Weights of another network.
    """
    trained, width = read["latents"].trained_schema(read["schema"]), len(read["latents"].gram)
    network = build_network(trained, read["columns"], width, read["settings"])
    check_arrays(arrays, {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()})
    if strangers := sorted(set(arrays) - set(network.state_dict())):
        raise ModelError(f"the network has no {', '.join(strangers)}; the weights are of another model")
    network.load_state_dict({name: torch.as_tensor(array) for name, array in arrays.items()})
    return network


def _with_parts_of_interactions(covariance: np.ndarray, read: Read) -> np.ndarray:
    """Return the covariance; models saved before parts of interactions had one know nothing of these."""
    effects = sum(len(term.centre) for term in read["linear"].design.closed().terms)
    missing = max(effects - len(covariance), 0) if covariance.shape == (len(covariance),) * 2 else 0
    padded = np.pad(covariance, (0, missing)) if missing else covariance
    check_arrays({"effects.covariance": padded}, {"effects.covariance": (effects, effects)})
    return padded


_COLUMNS = {"columns": "columns"}


@persisted(keys=("linear", "latents", "scanner"), sizes={"columns": lambda read: read["columns"].count})
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
    network: Autoencoder = field(metadata=converted("network", Arrays, _weights, _network))
    factors: FactorModel = field(metadata=stored(sizes=_COLUMNS))
    latents: LatentLayer
    marginals: Marginals = field(metadata=stored(sizes=_COLUMNS))
    effect_covariance: Float[np.ndarray, "effects effects"] = field(
        metadata=converted("effects.covariance", Float[np.ndarray, "_ _"], np.asarray, _with_parts_of_interactions)
    )

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
