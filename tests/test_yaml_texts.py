"""YAML that would hang, or that no configuration is, ends in one line; what people write stays as it was."""

from pathlib import Path

import pytest
import yaml

from medrep._texts import as_written, read_yaml
from medrep.cli import main
from medrep.config import read_config
from medrep.errors import ConfigError
from medrep.tracking.gates import read_gates

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]\n" for k in range(1, 12)
)
MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{k}: &a{k}\n  <<: [{', '.join([f'*a{k - 1}'] * 4)}]\n" for k in range(1, 15))
HOSTILE = {
    BOMB: "values once its aliases are written out",
    MERGES: "values once its aliases are written out",
    "covariates: &c {age: *c}": "an alias that holds itself",
    "a: " + "[" * 100 + "]" * 100: "nested deeper than",
    "[" * 5000: "nested deeper than",
    "- " * 300 + "x": "nested deeper than",
    "settings: " + "{a: " * 80 + "1" + "}" * 80: "nested deeper than",
    "seed: " + "9" * 6000: "a number of 6000 digits is too large",
    "seed: 0x" + "f" * 6000: "is too large",
    "seed: " + "1:" * 3000 + "1": "is too large",
    "seed: " + "9" * 300: "a number of 300 digits is too large",
    "covariates: {age: {kind: continuous, reference: " + "9" * 5000 + "}}": "is too large",
    "seed: 2001-99-99": "a value that cannot be read",
    "seed: !!timestamp never": "a value that cannot be read",
    "seed: !!int many": "a value that cannot be read",
    "a: " + "x" * 600_000: "characters; a configuration has at most",
}


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("read", [read_config, read_gates])
def test_hostile_text_is_one_line(text: str, read: object, tmp_path: Path) -> None:
    path = tmp_path / "hostile.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=HOSTILE[text]) as caught:
        read(path)  # type: ignore[operator]
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "override", ["a." * 2000 + "b=1", "seed=" + "9" * 6000, "settings=" + "[" * 3000, "covariates=&a [*a]"]
)
def test_hostile_overrides_are_refused(override: str) -> None:
    with pytest.raises(ConfigError, match="--set") as caught:
        read_config("linear.yaml", [override])
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("text", ["covariates: 5", "covariates: [age]", "covariates: age", "5", "- a"])
def test_other_kinds_of_values_are_no_covariates(text: str, tmp_path: Path) -> None:
    (tmp_path / "odd.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"covariates: give names and properties|not keys and values"):
        read_config(tmp_path / "odd.yaml")


def test_aliases_that_people_use_are_read() -> None:
    text = "a: &a {kind: continuous, unit: years}\nb: *a\nc:\n  <<: *a\n  unit: months\nd: [1, 0x10, 1.5, 2024-01-02]\n"
    assert read_yaml(text) == yaml.safe_load(text)
    assert as_written(text)["d"] == ["1", "0x10", "1.5", "2024-01-02"]
    assert read_yaml("") is None
    assert as_written("") == {}


def test_a_command_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bomb.yaml").write_text(BOMB)
    assert main(["check", str(tmp_path), "--config", str(tmp_path / "bomb.yaml")]) == 1
    assert "not readable YAML (more than 100000 values" in capsys.readouterr().err
