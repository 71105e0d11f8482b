import json
import shutil

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from scipy.signal import butter, sosfiltfilt
from sklearn.covariance import ledoit_wolf

from medrep.cohort.cohort import read_cohort
from medrep.cohort.connectivity import edge_values
from medrep.cohort.inputs import ConnectivityInput
from medrep.cohort.kinds.connectivity import ConnectivityKind
from medrep.errors import CohortError
from tests.bold_cohorts import AFFINE, NAMES, atlas_labels, bold_path, draw_bold, save, save_atlas, write_bold_cohort

UPPER = np.triu_indices(6, 1)


@pytest.fixture
def wanted(tmp_path):
    atlas = save_atlas(tmp_path / "atlas.nii.gz")
    return ConnectivityKind(
        ConnectivityInput(suffix="bold", desc="preproc", entities={"task": "rest"}, atlas=str(atlas))
    )


@pytest.fixture
def cohort(tmp_path):
    return write_bold_cohort(tmp_path / "cohort", people=6)


@pytest.fixture
def people(cohort):
    return pd.read_csv(cohort / "participants.tsv", sep="\t")["participant_id"].tolist()


def by_hand(path, labels=None):
    """Region means, volumes x regions, in float64, regions by ascending number."""
    data = nib.load(path).get_fdata()
    labels = atlas_labels() if labels is None else labels
    return np.stack([data[labels == number].mean(axis=0) for number in sorted(NAMES)], axis=1)


def edges(signals):
    return np.arctanh(np.corrcoef(signals.T)[UPPER])


def table(path):
    return path.with_name(path.name.replace("space-MNI_desc-preproc_bold.nii.gz", "desc-confounds_timeseries.tsv"))


def test_edges_are_fisher_z_of_the_correlations_of_region_means(cohort, people, wanted):
    read = read_cohort(cohort, wanted)
    assert read.source.files.isna().all()
    assert list(read.source.features.ids.index) == people == list(read.source.features.ids["participant_id"])
    assert read.source.features.names[:2] == ("Caudate~Cuneus", "Caudate~Insula")
    expected = [edges(by_hand(bold_path(cohort, who))) for who in people]
    np.testing.assert_allclose(read.source.features.values, expected, atol=1e-5)


def test_planted_pairs_correlate_most(cohort, wanted):
    features = read_cohort(cohort, wanted).source.features
    means = dict(zip(features.names, features.values.mean(axis=0), strict=True))
    assert set(sorted(means, key=means.__getitem__)[-3:]) == {"Cuneus~Pallidum", "Caudate~Putamen", "Insula~Uncus"}


def test_order_of_people_and_volumes_does_not_matter(cohort, people, wanted):
    before = read_cohort(cohort, wanted).source.features
    rows = (cohort / "participants.tsv").read_text().splitlines()
    (cohort / "participants.tsv").write_text("\n".join([rows[0], *rows[:0:-1]]) + "\n")
    path = bold_path(cohort, people[0])
    save(path, nib.load(path).get_fdata(dtype=np.float32)[..., ::-1])
    after = read_cohort(cohort, wanted).source.features
    assert list(after.ids.index) == people[::-1]
    np.testing.assert_allclose(after.values[::-1], before.values, atol=1e-6)


@pytest.mark.parametrize(
    "atlas_affine",
    [
        np.array([[2.0, 0, 0, -12.3], [0, 2, 0, -14.4], [0, 0, 2, -15.1], [0, 0, 0, 1]]),
        np.array([[-2.0, 0, 0, 15.3], [0, 0, 2, -14.4], [0, 2, 0, -15.1], [0, 0, 0, 1]]),
    ],
    ids=["shifted and finer", "flipped and turned"],
)
def test_an_atlas_on_another_grid_is_brought_to_the_image(cohort, people, wanted, tmp_path, atlas_affine):
    fine = np.kron(atlas_labels(), np.ones((2, 2, 2), np.int16))
    save_atlas(tmp_path / "atlas.nii.gz", fine, atlas_affine)
    to_atlas, seen = np.linalg.inv(atlas_affine) @ AFFINE, np.zeros((8, 8, 8), int)
    for index in np.ndindex(seen.shape):
        place = np.round(to_atlas[:3, :3] @ index + to_atlas[:3, 3]).astype(int)
        seen[index] = fine[tuple(place)] if ((place >= 0) & (place < 16)).all() else 0
    assert set(np.unique(seen)) == {0, *NAMES}
    assert (seen != atlas_labels()).any()
    expected = [edges(by_hand(bold_path(cohort, who), seen)) for who in people]
    np.testing.assert_allclose(read_cohort(cohort, wanted).source.features.values, expected, atol=1e-5)


