"""What can go wrong, as a user would name it.

Each error says what, where, what is allowed and how to mend it. An error about several people, columns or files lists
them all, through `listed`.
"""

from collections.abc import Sequence

from medrep.masking import mask


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
