"""scikit-learn's own checks of estimators, all of them; those for the array API skip themselves unless SCIPY_ARRAY_API is set."""

from collections.abc import Callable

from sklearn.utils.estimator_checks import parametrize_with_checks

from medrep.estimators import Chart, CovariateRemover

# A straight line, since some checks have ten people.
LINE = {"spline_degrees": 1}


@parametrize_with_checks(
    [
        CovariateRemover(),
        CovariateRemover(remove=1, covariates={1: "continuous"}, settings=LINE),
        CovariateRemover(remove=1, covariates={1: "continuous"}, settings=LINE, output="latents"),
        Chart(covariates={1: "continuous"}, settings=LINE | {"scale_degrees": 1}),
    ]
)
def test_check(estimator: CovariateRemover, check: Callable[[CovariateRemover], None]) -> None:
    check(estimator)