def test_an_image_stored_left_to_right_gives_the_same_edges(cohort, people, wanted):
    before = read_cohort(cohort, wanted).source.features.values
    flipped = AFFINE @ np.array([[-1.0, 0, 0, 7], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    path = bold_path(cohort, people[0])
    save(path, nib.load(path).get_fdata(dtype=np.float32)[::-1], flipped)
    np.testing.assert_allclose(read_cohort(cohort, wanted).source.features.values, before, atol=1e-6)


def test_confounds_are_regressed_out_of_the_region_means(cohort, people, wanted):
    columns = ("breath", "breath_derivative1")
    expected = []
    for who in people:
        path = bold_path(cohort, who)
        confounds = pd.read_csv(table(path), sep="\t")[list(columns)].bfill(limit=1).to_numpy()
        design = np.column_stack([np.ones(len(confounds)), confounds])
        signals = by_hand(path)
        expected.append(edges(signals - design @ np.linalg.lstsq(design, signals)[0]))
    read = read_cohort(cohort, wanted.changed(confounds=columns))
    np.testing.assert_allclose(read.source.features.values, expected, atol=1e-5)
    plain = read_cohort(cohort, wanted).source.features.values
    assert read.source.features.values.mean() < plain.mean() - 0.1


@pytest.mark.parametrize(("unit", "seconds"), [("sec", 2.0), ("msec", 2000.0), ("unknown", 9.0)])
def test_frequencies_are_cut_in_hertz(cohort, people, wanted, unit, seconds):
    path = bold_path(cohort, people[0])
    save(path, nib.load(path).get_fdata(dtype=np.float32), seconds=seconds, unit=unit)
    t_r = 2.0 if unit == "unknown" else 0.0
    band = wanted.changed(high_pass=0.02, low_pass=0.1, t_r=t_r)
    signals = by_hand(path)
    cut = sosfiltfilt(butter(5, [0.02, 0.1], "bandpass", output="sos", fs=0.5), signals - signals.mean(0), axis=0)
    read = read_cohort(cohort, band, only=people[:1]).source.features.values
    np.testing.assert_allclose(read[0], edges(cut), atol=1e-4)


def test_measures_have_the_formulas_they_name():
    rng = np.random.default_rng(3)
    signals = rng.normal(size=(50, 4)) @ rng.normal(size=(4, 4)) * [1, 10, 100, 1000]
    upper = np.triu_indices(4, 1)
    np.testing.assert_allclose(edge_values(signals, "correlation"), np.arctanh(np.corrcoef(signals.T)[upper]))
    np.testing.assert_allclose(edge_values(signals, "covariance"), np.cov(signals.T, ddof=0)[upper])
    scaled = (signals - signals.mean(0)) / signals.std(0, ddof=1)
    precision = np.linalg.inv(ledoit_wolf(scaled)[0])
    partial = -precision / np.sqrt(np.outer(np.diag(precision), np.diag(precision)))
    np.testing.assert_allclose(edge_values(signals, "partial"), partial[upper])
    np.testing.assert_allclose(edge_values(signals * [5, 1, 2, 3], "partial"), partial[upper])
    assert edge_values(np.column_stack([signals[:, 0], signals[:, 0]]), "correlation")[0] > 10


@pytest.mark.parametrize("measure", ["partial", "covariance"])
def test_measures_are_taken_of_the_images(cohort, people, wanted, measure):
    read = read_cohort(cohort, wanted.changed(measure=measure)).source.features.values
    signals = by_hand(bold_path(cohort, people[2]))
    np.testing.assert_allclose(read[2], edge_values(signals - signals.mean(axis=0), measure), rtol=1e-3, atol=1e-5)


def test_small_changes_on_a_high_level_are_measured(cohort, people, wanted):
    path = bold_path(cohort, people[0])
    data = nib.load(path).get_fdata()
    before = read_cohort(cohort, wanted, only=people[:1]).source.features.values
    save(path, ((data - 1000) * 1e-2 + 4000).astype(np.float32))
    np.testing.assert_allclose(read_cohort(cohort, wanted, only=people[:1]).source.features.values, before, atol=1e-2)


def spoiled(path, number, value):
    data = nib.load(path).get_fdata(dtype=np.float32)
    data[atlas_labels() == number] = value
    return data


def test_everybody_who_cannot_be_measured_is_listed_at_once(cohort, people, wanted):
    paths = [bold_path(cohort, who) for who in people]
    save(paths[0], draw_bold(np.random.default_rng(0))[..., 0])
    save(paths[1], draw_bold(np.random.default_rng(0), volumes=3))
    both = spoiled(paths[2], 11, 500.0)
    both[tuple(np.argwhere(atlas_labels() == 4)[0])][5] = np.inf
    save(paths[2], both)
    away = AFFINE.copy()
    away[0, 3] += 500
    save(paths[3], draw_bold(np.random.default_rng(0)), away)
    paths[4].write_bytes(paths[4].read_bytes()[:3000])
    save(paths[5], draw_bold(np.random.default_rng(0))[:4])
    with pytest.raises(CohortError) as refusal:
        read_cohort(cohort, wanted)
    lines = str(refusal.value).splitlines()
    assert lines[0] == f"time series that cannot be used with {wanted.section.atlas} (6):"
    for line, who, path, part in zip(
        lines[1:],
        people,
        paths,
        [
            "has 3 axes (8, 8, 8), not 4; a time series is needed: its volumes along a fourth axis",
            "3 volumes, fewer than the 4 that these edges need",
            "NaN or infinite voxels in region Cuneus; a constant signal in region Putamen",
            "no region of the atlas lies in the image; are both in the same space?",
            "the data are cut off or damaged",
            "no voxel in regions Cuneus, Insula, Putamen",
        ],
        strict=False,
    ):
        assert line.startswith(f"  {who}: {path}: {part}"), line
    assert lines[-1].endswith("or leave the people out with --exclude")


def test_nan_outside_of_all_regions_does_no_harm(cohort, people, wanted):
    before = read_cohort(cohort, wanted).source.features.values
    path = bold_path(cohort, people[0])
    save(path, spoiled(path, 0, np.nan))
    np.testing.assert_allclose(read_cohort(cohort, wanted).source.features.values, before, atol=1e-6)


def test_regions_with_one_signal_and_regions_with_none_left_are_refused(cohort, people, wanted):
    paths = [bold_path(cohort, who) for who in people[:2]]
    breath = pd.read_csv(table(paths[1]), sep="\t")["breath"].to_numpy(np.float32)
    save(paths[0], spoiled(paths[0], 30, spoiled(paths[0], 2, 0)[atlas_labels() == 7].mean(axis=0)))
    save(paths[1], spoiled(paths[1], 30, 100 + breath))
    asked = wanted.changed(confounds=("breath",))
    with pytest.raises(CohortError) as refusal:
        read_cohort(cohort, asked, only=people[:2])
    text = str(refusal.value)
    assert f"{paths[0]}: the signal of another region, up to scale, in region Uncus" in text
    assert f"{paths[1]}: nothing left after confounds and cuts in region Uncus" in text


def test_all_tables_of_confounds_that_cannot_be_used_are_listed(cohort, people, wanted, tmp_path):
    tables = [table(bold_path(cohort, who)) for who in people]
    tables[0].unlink()
    tables[1].write_text("breath\n1\n")
    tables[2].write_text("other\n" + "1\n" * 40)
    shutil.move(tables[3], tmp_path / "t.tsv")
    tables[3].symlink_to(tmp_path / "t.tsv")
    with pytest.raises(CohortError) as refusal:
        read_cohort(cohort, wanted.changed(confounds=("breath",)))
    lines = str(refusal.value).splitlines()[1:-1]
    assert len(lines) == 4
    for line, part in zip(lines, ["there: none", "1 rows for 40", "no column breath", "leads out of"], strict=True):
        assert part in line


def test_images_that_leave_the_folder_are_refused(cohort, people, wanted, tmp_path):
    path = bold_path(cohort, people[0])
    shutil.move(path, tmp_path / "x.nii.gz")
    path.symlink_to(tmp_path / "x.nii.gz")
    with pytest.raises(CohortError, match=r"paths that are no file of the cohort: .* leads out of"):
        read_cohort(cohort, wanted)


def test_only_the_atlas_of_training_is_used_again(cohort, wanted, tmp_path):
    trained = read_cohort(cohort, wanted).input
    assert len(trained.section.atlas_sha256) == 64
    assert read_cohort(cohort, trained).input == trained
    other = atlas_labels()
    other[0, 0, 0] = 2
    save_atlas(tmp_path / "atlas.nii.gz", other)
    with pytest.raises(
        CohortError,
        match=rf"{wanted.section.atlas}: not the atlas of training \(sha256 .*{trained.section.atlas_sha256[:12]}",
    ):
        read_cohort(cohort, trained)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"atlas": ""}, "input.atlas '': name a 3-D label map"),
        ({"atlas": "a\0"}, r"input.atlas 'a\\x00': name"),
        ({"atlas": "nowhere.nii.gz"}, "nowhere.nii.gz: no such file"),
        (
            {"low_pass": -1.0, "t_r": float("nan")},
            r"settings \(2\):\n  input.low_pass -1: give .*\n  input.t_r nan: give a number above zero",
        ),
        ({"low_pass": 0.1, "high_pass": 0.1}, "input.high_pass 0.1: must be below input.low_pass 0.1"),
        ({"low_pass": 0.25, "high_pass": 0.01}, "input.low_pass 0.25 Hz must be below 0.25 Hz, half the rate"),
        ({"high_pass": 1.0, "t_r": 1.0}, "input.high_pass 1 Hz must be below 0.5 Hz"),
        ({"suffix": "T1w"}, "people without exactly one image"),
    ],
)
def test_settings_that_are_refused(cohort, wanted, changes, message):
    with pytest.raises(CohortError, match=message):
        read_cohort(cohort, wanted.changed(**changes))


