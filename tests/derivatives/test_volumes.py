import pytest

from medrep.derivatives.bids import described_name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sub-01/anat/sub-01_T1w.nii.gz", "sub-01/anat/sub-01_desc-residualized_T1w.nii.gz"),
        (
            "sub-01/ses-2/anat/sub-01_ses-2_acq-x_T1w.nii",
            "sub-01/ses-2/anat/sub-01_ses-2_acq-x_desc-residualized_T1w.nii.gz",
        ),
        ("sub-01/anat/sub-01_desc-preproc_T1w.nii.gz", "sub-01/anat/sub-01_desc-residualized_T1w.nii.gz"),
        ("images/IXI012.mgz", "images/desc-residualized_IXI012.nii.gz"),
        ("a/sub-1_T1w.hdr", "a/sub-1_desc-residualized_T1w.nii.gz"),
    ],
)
def test_a_derivative_keeps_its_place_and_entities(name: str, expected: str) -> None:
    assert str(described_name(name, "residualized")) == expected
