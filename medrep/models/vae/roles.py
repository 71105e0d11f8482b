"""Roles of latents in the conditional VAE."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Roles:
    """Roles of latents; none by default.

    Attributes:
        values: Learned values that each latent snaps to (`quantised.py`); 0: it does not.
    """

    values: int = 0

    def problems(self) -> list[str]:
        """Return what cannot be: setting, value and what is allowed."""
        wrong = []
        if self.values < 0 or self.values == 1:
            wrong.append(f"roles.values is {self.values}; give 2 or more, or 0 for latents that do not snap")
        return wrong
