"""What is documented is checked: axes of one name, results, and fields, over all of medrep."""

from collections.abc import Iterator

import numpy as np
import pytest
from jaxtyping import Float, TypeCheckError

from medrep.audit.dependence import u_product
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


def test_a_generator_is_checked_as_it_is_made_and_in_no_context_but_its_own() -> None:
    def rows(table: Float[np.ndarray, "people columns"]) -> Iterator[np.ndarray]:
        yield from table

    def first(some: Float[np.ndarray, "people columns"]) -> Float[np.ndarray, " columns"]:
        return next(_checked(rows)(np.ones((len(some) + 1, some.shape[1]))))

    assert len(_checked(first)(np.ones((2, 3)))) == 3
    with pytest.raises(TypeCheckError, match="table"):
        _checked(rows)(np.ones(3))


def test_fields_and_plain_types_are_checked_too() -> None:
    with pytest.raises(TypeCheckError, match="shape"):
        Grid("abc", (1.0, 1.0, 1.0))
    with pytest.raises(TypeCheckError):
        GuardMoments(9, ("age",), (1,), np.ones(2), np.ones((2, 3)), np.ones(1))
