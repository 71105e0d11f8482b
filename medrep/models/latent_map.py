"""A map from the latents of one model to those of another, as two files: safetensors, and JSON of the same name beside it."""

from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from medrep._files import atomic_file, digest_of, write_json
from medrep._persisted import to_state
from medrep._structuring import from_state
from medrep._texts import read_json
from medrep.errors import ModelError

FORMAT = 1
_DAMAGES = (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError)


@dataclass(frozen=True)
class LatentSpace:
    """Latents of a model.

    Attributes:
        model: Folder or registered name, as the user gave it.
        kind: Key of ``MODELS``.
        digest: Of the model folder.
        latents: How many there are.
    """

    model: str
    kind: str
    digest: str
    latents: int


@dataclass(frozen=True, eq=False)
class LatentMap:
    """A map y = x @ matrix + offset.

    Attributes:
        form: ``orthogonal`` (a rotation with a scale) or ``affine``.
        source: Whose latents are mapped.
        target: Whose they become.
        r2: Share of the variance of the target's latents that it tells, of people who did not fit it.
        people: How many fitted it.
        matrix: A row a latent of the source.
        offset: Of each latent of the target.
    """

    form: Literal["orthogonal", "affine"]
    source: LatentSpace
    target: LatentSpace
    r2: float
    people: int
    matrix: Float[np.ndarray, "source target"]
    offset: Float[np.ndarray, " target"]

    @property
    def digest(self) -> str:
        """SHA-256 of what is applied, in hexadecimal."""
        return sha256(self.matrix.tobytes() + self.offset.tobytes()).hexdigest()

    def apply(self, latents: Float[np.ndarray, "rows source"]) -> Float[np.ndarray, "rows target"]:
        """Return latents of the source as the target would have them."""
        # Not a product of matrices, which rounds otherwise where other rows stand beside a person's.
        return np.stack([(row[:, None] * self.matrix).sum(axis=0) + self.offset for row in latents])

    def save(self, path: Path) -> None:
        """Write the arrays to ``path``, which ends in ``.safetensors``, and what they are beside it."""
        content, arrays = to_state(self)
        with atomic_file(path) as partial:
            save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, partial)
        write_json(path.with_suffix(".json"), {"format": FORMAT, **content, "arrays": digest_of(path)})

    @classmethod
    def load(cls, path: Path) -> "LatentMap":
        """Read a map.

        Args:
            path: Either of its two files.

        Raises:
            ModelError: Absent, no map, damaged, or of a newer format.
        """
        arrays, described = path.with_suffix(".safetensors"), path.with_suffix(".json")
        absent = [str(file) for file in (arrays, described) if not file.is_file()]
        if absent:
            raise ModelError(
                f"{' and '.join(absent)}: no such file; give OUT/a_to_b.safetensors that medrep compare wrote"
                " (a_to_b.json lies beside it)"
            )
        try:
            content = read_json(described.read_text(encoding="utf-8"))
            form = content.pop("format")
            if form != FORMAT:
                raise ModelError(
                    f"{described}: has the format {form!r}, and this medrep reads {FORMAT}; use a newer one"
                )
            if content.pop("arrays") != digest_of(arrays):
                raise ModelError(f"{arrays}: is not the one that {described.name} describes; compare the models again")
            found = from_state(cls, content, load_file(arrays))
        except _DAMAGES as error:
            raise ModelError(f"{path}: no map between latents, or a damaged one ({error}); compare again") from None
        if found.matrix.shape != (found.source.latents, found.target.latents):
            raise ModelError(f"{path}: no map between latents, or a damaged one (counts of latents); compare again")
        return found

    def of_model(self, named: str, digest: str) -> "LatentMap":
        """Return the map for a model; refuse one that maps another model's latents.

        Args:
            named: The model, as the user gave it.
            digest: Of its folder.

        Raises:
            ModelError: With whose latents it maps.
        """
        if digest == self.source.digest:
            return replace(self, source=replace(self.source, model=named))
        if digest == self.target.digest:
            raise ModelError(
                f"--map: maps latents of {self.source.model} to those of {named}, not the other way; give the map of the other"
                " direction (b_to_a for a_to_b), or leave it out: these are the latents that it makes"
            )
        raise ModelError(
            f"--map: maps latents of another model than {named}: of {self.source.model} (SHA-256 {self.source.digest[:12]}...);"
            " compare this model with medrep compare"
        )
