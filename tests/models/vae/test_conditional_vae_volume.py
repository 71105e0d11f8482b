"""One conditional VAE of generated brains, from training to samples, on the command line and in Python."""

from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from medrep.cohort.covariates import POOLED
from medrep.errors import ModelError
from medrep.models import ConditionalVae, restore_model
from medrep.models.saved import SavedModel
from medrep.models.scanner.forward import Scanner
from medrep.models.scanner.restoration import Restoration
from tests.workflows.conftest import run

SETTINGS = (
    "settings={body: conv, latents: 3, hidden: [2, 2, 4], heteroscedastic: false, strength: 1, validation: 0.2,"
    " training: {epochs: 1, batch: 16, learning_rate: 0.001, warmup: 0, threads: 1}}"
)
STRANGE = "S3"


@dataclass(frozen=True)
class Brains:
    """A cohort, a model of all its sites but one, and what the cohort holds."""

    cohort: Path
    model_folder: Path
    model: ConditionalVae
    table: pd.DataFrame
    data: np.ndarray
    clean: np.ndarray

    @property
    def strange(self) -> np.ndarray:
        return (self.table["site"] == STRANGE).to_numpy()

    @property
    def frame(self) -> pd.DataFrame:
        return self.table[["age", "sex", "site"]]


@pytest.fixture(scope="module")
def brains(tmp_path_factory: pytest.TempPathFactory) -> Brains:
    folder = tmp_path_factory.mktemp("brains")
    cohort = folder / "cohort"
    assert run("simulate", cohort, "--kind", "volume", "--n", 40, "--seed", 1, "--quiet") == 0
    table = pd.read_csv(cohort / "participants.tsv", sep="\t", index_col="participant_id")
    known = table.index[table["site"] != STRANGE]
    train = ("train", cohort, folder / "m", "--config", "vae_volume.yaml", "--set", SETTINGS, "--quiet")
    assert run(*train, "--participant-label", *known) == 0
    model = SavedModel.load(folder / "m" / "model").model
    assert isinstance(model, ConditionalVae)
    data, clean = (
        np.stack([read(place / f"{who}/anat/{who}_T1w.nii.gz").ravel() for who in table.index])
        for place in (cohort, cohort / "derivatives" / "truth")
    )
    return Brains(cohort, folder / "m" / "model", model, table, data, clean)


def read(path: Path) -> np.ndarray:
    return nib.load(path).get_fdata(dtype=np.float32)


def error(data: np.ndarray, clean: np.ndarray) -> float:
    return float(np.square(data - clean).mean())


@pytest.mark.parametrize("target", [{"site": "S0"}, {"site": "S2"}, {"sex": "F"}, {"sex": "M", "site": "S1"}], ids=str)
def test_people_of_the_reference_come_back_bit_for_bit(brains, target):
    frame, data = brains.frame[~brains.strange], brains.data[~brains.strange]
    transformed = brains.model.remove(brains.model.dataset(data, frame), target)
    home = (frame[list(target)] == pd.Series(target)).all(axis=1).to_numpy()
    assert 0 < home.sum() < len(home)
    np.testing.assert_array_equal(transformed[home], data[home])
    assert (transformed[~home] != data[~home]).any(axis=1).all()
    assert transformed.dtype == np.float32
    np.testing.assert_array_equal(
        brains.model.remove(brains.model.dataset(transformed, brains.model.schema.transformed(frame, target)), target),
        transformed,
    )


def test_towards_the_pool_nobody_stays_and_twice_is_once(brains):
    frame, data, target = brains.frame[~brains.strange], brains.data[~brains.strange], {"site": POOLED}
    transformed = brains.model.remove(brains.model.dataset(data, frame), target)
    assert np.isfinite(transformed).all()
    np.testing.assert_array_equal(
        brains.model.remove(brains.model.dataset(transformed, brains.model.schema.transformed(frame, target)), target),
        transformed,
    )


def test_the_site_goes(brains):
    away = ~brains.strange & (brains.table["site"] != "S0").to_numpy()
    transformed = brains.model.remove(brains.model.dataset(brains.data[away], brains.frame[away]), {"site": "S0"})
    assert error(transformed, brains.clean[away]) < 0.5 * error(brains.data[away], brains.clean[away])


def test_labels_of_what_is_kept_are_not_looked_at_where_all_site_effects_are_the_scanners(brains):
    frame, data = brains.frame[~brains.strange], brains.data[~brains.strange]
    mixed = frame.assign(age=frame["age"].to_numpy()[::-1], sex=frame["sex"].to_numpy()[::-1])
    target = {"site": "S0"}
    np.testing.assert_array_equal(
        brains.model.remove(brains.model.dataset(data, mixed), target),
        brains.model.remove(brains.model.dataset(data, frame), target),
    )


def test_exported_people_of_the_reference_are_the_input_bit_for_bit(brains, tmp_path):
    known = brains.table.index[~brains.strange][:8].tolist()
    assert {"S0"} < set(brains.table.loc[known, "site"])
    arguments = (
        "--model",
        brains.model_folder,
        "--remove",
        "site",
        "--reference",
        "site=S0",
        "--show",
        "nobody",
        "--quiet",
    )
    assert run("export", brains.cohort, tmp_path / "o", *arguments, "--participant-label", *known) == 0
    for who in known:
        before = brains.cohort / f"{who}/anat/{who}_T1w.nii.gz"
        after = tmp_path / "o" / f"{who}/anat/{who}_desc-residualized_T1w.nii.gz"
        same = np.array_equal(read(before), read(after))
        assert same == (brains.table.loc[who, "site"] == "S0")
        np.testing.assert_array_equal(nib.load(before).affine, nib.load(after).affine)


