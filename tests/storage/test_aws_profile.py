"""Keys and regions from the files of the AWS command line."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from icechunk.errors import ErrorKind, StorageError
from icechunk.storage import _aws_profile

CONFIG = """
[default]
region = eu-west-1

[profile printed]
region = us-west-2
credential_process = {python} -c "print('{output}')"

[profile service]
sso_start_url = https://example.org

[profile half]
aws_access_key_id = alone
"""
PRINTED = (
    '{\\"AccessKeyId\\": \\"A\\", \\"SecretAccessKey\\": \\"S\\", \\"SessionToken\\": \\"T\\",'
    ' \\"Expiration\\": \\"2030-01-01T00:00:00Z\\"}'
)


@pytest.fixture
def home(tmp_path: Path) -> str:
    (tmp_path / ".aws").mkdir()
    text = CONFIG.format(python=sys.executable, output=PRINTED)
    (tmp_path / ".aws" / "config").write_text(text)
    (tmp_path / ".aws" / "credentials").write_text("[default]\naws_access_key_id = K\naws_secret_access_key = Z\n")
    return str(tmp_path)


def key(environment: dict[str, str]) -> object:
    source = _aws_profile.key_source(environment)
    return None if source is None else source()


def test_the_default_profile(home: str) -> None:
    assert key({"HOME": home}) == {
        "access_key_id": "K",
        "secret_access_key": "Z",
        "token": None,
        "expires_at": None,
    }
    assert _aws_profile.region({"HOME": home}) == "eu-west-1"


def test_a_key_that_a_program_prints(home: str) -> None:
    environment = {"HOME": home, "AWS_PROFILE": "printed"}
    assert key(environment) == {
        "access_key_id": "A",
        "secret_access_key": "S",
        "token": "T",
        "expires_at": datetime(2030, 1, 1, tzinfo=UTC),
    }
    assert _aws_profile.region(environment) == "us-west-2"
    assert _aws_profile.region({**environment, "AWS_DEFAULT_REGION": "sa-east-1"}) == "sa-east-1"


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE"])
def test_what_the_client_finds_itself_goes_first(home: str, name: str) -> None:
    assert key({"HOME": home, name: "x"}) is None


def test_nothing_there(tmp_path: Path) -> None:
    environment = {"HOME": str(tmp_path)}
    assert key(environment) is None
    assert _aws_profile.region(environment) is None
    assert _aws_profile.endpoint(environment) is None
    assert _aws_profile.endpoint({"AWS_ENDPOINT_URL": "http://x"}) == "http://x"


def test_failures_say_what_to_do(home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    for profile, message in (("service", "pip install boto3"), ("half", "aws_secret_access_key")):
        with pytest.raises(StorageError, match=message) as caught:
            key({"HOME": home, "AWS_PROFILE": profile})
        assert caught.value.kind == ErrorKind.INVALID_CREDENTIALS
    (Path(home) / ".aws" / "config").write_text("[profile x]\ncredential_process = /nonexistent/program\n")
    with pytest.raises(StorageError, match="credential_process"):
        key({"HOME": home, "AWS_PROFILE": "x"})
