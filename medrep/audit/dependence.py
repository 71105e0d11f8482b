"""How much a metric depends on several protected attributes together, intersections included.

With U the U-centred distances of a column (Szekely and Rizzo 2014) and n people, in one row each:

- ``concatenated_dependence``: the squared distance covariance of the metric and all attributes side by side (CCdCov),
  sum U^y U^(Z1..Zk) / (n (n - 3)).
- ``joint_dependence``: the joint distance covariance (Chakraborty and Zhang 2019) of metric and attributes less that of the
  attributes alone, which is a floor that has nothing to do with the metric,

      JdCov2(y, Z1..Zk) - JdCov2(Z1..Zk),    JdCov2 = sum prod_m (U^m + 1) / (n (n - 3)) - n / (n - 3),

  that is sum U^y prod_m (U^m + 1) / (n (n - 3)): the metric with each attribute, each pair, and so on. U is minus the centred
  distance here, as in `medrep.losses`: all terms are then positive under dependence, where with the other sign those of an odd
  number of columns cancel the rest.

Both are U-statistics, zero in the mean where the metric is independent of all attributes together, and see what no attribute
shows alone (an error that is large for young women and old men). The figures have no unit that carries between cohorts (the
metric and numbers are standardised, levels one column each), so they come with p, of values exchanged between participants,
and without an interval. A participant with several sessions is in it with one of them, drawn at random; distances take
O(n^2), so that of larger cohorts `MOST` participants are drawn.
"""

from collections.abc import Sequence
from dataclasses import replace
from zlib import crc32

import numpy as np
from jaxtyping import Float, Int

from medrep.audit.findings import Finding
from medrep.audit.groups import Grouping
from medrep.audit.person_metrics import PersonMean
from medrep.audit.resampling.intervals import permutation_p
from medrep.audit.u_centring import centred_distances, u_product

MOST = 1000


def audit_dependence(
    metric: str,
    statistic: PersonMean,
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
        attributes: The columns (`group_people` without intersections): numbers as such, levels one column each. People without
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
    rows = np.sort(rng.permutation(rows)[:MOST])
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
