"""How a storage is used: concurrency, retries, time-outs, conditional writes.

Every backend has settings that suit it; what a repository's configuration sets goes over them, field by field.
"""

from __future__ import annotations

from icechunk.config.fields import Settings, flag, section, text, u16, u32, u64


class StorageConcurrencySettings(Settings):
    """How large objects are read in pieces.

    Parameters
    ----------
    max_concurrent_requests_for_object
        How many requests may be under way for one object.
    ideal_concurrent_request_size
        How many bytes one request should ask for.
    """

    __slots__ = ()
    _title = "icechunk.storage.StorageConcurrencySettings"

    max_concurrent_requests_for_object = u16(18, "How many requests may be under way for one object.", non_zero=True)
    ideal_concurrent_request_size = u64(12 * 1024 * 1024, "How many bytes one request should ask for.", non_zero=True)

    def __init__(
        self,
        max_concurrent_requests_for_object: int | None = None,
        ideal_concurrent_request_size: int | None = None,
    ) -> None:
        super().__init__(
            max_concurrent_requests_for_object=max_concurrent_requests_for_object,
            ideal_concurrent_request_size=ideal_concurrent_request_size,
        )


class StorageRetriesSettings(Settings):
    """How failing requests are repeated.

    Parameters
    ----------
    max_tries
        How often a request is sent at most, the first time included.
    initial_backoff_ms, max_backoff_ms
        Milliseconds to wait before the second try, and at most.
    """

    __slots__ = ()
    _title = "icechunk.storage.StorageRetriesSettings"

    max_tries = u16(10, "How often a request is sent at most, the first time included.", non_zero=True)
    initial_backoff_ms = u32(100, "Milliseconds to wait before the second try.")
    max_backoff_ms = u32(180_000, "Milliseconds to wait at most.")

    def __init__(
        self,
        max_tries: int | None = None,
        initial_backoff_ms: int | None = None,
        max_backoff_ms: int | None = None,
    ) -> None:
        super().__init__(max_tries=max_tries, initial_backoff_ms=initial_backoff_ms, max_backoff_ms=max_backoff_ms)


class StorageTimeoutSettings(Settings):
    """How long requests may take, in milliseconds; unset is the client's own choice.

    Parameters
    ----------
    connect_timeout_ms
        Until a connection stands.
    read_timeout_ms
        Until the first byte of the response.
    operation_timeout_ms
        For all tries together.
    operation_attempt_timeout_ms
        For one try.
    """

    __slots__ = ()
    _title = "icechunk.storage.StorageTimeoutSettings"

    connect_timeout_ms = u32(None, "Milliseconds until a connection stands.")
    read_timeout_ms = u32(None, "Milliseconds until the first byte of the response.")
    operation_timeout_ms = u32(None, "Milliseconds for all tries together.")
    operation_attempt_timeout_ms = u32(None, "Milliseconds for one try.")

    def __init__(
        self,
        connect_timeout_ms: int | None = None,
        read_timeout_ms: int | None = None,
        operation_timeout_ms: int | None = None,
        operation_attempt_timeout_ms: int | None = None,
    ) -> None:
        super().__init__(
            connect_timeout_ms=connect_timeout_ms,
            read_timeout_ms=read_timeout_ms,
            operation_timeout_ms=operation_timeout_ms,
            operation_attempt_timeout_ms=operation_attempt_timeout_ms,
        )


class StorageSettings(Settings):
    """How a storage is used.

    Parameters
    ----------
    concurrency
        How large objects are read in pieces.
    retries
        How failing requests are repeated.
    unsafe_use_conditional_create, unsafe_use_conditional_update
        Whether the store honours conditional writes. Without them concurrent writers can lose commits.
    unsafe_use_metadata
        Whether facts about an object are kept with it as metadata.
    storage_class
        The class of new objects.
    metadata_storage_class, chunks_storage_class
        The class of new metadata files and chunks; `storage_class` where unset.
    minimum_size_for_multipart_upload
        Bytes from which on an object is uploaded in parts.
    timeouts
        How long requests may take.
    """

    __slots__ = ()
    _title = "icechunk.storage.StorageSettings"

    concurrency = section(StorageConcurrencySettings, "How large objects are read in pieces.", merges=True)
    retries = section(StorageRetriesSettings, "How failing requests are repeated.", merges=True)
    timeouts = section(StorageTimeoutSettings, "How long requests may take.", merges=True)
    unsafe_use_conditional_update = flag(True, "Whether the store honours conditional updates.")
    unsafe_use_conditional_create = flag(True, "Whether the store honours conditional creation.")
    unsafe_use_metadata = flag(True, "Whether facts about an object are kept with it as metadata.")
    storage_class = text("The class of new objects.")
    metadata_storage_class = text("The class of new metadata files; `storage_class` where unset.")
    chunks_storage_class = text("The class of new chunks; `storage_class` where unset.")
    minimum_size_for_multipart_upload = u64(100 * 1024 * 1024, "Bytes from which on objects are uploaded in parts.")

    def __init__(
        self,
        concurrency: StorageConcurrencySettings | None = None,
        retries: StorageRetriesSettings | None = None,
        unsafe_use_conditional_create: bool | None = None,
        unsafe_use_conditional_update: bool | None = None,
        unsafe_use_metadata: bool | None = None,
        storage_class: str | None = None,
        metadata_storage_class: str | None = None,
        chunks_storage_class: str | None = None,
        minimum_size_for_multipart_upload: int | None = None,
        timeouts: StorageTimeoutSettings | None = None,
    ) -> None:
        super().__init__(
            concurrency=concurrency,
            retries=retries,
            unsafe_use_conditional_create=unsafe_use_conditional_create,
            unsafe_use_conditional_update=unsafe_use_conditional_update,
            unsafe_use_metadata=unsafe_use_metadata,
            storage_class=storage_class,
            metadata_storage_class=metadata_storage_class,
            chunks_storage_class=chunks_storage_class,
            minimum_size_for_multipart_upload=minimum_size_for_multipart_upload,
            timeouts=timeouts,
        )