def test_a_header_without_the_seconds_between_volumes_is_refused_where_they_matter(cohort, people, wanted):
    path = bold_path(cohort, people[0])
    save(path, nib.load(path).get_fdata(dtype=np.float32), unit="unknown")
    assert len(read_cohort(cohort, wanted)) == 6
    with pytest.raises(CohortError, match=r"seconds between volumes; set input\.t_r"):
        read_cohort(cohort, wanted.changed(low_pass=0.1))


def test_a_series_shorter_than_its_filter_is_refused(cohort, people, wanted):
    save(bold_path(cohort, people[0]), draw_bold(np.random.default_rng(0), volumes=12))
    with pytest.raises(CohortError, match="12 volumes cannot be filtered"):
        read_cohort(cohort, wanted.changed(low_pass=0.1, high_pass=0.01))


def test_a_datalist_of_series_is_a_cohort(cohort, people, wanted):
    images = [bold_path(cohort, who).relative_to(cohort).as_posix() for who in people]
    entries = [f'{{"image": "{image}", "participant_id": "{who}"}}' for image, who in zip(images, people, strict=True)]
    (cohort / "list.json").write_text(f"[{','.join(entries)}]")
    read = read_cohort(cohort / "list.json", wanted)
    np.testing.assert_array_equal(read.source.features.values, read_cohort(cohort, wanted).source.features.values)
    assert list(read.source.features.ids["participant_id"]) == people


