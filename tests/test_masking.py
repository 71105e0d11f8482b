"""What looks like a password, a token or a key is shown and logged nowhere; what does not stays as it is."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow import MlflowClient
from sqlalchemy import make_url
from sqlalchemy.exc import SQLAlchemyError

from medrep.cli import main
from medrep.cli.console import Console
from medrep.derivatives.bids import Failure, write_failures
from medrep.errors import ConfigError, MedrepError, RegistryError, mask, printable
from medrep.tracking.runs import explained, log_training
from medrep.tracking.store import Store, find_store, registry_store

SECRET = "s3cr3tXyZ9"  # noqa: S105  # nobody's
URIS = (
    "postgresql+psycopg2://medrep:{}@db.example.org:5432/mlflow",
    "https://medrep:{}@server:5000",
    "https://{}@server",
    "postgresql://u:a/b{}@h/db",
    "postgresql://u:a@b{}@h/db",
    "postgresql://u:{}#x?y@h:99999999/db",
    "postgresql://u:%40{}%2F@h",
    "redis://:{}@h",
    "mysql://u:{}@[::1]:3306/x",
    "http://u:{}@[::1/x",
    "postgresql:/medrep:{}@db/mlflow",
    "postgresql//medrep:{}@db/mlflow",
    "postgresql:medrep:{}@db/mlflow",
    "medrep:{}@db/mlflow",
    "postgresql://u:{}/mlflow",
    "postgresql://u:{}",
    "http://server/x?token={}",
    "http://server/x?a=b&api_key={}&c=d",
    "http://server/x%3Ftoken%3D{}%26y",
    "postgresql%3A%2F%2Fu%3A{}%40host",
    "https://bucket.s3.example/x?X-Amz-Credential={0}&X-Amz-Signature={0}",
    "https://store.example/x?sv=1&sig={}",
    "mssql+pyodbc:///?odbc_connect=DRIVER%3DX%3BPWD%3D{}%3B",
)
TEXTS = (
    "Authorization: Bearer {}.a-b_c",
    "{{'Authorization': 'Basic {}=='}}",
    'headers {{"x-api-key": "{}"}}',
    "Bearer {}",
    "Cookie: session={}; other={}",
    "MLFLOW_TRACKING_PASSWORD={}",
    "export MLFLOW_TRACKING_TOKEN='{} with blanks'",
    "aws_access_key_id = {}",
    "AWS_SECRET_ACCESS_KEY={}/abc+d",
    '{{"password": "{}\\"x", "user": "u"}}',
    "connection to host=h user=u password={} dbname=x failed",
    "DRIVER=X;PWD={};SERVER=h",
    "AccountKey={}==;EndpointSuffix=x",
    "unrecognized arguments: --token {}",
    "could not reach 'postgresql://u:my {}@host/db' (see https://sqlalche.me/e/20/e3q8)",
    "a://u:{0}@h,b://v:{0}@h; c://w:{0}@h",
    "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----",
)
THEMSELVES = (
    "AKIA" + "ABCDEFGH12345678",
    "ghp_" + "a1B2" * 9,
    "hf_" + "a1B2" * 8,
    "glpat-" + "a1B2" * 6,
    "xoxb-" + "123456789012",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln",
)
PLAIN = (
    "models:/thickness@champion",
    "http://server:5000: models:/thickness@champion: no such version",
    "http://h:5000, models:/a@b",
    "sqlite:////tmp/x/mlflow.db",
    "sqlite:///:memory:",
    "http://127.0.0.1:5000/#/experiments/1",
    "sub-01: age '3' is not allowed (site: A, B)",
    "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
    "needs RAY_AUTH_MODE=token and the token where medrep runs, too",
    "write to me@x.org, or you@y.org",
    "digest 0123456789abcdef0123456789abcdef01234567",
    "mean_scale/site:S0 at 12:30:01",
    "ssh://git@github.com/a/b",
    "tokens_per_s=5, bypass: 3, compass=2, Basic settings, bearer of news",
    "C:\\Users\\me@home",
)


@pytest.mark.parametrize("form", [*URIS, *TEXTS])
def test_a_secret_is_masked_wherever_it_stands(form: str) -> None:
    for text in (form.format(SECRET, SECRET), f"could not open {form.format(SECRET, SECRET)!r}: refused"):
        masked = mask(text)
        assert SECRET not in masked
        assert "***" in masked
        assert mask(masked) == masked


@pytest.mark.parametrize("key", THEMSELVES)
def test_keys_that_tell_themselves_are_masked_anywhere(key: str) -> None:
    assert mask(f"refused ({key}), try again") == "refused (***), try again"


@pytest.mark.parametrize("text", PLAIN)
def test_what_is_no_secret_stays(text: str) -> None:
    assert mask(text) == text


@settings(deadline=None, max_examples=50)
@given(st.text(st.characters(codec="utf-8", exclude_characters="@"), min_size=6, max_size=30))
def test_of_a_store_whose_uri_is_known_no_password_is_told(password: str) -> None:
    store = Store(f"postgresql+psycopg2://medrep:{password}@db/mlflow")
    told = str(store)
    assert told.endswith("@db/mlflow")
    assert password not in told
    assert password not in store.hide(f"cannot connect as {password}!")


@pytest.mark.parametrize("form", URIS)
def test_a_malformed_store_is_refused_without_its_secret(form: str, tmp_path: Path) -> None:
    uri = form.format(SECRET)
    try:
        told = str(find_store(uri, tmp_path / "out"))
    except ConfigError as error:
        told = str(error)
    assert SECRET not in told


def _refuse(uri: str) -> None:
    try:
        raise ValueError(f"{uri}: no port; {make_url(uri)!r}")
    except SQLAlchemyError:
        raise ValueError(f"{uri}: cannot be read; {uri!r}") from None


@pytest.mark.parametrize("form", URIS)
def test_what_libraries_say_of_a_store_is_told_without_its_secret(form: str) -> None:
    store = Store(form.format(SECRET))
    with pytest.raises(RegistryError) as caught, explained(store):
        _refuse(store.uri)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "uri", ["postgresql://u:{}@h:port/db", "postgresql+nothing://u:{}@h/db", "htp://u:{}@h/x", "http://u:{}@[::1/x"]
)
def test_a_store_that_cannot_be_is_one_line(
    uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["promote", "thickness", "--tracking-uri", uri.format(SECRET)]
    assert main(command) == 1
    said = capsys.readouterr().err
    assert said.startswith("medrep promote: ")
    assert said.count("\n") == 1
    assert SECRET not in said


def test_what_was_typed_is_repeated_without_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["register", "m", f"--tracking=postgresql://u:{SECRET}@h", "\x1b[31m"])
    said = capsys.readouterr().err
    assert "unrecognized arguments" in said or "required" in said
    assert SECRET not in said
    assert "\x1b" not in said


def test_errors_lines_tables_documents_and_failures_are_masked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = f"http://u:{SECRET}@h"
    console = Console(json=True)
    console.say(text)
    console.warn(text)
    console.notes([text])
    console.table(text, (text,), [(text,)])
    console.result(found={"place": Path("a") / text, "all": [text]})
    console.summary(text, text, {"store": text})
    console.finish(0)
    console.fail("train", text, 1)
    write_failures(tmp_path / "failures.tsv", [Failure("sub-1", "f", "read", text)])
    found = "".join([*capsys.readouterr(), (tmp_path / "failures.tsv").read_text(), str(MedrepError(text))])
    assert found.count("***") >= 14
    assert SECRET not in found


def test_nothing_secret_goes_to_mlflow(tmp_path: Path) -> None:
    store = registry_store(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path)
    parameters = {"covariates": {"a": f"http://u:{SECRET}@h"}, "other": [f"token={SECRET}"]}
    history = pd.DataFrame({"metric": ["loss"], "name": [""], "value": [1.0]})
    tags = {"medrep.model": f"password={SECRET}"}
    run = log_training(store, "medrep", "a", parameters=parameters, history=history, tags=tags)
    assert SECRET not in str(MlflowClient(store.uri, store.uri).get_run(run).to_dictionary())


UNFORESEEN = f"""
import sys, types, warnings
from medrep.cli import main
def merge(out, console):
    warnings.warn("odd: http://u:{SECRET}@h \\x1b[31m")
    raise ZeroDivisionError("http://u:{SECRET}@h \\x1b[31m")
