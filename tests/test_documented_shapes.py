"""What is documented is checked: axes of one name, results, and fields, over all of medrep."""

import numpy as np
import pytest
from jaxtyping import Float, TypeCheckError

from medrep.audit.u_centring import u_product
from medrep.cohort.grid import Grid
from medrep.moments import GuardMoments
from tests.documented_shapes import _checked


def test_axes_of_one_name_have_one_length() -> None:
    assert u_product(np.ones((4, 4)), np.ones((4, 4))) == 4
    with pytest.raises(TypeCheckError, match="right"):
        u_product(np.ones((4, 4)), np.ones((5, 5)))
    with pytest.raises(TypeCheckError, match="left"):
        u_product(np.ones((4, 5)), np.ones((4, 5)))


def test_a_result_has_the_axes_of_the_arguments() -> None:
    def padded(rows: Float[np.ndarray, "people columns"]) -> Float[np.ndarray, "people columns"]:
        return np.pad(rows, 1)

    with pytest.raises(TypeCheckError, match="return"):
        _checked(padded)(np.ones((2, 3)))


def test_fields_and_plain_types_are_checked_too() -> None:
    with pytest.raises(TypeCheckError, match="shape"):
        Grid("abc", (1.0, 1.0, 1.0))
    with pytest.raises(TypeCheckError):
        GuardMoments(9, ("age",), (1,), np.ones(2), np.ones((2, 3)), np.ones(1))
