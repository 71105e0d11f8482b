import numpy as np

from medrep.simulate.geometry import gradient, outward_normal, smoothstep, surface_points


def ball(points):
    return np.linalg.norm(points, axis=1) - 10.0


def places(n=200, reach=30.0, dim=3):
    return np.random.default_rng(0).uniform(-reach, reach, (n, dim))


def test_the_gradient_of_a_polynomial_is_its_own():
    points = places(dim=2)
    slopes = gradient(lambda p: p[:, 0] ** 2 - 3 * p[:, 0] * p[:, 1], points)
    x, y = points.T
    np.testing.assert_allclose(slopes, np.stack([2 * x - 3 * y, -3 * x], axis=1), atol=1e-6)


def test_the_normal_is_unit_near_the_surface_and_fades_far_outside():
    points = places()
    distance = ball(points)
    normal = outward_normal(ball, points)
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    np.testing.assert_allclose(normal[distance < 8], unit[distance < 8], atol=1e-6)
    assert (normal[distance > 16] == 0).all()
    length = np.linalg.norm(normal, axis=1)
    np.testing.assert_allclose(length, 1 - smoothstep(distance / 8 - 1), atol=1e-6)


def test_the_normal_vanishes_where_the_function_is_flat():
    normal = outward_normal(lambda p: (p**2).sum(axis=1) - 4, np.array([[0.0, 0.0], [0.1, 0.0], [1.0, 0.0]]))
    np.testing.assert_allclose(normal, [[0, 0], [1 / 9 * (3 - 2 / 3), 0], [1, 0]], atol=1e-6)


def test_surface_points_lie_on_the_surface_and_all_around():
    points = surface_points(ball, (11.0, 11.0, 11.0), 500, np.random.default_rng(0))
    assert len(points) == 500
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), 10.0, atol=1e-6)
    assert np.abs(points.mean(axis=0)).max() < 1.0


def test_smoothstep_is_its_polynomial():
    np.testing.assert_allclose(smoothstep(np.array([-1.0, 0.0, 0.25, 0.5, 1.0, 2.0])), [0, 0, 0.15625, 0.5, 1, 1])
