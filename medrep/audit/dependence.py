"""Distance correlation: of a table and a covariate, and of a metric and protected attributes.

A_ij = d_ij - (sum_l d_il + sum_k d_kj) / (n - 2) + sum_kl d_kl / ((n - 1) (n - 2)), 0 on the diagonal,
<A, B> = sum_ij A_ij B_ij / (n (n - 3)).

    dCor2 = <A, B> / sqrt(<A, A> <B, B>),    <A, B> = sum A_ij B_ij / (n (n - 3)),

A and B the U-centred distances of the table's rows and of the covariate (Szekely and Rizzo 2014); zero in the mean where they are
independent, so that it can be negative. It sees what no probe of one column can read (an effect on spread, on the shape of a
distribution, of the distance of an age from the middle), but is weak for what only few of many columns tell.

`dependence` is tested by exchanging the covariate between participants, which is exact. `dependence_given_kept` is the partial
distance correlation, both sides projected off the kept covariates' distances. It is not zero in the mean where the covariate
depends on kept ones, and exchanging it plainly (R package energy, pdcor.test) then gives false alarms: here labels are exchanged
as kept covariates would have it (`conditional_exchange.py`), and the estimate is to be read against its floor.

With U the U-centred distances of a column (Szekely and Rizzo 2014) and n people, in one row each:

- ``concatenated_dependence``: the squared distance covariance of the metric and all attributes side by side (CCdCov),
  sum U^y U^(Z1..Zk) / (n (n - 3)).
- ``joint_dependence``: the joint distance covariance (Chakraborty and Zhang 2019) of metric and attributes less that of the
  attributes alone, which is a floor that has nothing to do with the metric,

      JdCov2(y, Z1..Zk) - JdCov2(Z1..Zk),    JdCov2 = sum prod_m (U^m + 1) / (n (n - 3)) - n / (n - 3),

  that is sum U^y prod_m (U^m + 1) / (n (n - 3)): the metric with each attribute, each pair, and so on. U is minus the centred
  distance here, as in `medrep.models.vae.losses`: all terms are then positive under dependence, where with the other sign those
  of an odd
  number of columns cancel the rest.

Both are U-statistics, zero in the mean where the metric is independent of all attributes together, and see what no attribute
shows alone (an error that is large for young women and old men). The figures have no unit that carries between cohorts (the
metric and numbers are standardised, levels one column each), so they come with p, of values exchanged between participants,
and without an interval. A participant with several sessions is in it with one of them, drawn at random; distances take
O(n^2), so that of larger cohorts `MOST_PARTICIPANTS` participants are drawn.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from zlib import crc32

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy.spatial.distance import cdist

from medrep.audit.data import Question, refuse_gaps
from medrep.audit.finding import Finding
from medrep.audit.groups import Grouping
from medrep.audit.holdout_split import MIN_N, MOST, exchangeable, rows_each
from medrep.audit.intervals import participant_codes, permutation_p, permuted
from medrep.audit.metrics import ParticipantMean
from medrep.audit.permutation import conditional_exchanges
from medrep.audit.probes import standardised_chunks


def centred_distances(rows: Float[np.ndarray, "people columns"]) -> Float[np.ndarray, "people people"]:
    """Return the U-centred Euclidean distances of rows that are taken as they are; zeros where all are alike."""
    rows = np.ascontiguousarray(rows, dtype=float)
    return _u_centred(cdist(rows, rows))


def _u_centred(distances: Float[np.ndarray, "people people"]) -> Float[np.ndarray, "people people"]:
    """Return A, for three people or more."""
    people = len(distances)
    sums = distances.sum(axis=1)
    means = sums / (people - 2)
    centred = distances - means[None, :]
    centred -= means[:, None]
    centred += sums.sum() / ((people - 1) * (people - 2))
    np.fill_diagonal(centred, 0.0)
    return centred


def u_product(left: Float[np.ndarray, "people people"], right: Float[np.ndarray, "people people"]) -> float:
    """Return <A, B>, for four people or more."""
    people = len(left)
    return float((left * right).sum() / (people * (people - 3)))


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
    who = participant_codes(question.participants)
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
    plain = permuted(who, np.arange(len(who)), rows_each(who), permutations, rng)
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
    for _, block in standardised_chunks(table, rows, len(rows)):
        inner += block @ block.T
    length = np.diag(inner)
    distances = np.sqrt(np.maximum(length[:, None] + length - 2 * inner, 0.0))
    np.fill_diagonal(distances, 0.0)
    return _u_centred(distances)


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


MOST_PARTICIPANTS = 1000


def audit_dependence(
    metric: str,
    statistic: ParticipantMean,
    attributes: Sequence[Grouping],
    *,
    min_n: int = 20,
    seed: int = 0,
    permutations: int = 999,
) -> list[Finding]:
    """Measure both dependences of a metric on attributes.

    Args:
        metric: Its name; the rows' group is ``metric | sex,site``.
        statistic: Its values.
        attributes: The columns (`group_participants` without intersections): numbers as such, levels one column each. People
        without
            a number are left out; a missing level is a level.
        min_n: Participants needed.
        seed: Of who is drawn, and of the permutations.
        permutations: Number of them.
    """
    group = f"{metric} | {','.join(attribute.name for attribute in attributes)}"
    rng = np.random.default_rng([seed, crc32(group.encode())])
    whole = statistic.present()
    for attribute in attributes:
        whole = whole & (attribute.numbers is None or np.isfinite(attribute.numbers))
    rows = rng.permutation(np.flatnonzero(whole))
    rows = rows[np.unique(statistic.participants[rows], return_index=True)[1]]
    found = len(rows)
    if found < max(min_n, 4):
        row = Finding("joint_dependence", group, found, status="insufficient")
        row = replace(row, note=f"{found} of the {max(min_n, 4)} participants needed")
        return [row, replace(row, metric="concatenated_dependence")]
    rows = np.sort(rng.permutation(rows)[:MOST_PARTICIPANTS])
    values = _standardised(statistic.values[rows])
    columns = [_columns(attribute, rows) for attribute in attributes]
    own, sides = _kernel(values), (_joint(columns), _kernel(np.concatenate(columns, axis=1)))
    shuffles = [np.arange(len(rows)), *(rng.permutation(len(rows)) for _ in range(permutations))]
    shuffled = (own[np.ix_(k, k)] for k in shuffles)
    measured = np.array([[u_product(one, side) for side in sides] for one in shuffled])
    sessions = int(np.count_nonzero(whole)) - found
    notes = [
        f"{len(rows)} of {found} participants drawn" if len(rows) < found else "",
        "one session of each participant" if sessions else "",
        f"{int(np.count_nonzero(~whole))} rows without a value or a number" if not whole.all() else "",
    ]
    note = "; ".join(filter(None, notes))
    return [
        Finding(
            name, group, len(rows), float(own_null[0]), p=permutation_p(float(own_null[0]), own_null[1:]), note=note
        )
        for name, own_null in zip(("joint_dependence", "concatenated_dependence"), measured.T, strict=True)
    ]


def joint_dependence(
    values: Float[np.ndarray, "people columns"], attributes: Sequence[Float[np.ndarray, "people _"]]
) -> float:
    """Return JdCov2(values, attributes) - JdCov2(attributes), for four people or more."""
    return u_product(_kernel(values), _joint(attributes))


def concatenated_dependence(
    values: Float[np.ndarray, "people columns"], attributes: Sequence[Float[np.ndarray, "people _"]]
) -> float:
    """Return CCdCov2, the squared distance covariance of values with all attributes side by side, for four people or more."""
    return u_product(_kernel(values), _kernel(np.concatenate(list(attributes), axis=1)))


def _standardised(numbers: Float[np.ndarray, " people"]) -> Float[np.ndarray, "people 1"]:
    spread = float(numbers.std())
    return ((numbers - numbers.mean()) / (spread if spread > 0 else 1.0))[:, None]


def _columns(attribute: Grouping, rows: Int[np.ndarray, " people"]) -> Float[np.ndarray, "people _"]:
    if attribute.numbers is not None:
        return _standardised(attribute.numbers[rows])
    return np.eye(len(attribute.labels))[attribute.codes[rows]]


def _joint(attributes: Sequence[Float[np.ndarray, "people _"]]) -> Float[np.ndarray, "people people"]:
    return np.prod([1 + _kernel(attribute) for attribute in attributes], axis=0)


def _kernel(columns: Float[np.ndarray, "people columns"]) -> Float[np.ndarray, "people people"]:
    return 0.0 - centred_distances(columns)
