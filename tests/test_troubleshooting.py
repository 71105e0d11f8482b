"""Every message of docs/troubleshooting.md is printed by the case that provokes it here, with the exit code of the case."""

import gzip
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from unittest.mock import patch

import nibabel as nib
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from filelock import FileLock
from nibabel import cifti2

from medrep._files import mark_output
from medrep.audit.finding import Finding
from medrep.batch.journal import Journal
from medrep.cli import ERROR, GATE_REFUSED, OK, SOME_FAILED, TOO_LITTLE, USAGE, main
from medrep.models.linear.random_effects import EffectErrors
from medrep.models.saved import SavedModel
from medrep.tracking.audits import read_signing_key, write_signature
from tests.bold_cohorts import atlas_labels, draw_bold, save, save_atlas
from tests.conftest import ROOT
from tests.point_cohorts import landmarks_path, write_landmarks
from tests.surface_cohorts import cifti_path, gifti_path, parcels, write_cifti, write_gifti, write_person
from tests.tracking.registering import CLEAN, not_known, without_digests, write_audit

PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
ENTRIES = re.findall(r"^### `([^`\n]+)`\n(.+?)(?=\n#|\Z)", PAGE, flags=re.MULTILINE | re.DOTALL)

COUNT = 40
PEOPLE = "participant_id\tage\tsex\tsite\n" + "".join(
    f"sub-{k:02d}\t{20 + k}\t{'FM'[k % 2]}\t{'AB'[k // 2 % 2]}\n" for k in range(COUNT)
)
FEATURES = "participant_id\ta\tb\tc\n" + "".join(
    f"sub-{k:02d}\t" + "\t".join(f"{value:.4f}" for value in np.random.default_rng(k).normal(size=3)) + "\n"
    for k in range(COUNT)
)
INTERACTING = "participant_id\ta\tb\tc\n" + "".join(
    f"sub-{k:02d}\t" + "\t".join(f"{k * (k % 2) + own:.4f}" for own in np.random.default_rng(k).normal(size=3)) + "\n"
    for k in range(COUNT)
)
VISITS = "".join(
    line.replace(
        "\t",
        f"\t{'session_id' if line.startswith('participant_id') else 'ses-1' if line.startswith('sub-00') else 'n/a'}\t",
        1,
    )
    for line in FEATURES.splitlines(keepends=True)
)
SMALL = np.diag([2.0, 2.0, 2.0, 1.0])
VOLUME = ("--set", "input.kind=volume")
TANGENT = "input.measure=tangent"
BOLD = "input.kind=connectivity input.suffix=bold input.desc=preproc"


