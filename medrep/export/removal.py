"""What is to be removed from people's data, or set in them: checked against the model, and in the words of a sidecar."""

from collections.abc import Mapping, Sequence
from typing import Literal

from medrep.cohort.covariates import CovariateSchema
from medrep.erasure import Certificate
from medrep.errors import CovariateError
from medrep.export.derivative import Removal
from medrep.models import Adaptation, Model
from medrep.models.left_alone import left_alone
from medrep.models.saved import SavedModel

_MANY_COLUMNS = 20
"""From here on columns together tell what each of them alone does not."""

Purpose = Literal["removal", "counterfactual"]


def parted_names(schema: CovariateSchema, names: Sequence[str]) -> tuple[str, ...]:
    """Return names apart that were separated by blanks, unless a covariate has blanks in its name."""
    return tuple(part for name in names for part in ([name] if name in schema.names else name.split() or [name]))


def checked_target(
    schema: CovariateSchema,
    remove: Sequence[str],
    keep: Sequence[str] = (),
    references: Mapping[str, str] | None = None,
    *,
    switch: str = "--",
) -> dict[str, str | float]:
    """Return removed covariate -> reference.

    Args:
        schema: Of the model.
        remove: Covariates to remove.
        keep: Covariates named as kept.
        references: Removed covariate -> value to move to, where it is not the model's default.
        switch: What stands before the names of options in messages; nothing where they are parameters of a request.

    Raises:
        CovariateError: Names that the model does not know, both removed and kept, or nothing to remove.
    """
    unknown = [name for name in (*remove, *keep) if name not in schema.names]
    if unknown:
        raise CovariateError(
            f"the model does not know {', '.join(unknown)}; it was trained with {', '.join(schema.names)}"
        )
    both = sorted(set(remove) & set(keep))
    if both:
        raise CovariateError(f"{', '.join(both)}: both in {switch}remove and in {switch}keep; name each once")
    if not remove:
        raise CovariateError(f"nothing to remove; name one or more of {', '.join(schema.names)}")
    return schema.references(remove, references)


def described_removal(
    name: str,
    saved: SavedModel,
    target: dict[str, str | float],
    *,
    people: int,
    purpose: Purpose = "removal",
    adapted: tuple[Adaptation, ...] = (),
    label_free: bool = False,
) -> Removal:
    """Return what sidecars say of a removal or a counterfactual.

    Args:
        name: Of the model, as the user gave it.
        saved: The model, and where its training people lie.
        target: Removed covariate -> reference.
        people: How many are moved.
        purpose: ``removal``, or a ``counterfactual``.
        adapted: Batch levels that training did not have and how they were estimated.
        label_free: Whether nobody's covariates were looked at.
    """
    removed, model, support = tuple(target), saved.model, saved.support
    kept = tuple(covariate for covariate in model.schema.names if covariate not in removed)
    near = None
    if purpose == "counterfactual" and support is not None:
        near = support.near(model.schema, target)
    certificates: tuple[Certificate, ...] = ()
    if purpose == "removal":
        learners = people * 4 // 5  # in the five folds of `--probe`
        certificates = model.certificates(removed, kept, learners=learners, label_free=label_free)
    return Removal(
        name,
        model.kind,
        removed,
        kept,
        target,
        adapted,
        purpose,
        near,
        label_free,
        certificates,
        left_alone(model),
        not_removed(model, removed) if purpose == "removal" else "",
    )


def not_removed(model: Model, removed: Sequence[str]) -> str:
    """Return what a model column by column leaves: combinations of many columns (benchmarks/linear_left.py); empty for others."""
    if "joint" in model.capabilities or model.columns.count < _MANY_COLUMNS:
        return ""
    names = ", ".join(removed)
    return f"Combinations of columns: each column alone tells nothing of {names} any more, all together may."
