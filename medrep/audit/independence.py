"""Whether a table and a covariate depend on each other in any way at all: bias-corrected distance correlation.

    dCor2 = <A, B> / sqrt(<A, A> <B, B>),    <A, B> = sum A_ij B_ij / (n (n - 3)),

A and B the U-centred distances of the table's rows and of the covariate (Szekely and Rizzo 2014); zero in the mean where they are
independent, so that it can be negative. It sees what no probe of one column can read (an effect on spread, on the shape of a
distribution, of the distance of an age from the middle), but is weak for what only few of many columns tell.

`dependence` is tested by exchanging the covariate between participants, which is exact. `dependence_given_kept` is the partial
distance correlation, both sides projected off the kept covariates' distances. It is not zero in the mean where the covariate
depends on kept ones, and exchanging it plainly (R package energy, pdcor.test) then gives false alarms: here labels are exchanged
as kept covariates would have it (`conditional_exchange.py`), and the estimate is to be read against its floor.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from medrep.audit.audited import Question
from medrep.audit.findings import Finding
from medrep.audit.probing.coordinates import standardised_blocks
from medrep.audit.probing.probe_halves import MIN_N, MOST, exchangeable, rows_each
from medrep.audit.resampling.conditional_exchange import conditional_exchanges
from medrep.audit.resampling.intervals import permutation_p
from medrep.audit.resampling.relabelling import relabellings
from medrep.audit.tables import refuse_gaps
from medrep.audit.u_centring import centred_distances, u_centred, u_product

PERMUTATIONS = 499
_NOTHING = 1e-12


def audit_independence(
    tables: Mapping[str, Float[np.ndarray, "people _"]],
    question: Question,
    seed: int,
    *,
    permutations: int = PERMUTATIONS,
    min_n: int = MIN_N,
) -> list[Finding]:
    """Test every table against one covariate: `dependence`, and `dependence_given_kept` where something is kept.

    Args:
        tables: Name -> rows of audited people, without missing cells.
        question: The covariate. Levels enter one-hot, all that are there; participants of as many rows exchange theirs as one
            series.
        seed: Of exchanges.
        permutations: Exchanges.
        min_n: Fewest participants, and fewest that can exchange.

    Raises:
        CohortError: Tables with missing cells, or of other people.
    """
    name, values, kept, continuous = question.name, question.values, question.kept, question.continuous
    refuse_gaps({**tables, "kept covariates": kept}, len(values))
    rng = np.random.default_rng(seed)
    who = np.unique(np.asarray(question.participants).astype(str), return_inverse=True)[1]
    rows = np.flatnonzero(values.notna().to_numpy())
    whole = len(np.unique(who[rows]))
    if whole > MOST:
        rows = rows[np.isin(who[rows], rng.permutation(np.unique(who[rows]))[:MOST])]
    who = who[rows]
    people, free = len(np.unique(who)), exchangeable(who)
    labels, side = _side(values.iloc[rows], continuous=continuous)
    metrics = ["dependence", *(["dependence_given_kept"] if kept.shape[1] else [])]
    too_few = (
        f"{people} people, {free} of them with as many sessions as others; {min_n} are needed"
        if min(people, free) < max(min_n, 4)
        else ("everybody has the same value" if np.ptp(labels) == 0 else "")
    )
    if too_few:
        return [
            Finding(metric, f"{table}/{name}", people, status="insufficient", note=too_few)
            for table in tables
            for metric in metrics
        ]
    drawn = f"; {people} of {whole} people, drawn at random" if people < whole else ""
    # Rows count as different labels, so that a participant's go over one by one: distances need each row once.
    plain = relabellings(who, np.arange(len(who)), rows_each(who), permutations, rng)
    exchanges = {"dependence": np.concatenate(list(plain))}
    covariate, given = centred_distances(side), centred_distances(kept[rows])
    sides = {"dependence": covariate}
    if kept.shape[1]:
        sides["dependence_given_kept"] = projected(covariate, given)
        exchanges["dependence_given_kept"] = conditional_exchanges(
            who, labels, kept[rows], permutations, rng, continuous=continuous
        )
    found = []
    for table, data in tables.items():
        own = table_distances(data, rows)
        for metric, right in sides.items():
            left = own if metric == "dependence" else projected(own, given)
            estimate = correlation(left, right)
            # Projected off what is given on one side, the other side's product with it falls out.
            null = _exchanged(left, right, covariate, exchanges[metric])
            partial = "" if metric == "dependence" else "partial "
            note = f"{partial}bias-corrected squared distance correlation; floor {null.mean():.4f}{drawn}"
            p = permutation_p(estimate, null)
            found.append(Finding(metric, f"{table}/{name}", people, estimate, p=p, note=note))
    return found


def table_distances(
    table: Float[np.ndarray, "_ columns"], rows: Int[np.ndarray, " people"]
) -> Float[np.ndarray, "people people"]:
    """Return the U-centred distances of some rows, over standardised columns; the table is read a few columns at a time."""
    inner = np.zeros((len(rows), len(rows)))
    for _, block in standardised_blocks(table, rows, len(rows)):
        inner += block @ block.T
    length = np.diag(inner)
    distances = np.sqrt(np.maximum(length[:, None] + length - 2 * inner, 0.0))
    np.fill_diagonal(distances, 0.0)
    return u_centred(distances)


def projected(
    own: Float[np.ndarray, "people people"], given: Float[np.ndarray, "people people"]
) -> Float[np.ndarray, "people people"]:
    """Return what is orthogonal to the U-centred distances of what is given."""
    size = u_product(given, given)
    return own - u_product(own, given) / size * given if size > _NOTHING else own


def correlation(left: Float[np.ndarray, "people people"], right: Float[np.ndarray, "people people"]) -> float:
    """Return <left, right> / sqrt(<left, left> <right, right>) of U-centred distances; 0 where one side does not vary."""
    size = u_product(left, left) * u_product(right, right)
    return u_product(left, right) / size**0.5 if size > _NOTHING**2 else 0.0


def _exchanged(
    left: np.ndarray, right: np.ndarray, covariate: np.ndarray, sources: Int[np.ndarray, "draws people"]
) -> Float[np.ndarray, " draws"]:
    """Return the correlation under exchanges of the covariate; ``right`` gives the size to divide by."""
    size = (u_product(left, left) * u_product(right, right)) ** 0.5
    if not size > _NOTHING:
        return np.zeros(len(sources))
    scale = size * len(left) * (len(left) - 3)
    across, both = np.empty_like(covariate), np.empty_like(covariate)  # new ones for each draw would take longer
    null = np.empty(len(sources))
    for k, source in enumerate(sources):
        np.take(covariate, source, axis=0, out=across, mode="clip")
        np.take(across, source, axis=1, out=both, mode="clip")
        null[k] = np.vdot(left, both) / scale
    return null


def _side(values: pd.Series, *, continuous: bool) -> tuple[np.ndarray, Float[np.ndarray, "people width"]]:
    """Return the labels to exchange, and the covariate as rows."""
    if continuous:
        numbers = values.to_numpy(float)
        return numbers, numbers[:, None] / max(float(numbers.std()), 1e-300)
    codes = np.unique(values.astype(str).to_numpy(object), return_inverse=True)[1]
    return codes, np.eye(int(codes.max(initial=0)) + 1)[codes]
