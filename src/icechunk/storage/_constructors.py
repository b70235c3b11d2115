"""The class methods of `Storage` that make one, for those who prefer them to functions, and its synchronous listings."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from datetime import UTC, datetime
from os import PathLike
from typing import TYPE_CHECKING, Any, cast

from icechunk._dataclass import dataclass
from icechunk._driver import iterate
from icechunk.display import Card, Plain, Row, Shown

if TYPE_CHECKING:
    from icechunk.config import S3Options, StorageSettings
    from icechunk.credentials import AnyAzureCredential, AnyGcsCredential, AnyS3Credential
    from icechunk.storage.base import Storage

    Headers = Mapping[str, str]


@dataclass(frozen=True, slots=True, repr=False)
class StorageObjectInfo(Shown):
    """An object of a storage.

    Attributes
    ----------
    key : str
        Its path below the root of the storage.
    size_bytes : int
        Its size.
    created_at : datetime
        When it was written last, in UTC.
    """

    key: str
    size_bytes: int
    created_at: datetime

    def _card(self) -> Card:
        rows = [Row("key", Plain(self.key)), Row("size_bytes", self.size_bytes), Row("created_at", self.created_at)]
        return Card("icechunk.storage.StorageObjectInfo", rows)


class Constructors:
    """Mixin of `Storage`."""

    __slots__ = ()

    @classmethod
    def new_in_memory(cls) -> Storage:
        """See `icechunk.in_memory_storage`."""
        from icechunk.storage import in_memory_storage

        return in_memory_storage()

    @classmethod
    def new_local_filesystem(cls, path: str | PathLike[str]) -> Storage:
        """See `icechunk.local_filesystem_storage`."""
        from icechunk.storage import local_filesystem_storage

        return local_filesystem_storage(path)

    @classmethod
    def new_s3(
        cls,
        config: S3Options,
        bucket: str,
        prefix: str | None,
        credentials: AnyS3Credential | None = None,
        legacy_rooted_keys: bool | None = None,
        *,
        read_headers: Headers | None = None,
        write_headers: Headers | None = None,
        headers: Headers | None = None,
    ) -> Storage:
        """See `icechunk.s3_storage`."""
        from icechunk.storage.builders import new_s3

        return new_s3(
            config,
            bucket,
            prefix,
            credentials,
            legacy_rooted_keys,
            read_headers=read_headers,
            write_headers=write_headers,
            headers=headers,
        )

    @classmethod
    def new_s3_object_store(
        cls,
        config: S3Options,
        bucket: str,
        prefix: str | None,
        credentials: AnyS3Credential | None = None,
        *,
        read_headers: Headers | None = None,
        write_headers: Headers | None = None,
        headers: Headers | None = None,
    ) -> Storage:
        """See `icechunk.storage.s3_object_store_storage`."""
        return cls.new_s3(
            config,
            bucket,
            prefix,
            credentials,
            read_headers=read_headers,
            write_headers=write_headers,
            headers=headers,
        )

    @classmethod
    def new_tigris(
        cls,
        config: S3Options,
        bucket: str,
        prefix: str | None,
        use_weak_consistency: bool,
        credentials: AnyS3Credential | None = None,
        legacy_rooted_keys: bool | None = None,
        *,
        read_headers: Headers | None = None,
        write_headers: Headers | None = None,
        headers: Headers | None = None,
    ) -> Storage:
        """See `icechunk.tigris_storage`."""
        from icechunk.storage.builders import new_tigris

        return new_tigris(
            config,
            bucket,
            prefix,
            use_weak_consistency,
            credentials,
            legacy_rooted_keys,
            read_headers=read_headers,
            write_headers=write_headers,
            headers=headers,
        )

    @classmethod
    def new_r2(
        cls,
        config: S3Options,
        bucket: str | None = None,
        prefix: str | None = None,
        account_id: str | None = None,
        credentials: AnyS3Credential | None = None,
        legacy_rooted_keys: bool | None = None,
        *,
        read_headers: Headers | None = None,
        write_headers: Headers | None = None,
        headers: Headers | None = None,
    ) -> Storage:
        """See `icechunk.r2_storage`."""
        from icechunk.storage.builders import new_r2

        return new_r2(
            config,
            bucket,
            prefix,
            account_id,
            credentials,
            legacy_rooted_keys,
            read_headers=read_headers,
            write_headers=write_headers,
            headers=headers,
        )

    @classmethod
    def new_hf(
        cls,
        config: S3Options,
        bucket: str,
        prefix: str | None,
        namespace: str,
        credentials: AnyS3Credential | None = None,
        legacy_rooted_keys: bool | None = None,
        *,
        read_headers: Headers | None = None,
        write_headers: Headers | None = None,
        headers: Headers | None = None,
    ) -> Storage:
        """See `icechunk.hf_storage`."""
        from icechunk.storage.builders import new_hf

        return new_hf(
            config,
            bucket,
            prefix,
            namespace,
            credentials,
            legacy_rooted_keys,
            read_headers=read_headers,
            write_headers=write_headers,
            headers=headers,
        )

    @classmethod
    def new_gcs(
        cls,
        bucket: str,
        prefix: str | None,
        credentials: AnyGcsCredential | None = None,
        *,
        config: Mapping[str, str] | None = None,
        read_headers: Headers | None = None,
        write_headers: Headers | None = None,
        headers: Headers | None = None,
    ) -> Storage:
        """See `icechunk.gcs_storage`."""
        from icechunk.storage.builders import new_gcs

        return new_gcs(
            bucket,
            prefix,
            credentials,
            config=config,
            read_headers=read_headers,
            write_headers=write_headers,
            headers=headers,
        )

    @classmethod
    def new_azure_blob(
        cls,
        account: str,
        container: str,
        prefix: str,
        credentials: AnyAzureCredential | None = None,
        *,
        config: Mapping[str, str] | None = None,
    ) -> Storage:
        """See `icechunk.azure_storage`."""
        from icechunk.storage.builders import new_azure_blob

        return new_azure_blob(account, container, prefix, credentials, config=config)

    @classmethod
    def new_http(
        cls, base_url: str, config: Mapping[str, str] | None = None, headers: Headers | None = None
    ) -> Storage:
        """See `icechunk.http_storage`."""
        from icechunk.storage.builders import new_http

        return new_http(base_url, config, headers)

    @classmethod
    def new_redirect(cls, base_url: str) -> Storage:
        """See `icechunk.redirect_storage`."""
        from icechunk.storage.builders import new_redirect

        return new_redirect(base_url)

    @classmethod
    def new_obstore(cls, store: Any, prefix: str | None = None, *, read_only: bool = False) -> Storage:
        """See `icechunk.obstore_storage`."""
        from icechunk.storage.builders import new_obstore

        return new_obstore(store, prefix, read_only=read_only)

    def list_objects_metadata(
        self, settings: StorageSettings | None = None, prefix: str | None = None
    ) -> list[StorageObjectInfo]:
        """All objects, or those below the directory `prefix`, sorted by path."""
        storage: Any = cast("Storage", self)
        if settings is not None:
            storage = storage.with_settings(settings)
        below = f"{prefix.strip('/')}/" if prefix and prefix.strip("/") else ""
        found = [
            StorageObjectInfo(item.path, item.size, datetime.fromtimestamp(item.modified, UTC))
            for batch in iterate(storage.list(below))
            for item in batch
        ]
        return sorted(found, key=lambda item: item.key)

    def list_objects(self, settings: StorageSettings | None = None, prefix: str | None = None) -> list[tuple[str, int]]:
        """Paths and sizes of all objects. Deprecated: `list_objects_metadata` tells more."""
        warnings.warn("list_objects is deprecated, use list_objects_metadata", DeprecationWarning, stacklevel=2)
        return [(item.key, item.size_bytes) for item in self.list_objects_metadata(settings, prefix)]
