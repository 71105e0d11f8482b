import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter, zoom

from medrep.cohort.image_quality import STATISTICS, image_statistics

SHAPE = (40, 44, 36)
SCALE_FREE = [name for name in STATISTICS if name != "level"]


def scene(seed: int = 0, shape: tuple[int, int, int] = SHAPE, noise: float = 20.0) -> np.ndarray:
    """Smooth tissue of two classes, darkness around it, and noise; about 0 to 1000."""
    rng = np.random.default_rng(seed)
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    head = sum(axis**2 for axis in axes) < 0.7
    folds = gaussian_filter(rng.normal(size=shape), 2) > 0
    return (head * np.where(folds, 800.0, 500.0) + noise * rng.normal(size=shape)).astype(np.float32)


def measured(volume: np.ndarray) -> dict[str, float]:
    return dict(zip(STATISTICS, image_statistics(volume).tolist(), strict=True))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 5), factor=st.floats(1e-8, 1e8))
def test_the_unit_of_a_scanner_says_nothing_but_its_level(seed, factor):
    plain, scaled = measured(scene(seed)), measured((scene(seed) * factor).astype(np.float32))
    np.testing.assert_allclose([plain[n] for n in SCALE_FREE], [scaled[n] for n in SCALE_FREE], atol=2e-3)
    assert scaled["level"] - plain["level"] == pytest.approx(np.log(factor), abs=1e-3)


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(*(st.integers(1, 17),) * 3),
    kind=st.sampled_from(["noise", "constant", "zero", "negative", "step"]),
    missing=st.sampled_from([0.0, 0.3, 0.99, 1.0]),
    seed=st.integers(0, 100),
    dtype=st.sampled_from([np.float32, np.float64, np.uint8]),
)
def test_always_finite(shape, kind, missing, seed, dtype):
    rng = np.random.default_rng(seed)
    volume = {
        "noise": rng.normal(size=shape),
        "constant": np.full(shape, 137.3),
        "zero": np.zeros(shape),
        "negative": -100 + rng.normal(size=shape),
        "step": np.where(np.arange(shape[2]) > shape[2] // 2, 9.0, 0.0) * np.ones(shape),
    }[kind]
    volume = np.abs(volume).astype(np.uint8) if dtype == np.uint8 else volume.astype(dtype)
    if dtype != np.uint8:
        volume[rng.random(shape) < missing] = np.nan
    found = image_statistics(volume)
    assert found.shape == (len(STATISTICS),)
    assert np.isfinite(found).all()


def test_extreme_units_and_infinite_voxels():
    for factor in (1e-30, 1e30):
        assert np.isfinite(image_statistics(scene() * np.float32(factor))).all()
    volume = scene()
    volume[3:6, 7, 7] = np.inf
    assert np.isfinite(image_statistics(volume)).all()


def test_a_constant_volume_has_the_statistics_of_any_other():
    np.testing.assert_array_equal(image_statistics(np.full(SHAPE, 7.0))[1:], image_statistics(np.full(SHAPE, 0.3))[1:])


def test_white_noise_has_a_known_spectrum_and_level():
    rng = np.random.default_rng(0)
    found = measured((100 + rng.normal(size=(64, 64, 64))).astype(np.float32))
    shares = np.exp([found[f"power_{band}"] for band in range(1, 7)])
    assert shares.sum() == pytest.approx(1)
    radius = np.sqrt(sum(np.meshgrid(*(np.fft.fftfreq(64) ** 2,) * 3, indexing="ij")))
    bands = np.minimum(radius * 12, 5).astype(int)
    np.testing.assert_allclose(shares, np.bincount(bands.ravel()) / 64**3, rtol=0.2)
    # The half difference of differences of eight voxels of deviation 1 has the deviation 1 / sqrt(8); so have edges.
    span = np.subtract(*np.quantile(rng.normal(size=10**6) / np.sqrt(8), [0.95, 0.05]))
    assert found["noise"] == pytest.approx(np.log(1 / np.sqrt(8) / span), abs=0.03)
    assert found["noise_tails"] == pytest.approx(0, abs=0.03)
    # Edges in blocks of blocks: their voxels have the deviation 1 / sqrt(8).
    assert [found[f"sharpness_{axis}"] for axis in "xyz"] == pytest.approx([np.log(np.sqrt(8))] * 3, abs=0.03)
    assert found["level"] == pytest.approx(np.log(100), abs=1e-3)


def test_each_change_moves_what_it_is_named_after():
    plain = measured(scene())
    noisy = measured(scene(noise=40.0))
    assert noisy["noise"] - plain["noise"] == pytest.approx(np.log(2), abs=0.15)
    assert noisy["noise_floor"] > plain["noise_floor"] + 0.2
    blurred = measured(gaussian_filter(scene(), 0.8))
    assert all(blurred[f"sharpness_{axis}"] < plain[f"sharpness_{axis}"] - 0.1 for axis in "xyz")
    assert blurred["edges"] < plain["edges"] - 0.1
    assert blurred["power_6"] < plain["power_6"] - 1
    gamma = measured((1000 * (np.abs(scene()) / 1000) ** 1.3).astype(np.float32))
    # A mean over the border of two tissues is no power of anything: nearly 1.3 times.
    assert gamma["classes"] == pytest.approx(1.3 * plain["classes"], rel=0.15)
    assert gamma["dark"] == pytest.approx(1.3 * plain["dark"], rel=0.15)


def test_thick_slices_are_seen_along_their_axis():
    thick = zoom(zoom(scene(), (1, 1, 0.5), order=1), (1, 1, 2), order=1)
    plain, found = measured(scene()), measured(thick)
    assert found["edges_z_over_x"] < plain["edges_z_over_x"] - 0.2
    assert found["edges_y_over_x"] == pytest.approx(plain["edges_y_over_x"], abs=0.1)


def test_padding_is_no_image():
    padded = np.pad(scene(), 8, mode="edge")
    plain, found = measured(scene()), measured(padded)
    for name in ("noise", "noise_tails", "noise_floor", "edges", "dark", "middle", "classes"):
        assert found[name] == pytest.approx(plain[name], abs=0.02), name


def test_missing_voxels_are_left_out():
    holed = scene()
    holed[10:20, 10:20, 10:20] = np.nan
    plain, found = measured(scene()), measured(holed)
    for name in ("level", "noise", "noise_floor", "edges", "dark", "middle", "classes"):
        assert found[name] == pytest.approx(plain[name], abs=0.12), name