sys.modules["medrep.workflows.transform"] = module = types.ModuleType("merge")
module.merge = merge
main(["merge", "out"])
"""


def test_warnings_of_libraries_and_tracebacks_are_masked() -> None:
    ended = subprocess.run([sys.executable, "-c", UNFORESEEN], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "UserWarning: odd: http://u:***@h \\x1b[31m" in ended.stderr
    assert "Traceback" in ended.stderr
    assert "ZeroDivisionError: http://u:***@h" in ended.stderr
    assert SECRET not in ended.stderr.replace(UNFORESEEN, "")
    assert "\x1b" not in ended.stderr


@given(st.text(max_size=20))
def test_nothing_that_steers_a_terminal_is_printable(text: str) -> None:
    shown = printable(text + "\x1b]0;title\x07\x9b31m\u202e\r")
    assert not set(shown) & {chr(code) for code in (*range(10), *range(11, 32), *range(127, 160), 0x202E)}
    assert r"\x1b]0;title\x07\x9b31m\u202e\r" in shown


@pytest.mark.parametrize("text", ["//a:b" * 5000, "password" * 5000, "a:" * 20000, "\\'" * 20000, "%2F%2F" * 3000])
def test_long_texts_are_masked_all_the_same(text: str) -> None:
    assert SECRET not in mask(f"{text} token={SECRET}")
