"""``medrep promote``: gates decide whether a version gets an alias."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from medrep.console import Console
from medrep.errors import ConfigError
from medrep.shipped import SHIPPED
from medrep.tracking.gates import Decision, read_gates
from medrep.tracking.promotion import promote_version
from medrep.tracking.signatures import read_trusted_keys
from medrep.tracking.stores import registry_store
from medrep.tracking.versions import Address


def promote(
    name: str,
    console: Console,
    *,
    source: str = "challenger",
    target: str = "champion",
    gates: Path = Path("gates.yaml"),
    tracking_uri: str | None = None,
    trusted: Sequence[Path] = (),
) -> Decision:
    """Hold the gates against the audit of a version, write the decision down, and move the alias if it passed.

    Args:
        name: Of the registered model.
        console: Where to speak.
        source: The version's alias, or its number.
        target: The alias it is to have.
        gates: A YAML list of gates, or a shipped one (``gates.yaml``).
        tracking_uri: Of the store; None: MLFLOW_TRACKING_URI, or mlflow.db in the current folder.
        trusted: Public keys (PEM) one of which has to have signed the audit; none: no signature is asked for.

    Raises:
        MedrepError: No such version, an audit that was altered or is not signed as it has to be, or gates that are not valid.
    """
    wanted = read_gates(_find(gates))
    keys = read_trusted_keys(trusted)
    store = registry_store(tracking_uri, Path.cwd(), present=True)
    number = source.isascii() and source.isdigit()
    address = Address(name, version=source) if number else Address(name, alias=source)
    done = promote_version(store, address, target, wanted, keys)
    rows = [(one.gate, one.verdict, str(one.looked_at)) for one in done.decision.judged]
    console.table(f"Gates of {name} version {done.version}", ("gate", "verdict", "findings"), rows)
    for warning in done.decision.warnings:
        console.warn(f"left out: {warning}")
    passed = done.decision.verdict == "passed"
    console.result(
        name=name,
        version=done.version,
        alias=target,
        decision=done.decision.verdict,
        promoted=passed,
        reasons=done.decision.reasons,
        gates=[asdict(one) for one in done.decision.judged],
    )
    moved = f"{target} is now version {done.version}" if passed else f"{target} stays where it is"
    console.summary(f"gates of {name} version {done.version}: {done.decision.verdict}; {moved}", "", {"store": store})
    if passed:
        console.say(f"{target} of {name} is now version {done.version} (models:/{name}@{target})")
    return done.decision


def _find(path: Path) -> Path:
    shipped = SHIPPED / path.name
    if path.is_file():
        return path
    if path.parent in {Path(), Path("configs")} and shipped.is_file():
        return shipped
    names = ", ".join(sorted(entry.name for entry in SHIPPED.glob("gates*.yaml")))
    raise ConfigError(f"{path}: no such gates; give a file or shipped ones: {names}")
