"""Roles of latents in the conditional VAE: values that they snap to, and covariates that they carry.

What the network is told of a person are the **conditions**: all covariates but the carried ones. Effects of the carried ones stay
in the residual h (`residuals.py`), and latents have to tell them: nobody's label of a carried covariate is needed to encode.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from medrep._persisted import stored

_SWAP = 10.0


@dataclass(frozen=True)
class Roles:
    """Roles of latents; none by default.

    Attributes:
        salient: A categorical covariate that latents of its own carry (the salient ones), while the others (the common ones) do
            not tell it; people at its reference have no salient part. Empty: none.
        salient_latents: How many salient latents there are at most; 0: as many as stand out.
        values: Learned values that each latent snaps to (`quantised.py`); 0: it does not.
        subtypes: Unknown subtypes of people, components of a mixture that is the prior of z (`subtypes.py`); 1: a plain prior.
        ordered: Continuous covariates, with each of which a latent moves along one curve of all columns, a straight line beyond
            the people of training (`ordered.py`).
        swap: With body mlp, weight of the error with which salient parts that people in a batch exchange, and the common ones
            beside them, are found again (`salient_prior.py`); 0: none.
    """

    salient: str = ""
    salient_latents: int = 0
    values: int = 0
    subtypes: int = 1
    ordered: tuple[str, ...] = ()
    swap: float = field(default=_SWAP, metadata=stored(omitted=lambda roles: roles.swap == _SWAP))

    @property
    def carried(self) -> tuple[str, ...]:
        """Covariates that latents carry."""
        return (self.salient,) if self.salient else ()

    def conditions(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return what the network is told, of the names of all covariates."""
        return tuple(name for name in names if name not in self.carried)

    def problems(self) -> list[str]:
        """Return what cannot be: setting, value and what is allowed."""
        wrong = []
        if self.values < 0 or self.values == 1:
            wrong.append(f"roles.values is {self.values}; give 2 or more, or 0 for latents that do not snap")
        if self.subtypes < 1:
            wrong.append(f"roles.subtypes is {self.subtypes}; give 2 or more, or 1 for none")
        if self.swap < 0:
            wrong.append(f"roles.swap is {self.swap}; give 0 or more")
        alone = ("values", "subtypes", "salient", "ordered") if self.salient else ("values", "subtypes")
        given = [name for name in alone if getattr(self, name) != getattr(PLAIN, name)]
        if len(given) > 1:
            wrong.append(f"roles has {' and '.join(given)}; give one of them")
        return wrong


PLAIN = Roles()
