"""Errors, as a user would name them, and masking of what may not be shown.

Everything that medrep says passes through here: errors when they are made, lines and tables when they are shown, and texts that
go to MLflow or into failures.tsv. A secret is told by where it stands (`user:SECRET@host`, `token=SECRET`, `Bearer SECRET`) or by
its form (keys of AWS, GitHub and others); one that stands in the open without any of these is not told.

Each error says what, where, what is allowed and how to mend it. An error about several people, columns or files lists
them all, through `listed`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec

STARS = "***"

_NAMES = (
    r"(?:pass(?:word|wd|phrase)|(?<![a-z])pass(?==)|pwd|secret|token|credentials?"
    r"|(?:api|access|account|private|auth|session|shared)[_\-. ]?key"
    r"|shared[_\-]?access[_\-]?signature)(?:[_\-](?:access[_\-]?key|key|id|token|value))*"
)
_IN_QUERIES = r"[?&](?:sig|signature|key|auth|code|x-(?:amz|goog)-[\w\-]+|awsaccesskeyid|googleaccessid)"
_IS = r"(?:\\?[\"'])?\s*(?:=|:(?!//)|%3D|%3A)\s*"
_VALUE = r"(?:\*\*\*|\\?\"(?:[^\"\\\n]|\\.)*\\?\"|\\?'(?:[^'\\\n]|\\.)*\\?'|(?:(?!%26)[^\s&;\"'])+)"
_USER = r"[^\s:/@?#\"'\[\]]*"

# What is kept comes first, as a group; all the rest of what is found is replaced.
_PATTERNS = (
    # A private key in PEM, whole or cut off.
    r"(-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY-----)(?s:.*?)(?=-----END [A-Z0-9 ]{0,40}PRIVATE KEY-----|\Z)",
    # Headers: whatever follows on the line is theirs.
    r"(\b(?:proxy-)?authorization\b(?:\\?[\"'])?\s*[=:]\s*(?:\\?[\"'])?)[^\r\n\"']+",
    r"(\b(?:set-)?cookie(?:\\?[\"'])?:\s*(?:\\?[\"'])?)[^\r\n\"']+",
    # //user:SECRET@host, whatever the secret holds but blanks; then with blanks, unless it is a port and a sentence.
    rf"((?<!/)//{_USER}:)(?:(?!://)\S){{1,512}}(?=@)",
    rf"((?<!/)//{_USER}:)(?!\*\*\*@)(?!\d{{1,5}}(?:[\s/:,;.)'\"]|$))(?:(?!://)[^\n]){{1,200}}(?=@[\w\[])",
    # The same where the host is left out, too: what is no number is no port.
    rf"((?<!/)//{_USER}:)(?!\*\*\*|port\b|\d{{1,5}}(?:\W|$))[^\s/@?#\"']+",
    # The same without slashes, as in a URI that somebody mistyped; models:/NAME@ALIAS is none.
    r"((?<![^\s/\"'(=,;<>\[{|])[^\s:/@\"'=,;?&()<>\[\]{}|]{1,256}:)(?!\*\*\*@)[^\s/\\@][^\s\"']{0,256}(?=@)",
    # The same percent-encoded.
    r"(%2F%2F(?:(?!%3A|%40)\S){0,256}%3A)(?:(?!%40)\S){1,512}(?=%40)",
    # A token in the place of the user.
    r"(//)[^\s:/@?#\"']{20,}(?=@)",
    r"((?:https?|databricks)://)[^\s:/@?#\"']+(?=@)",
    rf"({_IN_QUERIES}=)[^\s&\"']+",
    rf"({_NAMES}{_IS}){_VALUE}",
    rf"(--[\w\-]*(?:password|token|secret|api-key)\s){_VALUE}",
    r"(\bBearer\s+)[A-Za-z0-9._~+/=\-]{6,}",
    r"(\bBasic\s+)(?=[^\s]*[\d=+/])[A-Za-z0-9+/=]{8,}",
    # Forms that tell themselves.
    r"()\b(?-i:A(?:KIA|SIA|ROA|IDA)[A-Z0-9]{16}|AIza[\w\-]{35}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w\-]{20,}"
    r"|xox[abeprs]-[\w\-]{10,}|hf_[A-Za-z0-9]{20,}|sk-[\w\-]{20,}|dapi[0-9a-f]{32}|eyJ[\w\-]{8,}\.[\w\-]+\.[\w\-]*)",
)
# All but line feeds: C0, C1, DEL, and what turns the direction of writing or breaks lines elsewhere.
_STEERING = "[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]"


def mask(text: str) -> str:
    """Return a text with stars in the place of passwords, tokens and keys; masking twice is masking once."""
    for pattern in _compiled():
        text = pattern.sub(rf"\g<1>{STARS}", text)
    return text


def printable(text: str) -> str:
    r"""Return a text without secrets and with control characters spelled out (``\x1b``); line feeds stay."""
    return re.sub(_STEERING, lambda found: repr(found[0])[1:-1], mask(text))


@cache
def _compiled() -> tuple[re.Pattern[str], ...]:
    """Compile when a text is first masked: start-up stays quick."""
    return tuple(re.compile(pattern, re.IGNORECASE) for pattern in _PATTERNS)


class MedrepError(Exception):
    """An error whose message is meant for the person at the keyboard; the command line prints it without a traceback.

    Passwords, tokens and keys in the message are stars from the start, wherever it is shown or logged.
    """

    def __init__(self, *texts: str) -> None:
        super().__init__(*map(mask, texts))


class CohortError(MedrepError):
    """A table, a file or a geometry that cannot be read as it stands."""


class CovariateError(MedrepError):
    """A covariate that is missing, unreadable, unseen in training or confounded with another."""


class ModelError(MedrepError):
    """A model that cannot be fitted, loaded or applied to this input."""


class UnfinishedError(MedrepError):
    """Parts of a job that have to be done before what was asked for can be."""


class EvidenceError(MedrepError):
    """Too few people to say anything."""


class ConfigError(MedrepError):
    """A configuration with an unknown key or a value that is not allowed."""


class EstimatorError(MedrepError, ValueError):
    """Parameters or data that a scikit-learn estimator of medrep cannot use; a ValueError, as scikit-learn's callers expect."""