def filtered(wanted, **more):
    return wanted.changed(low_pass=0.1, **more)


def stated(folder, seconds, name="task-rest_bold.json"):
    (folder / name).write_text(json.dumps({"RepetitionTime": seconds}))


def set_seconds(path, seconds, unit="sec"):
    save(path, nib.load(path).get_fdata(dtype=np.float32), seconds=seconds, unit=unit)


def test_seconds_that_header_and_json_contradict_are_refused_by_name_where_a_filter_needs_them(cohort, people, wanted):
    path = bold_path(cohort, people[2])
    beside = path.name.replace(".nii.gz", ".json")
    stated(path.parent, 1.5, beside)
    with pytest.raises(CohortError) as refusal:
        read_cohort(cohort, filtered(wanted))
    assert f"{people[2]}: {path}: the header says 2 s between volumes, RepetitionTime of {beside} 1.5 s;" in str(
        refusal.value
    )
    assert people[1] not in str(refusal.value)
    assert len(read_cohort(cohort, wanted)) == 6
    read = read_cohort(cohort, filtered(wanted, t_r=2.0))
    assert read.notes[-1] == f"1 image ({people[2]}): 1.5 s between volumes; input.t_r is used, 2 s"


@pytest.mark.parametrize(
    ("name", "applies"),
    [
        ("task-rest_bold.json", True),
        ("bold.json", True),
        ("task-rest_space-MNI_bold.json", True),
        ("task-nback_bold.json", False),
        ("task-rest_run-1_bold.json", False),
        ("task-rest_sbref.json", False),
    ],
)
def test_json_files_higher_up_count_where_their_name_says_so(cohort, wanted, name, applies):
    stated(cohort, 1.0, name)
    if not applies:
        read_cohort(cohort, filtered(wanted))
        return
    with pytest.raises(CohortError, match=rf"\(6\):[\s\S]*RepetitionTime of {name} 1 s"):
        read_cohort(cohort, filtered(wanted))


