"""Keys from the files that the AWS command line keeps (`~/.aws/credentials`, `~/.aws/config`).

The client of object stores knows environment variables, web identities, containers and instance metadata, but not these
files. Here are profiles with a key, and with a program that prints one; those that need a service to get a key (single
sign-on, assumed roles) are left to boto3 where it is installed.
"""

from __future__ import annotations

import configparser
import json
import os
import shlex
import subprocess
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from icechunk.errors import ErrorKind, StorageError

Key = dict[str, Any]
"""What the client takes: `access_key_id`, `secret_access_key`, `token`, `expires_at`."""

# whoever sets one of these means it to be used
_OTHER_WAYS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)
_BY_SERVICE = ("sso_session", "sso_start_url", "role_arn", "web_identity_token_file")
_PROCESS_TIMEOUT = 60.0


def profile(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The settings of the profile in use; none where there is no such file or profile."""
    name = environment.get("AWS_PROFILE") or environment.get("AWS_DEFAULT_PROFILE") or "default"
    home = environment.get("HOME") or os.path.expanduser("~")
    config = environment.get("AWS_CONFIG_FILE") or os.path.join(home, ".aws", "config")
    credentials = environment.get("AWS_SHARED_CREDENTIALS_FILE") or os.path.join(home, ".aws", "credentials")
    section = name if name == "default" else f"profile {name}"
    return {**_section(config, section), **_section(credentials, name)}


def _section(file: str, name: str) -> dict[str, str]:
    parser = configparser.RawConfigParser(default_section="", strict=False)
    try:
        parser.read(file, encoding="utf-8")
    except (OSError, configparser.Error, UnicodeError) as error:
        raise StorageError(f"cannot read {file}: {error}", ErrorKind.INVALID_CREDENTIALS) from error
    return dict(parser[name]) if parser.has_section(name) else {}


def region(environment: Mapping[str, str] = os.environ) -> str | None:
    """The region that the environment or the profile names."""
    return environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION") or profile(environment).get("region")


def endpoint(environment: Mapping[str, str] = os.environ) -> str | None:
    """The address of the service that the environment names."""
    return environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL") or None


def key_source(environment: Mapping[str, str] = os.environ) -> Callable[[], Key] | None:
    """What fetches a key for the profile in use; None where the client finds one by itself, or must try."""
    if any(environment.get(way) for way in _OTHER_WAYS):
        return None
    settings = profile(environment)
    if "aws_access_key_id" in settings:
        return lambda: _static(profile(environment))
    if "credential_process" in settings:
        return lambda: _from_process(settings["credential_process"])
    if any(name in settings for name in _BY_SERVICE):
        return _from_boto3()
    return None


def _static(settings: Mapping[str, str]) -> Key:
    try:
        return {
            "access_key_id": settings["aws_access_key_id"],
            "secret_access_key": settings["aws_secret_access_key"],
            "token": settings.get("aws_session_token"),
            "expires_at": None,
        }
    except KeyError as error:
        raise StorageError(f"the AWS profile has no {error}", ErrorKind.INVALID_CREDENTIALS) from None


def _from_process(command: str) -> Key:
    try:
        output = subprocess.run(
            shlex.split(command), capture_output=True, text=True, check=True, timeout=_PROCESS_TIMEOUT
        ).stdout
        found = json.loads(output)
        expires = found.get("Expiration")
        return {
            "access_key_id": found["AccessKeyId"],
            "secret_access_key": found["SecretAccessKey"],
            "token": found.get("SessionToken"),
            "expires_at": None if expires is None else datetime.fromisoformat(expires).astimezone(UTC),
        }
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError) as error:
        raise StorageError(
            f"the credential_process of the AWS profile failed: {type(error).__name__}", ErrorKind.INVALID_CREDENTIALS
        ) from error


def _from_boto3() -> Callable[[], Key]:
    try:
        from boto3 import Session  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise StorageError(
            "the AWS profile in use signs in through a service, which needs the package boto3 (pip install boto3); or "
            "pass access_key_id and secret_access_key",
            ErrorKind.INVALID_CREDENTIALS,
        ) from error
    session = Session()

    def fetch() -> Key:
        found = session.get_credentials()
        if found is None:
            raise StorageError("boto3 found no AWS credentials", ErrorKind.INVALID_CREDENTIALS)
        frozen = found.get_frozen_credentials()
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            # boto3 renews what is about to expire whenever it is asked, so have it asked often
            "expires_at": datetime.now(UTC) + timedelta(minutes=1),
        }

    return fetch
