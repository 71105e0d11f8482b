"""What may be shown and logged: passwords, tokens and keys are stars; characters that steer a terminal are spelled out.

Everything that medrep says passes through here: errors when they are made, lines and tables when they are shown, and texts that
go to MLflow or into failures.tsv. A secret is told by where it stands (`user:SECRET@host`, `token=SECRET`, `Bearer SECRET`) or by
its form (keys of AWS, GitHub and others); one that stands in the open without any of these is not told.
"""

import re
from functools import cache

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