def test_an_unseen_site_is_estimated_from_its_own_people(brains):
    frame, data = brains.frame[brains.strange], brains.data[brains.strange]
    adapted, notes = brains.model.adapt(brains.model.dataset(data, frame).chunks(1))
    assert {(note.covariate, note.level, note.people) for note in notes} == {("site", STRANGE, len(frame))}
    transformed = adapted.remove(adapted.dataset(data, frame), {"site": "S0"})
    assert error(transformed, brains.clean[brains.strange]) < error(data, brains.clean[brains.strange])
    np.testing.assert_array_equal(adapted.remove(adapted.dataset(data, frame), {"site": STRANGE}), data)
    again = restore_model(adapted.kind, *adapted.state())
    np.testing.assert_array_equal(again.remove(again.dataset(data, frame), {"site": "S0"}), transformed)


def test_storage_is_faithful(brains):
    frame, data = brains.frame[~brains.strange][:6], brains.data[~brains.strange][:6]
    again = restore_model(brains.model.kind, *brains.model.state())
    assert isinstance(again, ConditionalVae)
    for target in ({"site": "S0"}, {"site": POOLED}, {"age": 60.0}):
        np.testing.assert_array_equal(
            again.remove(again.dataset(data, frame), target),
            brains.model.remove(brains.model.dataset(data, frame), target),
        )
    np.testing.assert_array_equal(
        again.encode(again.dataset(data, frame)), brains.model.encode(brains.model.dataset(data, frame))
    )
    np.testing.assert_array_equal(again.sample(frame, seed=1), brains.model.sample(frame, seed=1))


def test_damaged_weights_are_refused_by_name(brains):
    content, arrays = brains.model.state()
    for name in [name for name in arrays if name.startswith(("network.", "scanner."))]:
        with pytest.raises(ModelError, match=name.rpartition(".")[2]):
            restore_model("conditional_vae", content, {key: own for key, own in arrays.items() if key != name})


def test_sampled_brains_open_on_the_models_grid_and_have_their_own_seed(brains, tmp_path):
    table = tmp_path / "who.tsv"
    table.write_text("participant_id\tage\tsex\tsite\nsub-a\t30\tF\tS0\nsub-b\t75\tM\tS1\n")
    assert run("sample", tmp_path / "o", "--model", brains.model_folder, "--table", table, "--seed", 4, "--quiet") == 0
    table.write_text("participant_id\tage\tsex\tsite\nsub-a\t30\tF\tS0\n")
    assert run("sample", tmp_path / "p", "--model", brains.model_folder, "--table", table, "--seed", 4, "--quiet") == 0
    images = [tmp_path / "o" / f"sub-{who}/anat/sub-{who}_desc-sampled_T1w.nii.gz" for who in "ab"]
    for path in images:
        image = nib.load(path)
        assert image.shape == brains.model.columns.grid.shape
        assert image.header.get_zooms() == pytest.approx((4, 4, 4))
        assert image.get_data_dtype() == np.float32
        assert np.isfinite(read(path)).all()
        assert path.with_name(path.name.replace(".nii.gz", ".json")).is_file()
        likeness = np.corrcoef(read(path).ravel(), brains.data.mean(axis=0))[0, 1]
        assert likeness > 0.8
    assert not np.array_equal(*map(read, images))
    alone = tmp_path / "p" / images[0].relative_to(tmp_path / "o")
    np.testing.assert_array_equal(read(alone), read(images[0]))


def test_a_scanner_cannot_be_undone_without_the_site(brains, tmp_path, capsys):
    arguments = ("--model", brains.model_folder, "--remove", "site", "--label-free")
    assert run("export", brains.cohort, tmp_path / "o", *arguments) == 1
    assert "undoes each scanner by its own name; give the site" in capsys.readouterr().err


def test_a_level_without_a_believed_scanner_is_moved_by_the_linear_layer(brains):
    parts = brains.model.parts
    harmoniser = parts.scanner.harmoniser
    assert harmoniser is not None
    level = next(own for own in ("S0", "S1", "S2") if own != harmoniser.reference)
    scanners = harmoniser.known.scanners | {level: Scanner.identity(harmoniser.known.frame)}
    ways_back = harmoniser.known.ways_back | {level: Restoration.idle()}
    known = replace(harmoniser.known, scanners=scanners, ways_back=ways_back)
    layer = replace(parts.scanner, harmoniser=replace(harmoniser, known=known))
    assert layer.handles(harmoniser.reference)
    assert not layer.handles(level)
    model = replace(brains.model, parts=replace(parts, scanner=layer))
    own = (brains.table["site"] == level).to_numpy()
    transformed = model.remove(model.dataset(brains.data[own], brains.frame[own]), {"site": harmoniser.reference})
    assert (transformed != brains.data[own]).any(axis=1).all()
