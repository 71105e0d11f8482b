"""A schema for people to read."""

import pandas as pd

from medrep.cohort.covariates import Covariate, CovariateSchema, describe_covariates


def test_numbers_and_levels_are_summed_up():
    frame = pd.DataFrame({"age": [20.0, 40.0, 60.0], "site": ["A", "B", "B"]})
    declared = [Covariate("age", "continuous", unit="year"), Covariate("site", "categorical", "batch")]
    told = describe_covariates(CovariateSchema.fit(frame, declared)).to_dict("records")
    assert told[0] == {
        "covariate": "age",
        "kind": "continuous",
        "role": "effect",
        "training people": "40 +- 16.3 year, 20 to 60",
        "reference": 40.0,
    }
    assert told[1]["training people"] == "A (1), B (2)"
    assert told[1]["reference"] == "(pooled)"