def test_the_nearest_json_file_is_taken_and_one_outside_of_the_cohort_is_not(cohort, people, wanted):
    stated(cohort.parent, 7.0)
    stated(cohort, 7.0)
    for who in people:
        stated(cohort / who, 2.0005, f"{who}_task-rest_bold.json")
        stated(cohort / who, 9.0, f"{who}_bold.json")
    read_cohort(cohort, filtered(wanted))


def test_the_json_file_alone_is_enough_and_gives_the_same_edges(cohort, people, wanted):
    before = read_cohort(cohort, filtered(wanted)).source.features.values
    for who in people:
        set_seconds(bold_path(cohort, who), 2.0, unit="unknown")
    stated(cohort, 2)
    np.testing.assert_array_equal(read_cohort(cohort, filtered(wanted)).source.features.values, before)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('{"RepetitionTime": "2"}', "RepetitionTime '2' is no number of seconds; mend it"),
        ('{"RepetitionTime": 0}', "RepetitionTime 0 is no number of seconds"),
        ('{"RepetitionTime": 2000}', "the header says 2 s between volumes, RepetitionTime of bold.json 2000 s"),
        ("[2]", "holds no JSON object"),
        ("{", r"unusable \(.*\); mend it, or take it away"),
    ],
)
def test_json_files_that_say_nothing_usable_are_refused(cohort, wanted, content, told):
    (cohort / "bold.json").write_text(content)
    with pytest.raises(CohortError, match=told):
        read_cohort(cohort, filtered(wanted))


def test_forms_of_images_and_atlas_that_disagree_are_told(cohort, people, wanted):
    path = bold_path(cohort, people[0])
    image = nib.load(path)
    shifted = image.affine.copy()
    shifted[0, 3] += 6
    copy = nib.Nifti1Image(np.asarray(image.dataobj), image.affine, image.header)
    copy.set_qform(shifted, 1)
    nib.save(copy, path)
    note = f"1 image ({people[0]}): sform and qform of the header disagree, by up to 6 mm; the sform is used"
    assert note in read_cohort(cohort, wanted).notes
