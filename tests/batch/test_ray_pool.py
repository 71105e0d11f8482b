"""A real head and a real node on the loopback, actors that die and hang, a node that is killed."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from medrep.batch.pool import QUARANTINE, Scheduler
from medrep.batch.progress import Progress, read_history
from medrep.cli import main
from medrep.derivatives.tasks import Result
from medrep.errors import MedrepError, ModelError
from tests.batch.ray_cluster import Node, cluster
from tests.batch.steps import OpenDeadly, people

ray = pytest.importorskip("ray")
from medrep.batch.ray_pool import RayPool  # noqa: E402

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning")]


@pytest.fixture(scope="module")
def nodes() -> Iterator[tuple[str, list[Node]]]:
    with cluster((1, 1)) as made:
        yield made


def worked_off(folder: Path, keys: list[str], pool: RayPool, at: dict[int, object] | None = None) -> dict[str, Result]:
    everybody = people(*keys)
    progress = Progress(folder / "part-0.jsonl", read_history(folder), dict.fromkeys(keys, "same"))
    found = []
    with pool:
        for some in Scheduler(pool, progress, 2, lambda line: None).run(everybody, {}):
            for result in some:
                found.append(result)
                action = (at or {}).get(len(found))
                if action is not None:
                    action()  # type: ignore[operator]
    progress.close()
    assert len(found) == len(keys)
    return {one.key: one for one in found}


def test_actors_that_die_and_hang_take_only_those_with_them_who_make_them(
    nodes: tuple[str, list[Node]], tmp_path: Path
) -> None:
    keys = [f"sub-{k}" for k in range(12)]
    keys[3], keys[6], keys[9] = "sub-kill", "sub-bad", "sub-hang"
    results = worked_off(tmp_path, keys, RayPool(OpenDeadly(), 2, 2.0, nodes[0]))
    failed = {key: one.stage for key, one in results.items() if one.error}
    assert failed == {"sub-kill": QUARANTINE, "sub-hang": QUARANTINE, "sub-bad": "read"}


def test_what_is_wrong_with_the_model_or_the_disk_is_nobodys_fault(
    nodes: tuple[str, list[Node]], tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="no such model"):
        worked_off(tmp_path, ["sub-1", "sub-2"], RayPool(OpenDeadly("model"), 2, 60.0, nodes[0]))
    with pytest.raises(OSError, match="No space left"):
        worked_off(tmp_path, ["sub-1", "sub-full"], RayPool(OpenDeadly(), 2, 60.0, nodes[0]))
    with pytest.raises(ModelError, match="before they had loaded the model"):
        worked_off(tmp_path, ["sub-1"], RayPool(OpenDeadly("die"), 1, 60.0, nodes[0]))
    assert not any("sub-full" in key for key in read_history(tmp_path).ended)


def test_the_command_gives_the_same_bytes(nodes: tuple[str, list[Node]], tmp_path: Path) -> None:
    def run(*arguments: object) -> int:
        return main([str(argument) for argument in (*arguments, "--quiet")])

    cohort, model = tmp_path / "cohort", tmp_path / "trained" / "model"
    assert run("simulate", cohort, "--kind", "volume", "--n", 20, "--sites", 2) == 0
    assert run("train", cohort, model.parent, "--set", "input.kind=volume", "--tracking", "none") == 0
    next(cohort.glob("sub-0007/anat/*.nii.gz")).write_bytes(b"")
    for engine in (("local",), ("ray", "--ray-address", nodes[0])):
        assert run("score", cohort, tmp_path / engine[0], "--model", model, "--engine", *engine) == 3
    for name in ("scores.tsv", "latents.tsv", "failures.tsv"):
        assert (tmp_path / "local" / name).read_bytes() == (tmp_path / "ray" / name).read_bytes()


def test_a_node_that_is_killed_loses_nobody(tmp_path: Path) -> None:
    with cluster((1, 1)) as (address, nodes):
        time.sleep(3)
        keys = [f"sub-slow-{k}" for k in range(40)]
        results = worked_off(tmp_path, keys, RayPool(OpenDeadly(), 2, 60.0, address), {15: nodes[1].kill})
    assert not any(one.error for one in results.values())


@pytest.mark.parametrize("address", ["127.0.0.1:1", "head"])
def test_a_cluster_that_is_not_there_is_said_to_be(address: str) -> None:
    with pytest.raises(MedrepError, match="no Ray cluster to be had"):
        RayPool(OpenDeadly(), 1, 60.0, address)


def test_without_an_address_a_cluster_of_its_own_is_used(tmp_path: Path) -> None:
    results = worked_off(tmp_path, ["sub-1", "sub-2"], RayPool(OpenDeadly(), 1, 60.0))
    assert not any(one.error for one in results.values())
