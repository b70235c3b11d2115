"""Credentials: static ones, those of the environment, none, and those that a function of yours fetches.

    icechunk.s3_credentials()                                          # from the environment
    icechunk.s3_credentials(anonymous=True)                            # unsigned requests
    icechunk.s3_credentials(access_key_id=..., secret_access_key=...)
    icechunk.s3_credentials(get_credentials=fetch)                     # fetch() is called whenever they have expired

All of them can be pickled, and so travel to worker processes with a repository. None shows a secret when printed. Credentials
of a function travel as that function, pickled; `Refresher` calls it where they are used.
"""

from __future__ import annotations

from icechunk.credentials.azure import (
    AnyAzureCredential,
    AnyAzureStaticCredential,
    AzureCredentials,
    AzureRefreshableCredential,
    AzureStaticCredentials,
    azure_anonymous_credentials,
    azure_credentials,
    azure_from_env_credentials,
    azure_refreshable_credentials,
    azure_static_credentials,
)
from icechunk.credentials.containers import (
    AnyCredential,
    Credentials,
    HttpAccess,
    LocalFileSystemAccess,
    containers_credentials,
)
from icechunk.credentials.containers import (
    check_authorization as check_authorization,
)
from icechunk.credentials.containers import (
    left_out as left_out,
)
from icechunk.credentials.gcs import (
    AnyGcsCredential,
    AnyGcsStaticCredential,
    GcsBearerCredential,
    GcsCredentials,
    GcsStaticCredentials,
    gcs_anonymous_credentials,
    gcs_credentials,
    gcs_from_env_credentials,
    gcs_refreshable_credentials,
    gcs_static_credentials,
)
from icechunk.credentials.refresh import Refresher as Refresher
from icechunk.credentials.s3 import (
    AnyS3Credential,
    S3Credentials,
    S3StaticCredentials,
    s3_anonymous_credentials,
    s3_credentials,
    s3_from_env_credentials,
    s3_refreshable_credentials,
    s3_static_credentials,
)

__all__ = [
    "AnyAzureCredential",
    "AnyAzureStaticCredential",
    "AnyCredential",
    "AnyGcsCredential",
    "AnyGcsStaticCredential",
    "AnyS3Credential",
    "AzureCredentials",
    "AzureRefreshableCredential",
    "AzureStaticCredentials",
    "Credentials",
    "GcsBearerCredential",
    "GcsCredentials",
    "GcsStaticCredentials",
    "HttpAccess",
    "LocalFileSystemAccess",
    "S3Credentials",
    "S3StaticCredentials",
    "azure_anonymous_credentials",
    "azure_credentials",
    "azure_from_env_credentials",
    "azure_refreshable_credentials",
    "azure_static_credentials",
    "containers_credentials",
    "gcs_anonymous_credentials",
    "gcs_credentials",
    "gcs_from_env_credentials",
    "gcs_refreshable_credentials",
    "gcs_static_credentials",
    "s3_anonymous_credentials",
    "s3_credentials",
    "s3_from_env_credentials",
    "s3_refreshable_credentials",
    "s3_static_credentials",
]
