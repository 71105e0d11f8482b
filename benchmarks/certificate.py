"""The certificate of latents against what linear probes read: the public cohort of 20 sites, a split a seed.

Each site is halved; a conditional VAE (closed form) is fitted on one half, and linear probes in five folds read site and sex from
the latents of the other half: a logistic regression of middling penalty (C 0.1), and one whose penalty is tuned by log loss, as
`medrep.audit.probe_figures` has it, which reads less of small sites. `gap` is the forecast less what the first reads.
"""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.before_after import figures, mean, summary
from benchmarks.data import fcon1000, split_half_by_site
from benchmarks.report import Line, Options, Report
from medrep.cohort.covariates import Covariate, CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.cohort.grid import Columns
from medrep.models import ConditionalVae, VaeSettings

NAME = "certificate"
SEEDS = range(300, 320)
MIN_SITE = 16
DECLARED = (
    Covariate("age", "continuous", unit="year"),
    Covariate("sex", "categorical"),
    Covariate("site", "categorical", "batch"),
)


def measure(seed: int) -> dict[str, float]:
    """Measure one split."""
    features, table = fcon1000(min_site=MIN_SITE)
    features = features.loc[:, features.nunique() > 1]
    train, test = split_half_by_site(table, seed)
    data = features.to_numpy(float)
    schema = CovariateSchema.fit(table[train], DECLARED)
    columns = Columns(tuple(features.columns), data.shape[1], None)
    settings = VaeSettings(body="linear")
    model, _ = ConditionalVae.fit(
        Dataset(data[train], schema.transfer(table[train]), schema, columns), settings, seed=seed
    )
    latents = model.encode(model.dataset(data[test], schema.transfer(table[test])))
    found = {"handed out": float(latents.shape[1])}
    for one in model.certificates(schema.names, ()):
        found |= {f"certified latents ({one.covariate})": float(one.latents)} if one.covariate == "site" else {}
        if one.predicted_auc is not None:
            labels = table[test][one.covariate].to_numpy(str)
            read, tuned = (_read(latents, labels, seed, tuned=tuned) for tuned in (False, True))
            found |= {f"forecast {one.covariate}": one.predicted_auc, f"read {one.covariate}": read}
            found[f"read {one.covariate}, tuned by log loss"] = tuned
            found[f"gap {one.covariate}"] = one.predicted_auc - read
    return found


def _read(latents: np.ndarray, labels: np.ndarray, seed: int, *, tuned: bool) -> float:
    codes = np.unique(labels, return_inverse=True)[1]
    inner = StratifiedKFold(3, shuffle=True, random_state=seed)
    penalties = [0.001, 0.01, 0.1, 1.0] if tuned else [0.1]
    plain = LogisticRegression(max_iter=2000, tol=1e-3)
    logistic = GridSearchCV(plain, {"C": penalties}, scoring="neg_log_loss", cv=inner)
    outer = StratifiedKFold(5, shuffle=True, random_state=seed)
    told = cross_val_predict(
        make_pipeline(StandardScaler(), logistic), latents, codes, cv=outer, method="predict_proba"
    )
    return float(np.mean([roc_auc_score(codes == k, told[:, k]) for k in range(told.shape[1])]))


def run(options: Options) -> Report:
    """Measure all splits, before and after."""
    found = figures("benchmarks.certificate", options.seeds(len(SEEDS)))
    lines = []
    for covariate in ("site", "sex"):
        gap = mean(found, f"gap {covariate}")
        asked = f"{covariate}: forecast within 0.02 of a linear probe, mean of splits"
        lines.append(Line(NAME, asked, f"{gap:+.3f}", abs(gap) <= 0.02))
    return Report({NAME: summary(found, "Certificates on the public cohort")}, tuple(lines))
