"""Tables with many exact zeros and a scanner gain on the rest: what trees read of the site, raw and cleaned.

Lesion loads, small volumes, counts below detection: a share of the values is exactly 0, the same share at every site or not, and
the scanner multiplies the others. The model is fitted on half of the people; trees read the other half, cross-validated.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from benchmarks.before_after import figures, mean, summary
from benchmarks.report import Line, Options, Report
from medrep.cohort.covariates import Covariate, CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.cohort.grid import Columns
from medrep.models import LinearModel, LinearSettings

SEEDS = range(100, 110)
PEOPLE = 480
FEATURES = 12
GAINS = (1.0, 1.3, 1.7)
SHARES = {"20 % zeros": (0.2, 0.2, 0.2), "45 % zeros": (0.45, 0.45, 0.45), "60 % zeros": (0.6, 0.6, 0.6)}
UNEQUAL = {"20, 35 and 50 % zeros by site": (0.2, 0.35, 0.5)}
_DECLARED = (
    Covariate("age", "continuous", unit="year"),
    Covariate("sex", "categorical"),
    Covariate("site", "categorical", "batch"),
)


def measure(seed: int) -> dict[str, float]:
    """Return the AUC of the site of unseen people, by trees, before and after it is removed.

    Args:
        seed: Of people, values and trees.
    """
    found: dict[str, float] = {}
    for name, shares in (SHARES | UNEQUAL).items():
        frame, data = _draw(shares, seed)
        schema = CovariateSchema.fit(frame, _DECLARED)
        known = schema.transfer(frame)
        trained = np.arange(PEOPLE) < PEOPLE // 2
        names = tuple(f"f{k}" for k in range(FEATURES))
        model, _ = LinearModel.fit(
            Dataset(data[trained], known[trained], schema, Columns(names, FEATURES, None)), LinearSettings(components=0)
        )
        target = schema.references(["site"])
        cleaned = model.remove(model.dataset(data[~trained], known[~trained]), target)
        site = frame["site"].to_numpy()[~trained]
        zero = data[~trained] == 0
        found[f"{name}: AUC raw"] = _auc(data[~trained], site, seed)
        found[f"{name}: AUC cleaned"] = _auc(cleaned, site, seed)
        found[f"{name}: AUC of where the zeros are"] = _auc(zero.astype(float), site, seed)
        found[f"{name}: zeros that stay"] = float((cleaned[zero] == 0).mean())
    return found


def run(options: Options) -> Report:
    """Measure, on an earlier checkout too where MEDREP_BEFORE names one."""
    seeds = list(SEEDS)[:1] if options.quick else list(SEEDS)
    found = figures("benchmarks.point_masses", seeds)
    lines = []
    for name in SHARES:
        raw, cleaned = mean(found, f"{name}: AUC raw"), mean(found, f"{name}: AUC cleaned")
        stay = mean(found, f"{name}: zeros that stay")
        asked = f"{name}: trees read no more of the site from cleaned values"
        lines.append(Line("point_masses", asked, f"raw {raw:.3f}, cleaned {cleaned:.3f}", cleaned <= raw))
        lines.append(Line("point_masses", f"{name}: zeros stay zeros", f"{stay:.3f}", stay == 1))
    title = f"Site by trees, where many values are exactly 0, seeds {seeds[0]} to {seeds[-1]}"
    return Report({"point_masses": summary(found, title)}, tuple(lines))


def _draw(shares: tuple[float, ...], seed: int) -> tuple[pd.DataFrame, np.ndarray]:
    rng = np.random.default_rng([seed, round(1000 * sum(shares))])
    site = rng.integers(0, 3, PEOPLE)
    age, male = rng.uniform(20, 80, PEOPLE), rng.random(PEOPLE) < 0.5
    keys = pd.Index([f"sub-{k:04d}" for k in range(PEOPLE)], name="participant_id")
    frame = pd.DataFrame(
        {"age": age, "sex": np.where(male, "M", "F").tolist(), "site": [f"S{k}" for k in site]}, index=keys
    )
    mean = 5 + 0.02 * (age[:, None] - 50) * rng.normal(1, 0.3, FEATURES) + 0.3 * male[:, None]
    data = np.asarray(GAINS)[site][:, None] * (mean + rng.normal(0, 1, (PEOPLE, FEATURES)))
    data[rng.random(data.shape) < np.asarray(shares)[site][:, None]] = 0
    return frame, data


def _auc(table: np.ndarray, site: np.ndarray, seed: int) -> float:
    trees = RandomForestClassifier(100, random_state=seed, min_samples_leaf=3)
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    chances = cross_val_predict(trees, table, site, cv=folds, method="predict_proba")
    return float(roc_auc_score(site, chances, multi_class="ovr"))
