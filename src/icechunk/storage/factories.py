"""Making storages: one function per kind of place. None of them sends a request."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from os import PathLike
from typing import Any

from icechunk.config.virtual import ChecksumAlgorithm, S3Options
from icechunk.credentials import (
    GcsBearerCredential,
    S3StaticCredentials,
    azure_credentials,
    gcs_credentials,
    s3_credentials,
)
from icechunk.storage.base import Storage
from icechunk.storage.builders import (
    new_azure_blob,
    new_gcs,
    new_hf,
    new_http,
    new_obstore,
    new_r2,
    new_redirect,
    new_s3,
    new_tigris,
)


def in_memory_storage() -> Storage:
    """A storage in the memory of this process; every call makes another one."""
    from icechunk.storage.memory import MemoryStorage

    return MemoryStorage()


def local_filesystem_storage(path: str | PathLike[str]) -> Storage:
    """A storage in a directory, which is made by the first write.

    Any number of threads and processes of this machine may work with it at once.
    """
    from icechunk.storage.local import LocalStorage

    return LocalStorage(path)


# ------------------------------------------------------------------------------------------------------------- S3 and kin


def s3_storage(
    *,
    bucket: str,
    prefix: str | None,
    region: str | None = None,
    endpoint_url: str | None = None,
    allow_http: bool = False,
    access_key_id: str | None = None,
    secret_access_key: str | None = None,
    session_token: str | None = None,
    expires_after: datetime | None = None,
    anonymous: bool | None = None,
    from_env: bool | None = None,
    get_credentials: Callable[[], S3StaticCredentials] | None = None,
    scatter_initial_credentials: bool = False,
    force_path_style: bool = False,
    network_stream_timeout_seconds: int = 60,
    requester_pays: bool = False,
    checksum_algorithm: ChecksumAlgorithm | None = None,
    legacy_rooted_keys: bool | None = None,
    read_headers: dict[str, str] | None = None,
    write_headers: dict[str, str] | None = None,
    headers: dict[str, str] | None = None,
) -> Storage:
    """A storage in a bucket of S3 or of a service that speaks S3.

    Parameters
    ----------
    bucket, prefix
        Where in the service; the prefix names a directory.
    region, endpoint_url, allow_http, force_path_style, network_stream_timeout_seconds, requester_pays, checksum_algorithm
        How to reach it, see `S3Options`.
    access_key_id, secret_access_key, session_token, expires_after
        A key. Without one, and without any of the next three, credentials come from the environment.
    anonymous
        Send requests unsigned.
    from_env
        Take credentials from the environment: variables, `~/.aws`, instance metadata.
    get_credentials
        A function that returns `S3StaticCredentials`; called whenever those have expired. It must be picklable.
    scatter_initial_credentials
        Call it now, and let copies in other processes begin with the result.
    legacy_rooted_keys
        With an empty prefix: object names begin with a `/`, as old versions wrote them there.
    headers, read_headers, write_headers
        HTTP headers sent with all requests, with reading and with writing ones.

    Raises
    ------
    ValueError
        Arguments about credentials contradict each other.
    StorageError
        The arguments do not name a place (storage-config).
    """
    return new_s3(
        S3Options(
            region=region,
            endpoint_url=endpoint_url,
            allow_http=allow_http,
            anonymous=bool(anonymous),
            force_path_style=force_path_style,
            network_stream_timeout_seconds=network_stream_timeout_seconds,
            requester_pays=requester_pays,
            checksum_algorithm=checksum_algorithm,
        ),
        bucket,
        prefix,
        s3_credentials(
            access_key_id=access_key_id,
            secret_access_key=secret_access_key,
            session_token=session_token,
            expires_after=expires_after,
            anonymous=anonymous,
            from_env=from_env,
            get_credentials=get_credentials,
            scatter_initial_credentials=scatter_initial_credentials,
        ),
        legacy_rooted_keys=legacy_rooted_keys,
        read_headers=read_headers,
        write_headers=write_headers,
        headers=headers,
    )


def s3_object_store_storage(
    *,
    bucket: str,
    prefix: str | None,
    region: str | None = None,
    endpoint_url: str | None = None,
    allow_http: bool = False,
    access_key_id: str | None = None,
    secret_access_key: str | None = None,
    session_token: str | None = None,
    expires_after: datetime | None = None,
    anonymous: bool | None = None,
    from_env: bool | None = None,
    force_path_style: bool = False,
    read_headers: dict[str, str] | None = None,
    write_headers: dict[str, str] | None = None,
    headers: dict[str, str] | None = None,
) -> Storage:
    """The same as `s3_storage` with fewer options; kept for programs that chose between two clients."""
    return s3_storage(
        bucket=bucket,
        prefix=prefix,
        region=region,
        endpoint_url=endpoint_url,
        allow_http=allow_http,
        access_key_id=access_key_id,
        secret_access_key=secret_access_key,
        session_token=session_token,
        expires_after=expires_after,
        anonymous=anonymous,
        from_env=from_env,
        force_path_style=force_path_style,
        read_headers=read_headers,
        write_headers=write_headers,
        headers=headers,
    )


def tigris_storage(
    *,
    bucket: str,
    prefix: str | None,
    region: str | None = None,
    endpoint_url: str | None = None,
    use_weak_consistency: bool = False,
    allow_http: bool = False,
    access_key_id: str | None = None,
    secret_access_key: str | None = None,
    session_token: str | None = None,
    expires_after: datetime | None = None,
    anonymous: bool | None = None,
    from_env: bool | None = None,
    get_credentials: Callable[[], S3StaticCredentials] | None = None,
    scatter_initial_credentials: bool = False,
    network_stream_timeout_seconds: int = 60,
    checksum_algorithm: ChecksumAlgorithm | None = None,
    legacy_rooted_keys: bool | None = None,
    read_headers: dict[str, str] | None = None,
    write_headers: dict[str, str] | None = None,
    headers: dict[str, str] | None = None,
) -> Storage:
    """A storage in a bucket of Tigris.

    Tigris is consistent within the region of the bucket only, so that must be named; `use_weak_consistency` reads without
    it, and never writes. The other arguments are those of `s3_storage`.
    """
    return new_tigris(
        S3Options(
            region=region,
            endpoint_url=endpoint_url,
            allow_http=allow_http,
            anonymous=bool(anonymous),
            network_stream_timeout_seconds=network_stream_timeout_seconds,
            checksum_algorithm=checksum_algorithm,
        ),
        bucket,
        prefix,
        use_weak_consistency,
        s3_credentials(
            access_key_id=access_key_id,
            secret_access_key=secret_access_key,
            session_token=session_token,
            expires_after=expires_after,
            anonymous=anonymous,
            from_env=from_env,
            get_credentials=get_credentials,
            scatter_initial_credentials=scatter_initial_credentials,
        ),
        legacy_rooted_keys=legacy_rooted_keys,
        read_headers=read_headers,
        write_headers=write_headers,
        headers=headers,
    )


def r2_storage(
    *,
    bucket: str | None = None,
    prefix: str | None = None,
    account_id: str | None = None,
    endpoint_url: str | None = None,
    region: str | None = None,
    allow_http: bool = False,
    access_key_id: str | None = None,
    secret_access_key: str | None = None,
    session_token: str | None = None,
    expires_after: datetime | None = None,
    anonymous: bool | None = None,
    from_env: bool | None = None,
    get_credentials: Callable[[], S3StaticCredentials] | None = None,
    scatter_initial_credentials: bool = False,
    network_stream_timeout_seconds: int = 60,
    checksum_algorithm: ChecksumAlgorithm | None = None,
    legacy_rooted_keys: bool | None = None,
    read_headers: dict[str, str] | None = None,
    write_headers: dict[str, str] | None = None,
    headers: dict[str, str] | None = None,
) -> Storage:
    """A storage in a bucket of Cloudflare's R2.

    Needs `account_id` or `endpoint_url`, and `bucket` or a prefix that begins with it. The other arguments are those of
    `s3_storage`.
    """
    return new_r2(
        S3Options(
            region=region,
            endpoint_url=endpoint_url,
            allow_http=allow_http,
            anonymous=bool(anonymous),
            network_stream_timeout_seconds=network_stream_timeout_seconds,
            checksum_algorithm=checksum_algorithm,
        ),
        bucket,
        prefix,
        account_id,
        s3_credentials(
            access_key_id=access_key_id,
            secret_access_key=secret_access_key,
            session_token=session_token,
            expires_after=expires_after,
            anonymous=anonymous,
            from_env=from_env,
            get_credentials=get_credentials,
            scatter_initial_credentials=scatter_initial_credentials,
        ),
        legacy_rooted_keys=legacy_rooted_keys,
        read_headers=read_headers,
        write_headers=write_headers,
        headers=headers,
    )


def hf_storage(
    *,
    bucket: str,
    prefix: str | None,
    namespace: str,
    access_key_id: str | None = None,
    secret_access_key: str | None = None,
    session_token: str | None = None,
    expires_after: datetime | None = None,
    from_env: bool | None = None,
    get_credentials: Callable[[], S3StaticCredentials] | None = None,
    scatter_initial_credentials: bool = False,
    network_stream_timeout_seconds: int = 60,
    legacy_rooted_keys: bool | None = None,
    read_headers: dict[str, str] | None = None,
    write_headers: dict[str, str] | None = None,
    headers: dict[str, str] | None = None,
) -> Storage:
    """A storage in a bucket of Hugging Face, of the user or organization `namespace`; see `s3_storage`."""
    return new_hf(
        S3Options(network_stream_timeout_seconds=network_stream_timeout_seconds),
        bucket,
        prefix,
        namespace,
        s3_credentials(
            access_key_id=access_key_id,
            secret_access_key=secret_access_key,
            session_token=session_token,
            expires_after=expires_after,
            from_env=from_env,
            get_credentials=get_credentials,
            scatter_initial_credentials=scatter_initial_credentials,
        ),
        legacy_rooted_keys,
        read_headers=read_headers,
        write_headers=write_headers,
        headers=headers,
    )


# -------------------------------------------------------------------------------------------------------- other services


def gcs_storage(
    *,
    bucket: str,
    prefix: str | None,
    service_account_file: str | None = None,
    service_account_key: str | None = None,
    application_credentials: str | None = None,
    bearer_token: str | None = None,
    anonymous: bool | None = None,
    from_env: bool | None = None,
    config: dict[str, str] | None = None,
    get_credentials: Callable[[], GcsBearerCredential] | None = None,
    scatter_initial_credentials: bool = False,
    read_headers: dict[str, str] | None = None,
    write_headers: dict[str, str] | None = None,
    headers: dict[str, str] | None = None,
) -> Storage:
    """A storage in a bucket of Google Cloud Storage.

    Parameters
    ----------
    bucket, prefix
        Where; the prefix names a directory.
    service_account_file, service_account_key, application_credentials, bearer_token
        Credentials. Without any, and without the next three, they come from the environment.
    anonymous
        Send requests unsigned.
    from_env
        Take credentials from the environment.
    config
        Options of the client.
    get_credentials, scatter_initial_credentials
        A function that returns a `GcsBearerCredential`, see `s3_storage`.
    headers, read_headers, write_headers
        HTTP headers sent with all requests, with reading and with writing ones.
    """
    return new_gcs(
        bucket,
        prefix,
        gcs_credentials(
            service_account_file=service_account_file,
            service_account_key=service_account_key,
            application_credentials=application_credentials,
            bearer_token=bearer_token,
            from_env=from_env,
            anonymous=anonymous,
            get_credentials=get_credentials,
            scatter_initial_credentials=scatter_initial_credentials,
        ),
        config=config,
        read_headers=read_headers,
        write_headers=write_headers,
        headers=headers,
    )


def azure_storage(
    *,
    account: str,
    container: str,
    prefix: str,
    access_key: str | None = None,
    sas_token: str | None = None,
    bearer_token: str | None = None,
    from_env: bool | None = None,
    anonymous: bool | None = None,
    config: dict[str, str] | None = None,
) -> Storage:
    """A storage in a container of Azure Blob Storage.

    Parameters
    ----------
    account, container, prefix
        Where; the prefix names a directory.
    access_key, sas_token, bearer_token
        Credentials, one of them. Without any, and without the next two, they come from the environment.
    from_env
        Take credentials from the environment.
    anonymous
        Send requests unsigned.
    config
        Options of the client.
    """
    return new_azure_blob(
        account,
        container,
        prefix,
        azure_credentials(
            access_key=access_key,
            sas_token=sas_token,
            bearer_token=bearer_token,
            from_env=from_env,
            anonymous=anonymous,
        ),
        config=config,
    )


def http_storage(base_url: str, opts: dict[str, str] | None = None, headers: dict[str, str] | None = None) -> Storage:
    """A repository that a web server offers for reading, below `base_url`.

    Parameters
    ----------
    base_url
        Where it is, `http://...` or `https://...`.
    opts
        Options of the client.
    headers
        HTTP headers sent with all requests. Where the server redirects to another host they are sent there too, but for
        `Authorization` and `Cookie`.
    """
    return new_http(base_url, opts, headers)


def redirect_storage(base_url: str) -> Storage:
    """The storage that the web server at `base_url` redirects to, found out when it is first used.

    The server answers with a `Location` of the form `s3://bucket/prefix?region=...`, `gs://bucket/prefix`,
    `r2://bucket/prefix?account_id=...` or `tigris://bucket/prefix?region=...`. It is read without credentials.
    """
    return new_redirect(base_url)


def obstore_storage(store: Any, prefix: str | None = None, *, read_only: bool = False) -> Storage:
    """A storage in an obstore store that you have already, made and configured however you like.

        store = obstore.store.S3Store("bucket", region="eu-west-1", credential_provider=provider)
        repo = icechunk.Repository.open(icechunk.obstore_storage(store, prefix="air"))

    Retries, time-outs and credentials are those of the store. It can be sent to other processes if the store can be pickled.
    With obstore's `LocalStore` commits are refused, since it cannot replace a file on condition: use
    `local_filesystem_storage`.

    Parameters
    ----------
    store
        Any of `obstore.store`: `S3Store`, `GCSStore`, `AzureStore`, `HTTPStore`, `LocalStore`, `MemoryStore`.
    prefix
        A directory in it, below the prefix that the store itself may have.
    read_only
        Whether to refuse all writes.

    Raises
    ------
    TypeError
        It is no store of obstore.
    """
    return new_obstore(store, prefix, read_only=read_only)
