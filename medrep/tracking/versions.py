"""Versions of registered models: what their tags say, and how one is found."""

import re
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.utils.validation import _validate_model_alias_name, _validate_model_alias_name_reserved

from medrep.tracking.errors import RegistryError

AUDITED = "medrep.audited"
AUDIT_DIGEST = "medrep.audit_digest"
CODE = "medrep.code_digest"
DIGEST = "medrep.digest"
FINGERPRINT = "medrep.cohort_fingerprint"
GATE = "medrep.gate"
KIND = "medrep.kind"
MODEL_ID = "medrep.model_id"
PASSED, REFUSED = "passed", "refused"

_URI = re.compile(r"models:/(?P<name>[^/@:]+)(?:@(?P<alias>[\w\-]+)|/(?P<version>[1-9]\d*))")


@dataclass(frozen=True)
class Address:
    """Where a version is: by number, or by an alias that anybody who may write to the registry can move."""

    name: str
    alias: str = ""
    version: str = ""

    def __str__(self) -> str:
        return f"models:/{self.name}@{self.alias}" if self.alias else f"models:/{self.name}/{self.version}"

    @classmethod
    def parse(cls, uri: str) -> "Address":
        """Read ``models:/NAME@ALIAS`` or ``models:/NAME/3``.

        Raises:
            RegistryError: Anything else.
        """
        found = _URI.fullmatch(uri)
        if found is None:
            raise RegistryError(
                f"{uri}: write models:/NAME@ALIAS or models:/NAME/VERSION, for instance models:/NAME@champion"
            )
        return cls(found["name"], found["alias"] or "", found["version"] or "")


def find_version(client: MlflowClient, address: Address) -> ModelVersion:
    """Return a version.

    Raises:
        RegistryError: No such model, alias or version, with what there is.
    """
    try:
        if address.alias:
            return client.get_model_version_by_alias(address.name, address.alias)
        return client.get_model_version(address.name, address.version)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
    known = [model.name for model in client.search_registered_models(max_results=20)]
    if address.name not in known and not _exists(client, address.name):
        raise RegistryError(
            f"{address}: no model {address.name!r} is registered; there is {', '.join(known) or 'none'}; see medrep register"
        )
    if address.alias:
        aliases = sorted(client.get_registered_model(address.name).aliases)
        raise RegistryError(f"{address}: no such alias; {address.name} has {', '.join(aliases) or 'none'}")
    versions = sorted(int(one.version) for one in client.search_model_versions(f"name='{address.name}'"))
    raise RegistryError(
        f"{address}: no such version; {address.name} has {', '.join(map(str, versions[-20:])) or 'none'}"
    )


def alias_problems(alias: str) -> list[str]:
    """Return why MLflow would not take an alias; nothing if it would."""
    try:
        _validate_model_alias_name(alias)
        _validate_model_alias_name_reserved(alias)
    except MlflowException as error:
        return [f"alias {alias!r}: {' '.join(error.message.split())}"]
    return []


def gate_tag(alias: str) -> str:
    """Return the tag that says what came of the last promotion of a version to an alias."""
    return f"{GATE}.{alias}"


def pass_tag(alias: str) -> str:
    """Return the tag that says of which model and audit the last promotion of a version to an alias was."""
    return f"{gate_tag(alias)}.of"


def passed_of(version: ModelVersion) -> str:
    """Return which model and audit a pass has to be of."""
    return f"model {version.tags.get(DIGEST, '')}, audit {version.tags.get(AUDIT_DIGEST, '')}"


def passed_gate(version: ModelVersion, alias: str) -> bool:
    """Say whether a version may be used under an alias.

    The tags of the version decide, not the alias, which any client can move: what came of its last promotion to this very
    alias, with the model and the audit that it has now. Promotions of earlier versions of medrep do not say of which those
    were, and count.
    """
    told = version.tags.get(pass_tag(alias), "")
    if told and told.partition("; ")[0] != passed_of(version):
        return False
    return str(version.tags.get(gate_tag(alias), "")) == PASSED


def passed_aliases(version: ModelVersion) -> list[str]:
    """Return the aliases that a version passed the gates of."""
    prefix = gate_tag("")
    named = [key.removeprefix(prefix) for key in version.tags if key.startswith(prefix)]
    return sorted(alias for alias in named if "." not in alias and passed_gate(version, alias))


def _exists(client: MlflowClient, name: str) -> bool:
    try:
        client.get_registered_model(name)
    except MlflowException:
        return False
    return True
