"""Settings of the conditional VAE."""

from dataclasses import dataclass, field
from typing import Literal

from medrep._persisted import stored
from medrep.cohort.grid import Columns
from medrep.errors import ModelError
from medrep.models.linear.settings import LinearSettings
from medrep.models.vae.roles import Roles
from medrep.training.schedule import Schedule

Conditioning = Literal["film", "concatenate"]
"""How covariates enter a network: they modulate features (FiLM, Perez 2018), or stand beside the input."""


Independence = Literal["distance_covariance", "hsic", "joint", "concatenated", "none"]


@dataclass(frozen=True)
class VaeSettings:
    """Settings of the conditional VAE.

    Attributes:
        body: ``linear`` is the closed-form optimum and needs no training; ``mlp`` and ``conv`` start there and add a
            correction; ``auto`` takes conv where the columns have a grid, else mlp.
        latents: Width of z at most; directions that noise explains are not taken.
        hidden: Widths of the perceptron, or channels of the three convolutions.
        conditioning: How covariates enter the network.
        prior: Of z. ``dirichlet`` makes z the shares of a mixture, and has no closed-form start.
        beta: Weight of the KL term, reached after ``training.warmup`` epochs.
        noise: Standard deviation eta of the decoder in units of a column's residual deviation; 0 learns it, a column each.
        heteroscedastic: Whether a learned eta depends on z and the covariates.
        independence: The penalty on z and the covariates in a batch: distance covariance, HSIC, joint distance covariance
            (intersections included), or distance covariance with all covariates side by side.
        strength: Weight of that penalty; below 0: chosen on validation people (`vae_network.search`).
        aggregate: Weight of the penalty on the distance of the batch's latents from N(0, I).
        validation: Share of people that judge, and are not fitted.
        guard: Whether directions of z that tell removed covariates are erased; ``auto``: where nothing is kept.
        directions: How many directions of the latents are handed out where nobody is at the reference; 0: as many as the
            forecast allows (`suppression.py`).
        target_auc: What a linear probe for a removed batch may reach, by that forecast.
        folds: Parts of the people for cross-fitting the latents' location and scale; below 2 none.
        carry: Share of what the decoder does not model that is carried along where nobody is at the reference and something
            is kept; in the span of the kept effects all of it is. 0 leaks least, 1 gives back every detail.
        scanner: Whether a batch acts on volumes as a scanner does (shading, contrast, blur, noise); ``auto`` is yes where
            the columns have a grid and there is one batch covariate.
        linear: The layer below: smooth effects, and location and scale of batches.
        training: How long and how fast.
        roles: Of latents; none by default. With salient ones ``auto`` takes body linear, and ``mlp`` trains on from there.
    """

    body: Literal["auto", "linear", "mlp", "conv"] = "auto"
    latents: int = 48
    hidden: tuple[int, ...] = (128,)
    conditioning: Conditioning = "film"
    prior: Literal["gaussian", "dirichlet"] = "gaussian"
    beta: float = 1.0
    noise: float = 0.0
    heteroscedastic: bool = True
    independence: Independence = "distance_covariance"
    strength: float = -1.0
    aggregate: float = 0.1
    validation: float = 0.15
    guard: Literal["auto", "yes", "no"] = "auto"
    directions: int = 0
    target_auc: float = 0.68
    folds: int = 5
    carry: float = 0.0
    scanner: Literal["auto", "yes", "no"] = "auto"
    linear: LinearSettings = field(default_factory=LinearSettings)
    training: Schedule = field(default_factory=Schedule)
    roles: Roles = field(default_factory=Roles, metadata=stored(omitted=lambda settings: settings.roles == Roles()))

    def check(self, columns: Columns) -> None:
        """Refuse settings that cannot be, or that do not fit the columns.

        Raises:
            ModelError: All of them: setting, value and what is allowed.
        """
        wrong = []
        if self.latents < 1:
            wrong.append(f"latents is {self.latents}; give 1 or more")
        if min(self.hidden, default=1) < 1:
            wrong.append(f"hidden is {list(self.hidden)}; give widths above 0")
        if self.body_of(columns) == "conv" and (columns.grid is None or len(self.hidden) != 3):
            wrong.append("body conv needs columns with a grid and three numbers of channels in hidden")
        if self.prior == "dirichlet" and self.body_of(columns) != "mlp":
            wrong.append(f"prior dirichlet needs body mlp, not {self.body_of(columns)}")
        if self.beta < 0 or self.noise < 0 or self.aggregate < 0:
            wrong.append("beta, noise and aggregate are 0 or more")
        if not 0 <= self.validation < 0.9:
            wrong.append(f"validation is {self.validation}; give a share from 0 to 0.9")
        if self.directions < 0:
            wrong.append(f"directions is {self.directions}; give a number above 0, or 0 for the forecast's")
        if not 0 <= self.carry <= 1:
            wrong.append(f"carry is {self.carry}; give a share from 0 to 1")
        if not 0.5 < self.target_auc <= 1:
            wrong.append(f"target_auc is {self.target_auc}; give more than 0.5, at most 1")
        if self.scanner == "yes" and columns.grid is None:
            wrong.append("scanner is yes, but the columns have no grid; give no or auto")
        wrong += self._wrong_roles(columns)
        if wrong:
            raise ModelError("settings: " + "; ".join(wrong))
        self.linear.check(columns)
        self.training.check()

    @property
    def has_deviations(self) -> bool:
        """True if each latent has a posterior deviation of its own."""
        return self.prior == "gaussian" and not self.roles.values

    def body_of(self, columns: Columns) -> Literal["linear", "mlp", "conv"]:
        """Return the body for these columns."""
        if self.body != "auto":
            return self.body
        if self.roles.salient:
            return "linear"
        return "mlp" if columns.grid is None else "conv"

    def _wrong_roles(self, columns: Columns) -> list[str]:
        wrong = self.roles.problems()
        if (self.roles.values or self.roles.subtypes > 1) and self.prior == "dirichlet":
            wrong.append("roles.values and roles.subtypes need prior gaussian, not dirichlet")
        if (
            self.roles.ordered
            and self.body_of(columns) != "linear"
            and (self.conditioning != "film" or columns.grid is not None)
        ):
            wrong.append(
                "roles.ordered needs body linear, or mlp with conditioning film: no value may reach the network"
            )
        if self.roles.salient_latents < 0:
            wrong.append(f"roles.salient_latents is {self.roles.salient_latents}; give a number, or 0 for the data's")
        if self.roles.salient and columns.grid is not None:
            wrong.append("roles.salient is for tables, and these columns are voxels; leave it out")
        if self.roles.salient and (self.prior != "gaussian" or self.noise > 0 or self.beta != 1):
            wrong.append("roles.salient needs prior gaussian, beta 1 and noise 0: its latents start at a closed form")
        return wrong
