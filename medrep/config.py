"""A configuration: YAML <-> frozen dataclasses. An unknown key is an error that suggests the nearest."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from medrep._persisted import to_json
from medrep._structuring import build_section, unknown_key
from medrep._texts import MOST_LEVELS, as_written, read_yaml, with_texts
from medrep.cohort.covariates import Covariate, declared_covariates
from medrep.cohort.kinds import InputKind, build_input
from medrep.cohort.kinds.features import FeaturesKind
from medrep.errors import ConfigError, listed
from medrep.models import MODELS

SHIPPED = next(
    folder for folder in (Path(__file__).parent / "configs", Path(__file__).parents[1] / "configs") if folder.is_dir()
)
"""The shipped configurations and gates: in the package once installed, beside it in a checkout."""


@dataclass(frozen=True)
class Config:
    """Everything `train` needs to know.

    Attributes:
        model: A key of ``MODELS``.
        input: What is read.
        covariates: The covariates, by name.
        settings: The model's own settings.
        seed: Seed of every random step.
        predict: Continuous covariates that `score` predicts from the data.
    """

    model: str = "linear"
    input: InputKind[Any] = field(default_factory=FeaturesKind)
    covariates: tuple[Covariate, ...] = ()
    settings: Any = None
    seed: int = 0
    predict: tuple[str, ...] = ()

    def to_yaml(self) -> str:
        """Return the configuration as YAML that `read_config` reads back."""
        content = asdict(self) | {"input": self.input.to_json(), "settings": to_json(self.settings)}
        content["covariates"] = {
            covariate.pop("name"): {key: value for key, value in covariate.items() if value not in ("", None, (), {})}
            for covariate in content["covariates"]
        }
        return yaml.safe_dump(_plain(content), sort_keys=False, allow_unicode=True)


def read_config(path: Path | str, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML configuration and apply overrides.

    Args:
        path: A file, or the name of a shipped one (``linear.yaml``).
        overrides: ``dotted.path=value`` with a YAML value; ``null`` drops a covariate.

    Raises:
        ConfigError: Unreadable YAML, unknown keys (with the nearest known one), or values of the wrong kind; all of them.
    """
    source = _find(Path(path))
    try:
        text = source.read_text(encoding="utf-8")
        content, written = read_yaml(text) or {}, as_written(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{source}: not readable YAML ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{source}: holds a {type(content).__name__}, not keys and values")
    own = content.get("covariates")
    named = [str(name) for name in own] if isinstance(own, dict | list) else []
    for override in overrides:
        _override(content, override, read_yaml)
        _override(written, override, as_written)
    return parse_config(with_texts(content, written), str(source), overrides, named)


def parse_config(
    content: Mapping[str, Any],
    source: str = "configuration",
    overrides: Sequence[str] = (),
    named: Sequence[str] = (),
) -> Config:
    """Turn plain content into a `Config`.

    Args:
        content: Keys and values, overrides included.
        source: Where they come from, for messages.
        overrides: As given to `read_config`: what is wrong with one of them is not blamed on the source.
        named: Covariates of the source.

    Raises:
        ConfigError: All unknown keys and wrong values.
    """
    problems = _misspelt(content, overrides, named)
    known = [entry.name for entry in fields(Config)]
    problems += [unknown_key(str(key), known, "") for key in content if key not in known]
    kind = content.get("model", "linear")
    if not isinstance(kind, str) or kind not in MODELS:
        blamed = _blamed("model", overrides) or source
        raise ConfigError(f"{blamed}: model {kind!r} is unknown; allowed: {', '.join(MODELS)}")
    covariates = content.get("covariates") or {}
    if not isinstance(covariates, dict):
        problems.append("covariates: give names and properties, for instance {age: {kind: continuous}}")
        covariates = {}
    declared = declared_covariates(covariates, problems)
    wanted = build_input(content.get("input") or {}, "input", problems)
    if wanted is not None and wanted.to_json().get("mask") and not (wanted.in_world and MODELS[kind].masks):
        problems.append(
            f"input.mask: not of kind {wanted.kind} with model {kind}; only of volumes with the linear model"
        )
    if wanted is not None:
        problems += _structure_problems(wanted, kind)
    given = content.get("settings") or {}
    if wanted is not None and wanted.on_grid:
        given = _with_defaults(given, MODELS[kind].grid_config)
    settings = build_section(MODELS[kind].settings_type, given, "settings", problems)
    seed = content.get("seed", 0)
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        problems.append(f"seed: {seed!r} is not a whole number from 0")
    predict = content.get("predict") or []
    numbers = [c.name for c in declared if c.kind == "continuous"]
    if not isinstance(predict, list) or not all(name in numbers for name in predict):
        problems.append(
            f"predict: {predict!r} is not allowed; allowed: a list of {', '.join(numbers) or 'nothing here'}"
        )
    if not any(entry is not None for entry in covariates.values()):
        problems.append("covariates: none is left; name at least one")
    if problems or wanted is None:
        blames = [_blamed(line.partition(":")[0], overrides, named) for line in problems]
        told = [f"{override}: {line}" if override else line for override, line in zip(blames, problems, strict=True)]
        blame = "" if all(blames) else f"{source}: "
        raise ConfigError(listed(f"{blame}not a valid configuration", told))
    return Config(kind, wanted, declared, settings, seed, tuple(predict))


def _structure_problems(wanted: InputKind[Any], kind: str) -> list[str]:
    """Return why structures cannot be looked at together as a configuration says."""
    section = wanted.to_json()
    if not section.get("structures"):
        return []
    problems = []
    if section.get("labels"):
        problems.append(
            "input.labels: of one organ; input.structures has the labels of each structure: give one of both"
        )
    if wanted.kind != "shape" or not MODELS[kind].structures:
        problems.append(
            f"input.structures: not of kind {wanted.kind} with model {kind}; only of shapes with model additive_shape"
        )
    return problems


def _with_defaults(given: Any, grid_config: str) -> Any:
    """Return settings with those of the shipped configuration for data on a grid, where a model has one of its own.

    A convolutional body needs channels, which tables have none of: a conditional VAE on images without ``hidden`` is
    vae_volume.yaml, but for what is named.
    """
    body = {None, "auto", "conv"}
    if not grid_config or not isinstance(given, Mapping) or "hidden" in given or given.get("body") not in body:
        return given
    shipped = read_yaml((SHIPPED / grid_config).read_text(encoding="utf-8"))["settings"]
    nested = {
        key: {**shipped[key], **value}
        for key, value in given.items()
        if isinstance(value, Mapping) and isinstance(shipped.get(key), Mapping)
    }
    return {**shipped, **given, **nested}


def _misspelt(content: Mapping[str, Any], overrides: Sequence[str], named: Sequence[str]) -> list[str]:
    """Return a line for each covariate of an override that there is none of, where one is called almost so."""
    covariates = content.get("covariates")
    problems = []
    for override in overrides:
        section, _, name = override.partition("=")[0].partition(".")
        name = name.partition(".")[0]
        if section != "covariates" or not name or name in named or not isinstance(covariates, Mapping):
            continue
        entry, near = covariates.get(name), get_close_matches(name, named, 1)
        if near and (entry is None or (isinstance(entry, Mapping) and "kind" not in entry)):
            problems.append(f"covariates.{name}: unknown; did you mean {near[0]}?")
    return problems


def _blamed(path: str, overrides: Sequence[str], named: Sequence[str] = ()) -> str:
    """Return the override that a key comes from, as it was written; empty where it comes from the file."""
    for override in reversed(overrides):
        key = override.partition("=")[0]
        section, _, rest = key.partition(".")
        name = rest.partition(".")[0]
        if section == "covariates" and name and name not in named:
            key = f"covariates.{name}"  # all of it is new
        if f"{path}.".startswith(f"{key}.") or key.startswith(f"{path}."):
            return f"--set {override}"
    return ""


def _find(path: Path) -> Path:
    if path.is_file():
        return path
    shipped = SHIPPED / (path.name if path.suffix else f"{path.name}.yaml")
    if path.parent in {Path(), Path("configs")} and shipped.is_file():
        return shipped
    names = ", ".join(sorted(entry.name for entry in SHIPPED.glob("*.yaml") if not entry.name.startswith("gates")))
    raise ConfigError(f"{path}: no such configuration; give a file or a shipped one: {names}")


def _override(content: dict[str, Any], override: str, read: Callable[[str], Any]) -> None:
    path, separator, text = override.partition("=")
    if not separator or not path:
        raise ConfigError(f"--set {override}: write it as dotted.path=value, for instance input.kind=volume")
    try:
        value = read(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {path}: {text[:80]!r} is not YAML ({' '.join(str(error).split())})") from None
    *parents, last = path.split(".")
    if len(parents) >= MOST_LEVELS:
        raise ConfigError(
            f"--set {override[:40]}...: {len(parents) + 1} names, one in another; a setting lies at most 4 deep"
        )
    place = content
    for parent in parents:
        if not isinstance(place.get(parent), dict):
            place[parent] = {}
        place = place[parent]
    place[last] = value


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