class FitContext:
    """Tiny cohorts and one model, made once; each case changes something in a folder of its own."""

    def __init__(self, root: Path) -> None:
        self.root, self._folders = root, 0

    def folder(self) -> Path:
        """Return an empty folder."""
        self._folders += 1
        made = self.root / f"case{self._folders}"
        made.mkdir()
        return made

    def table(self, people: str = PEOPLE, features: str = FEATURES) -> Path:
        """Write a cohort of features."""
        made = self.folder()
        (made / "participants.tsv").write_text(people, encoding="utf-8")
        (made / "features.tsv").write_text(features, encoding="utf-8")
        return made

    def check(self, people: str = PEOPLE, features: str = FEATURES, *more: str) -> int:
        """Check a cohort of features."""
        return run("check", self.table(people, features), *more)

    def settings(self, *overrides: str) -> int:
        """Check a cohort of features that nothing is wrong with, under other settings."""
        return run("check", self.cohort, *(part for override in overrides for part in ("--set", override)))

    def people(self, count: int) -> Path:
        """Write the table of a few people and nothing else."""
        made = self.folder()
        (made / "participants.tsv").write_text("".join(PEOPLE.splitlines(keepends=True)[: count + 1]))
        return made

    def scans(self, change: Callable[[Path], object] = lambda path: None) -> Path:
        """Write five people's images; the last one's is changed."""
        made = self.people(5)
        for k in range(5):
            save(scan(made, k), np.random.default_rng(k).normal(100, 10, (8, 8, 8)).astype(np.float32), SMALL)
        change(scan(made, 4))
        return made

    def broken(self, change: Callable[[Path], object], *more: str) -> int:
        """Check five people one of whose images is changed."""
        return run("check", self.scans(change), *VOLUME, *more)

    def rewritten(self, data: np.ndarray, affine: np.ndarray = SMALL) -> int:
        """Check five people one of whose images has other voxels."""
        return self.broken(lambda path: save(path, data, affine))

    def elsewhere(self, shift: float, *more: str) -> int:
        """Check five people one of whose images lies elsewhere."""
        data = np.random.default_rng(4).normal(100, 10, (8, 8, 8)).astype(np.float32)
        return self.broken(lambda path: save(path, data, placed(shift)), *more)

    def masked(self, change: Callable[[Path], object], affine: np.ndarray | None = None) -> int:
        """Train on five people with masks of their own, the last one's changed; or with one for all, of an affine."""
        made = self.scans()
        own = [scan(made, k).with_name(f"sub-{k:02d}_desc-brain_mask.nii.gz") for k in range(5)]
        for path in own:
            save(path, np.ones((8, 8, 8), np.uint8), SMALL if affine is None else affine)
        change(own[4])
        asked = (*VOLUME, "--mask", "bids" if affine is None else str(own[0]), *only_age(), *simple())
        return run("train", made, self.folder() / "o", *asked)

    def mask(self, labels: np.ndarray, *more: str) -> int:
        """Check one person's label map."""
        made = self.people(1)
        save(made / "sub-00" / "anat" / "sub-00_desc-organ_mask.nii.gz", labels, SMALL)
        return run("check", made, "--config", "additive_shape.yaml", *more)

    def edges(self, columns: str, *overrides: str) -> int:
        """Check a table of edges."""
        table = FEATURES.replace("a\tb\tc", columns, 1)
        chosen = ("input.kind=connectivity", *overrides)
        return self.check(PEOPLE, table, *(part for override in chosen for part in ("--set", override)))

    def matrix(self, matrix: np.ndarray) -> int:
        """Check one person's matrix."""
        made = self.people(1)
        path = made / "sub-00" / "func" / "sub-00_relmat.npy"
        path.parent.mkdir(parents=True)
        np.save(path, matrix)
        return run("check", made, "--set", "input={kind: connectivity, suffix: relmat, measure: tangent}")

    def without_nilearn(self) -> int:
        """Check images of an activity where what connectivity needs is not installed."""
        with patch.dict(sys.modules):
            for name in [name for name in sys.modules if name.startswith(("nilearn", "medrep.cohort.connectivity"))]:
                del sys.modules[name]
            sys.modules["nilearn"] = None  # type: ignore[assignment]
            return self.bold()

    def bold(
        self,
        *overrides: str,
        atlas: np.ndarray | None = None,
        volumes: int = 40,
        seconds: float = 2.0,
        place: Mapping[int, float] | None = None,
        stated: float | None = None,
    ) -> int:
        """Check one person's time series."""
        made = self.people(1)
        path = made / "sub-00" / "func" / "sub-00_desc-preproc_bold.nii.gz"
        if stated is not None:
            (made / "bold.json").write_text(json.dumps({"RepetitionTime": stated}))
        save(path, draw_bold(np.random.default_rng(0), volumes), seconds=seconds)
        affine = np.array(nib.load(path).affine)
        for axis, shift in (place or {}).items():
            affine[axis, 3] += shift
        regions = save_atlas(made / "atlas.nii.gz", atlas, affine, named=False)
        chosen = [*BOLD.split(), f"input.atlas={regions}", *overrides]
        return run("check", made, *(part for override in chosen for part in ("--set", override)))

    @cached_property
    def cohort(self) -> Path:
        """A cohort of features that nothing is wrong with."""
        return self.table()

    @cached_property
    def trained(self) -> Path:
        """A linear model of half of it."""
        out = self.folder() / "trained"
        assert run("train", self.cohort, out, "--hold-out", 0.5, "--quiet", *simple()) == OK
        return out

    @cached_property
    def cleaned(self) -> Path:
        """The cohort without site effects."""
        out = self.folder() / "cleaned"
        assert run("export", self.cohort, out, "--model", self.model, "--remove", "site", "--quiet") == OK
        return out

    @property
    def model(self) -> Path:
        """The model folder."""
        return self.trained / "model"

    def damaged_model(self, change: Callable[[Path], object]) -> Path:
        """Copy the model and change the copy."""
        copy = self.folder() / "model"
        shutil.copytree(self.model, copy)
        change(copy)
        return copy

    def export(self, *more: object, cohort: Path | None = None, model: Path | None = None) -> int:
        """Export with the model."""
        return run("export", cohort or self.cohort, self.folder() / "o", "--model", model or self.model, *more)

    def score(self, out: Path | None = None, *more: object, cohort: Path | None = None) -> int:
        """Score with the model."""
        return run("score", cohort or self.cohort, out or self.folder() / "o", "--model", self.model, *more)

    def transformed(self, *wanted: str, years: str = "") -> int:
        """Ask for a counterfactual."""
        switches = [part for text in wanted for part in ("--set", text)] + (["--years", years] if years else [])
        return run("counterfactual", self.cohort, self.folder() / "o", "--model", self.model, *switches)

    @cached_property
    def followed(self) -> tuple[Path, Path]:
        """A cohort of people who all came again, and a model of it."""
        cohort, out = self.table(*came_again(lambda k, visit: "AB"[k // 2 % 2])), self.folder() / "trained"
        assert run("train", cohort, out, "--quiet", *simple()) == OK
        return cohort, out / "model"

    def forecast(self, years: str, *more: str, model: Path | None = None) -> int:
        """Forecast people who came again."""
        cohort, own = self.followed
        return run("forecast", cohort, self.folder() / "o", "--model", model or own, "--years", years, *more)

    @cached_property
    def charted(self) -> Path:
        """A growth chart of the cohort."""
        out = self.folder() / "trained"
        config = ("--config", "growth_chart.yaml", "--set", "settings.power=none")
        assert run("train", self.cohort, out, "--quiet", *config) == OK
        return out / "model"

    def chart(self, *more: str, model: Path | None = None) -> int:
        """Draw centiles."""
        return run("chart", self.cohort, self.folder() / "o", "--model", model or self.charted, *more)

    def audit(self, *more: object, cohort: Path | None = None, model: Path | None = None) -> int:
        """Audit the model."""
        where = (cohort or self.cohort, self.folder() / "o", "--model", model or self.model)
        return run("audit", *where, "--by", "sex", *more)

    @cached_property
    def scored(self) -> Path:
        """A finished job."""
        out = self.folder() / "scored"
        assert self.score(out, "--quiet") == OK
        return out

    @cached_property
    def half(self) -> Path:
        """A job of two parts, of which only the second is done, and the first has killed two workers with one person."""
        out = self.folder() / "half"
        assert self.score(out, "--quiet", *part(1)) == OK
        journal = Journal(out / ".medrep" / "part-00000-of-00002.jsonl")
        for _ in range(2):
            journal.append({"event": "begin", "keys": ["sub-00"], "stage": 3})
            journal.append({"event": "death", "keys": ["sub-00"]})
        journal.close()
        return out

    def half_read(self, *parts: int, grown: bool = False, damaged: bool = False) -> Path:
        """Read some of two parts of a training; then somebody's age changes, or what the parts have in common is damaged."""
        cohort, out = self.table(), self.folder() / "parts"
        for number in parts:
            assert run("train", cohort, out, *simple(), *part(number), "--quiet") == OK
        if grown:
            (cohort / "participants.tsv").write_text(cell("sub-01\t21", "sub-01\t22"), encoding="utf-8")
        if damaged:
            (out / ".medrep" / "columns.safetensors").write_bytes(b"")
        return out

    @cached_property
    def registry(self) -> tuple[object, ...]:
        """A registry in which version 1 of ``known`` has an audit."""
        uri = ("--tracking-uri", f"sqlite:///{self.folder() / 'mlflow.db'}")
        audit = write_audit(self.folder() / "audit", self.model, self.findings)
        assert run("register", self.model, "--name", "known", "--audit", audit, *uri, "--quiet") == OK
        return uri

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Findings of many people, and one of few."""
        return (*CLEAN, Finding("deviation", "site=S9", 4, status="insufficient", note="under 20 people"))

    def register(self, audit: Path, name: str = "known", *more: object) -> int:
        """Register the model with an audit."""
        uri = f"sqlite:///{self.folder() / 'mlflow.db'}"
        return run("register", self.model, "--name", name, "--audit", audit, "--tracking-uri", uri, *more)

    def keys(self, how: KeySerializationEncryption | None = None, mode: int = 0o600) -> tuple[Path, Path]:
        """Write a private and a public key."""
        made, home = Ed25519PrivateKey.generate(), self.folder()
        own, public = home / "key.pem", home / "pub.pem"
        own.write_bytes(made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, how or NoEncryption()))
        own.chmod(mode)
        public.write_bytes(made.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
        public.chmod(0o600)
        return own, public

    def audited(self, change: Callable[[Path], object] = lambda path: None, model: Path | None = None) -> Path:
        """Write an audit, and change it."""
        written = write_audit(self.folder() / "audit", model or self.model, self.findings)
        change(written)
        return written

    def promote(self, gate: str, *more: object) -> int:
        """Promote under one gate."""
        gates = self.folder() / "gates.yaml"
        gates.write_text(f"- {{name: one, {gate}}}\n")
        return run("promote", "known", "--from", "1", "--gates", gates, *self.registry, *more)


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


WITH_IDS = "id,x\nA,1.5\nB,2\nC,3\n"


def own_tables(work: FitContext, features: str, *more: str, covariates: str = "", also: str = "") -> int:
    """Check a table as somebody has it, with a table of covariates or a further one of features."""
    folder = work.folder()
    for name, text in (("features.csv", features), ("people.csv", covariates), ("more.csv", also)):
        if text:
            (folder / name).write_text(text, encoding="utf-8")
    files = ("--covariates", folder / "people.csv") if covariates else ("--also", folder / "more.csv") if also else ()
    return run("check", folder / "features.csv", *files, *more)


def scan(folder: Path, number: int) -> Path:
    return folder / f"sub-{number:02d}" / "anat" / f"sub-{number:02d}_T1w.nii.gz"


def simple() -> tuple[str, ...]:
    return ("--set", "settings.spline_degrees=1", "--set", "settings.components=1")


def only_age() -> tuple[str, ...]:
    return ("--set", "covariates.sex=null", "--set", "covariates.site=null")


def part(number: int) -> tuple[str, ...]:
    return ("--num-parts", "2", "--part-id", str(number))


def task(w: FitContext, *more: object, **variables: str) -> int:
    """Score as a task of a SLURM array."""
    with patch.dict(os.environ, variables):
        return w.score(None, *more)


def cell(old: str, new: str) -> str:
    """Return the table of people with somebody's cells changed."""
    assert old in PEOPLE
    return PEOPLE.replace(old, new)


def organ(*boxes: tuple[int, int], value: float = 1) -> np.ndarray:
    """Return a label map with cubes in it."""
    labels = np.zeros((24, 24, 24), np.float32)
    for start, end in boxes:
        labels[start:end, start:end, start:end] = value
    return labels


def header(change: Callable[[nib.Nifti1Header], object]) -> Callable[[Path], None]:
    """Return what changes the header of an image in place."""

    def changed(path: Path) -> None:
        image = nib.load(path)
        copy = nib.Nifti1Image(np.asarray(image.dataobj), None, image.header)
        change(copy.header)
        nib.save(copy, path)

    return changed


def written(text: str, name: str) -> Callable[[Path], int]:
    return lambda folder: (folder / name).write_text(text, encoding="utf-8")


def linked(path: Path) -> None:
    target = path.parents[3] / "elsewhere.nii.gz"
    shutil.move(path, target)
    path.symlink_to(target)


def linked_folder(path: Path) -> None:
    target = path.parents[3] / "elsewhere"
    shutil.move(path.parent, target)
    path.parent.symlink_to(target)


def placed(shift: float) -> np.ndarray:
    affine = SMALL.copy()
    affine[0, 3] = shift
    return affine


def twice(path: Path) -> None:
    shutil.copy(path, path.with_name(f"{path.name[:6]}_run-2_T1w.nii.gz"))


def other_run(path: Path) -> None:
    """Make two runs of an image, one with fewer voxels."""
    save(path.with_name(path.name.replace("_T1w", "_run-2_T1w")), 100 + np.arange(64.0).reshape(4, 4, 4) / 3, SMALL)
    path.rename(path.with_name(path.name.replace("_T1w", "_run-1_T1w")))


def two_organs(work: FitContext) -> int:
    """Train on shapes of which everybody has two runs."""
    made = masks(work, organ((6, 18)))
    for path in made.glob("sub-*/anat/*.nii.gz"):
        for number in (1, 2):
            shutil.copy(path, path.with_name(path.name.replace("_desc", f"_run-{number}_desc")))
        path.unlink()
    return run("train", made, work.folder() / "o", "--config", "additive_shape.yaml", "--run", "mean")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def surface_people(work: FitContext, change: Callable[[Path], object] = lambda path: None) -> Path:
    """Write five people's surfaces; a hemisphere of the last one is changed."""
    made = work.people(5)
    for k in range(5):
        write_person(made, f"sub-{k:02d}", np.random.default_rng(k).normal(size=40).astype(np.float32))
    change(gifti_path(made, "sub-04", "R"))
    return made


def surfaces(work: FitContext, change: Callable[[Path], object], more: str = "desc: ''") -> int:
    """Check five people one of whose surfaces is changed."""
    chosen = f"input={{kind: surface, {more}}}"
    return run("check", surface_people(work, change), "--set", chosen, *only_age(), *simple())


def two_maps(path: Path) -> None:
    """Write two maps."""
    write_gifti(path, *np.random.default_rng(0).normal(size=(2, 20)).astype(np.float32))


def walled(path: Path) -> None:
    """Write a medial wall of NaN."""
    write_gifti(path, np.array([np.nan, *range(19)], np.float32))


def landmarks(
    work: FitContext, change: Callable[[np.ndarray], np.ndarray], *, train: bool = False, runs: str = ""
) -> int:
    """Check or train five people's landmarks; those of the last one are changed; with runs each has two."""
    made, rng = work.people(5), np.random.default_rng(0)
    shape = rng.normal(size=(8, 3)) * 10
    for k in range(5):
        own = shape + rng.normal(size=shape.shape)
        path = landmarks_path(made, f"sub-{k:02d}")
        for name in [path.name.replace("_land", f"_run-{run}_land") for run in (1, 2)] if runs else [path.name]:
            write_landmarks(path.with_name(name), change(own) if k == 4 else own)
    chosen = f"input={{kind: points, entities: {{{f'run: {runs}' if runs else ''}}}}}"
    words = ("train", made, work.folder() / "o") if train else ("check", made)
    return run(*words, "--set", chosen, *only_age(), *simple())


def forecast_of_landmarks(work: FitContext) -> int:
    """Train on landmarks of people who came again, and forecast where a visit of one of them is cut off."""
    made, out, rng, rows = work.folder(), work.folder(), np.random.default_rng(0), ["participant_id\tsession_id\tage"]
    shape = rng.normal(size=(5, 2)) * 10
    for k in range(12):
        for visit in (1, 2):
            path = made / f"sub-{k:02d}" / f"ses-{visit}" / "anat" / f"sub-{k:02d}_ses-{visit}_landmarks.tsv"
            write_landmarks(path, shape * (1 + 0.01 * visit) + rng.normal(size=shape.shape))
            rows.append(f"sub-{k:02d}\tses-{visit}\t{30 + k + 2 * visit}")
    (made / "participants.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    chosen = ("--set", "input.kind=points", *only_age(), *simple())
    assert run("train", made, out / "m", "--quiet", *chosen) == OK
    path.write_text("x\ty\n1\n", encoding="utf-8")
    return run("forecast", made, out / "o", "--model", out / "m" / "model", "--years", "1")


def grayordinates(work: FitContext, data: np.ndarray, columns: cifti2.ParcelsAxis | None = None) -> int:
    """Check one person's CIFTI file."""
    made = work.people(1)
    path = cifti_path(made, "sub-00", "parcels" if columns is not None else "cifti")
    if len(data) > 1:
        path.parent.mkdir(parents=True)
        nib.save(nib.Cifti2Image(data, (columns, columns)), path)
    else:
        write_cifti(path, data, columns)
    return run("check", made, "--set", "input.kind=surface", *only_age(), *simple())


def named_alike(count: int) -> cifti2.ParcelsAxis:
    """Return parcels of one name."""
    named = [("a", cifti2.BrainModelAxis.from_surface(np.array([k]), count, "CortexLeft")) for k in range(count)]
    return cifti2.ParcelsAxis.from_brain_models(named)


def never_measured(work: FitContext) -> int:
    """Train where a vertex of site A is 0, and clean people of whom it has a value there, and one who has other vertices."""
    made, out = work.people(COUNT), work.folder() / "o"
    rows = np.random.default_rng(0).normal(size=(COUNT, 40)).astype(np.float32)
    for mask in (True, False):
        for k, row in enumerate(rows):
            last = 0 if mask and "AB"[k // 2 % 2] == "A" else row[-1]
            write_person(made, f"sub-{k:02d}", np.array([*row[:-1], last], np.float32))
        if mask:
            assert run("train", made, out, "--quiet", "--set", "input.kind=surface", *simple()) == OK
    write_gifti(gifti_path(made, "sub-04", "R"), np.zeros(9, np.float32))
    return run("export", made, work.folder() / "e", "--model", out / "model", "--remove", "site")


def sessions(work: FitContext, text: str) -> int:
    cohort = work.scans()
    (cohort / "sub-00" / "ses-1").mkdir()
    (cohort / "sub-00" / "sub-00_sessions.tsv").write_text(text)
    return run("check", cohort, *VOLUME)


def datalist(work: FitContext, content: object) -> int:
    path = work.folder() / "list.json"
    path.write_text(json.dumps(content))
    return run("check", path, *VOLUME)


def unreadable_encoding(work: FitContext) -> int:
    cohort = work.table()
    (cohort / "participants.tsv").write_bytes(cell("sub-03\t23\tM\tB", "sub-03\t23\tM\tZ\u00fcrich").encode("latin-1"))
    return run("check", cohort)


def other_unit(work: FitContext) -> int:
    cohort = work.table()
    (cohort / "participants.json").write_text('{"age": {"Units": "months"}}')
    return run("check", cohort)


def other_grid(work: FitContext) -> int:
    cohort = work.table()
    (cohort / "features.json").write_text('{"Grid": {"shape": [2, 2, 2], "spacing": [1, 1, 1]}}')
    return run("check", cohort)


def below_zero(work: FitContext) -> int:
    made = work.scans(lambda path: save(path, -5 - np.random.default_rng(0).random((8, 8, 8), dtype=np.float32), SMALL))
    chosen = "input={kind: volume, intensity: zscore, harmonize_unit: true}"
    return run("train", made, work.folder() / "o", "--set", chosen, *only_age(), *simple())


def dark(path: Path) -> None:
    image = nib.load(path)
    save(path, np.asarray(image.dataobj) / 1000, SMALL)


def flat(header: nib.Nifti1Header) -> None:
    header.set_sform(np.diag([2.0, 2.0, 0.0, 1.0]), code=1)


def renamed_features(work: FitContext) -> int:
    return work.export("--remove", "site", cohort=work.table(features=FEATURES.replace("\tc\n", "\td\n")))


def new_site(work: FitContext) -> Path:
    return work.table(people=PEOPLE.replace("sub-03\t23\tM\tB", "sub-03\t23\tM\tC"))


def old_site(work: FitContext) -> Path:
    return work.table(people=PEOPLE.replace("sub-03\t23\tM\tB", "sub-03\t93\tM\tC"))


def locked(work: FitContext) -> int:
    with FileLock(work.scored / ".medrep" / "part-00000-of-00001.lock"):
        return work.score(work.scored)


def merging(work: FitContext) -> int:
    out = work.half_read(0, 1)
    with FileLock(out / ".medrep" / "merge.lock"):
        return run("merge", out)


def image_job(work: FitContext, *, all_broken: bool) -> int:
    """Score people one or all of whose images are broken."""
    cohort, out = work.scans(), work.folder() / "trained"
    assert run("train", cohort, out, "--quiet", *only_age(), *simple(), *VOLUME) == OK
    for k in range(0 if all_broken else 4, 5):
        scan(cohort, k).write_bytes(b"")
    return run("score", cohort, work.folder() / "o", "--model", out / "model", "--workers", 1)


def quarantined(work: FitContext) -> int:
    assert work.score(work.half, "--quiet", *part(0)) == OK
    return run("merge", work.half)


def known_people(work: FitContext) -> int:
    people, features = (text.replace("sub-", "sub-x") for text in (PEOPLE, FEATURES))
    return work.audit("--min-n", 2, cohort=work.table(people, features))


def other_people(work: FitContext) -> Path:
    path = work.folder() / "people.tsv"
    path.write_text("".join((work.trained / "people.tsv").read_text().splitlines(keepends=True)[:-1]))
    return path


def unknown_people(work: FitContext) -> int:
    uri = ("--tracking-uri", f"sqlite:///{work.folder() / 'mlflow.db'}")
    assert run("register", work.model, "--name", "known", "--audit", work.audited(not_known), *uri, "--quiet") == OK
    return run("promote", "known", *uri)


def edited(audit: Path) -> None:
    path = audit / "audit.tsv"
    path.write_text(path.read_text().replace("0.07", "0.01"))


def signed(work: FitContext, trusted: Path | None) -> int:
    """Register an audit with a signature of another key than the trusted one; None: of that, over something else."""
    own, public = work.keys()
    audit = work.audited()
    seal = json.loads((audit / "audit.json").read_text())["seal"] if trusted else "0" * 64
    write_signature(audit, seal, read_signing_key(own))
    return work.register(audit, "known", "--trusted-key", trusted or public)


def other_code(work: FitContext) -> int:
    """Promote a version whose code somebody changed in the store."""
    audit, out = work.audited(), work.folder()
    uri = ("--tracking-uri", f"sqlite:///{out / 'mlflow.db'}")
    assert run("register", work.model, "--name", "altered", "--audit", audit, *uri, "--quiet") == OK
    (code,) = out.rglob("pyfunc_model.py")
    code.write_text(code.read_text() + "\nimport os\n")
    return run("promote", "altered", *uri)


def unknown_region(work: FitContext) -> int:
    table = work.folder() / "regions.tsv"
    table.write_text("feature\tregion\na\tfront\nthalamus\tback\n")
    return work.audit("--stress", "regions", "--regions", table)


def other_audit(work: FitContext) -> int:
    out = work.folder() / "other"
    assert run("train", work.cohort, out, "--quiet", *simple()) == OK
    return work.register(work.audited(model=out / "model"))


def no_database(work: FitContext) -> int:
    home = work.folder()
    (home / "mlflow.db").write_text("not a database\n" * 100)
    return run("train", work.cohort, home / "out", "--tracking", "auto", *simple())


def occupied(work: FitContext) -> int:
    out = work.folder()
    mark_output(out)
    return run("train", work.cohort, out)


def strangers_output(work: FitContext) -> int:
    out = work.folder()
    (out / "notes.txt").write_text("mine")
    return run("train", work.cohort, out, "--overwrite")


def interrupted(work: FitContext) -> int:
    with patch("medrep.workflows.check.read_cohort", side_effect=KeyboardInterrupt):
        return work.check()


def of_site_a(value: str) -> str:
    """Return the features, with one value in the first column of everybody of site A."""
    at_a = [line.split("\t")[0] for line in PEOPLE.splitlines() if line.endswith("\tA")]
    return re.sub(rf"({'|'.join(at_a)})\t\S+", rf"\g<1>\t{value}", FEATURES)


def unmeasured(w: FitContext, value: str, *more: str) -> int:
    """Train where nobody of site A has a feature, and clean people of site A who have it."""
    out = w.folder() / "o"
    assert run("train", w.table(features=of_site_a(value)), out, "--quiet", *simple(), *more) == OK
    return run("export", w.cohort, w.folder() / "e", "--model", out / "model", "--remove", "site")


def lines(text: str, keep: int) -> str:
    return "".join(text.splitlines(keepends=True)[:keep])


IQ = ("--set", "covariates.age=null", "--set", "covariates.iq={kind: continuous}")


def two_columns(name: str, value: object) -> str:
    """Return the table of people with one more column."""
    header, *rows = PEOPLE.splitlines()
    return "\n".join([f"{header}\t{name}", *(f"{row}\t{value}" for row in rows)]) + "\n"


def numbered(name: str) -> str:
    """Return the table of features with the row's number in a column."""
    header, *rows = FEATURES.splitlines()
    return "\n".join([f"{header}\t{name}", *(f"{row}\t{k}" for k, row in enumerate(rows))]) + "\n"


def samples(work: FitContext, text: str, *, listed: bool = False) -> int:
    """Check people of whom the first has two visits, and a table of these."""
    row = "sub-00\t20\tF\tA\n"
    people = (
        PEOPLE.replace("site\n", "site\tsession_id\n").replace("\tA\n", "\tA\tn/a\n").replace("\tB\n", "\tB\tn/a\n")
    )
    people = people.replace("sub-00\t20\tF\tA\tn/a\n", "sub-00\t20\tF\tA\tses-1\nsub-00\t20\tF\tA\tses-2\n")
    assert row in PEOPLE
    cohort = work.table(people if listed else PEOPLE, f"{VISITS}sub-00\tses-2\t1\t2\t3\n")
    (cohort / "sub-00").mkdir()
    if text:
        (cohort / "sub-00" / "sub-00_sessions.tsv").write_text(text)
    return run("check", cohort)


def came_again(site: Callable[[int, int], str]) -> tuple[str, str]:
    """Return tables of people who all came again a year later."""
    people = ["participant_id\tsession_id\tage\tsex\tsite"]
    features = [FEATURES.splitlines()[0].replace("\t", "\tsession_id\t", 1)]
    noise = np.random.default_rng(2).normal(size=(2, COUNT, 3)).round(3)
    for k in range(COUNT):
        for visit in range(2):
            name = f"sub-{k:02d}\tses-{visit}"
            people.append(f"{name}\t{20 + k + visit}\t{'FM'[k % 2]}\t{site(k, visit)}")
            features.append("\t".join([name, *map(str, noise[visit, k])]))
    return "\n".join(people) + "\n", "\n".join(features) + "\n"


def unsure(work: FitContext) -> Path:
    """Copy a model of people who came again without how well it knows its effects."""
    saved = SavedModel.load(work.followed[1])
    out = work.folder() / "model"
    replace(saved, model=replace(saved.model, people=replace(saved.model.people, known=EffectErrors()))).save(out)  # type: ignore[attr-defined,type-var]
    return out


def wide_removal(work: FitContext) -> int:
    header, *rows = FEATURES.splitlines()
    noise = np.random.default_rng(1).normal(size=(COUNT, 20)).round(3)
    wide = [f"{row}\t" + "\t".join(map(str, own)) for row, own in zip(rows, noise.tolist(), strict=True)]
    text = "\n".join([header + "".join(f"\tw{k}" for k in range(20)), *wide]) + "\n"
    cohort, out = work.table(features=text), work.folder() / "trained"
    assert run("train", cohort, out, "--quiet", *simple()) == OK
    return run("export", cohort, work.folder() / "o", "--model", out, "--remove", "sex")


SINGLE_SEX = re.sub(r"\t[FM]\t", "\tF\t", PEOPLE)
FEW_AT_B = PEOPLE.replace("\tB\n", "\tA\n").replace("sub-03\t23\tM\tA", "sub-03\t23\tM\tB")
ALIASED = "".join(line.replace("\tM\tA", "\tM\tB").replace("\tF\tB", "\tF\tA") for line in PEOPLE.splitlines(True))
NOBODYS_AGE = re.sub(r"(sub-\d+)\t\d+", r"\1\tn/a", PEOPLE)
WEAK = "metric: reconstruction_error, group: '*', estimate: {max: 100}"


def several_visits(work: FitContext) -> int:
    """Plant follow-ups into people who came twice."""
    twice = work.folder() / "twice"
    assert run("simulate", twice, "--n", 8, "--sites", 2, "--visits", 2, "--quiet") == OK
    return run("simulate", work.folder() / "o", "--from", twice, "--visits", 2)


def later_format(folder: Path) -> None:
    """Give a model folder a format of the future."""
    path = folder / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))


CASES: dict[str, Callable[[FitContext], int]] = {
    # Folders, tables and ids
    "no such folder; COHORT is a folder with participants.tsv, a table file, or a datalist JSON": lambda w: run(
        "train", w.root / "nowhere", w.root / "o"
    ),
    "a cohort folder needs it": lambda w: run("check", w.folder()),
    "no column participant_id among": lambda w: w.check(PEOPLE.replace("participant_id", "subject")),
    "is not separated by tabs; save the table as tab-separated": lambda w: w.check(PEOPLE.replace("\t", ",")),
    "is not UTF-8 text; save the table as UTF-8": unreadable_encoding,
    "lines that hold NUL bytes": lambda w: w.check(cell("sub-03\t23", "sub-03\t2\0003")),
    "the header is in quotes": lambda w: w.check(PEOPLE.replace("participant_id\tage", '"participant_id"\t"age"')),
    "a header and no people; add one line a person": lambda w: w.check(lines(PEOPLE, 1)),
    "rows that do not have the header's": lambda w: w.check(cell("sub-03\t23\tM\tB", "sub-03\t23\tM")),
    "column names that occur twice": lambda w: w.check(PEOPLE.replace("\tsex\t", "\tage\t")),
    "participant_id that cannot name a file": lambda w: w.check(cell("sub-03", "sub 03/x")),
    "ids of more than 200 characters": lambda w: w.check(cell("sub-03", f"sub-{'3' * 5000}")),
    "people with several rows that disagree": lambda w: w.check(f"{PEOPLE}sub-03\t99\tM\tB\n"),
    "texts that a spreadsheet program runs as formulas": lambda w: w.check(cell("\tA\n", "\t=1+1\n")),
    "rows that stand for the same person or session": lambda w: w.check(f"{PEOPLE}03\t23\tM\tB\n"),
    "ids that look like one, read as different people": lambda w: w.check(
        f"{PEOPLE}sub-003\t23\tM\tB\n", f"{FEATURES}sub-003\t1\t2\t3\n"
    ),
    "participants that the table does not have": lambda w: w.check(PEOPLE, FEATURES, "--exclude", "sub-99"),
    "nobody is left after --participant-label and --exclude": lambda w: w.check(
        PEOPLE, FEATURES, "--participant-label", "03", "--exclude", "03"
    ),
    "not a datalist; it is a list of objects": lambda w: datalist(w, {"images": ["a.nii.gz"]}),
    "entries without an image path": lambda w: datalist(w, [{"participant_id": "sub-01", "age": 40}]),
    "repeated identical row(s) merged": lambda w: w.check(f"{PEOPLE}sub-03\t23\tM\tB\n"),
    "are treated as independent, as if each were of another person": lambda w: w.check(
        PEOPLE, f"{VISITS}sub-00\tses-2\t1\t2\t3\n", "--set", "settings.visits=independent"
    ),
    "the same data under several ids": lambda w: w.check(
        PEOPLE, f"{lines(FEATURES, COUNT)}sub-39\t{FEATURES.splitlines()[1].partition(chr(9))[2]}\n"
    ),
    "these data are medrep's own": lambda w: w.export("--remove", "site", cohort=w.cleaned),
    "what a model learns of": lambda w: run("check", w.cleaned),
    "the model was trained on other data, which had these effects": lambda w: w.export(
        "--remove", "sex", cohort=w.cleaned
    ),
    "no column of ids among": lambda w: own_tables(w, "who,x\nA,1\nA,2\n"),
    "people with features and without a row in": lambda w: own_tables(w, WITH_IDS, covariates=lines(WITH_IDS, 3)),
    "columns of one name in several tables that say different things": lambda w: own_tables(
        w, WITH_IDS, also=WITH_IDS.replace("1.5", "2.5")
    ),
    "people without a row in one of the tables": lambda w: own_tables(
        w, WITH_IDS, also=lines(WITH_IDS, 3).replace(",x", ",y")
    ),
    "people with several visits, where the features name none": lambda w: own_tables(
        w, WITH_IDS, covariates="id,visit,age\n" + "".join(f"{who},{k},{30 + k}\n" for who in "ABC" for k in (1, 2))
    ),
    "(input.group): there is no such column": lambda w: run("check", w.cohort, "--group", "litter"),
    "people in several groups of": lambda w: run("check", w.followed[0], "--group", "session_id"),
    "is it a site?": lambda w: run("check", w.cohort, "--group", "site"),
    "no such visit; there are": lambda w: own_tables(w, WITH_IDS, "--session-label", "9"),
    # Columns and values
    "covariates without a column": lambda w: w.check(PEOPLE.replace("\tage\t", "\tage_at_scan\t")),
    "remove one of the columns, or name the right one with": lambda w: w.check(two_columns("Age", 30)),
    "says otherwise of": lambda w: w.check(two_columns("gender", "x")),
    "is missing; fill it in, or set covariates.": lambda w: w.check(cell("sub-03\t23", "sub-03\tn/a")),
    "is a range; write a number, or set covariates.": lambda w: w.check(cell("sub-03\t23", "sub-03\t20-25")),
    "is a censored value; write a number, or set covariates.": lambda w: w.check(cell("sub-03\t23", "sub-03\t89+")),
    "is no number; write a number": lambda w: w.check(cell("sub-03\t23", "sub-03\told")),
    "look like one level; write them alike": lambda w: w.check(
        PEOPLE.replace("\tA\n", "\t1\n").replace("sub-04\t24\tF\t1", "sub-04\t24\tF\t01")
    ),
    "values that cannot be true": lambda w: w.check(cell("sub-03\t23", "sub-03\t999")),
    "is like a code for a missing value": lambda w: w.check(cell("sub-03\t23", "sub-03\t99")),
    "is far from what others have": lambda w: w.check(
        PEOPLE.replace("\tage\t", "\tiq\t").replace("sub-03\t23", "sub-03\t300"), FEATURES, *IQ
    ),
    "lies outside covariates.": lambda w: w.check(PEOPLE, FEATURES, "--set", "covariates.age.limits=[0, 50]"),
    "stands for the pooled cohort in a model; rename the level": lambda w: w.check(
        cell("sub-03\t23\tM\tB", "sub-03\t23\tM\t(pooled)")
    ),
    "participants.json says": other_unit,
    "nobody is left: every person lacks one of": lambda w: w.check(
        NOBODYS_AGE, FEATURES, "--set", "covariates.age.missing=drop"
    ),
    "people; drop it with --set covariates.": lambda w: w.check(SINGLE_SEX),
    "its effect is estimated from few people": lambda w: w.check(FEW_AT_B),
    "and the model takes them to add up": lambda w: w.check(PEOPLE, INTERACTING),
    "is read as": lambda w: w.check(cell("sub-03\t23", "sub-03\t23,5")),
    # BIDS images and sessions
    "people without exactly one image": lambda w: w.broken(Path.unlink),
    "images match (": lambda w: w.broken(twice),
    "set input.mesh to GIFTI meshes": lambda w: surfaces(w, lambda path: None, "mesh: 'absent_{hemi}.surf.gii'"),
    "no mesh is known (input.mesh)": lambda w: surfaces(w, lambda path: None),
    "so that runs have no mean": lambda w: w.broken(other_run, "--run", "mean"),
    "label maps of several runs have no mean": two_organs,
    "is a link that leads out of": lambda w: w.broken(linked_folder),
    "paths that are no file of the cohort": lambda w: w.broken(linked),
    "no column session_id; name the column of visits session_id": lambda w: sessions(w, "visit\tage\nses-1\t20\n"),
    "sessions that occur twice": lambda w: sessions(w, "session_id\tage\nses-1\t20\nses-1\t21\n"),
    "columns of one meaning": lambda w: sessions(w, "session_id\tage\tAge\nses-1\t20\t20\n"),
    "visits of which participants.tsv and sessions.tsv say different things": lambda w: samples(
        w, "session_id\tAge\n1\t33\n", listed=True
    ),
    "each visit has its own value, from sessions.tsv": lambda w: samples(w, "session_id\tAge\n1\t20\n2\t33\n"),
    "visits that sessions.tsv lacks": lambda w: samples(w, "session_id\tAge\n1\t20\n"),
    "one value a person, for all visits of": lambda w: samples(w, ""),
    # Broken NIfTI files
    "the file is empty (0 bytes); fetch or convert it again": lambda w: w.broken(lambda path: path.write_bytes(b"")),
    "the data are cut off or damaged": lambda w: w.broken(cut),
    "bytes too many behind the voxels that its header tells of": lambda w: w.broken(
        lambda path: path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + b"more"))
    ),
    "not a readable image": lambda w: w.broken(lambda path: path.write_bytes(b"no image" * 100)),
    "no orientation (sform and qform codes are 0)": lambda w: w.broken(
        header(lambda h: (h.set_sform(None, code=0), h.set_qform(None, code=0)))
    ),
    "sform and qform are mirror images of each other": lambda w: w.broken(
        header(lambda h: h.set_qform(np.diag([-2.0, 2.0, 2.0, 1.0]), code=1))
    ),
    "sform and qform of the header disagree": lambda w: w.broken(
        header(lambda h: h.set_qform(placed(9.0), code=1)), *only_age(), *simple()
    ),
    "cannot be inverted; set a valid one": lambda w: w.broken(header(flat)),
    "the header gives lengths in": lambda w: w.broken(header(lambda h: h.set_xyzt_units("meter"))),
    "take one volume or the mean of it": lambda w: w.rewritten(np.ones((8, 8, 8, 3), np.float32)),
    "colour or complex voxels": lambda w: w.rewritten(np.ones((8, 8, 8), np.complex64)),
    "looks like a label map": lambda w: w.rewritten(atlas_labels()),
    "voxels are NaN or infinite; mend the image, or set input.missing to keep": lambda w: w.rewritten(
        np.where(np.arange(512).reshape(8, 8, 8) < 9, np.nan, np.arange(512).reshape(8, 8, 8)).astype(np.float32)
    ),
    # Grids and intensities
    "set input.shape to cut or pad to one grid": lambda w: w.rewritten(
        np.random.default_rng(0).normal(100, 10, (8, 8, 9)).astype(np.float32)
    ),
    "set input.spacing to resample": lambda w: w.rewritten(
        np.random.default_rng(0).normal(100, 10, (8, 8, 8)).astype(np.float32), np.diag([3.0, 2.0, 2.0, 1.0])
    ),
    "lies apart from the common grid by up to": lambda w: w.elsewhere(6.0),
    "the image lies beside the common grid": lambda w: w.elsewhere(12.0, "--set", "input.spacing=[2, 2, 2]"),
    "and resampled onto it": lambda w: w.elsewhere(6.0, "--set", "input.spacing=[2, 2, 2]", *only_age(), *simple()),
    "numbers; give three, or leave it empty": lambda w: run("check", w.scans(), *VOLUME, "--set", "input.shape=[8]"),
    "masks that cannot be used": lambda w: w.masked(lambda path: save(path, np.ones((8, 8, 9), np.uint8), SMALL)),
    "no mask": lambda w: w.masked(Path.unlink),
    "voxels that is not that of the image": lambda w: w.masked(
        lambda path: save(path, np.ones((8, 8, 8), np.uint8), placed(9.0))
    ),
    "the mask is empty: every voxel is 0": lambda w: w.masked(
        lambda path: save(path, np.zeros((8, 8, 8), np.uint8), SMALL)
    ),
    "no voxel of the mask lies on the images' grid": lambda w: w.masked(lambda path: None, placed(900.0)),
    "no value stands for background in most of the images": lambda w: run(
        "train", w.scans(), w.folder() / "o", *VOLUME, "--mask", "auto", *only_age(), *simple()
    ),
    "only of volumes with the linear model": lambda w: run("check", w.people(3), "--mask", "auto"),
    "of memory, and --memory allows": lambda w: run(
        "train", w.scans(), w.folder() / "o", *VOLUME, "--memory", "10M", *only_age(), *simple()
    ),
    "are fitted and changed, those": lambda w: w.masked(lambda path: None),
    "the images are not in one unit: mean intensities differ": lambda w: w.broken(dark, *only_age(), *simple()),
    "choose p99, zscore or nyul": lambda w: w.broken(dark, "--set", "input.harmonize_unit=true"),
    "images whose unit cannot be harmonised": below_zero,
    "ascending ones; leave them to training": lambda w: w.broken(
        dark, "--set", "input.intensity=nyul", "--set", "input.landmarks=[1]"
    ),
    # Label maps of organs
    "label maps that cannot be used": lambda w: run(
        "train", masks(w, organ()), w.folder() / "o", "--config", "additive_shape.yaml"
    ),
    "the mask is empty, no voxel has a label above 0": lambda w: w.mask(organ()),
    "is there; it has": lambda w: w.mask(organ((6, 18)), "--set", "input.labels=[7]"),
    "a region is part of one structure only": lambda w: w.mask(
        organ((6, 18)), "--set", "input.structures={left: [1], right: [1]}"
    ),
    "input.structures has the labels of each structure": lambda w: w.mask(
        organ((6, 18)), "--set", "input.structures={left: [1]}", "--set", "input.labels=[1]"
    ),
    "separate pieces of": lambda w: w.mask(organ((3, 9), (13, 19))),
    "voxels are too few for a shape": lambda w: w.mask(organ((6, 7))),
    "the organ touches the image border at": lambda w: w.mask(organ((0, 12))),
    "voxels are no region number": lambda w: w.mask(organ((6, 18), value=0.5)),
    # Surfaces
    "is absent; for one hemisphere alone set input.entities": lambda w: surfaces(w, lambda path: path.unlink()),
    "surfaces that cannot be used": lambda w: run(
        "train", surface_people(w, cut), w.folder() / "o", "--set", "input.kind=surface", *only_age(), *simple()
    ),
    "unlike most people, who have": lambda w: surfaces(w, lambda path: write_gifti(path, np.zeros(9, np.float32))),
    "one value a vertex is needed: set input.map": lambda w: surfaces(w, two_maps),
    "none or several are": lambda w: surfaces(w, two_maps, "map: 3"),
    "maps or time points of a file is taken": lambda w: surfaces(w, two_maps, "map: mean"),
    "values are NaN or infinite; mend the file, or set input.missing to keep": lambda w: surfaces(w, walled),
    "missing values are left out of the fit and stay missing": lambda w: surfaces(w, walled, "missing: keep"),
    "not a value of every vertex": lambda w: surfaces(
        w, lambda path: write_gifti(path, np.zeros((20, 3), np.float32), intent="POINTSET")
    ),
    "convert it to NIFTI_TYPE_FLOAT32": lambda w: surfaces(
        w, lambda path: write_gifti(path, np.arange(20, dtype=np.int32))
    ),
    "or scaled; convert them to float32 without scaling": lambda w: grayordinates(w, np.ones((1, 40), np.int16)),
    "a CIFTI matrix of": lambda w: grayordinates(w, np.ones((40, 40), np.float32), parcels(40)),
    "several parcels are named": lambda w: grayordinates(w, np.ones((1, 40), np.float32), named_alike(40)),
    "the model; give surfaces as in training": never_measured,
    "points that cannot be used": lambda w: landmarks(w, lambda points: points[:-1], train=True),
    "people whose points look mirrored": lambda w: landmarks(w, lambda points: points * [-1, 1, 1]),
    "have no mean; choose --run first or all": lambda w: landmarks(w, lambda points: points, runs="mean"),
    "values without an effect to remove": never_measured,
    # Feature tables
    "people of participants.tsv without a row in features.tsv": lambda w: w.check(PEOPLE, lines(FEATURES, COUNT)),
    "cells that are no numbers": lambda w: w.check(PEOPLE, re.sub(r"(sub-03)\t\S+", r"\1\tthick", FEATURES)),
    "features that are missing": lambda w: run(
        "train", w.table(features=re.sub(r"(sub-03)\t\S+", r"\1\tn/a", FEATURES)), w.folder() / "o"
    ),
    "features without an effect to remove": lambda w: unmeasured(w, "0"),
    "since nobody of the level had them in training": lambda w: unmeasured(w, "n/a", "--set", "input.missing=keep"),
    "stay as they are:": lambda w: w.check(PEOPLE, of_site_a("0")),
    "columns without a name of their own": lambda w: w.check(PEOPLE, FEATURES.replace("\ta\tb", "\ta\ta")),
    "no feature columns beside the ids": lambda w: w.check(PEOPLE, re.sub(r"\t.*", "", FEATURES)),
    "rows of nobody in participants.tsv are not used": lambda w: w.check(lines(PEOPLE, COUNT)),
    "numbers the rows, is no feature, and is left out": lambda w: w.check(PEOPLE, numbered("Unnamed: 0")),
    "features that count the rows, not a measurement": lambda w: w.check(PEOPLE, numbered("nr")),
    "has the name of covariate": lambda w: w.check(PEOPLE, FEATURES.replace("\ta\t", "\tage\t")),
    "features that are covariate": lambda w: w.check(PEOPLE, numbered("nr")),
    "voxels, features.tsv": other_grid,
    "constant and left as they are": lambda w: w.check(PEOPLE, re.sub(r"(sub-\d+)\t\S+", r"\1\t1", FEATURES)),
    # Functional connectivity
    "connectivity cannot be measured with these settings": lambda w: w.bold("input.low_pass=-1"),
    "edges that are no positive definite correlation matrix": lambda w: w.edges("a~b\ta~c\tb~c", TANGENT),
    "edges that are no correlations": lambda w: w.edges("a~b\ta~c\tb~c", TANGENT, "input.edges=r"),
    "matrices that cannot be used": lambda w: w.matrix(np.ones((2, 3))),
    "pairs of regions without exactly one column": lambda w: w.edges("a~b\ta~c\tb~a", TANGENT),
    "columns that are no edges": lambda w: w.edges("a~b\ta~c\tage", TANGENT),
    "is measured of images; of": lambda w: w.edges("a~b\ta~c\tb~c", "input.measure=partial"),
    "edges need an atlas of two or more": lambda w: w.bold(atlas=(atlas_labels() > 0).astype(np.int16)),
    "no region of the atlas lies in the image": lambda w: w.bold(place={0: 500}),
    "that these edges need": lambda w: w.bold(volumes=3),
    "is needed beside it, there": lambda w: w.bold("input.confounds=[csf]"),
    "the header does not say the seconds between volumes": lambda w: w.bold("input.high_pass=0.01", seconds=0.0),
    "s between volumes, RepetitionTime of": lambda w: w.bold("input.high_pass=0.01", stated=1.0),
    "s between volumes; input.t_r is used": lambda w: w.bold("input.high_pass=0.01", "input.t_r=1.0"),
    # Confounding
    "aliased covariates: their effects cannot be separated": lambda w: run("train", w.table(ALIASED), w.folder() / "o"),
    "cannot be told apart": lambda w: w.check(ALIASED),
    "cannot be told apart within people": lambda w: w.check(*came_again(lambda k, visit: "AB"[visit])),
    # Configuration
    "no such configuration; give a file or a shipped one": lambda w: run("check", w.cohort, "--config", "lineal.yaml"),
    "write it as dotted.path=value": lambda w: w.settings("input.kind"),
    "is not YAML": lambda w: w.settings("input.shape=[9, 9"),
    "not a valid configuration": lambda w: w.settings("input.kind=table", "seed=-1"),
    "unknown; did you mean": lambda w: w.settings("settings.spline_degree=3"),
    "is unknown; allowed: ": lambda w: w.settings("model=forest"),
    "covariates: none is left; name at least one": lambda w: w.settings("covariates=null"),
    "role batch needs kind categorical": lambda w: w.settings("covariates.site.kind=continuous"),
    "settings.components is": lambda w: run("train", w.cohort, w.folder() / "o", "--set", "settings.components=-1"),
    # Models, new people and values to move to
    "no model.json; give the folder that train wrote to OUT/model": lambda w: w.export(
        "--remove", "site", model=w.cohort
    ),
    "train again or fetch it again": lambda w: w.export(
        "--remove", "site", model=w.damaged_model(lambda folder: cut(folder / "model.safetensors"))
    ),
    "this medrep reads 1 to": lambda w: w.export("--remove", "site", model=w.damaged_model(later_format)),
    "holds files that no model folder has": lambda w: w.export(
        "--remove", "site", model=w.damaged_model(written("mine", "notes.txt"))
    ),
    "feature columns that do not match the model": renamed_features,
    "levels the model has not seen": lambda w: w.export("--remove", "site", cohort=new_site(w)),
    "its people leave the range of training": lambda w: w.export(
        "--remove", "site", "--unseen-site", "adapt", "--extrapolate", cohort=old_site(w)
    ),
    "values beyond the people of training": lambda w: w.transformed("age=120"),
    "people far outside those of training": lambda w: w.export(
        "--remove", "site", cohort=w.table(cell("sub-03\t23", "sub-03\t999"))
    ),
    "a little outside the people of training": lambda w: w.export(
        "--remove", "site", cohort=w.table(cell("sub-03\t23", "sub-03\t62"))
    ),
    "was not in training; allowed": lambda w: w.export("--remove", "site", "--reference", "site=Z"),
    "the model does not know": lambda w: w.export("--remove", "scanner"),
    "both in --remove and in --keep": lambda w: w.export("--remove", "site", "--keep", "site"),
    "nothing to set; name one or more of": lambda w: w.transformed(),
    "the model does not know people over time": lambda w: w.forecast("1", model=w.model),
    "people would be far beyond those of training": lambda w: w.forecast("60"),
    "a little beyond the people of training": lambda w: w.forecast("5"),
    "give numbers of 0 and more, e.g. --years 1,2,5": lambda w: w.forecast("-1"),
    "visits that cannot be read": forecast_of_landmarks,
    "--years says which": lambda w: w.forecast("1", "--set", "age=30"),
    "the one moves each person along their own trajectory": lambda w: w.transformed("age=30", years="1"),
    "intervals leave that out; train it again": lambda w: w.forecast("1", "--extrapolate", model=unsure(w)),
    "model has no centiles; train with --config growth_chart.yaml": lambda w: w.chart(model=w.model),
    "give per cent between 0 and 100": lambda w: w.chart("--centiles", "0,50"),
    "curves are drawn over it; give another covariate": lambda w: w.chart("--set", "age=30"),
    "write it as NAME=VALUE": lambda w: w.transformed("age"),
    "model does not sample; train with --config vae_features.yaml": lambda w: run(
        "sample", w.folder() / "o", "--model", w.model, "--n", 3
    ),
    "model needs everybody's covariates": lambda w: w.export("--remove", "site", "--label-free"),
    "combinations of columns may still tell them": wide_removal,
    "the model predicts no covariate": lambda w: w.score(None, "--unshrink", "linear"),
    "data, which has no surface; leave it out": lambda w: w.export("--remove", "site", "--mesh", "stl"),
    "only of shapes is it known how an organ lies": lambda w: w.export("--remove", "site", "--with-pose"),
    "which are no edges between regions; leave it out": lambda w: w.export("--remove", "site", "--matrix"),
    "give a share between 0 and 1": lambda w: run("train", w.cohort, w.folder() / "o", "--hold-out", 20),
    # What is installed
    "install it with: pip install 'medrep[": lambda w: w.without_nilearn(),
    # Metrics
    "the textfile collector reads files that end in": lambda w: w.score(None, "--metrics", w.folder() / "a.txt"),
    "give a file in a folder that is there": lambda w: w.score(None, "--metrics", w.folder() / "no" / "a.prom"),
    # Simulated visits
    "visits that cannot be planned": lambda w: run("simulate", w.folder() / "o", "--visits", 0, "--dropout", 2),
    "can be had of features": lambda w: run("simulate", w.folder() / "o", "--kind", "shape", "--visits", 2),
    "follow-ups are planted into tables": lambda w: run(
        "simulate", w.folder() / "o", "--from", w.people(5), "--visits", 2
    ),
    "participants with several visits already": several_visits,
    "plant effects first, and then visits into what that wrote": lambda w: run(
        "simulate", w.folder() / "o", "--from", w.cohort, "--effects", "site", "--visits", 2
    ),
    # Output folders
    "already holds files": occupied,
    "holds files that medrep did not write": strangers_output,
    "is or holds the input": lambda w: run("train", w.cohort, w.cohort.parent),
    "interrupted; nothing half-written is left": interrupted,
    "is a file; give a folder for OUT": lambda w: run("train", w.cohort, w.cohort / "participants.tsv"),
    # Batch
    "holds another job": lambda w: w.score(w.scored, "--false-alarms", 0.1),
    "another process works on": locked,
    "people who are not done": lambda w: run("merge", unmerged(w)),
    "links or special files where the job keeps its own": lambda w: run("merge", planted(w)),
    "no batch was begun here": lambda w: run("merge", w.folder()),
    "parts that are to be read": lambda w: run("merge", w.half_read(0)),
    "the cohort has changed since its parts were read": lambda w: run("merge", w.half_read(0, 1, grown=True)),
    "another process merges its parts": merging,
    "remove it, and read all parts again": lambda w: run("merge", w.half_read(0, 1, damaged=True)),
    "and nothing says of how many; give --num-parts": lambda w: w.score(None, "--part-id", 0),
    "without --part-id; give a number from 0": lambda w: w.score(None, "--num-parts", 2),
    "task ids are part ids, counted from 0": lambda w: task(w, "--num-parts", 3, SLURM_ARRAY_TASK_ID="3"),
    "of how many parts is not said": lambda w: task(w, SLURM_ARRAY_TASK_ID="3", SLURM_ARRAY_TASK_COUNT="1"),
    "--overwrite would have each part delete the others": lambda w: w.score(None, "--overwrite", *part(0)),
    "--retry-failed tries them again": lambda w: image_job(w, all_broken=False),
    "its worker died 2 times while alone with it": quarantined,
    "nobody could be delivered": lambda w: image_job(w, all_broken=True),
    "people are done already": lambda w: w.score(w.scored),
    "give 0 or more, and more than 0 seconds": lambda w: w.score(None, "--timeout", 0),
    # Audit
    "participants whom the model never saw; an audit needs": lambda w: w.audit("--min-n", 50),
    "people whose data the model was trained on": known_people,
    "that nobody here was in training cannot be checked": lambda w: w.audit(
        "--min-n", 50, model=w.damaged_model(without_digests)
    ),
    "is of another training than the model": lambda w: w.audit("--trained", other_people(w)),
    "no such file; give the people.tsv that train wrote": lambda w: w.audit("--trained", w.root / "nobody.tsv"),
    "others may read this key": lambda w: w.audit("--sign", w.keys(mode=0o644)[0]),
    "has a passphrase; write it without one": lambda w: w.audit("--sign", w.keys(BestAvailableEncryption(b"x"))[0]),
    "make one with openssl genpkey -algorithm ed25519": lambda w: w.audit("--sign", w.keys()[1]),
    "--prediction needs --outcome": lambda w: w.audit("--prediction", "age"),
    "columns that participants.tsv does not have": lambda w: w.audit("--outcome", "diagnosis"),
    "edges have to increase": lambda w: w.audit("--by", "age:60/20"),
    "an intersection needs two columns or more": lambda w: w.audit("--intersect", "sex"),
    "numbers that cannot be": lambda w: w.audit("--min-n", 1, "--margin", 2),
    "stress that cannot be asked": lambda w: w.audit("--stress", "corruptions"),
    "features that cannot be put into a region": unknown_region,
    # Registry
    "which no gate passed for": lambda w: run(
        "score", w.cohort, w.folder() / "o", "--model", "models:/known@challenger", *w.registry
    ),
    "a gate refused;": lambda w: w.promote("metric: leakage_excess, group: raw/site, estimate: {max: 0.1}"),
    "too little evidence;": lambda w: w.promote(f"{WEAK}, min_n: 1000"),
    "nobody audited was in training: the audit could not tell": unknown_people,
    "warning: left out: ": lambda w: w.promote(f"{WEAK}, insufficient: warn", "--to", "pilot"),
    "is registered; there is": lambda w: run("promote", "nobody", *w.registry),
    "no such alias;": lambda w: run("promote", "known", "--from", "staging", *w.registry),
    "no such version;": lambda w: run("promote", "known", "--from", 7, *w.registry),
    "no such registry; run this in the folder where": lambda w: run(
        "promote", "known", "--tracking-uri", f"sqlite:///{w.root / 'nowhere.db'}"
    ),
    "runs other code than medrep's": other_code,
    "names that cannot be used": lambda w: w.register(w.audited(), "known@home"),
    "an audit of another model": other_audit,
    "not an audit": lambda w: w.register(w.folder()),
    "a damaged audit": lambda w: w.register(w.audited(written("metric\tgroup\n", "audit.tsv"))),
    "not as medrep audit wrote it": lambda w: w.register(w.audited(edited)),
    "the audit could not check that the model had never seen its people": lambda w: w.register(w.audited(not_known)),
    "is not signed, and a trusted key": lambda w: w.register(w.audited(), "known", "--trusted-key", w.keys()[1]),
    "which is not trusted; trusted": lambda w: signed(w, w.keys()[1]),
    "one of them was altered": lambda w: signed(w, None),
    "openssl pkey -in KEY.pem -pubout": lambda w: w.register(w.audited(), "known", "--trusted-key", w.keys()[0]),
    "no such gates; give a file or shipped ones": lambda w: run("promote", "known", "--gates", "nowhere.yaml"),
    "not valid gates": lambda w: w.promote("metric: leakage_excess, estimat: {max: 0.1}"),
    # Tracking
    "MLflow keeps no runs in plain folders any more": lambda w: run(
        "train", w.cohort, w.folder() / "o", "--tracking", "./mlruns"
    ),
    "names no file (or one with % in its path)": lambda w: run(
        "train", w.cohort, w.folder() / "o", "--tracking", "sqlite:///"
    ),
    "not logged to": no_database,
}

CODES = {
    "texts that a spreadsheet program runs as formulas": OK,
    "ids that look like one, read as different people": OK,
    "are treated as independent, as if each were of another person": OK,
    "no mesh is known (input.mesh)": OK,
    "the same data under several ids": OK,
    "are fitted and changed, those": OK,
    "what a model learns of": OK,
    "the model was trained on other data, which had these effects": OK,
    "says otherwise of": OK,
    "each visit has its own value, from sessions.tsv": OK,
    "one value a person, for all visits of": OK,
    "rows of nobody in participants.tsv are not used": OK,
    "numbers the rows, is no feature, and is left out": OK,
    "features that count the rows, not a measurement": OK,
    "has the name of covariate": OK,
    "features that are covariate": OK,
    "a little outside the people of training": OK,
    "combinations of columns may still tell them": OK,
    "since nobody of the level had them in training": OK,
    "stay as they are:": OK,
    "repeated identical row(s) merged": OK,
    "its effect is estimated from few people": OK,
    "its people leave the range of training": OK,
    "intervals leave that out; train it again": OK,
    "a little beyond the people of training": OK,
    "is it a site?": OK,
    "and the model takes them to add up": OK,
    "is read as": OK,
    "is like a code for a missing value": OK,
    "is far from what others have": OK,
    "the images are not in one unit: mean intensities differ": OK,
    "sform and qform of the header disagree": OK,
    "and resampled onto it": OK,
    "constant and left as they are": OK,
    "interrupted; nothing half-written is left": 130,
    "parts that are to be read": USAGE,
    "--retry-failed tries them again": SOME_FAILED,
    "people whose points look mirrored": OK,
    "visits that cannot be read": SOME_FAILED,
    "the model; give surfaces as in training": SOME_FAILED,
    "values without an effect to remove": SOME_FAILED,
    "maps or time points of a file is taken": OK,
    "missing values are left out of the fit and stay missing": OK,
    "its worker died 2 times while alone with it": SOME_FAILED,
    "people are done already": OK,
    "participants whom the model never saw; an audit needs": TOO_LITTLE,
    "that nobody here was in training cannot be checked": TOO_LITTLE,
    "a gate refused;": GATE_REFUSED,
    "too little evidence;": TOO_LITTLE,
    "nobody audited was in training: the audit could not tell": TOO_LITTLE,
    "the audit could not check that the model had never seen its people": OK,
    "warning: left out: ": OK,
    "not logged to": OK,
}
"""Exit codes of cases that do not end with an error."""


def masks(work: FitContext, labels: np.ndarray) -> Path:
    made = work.people(3)
    for k in range(3):
        save(made / f"sub-{k:02d}" / "anat" / f"sub-{k:02d}_desc-organ_mask.nii.gz", labels, SMALL)
    return made


def unmerged(work: FitContext) -> Path:
    out = work.folder() / "unmerged"
    assert work.score(out, "--quiet", *part(1)) == OK
    return out


def planted(work: FitContext) -> Path:
    out = unmerged(work)
    (out / ".medrep" / "part-00000-of-00002.jsonl").symlink_to(work.cohort / "participants.tsv")
    return out


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> FitContext:
    return FitContext(tmp_path_factory.mktemp("troubles"))


def test_the_page_and_the_cases_name_the_same_messages() -> None:
    shown = [message for message, _ in ENTRIES]
    assert shown == list(CASES)
    assert len(set(shown)) == len(shown)
    assert set(CODES) <= set(CASES)
    assert all("**Do:**" in text for _, text in ENTRIES)
    assert PAGE.count("\n### ") == len(ENTRIES)


@pytest.mark.parametrize("message", CASES)
def test_a_message_is_printed(message: str, work: FitContext, capsys: pytest.CaptureFixture[str]) -> None:
    assert os.environ["MEDREP_TRACKING"] == "none"
    assert CASES[message](work) == CODES.get(message, ERROR)
    assert message in capsys.readouterr().err