def listed(heading: str, offenders: Sequence[str], cure: str = "", most: int = 20) -> str:
    """Build one message out of all offenders: a heading, a line each, and the cure.

    Args:
        heading: What is wrong, without a final colon.
        offenders: One text each; after ``most`` of them the rest is counted.
        cure: What the reader can do about it.
        most: How many offenders are spelled out.

    Returns:
        The message. A single offender stays on one line.
    """
    cure_line = f"; {cure}" if cure else ""
    if len(offenders) == 1:
        return f"{heading}: {offenders[0]}{cure_line}"
    shown = [f"  {offender}" for offender in offenders[:most]]
    if len(offenders) > most:
        shown.append(f"  ... and {len(offenders) - most} more")
    return "\n".join([f"{heading} ({len(offenders)}):", *shown, *([f"  {cure}"] if cure else [])])


def few(texts: Sequence[str], most: int = 5, *, between: str = ", ", last: str = ", and") -> str:
    """Return texts in one line; after ``most`` of them the rest is counted."""
    return between.join(texts[:most]) + (f"{last} {len(texts) - most} more" if len(texts) > most else "")


@dataclass(frozen=True)
class Extra:
    """Packages that are installed together.

    Attributes:
        use: What needs them.
        packages: Module -> what it is called where it is installed from.
    """

    use: str
    packages: Mapping[str, str]


EXTRAS: Mapping[str, Extra] = {
    "connectivity": Extra("connectivity from 4-D images (kind connectivity)", {"nilearn": "nilearn"}),
    "shapes": Extra(
        "the work on organs (kind shape)", {"igl": "libigl", "skimage": "scikit-image", "trimesh": "trimesh"}
    ),
    "tables": Extra("reading Excel workbooks", {"openpyxl": "openpyxl"}),
    "ray": Extra("--engine ray", {"ray": "Ray"}),
}


class ExtraError(MedrepError, ImportError):
    """An extra that is not installed; an ImportError, as who imports a module expects."""


def lacking(extra: str, error: ImportError) -> ExtraError:
    """Return what is said where a module of an extra cannot be imported.

    Args:
        extra: A key of `EXTRAS`.
        error: What the import ended with.
    """
    wanted = EXTRAS[extra]
    names = ", ".join(wanted.packages.values())
    install = f"install it with: pip install 'medrep[{extra}]'"
    culprit = (error.name or "").partition(".")[0]
    if any(module == culprit or find_spec(module) is None for module in wanted.packages):
        return ExtraError(f"{wanted.use} needs {names}; {install}")
    return ExtraError(f"{wanted.use} needs {names}, of which something cannot be imported ({error}); {install}")


class RegistryError(MedrepError):
    """A registry that cannot be reached, or a version in it that is absent, altered or not to be used."""
