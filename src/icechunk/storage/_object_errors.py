"""What clients of object stores raise, as what storages raise; and a client that would hang, as an error too.

Texts of clients name URLs, and those may hold signatures: whoever can read a log must not be able to read the bucket.
"""

from __future__ import annotations

import os
import re
from types import ModuleType

from icechunk.display import masked_url
from icechunk.errors import ErrorKind, InvalidInputError, ObjectNotFoundError, PreconditionFailedError, StorageError
from icechunk.storage.doctor import without_conditions

_SECRETS = re.compile(
    r"(?i)\b(sig|signature|x-amz-signature|x-amz-credential|x-amz-security-token|x-goog-signature|awsaccesskeyid|token)"
    r"=[^&\s\"')]+"
)
_NO_BUCKET = ("NoSuchBucket", "ContainerNotFound", "The specified bucket does not exist")
_PAST_THE_END = ("416 Range Not Satisfiable", "Wanted range starting at", "Range started at", "StartTooLarge")
_REFUSED_AT_ONCE = re.compile(r"Error performing \w+ \S+ in [^\s,]+ - .*\b412\b")
"""After more than one try it says "in 1.2s, after 2 retries, ... - "."""
_ASKED_THE_MACHINE = ("/latest/api/token", "/latest/meta-data", "/computeMetadata/", "/metadata/identity/")
_BUSY = ("503 ", "429 ", "SlowDown", "ServerBusy")

_used = False  # a client of this process has threads of its own
_forked = False  # they stayed behind in the parent


def client_module() -> ModuleType:
    """obstore, for a request. Raises `StorageError` where a request could only hang.

    The client's threads do not come along into a forked process, so that there a request would wait for ever.
    """
    if _forked:
        raise StorageError(
            "this process was forked from one that had used an object store already, and its connections cannot be used "
            "here; start worker processes with the method 'spawn' or 'forkserver' instead of 'fork'",
            ErrorKind.STORAGE_OTHER,
        )
    global _used
    module = import_client()
    _used = True
    return module


def import_client() -> ModuleType:
    """obstore, loaded when it is first needed. Raises `StorageError` where it is not installed."""
    try:
        import obstore
    except ImportError as error:
        raise StorageError(
            "object stores need the package obstore: pip install obstore", ErrorKind.STORAGE_CONFIG
        ) from error
    return obstore


def _after_fork() -> None:
    global _forked
    _forked = _used


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def explain(error: BaseException) -> str:
    """The text of a client's error: what is for people, without secrets."""
    text = str(error).partition("Debug source:")[0].strip()
    return masked_url(_SECRETS.sub(r"\1=****", text)) or type(error).__name__


def is_past_the_end(error: BaseException) -> bool:
    """Whether a range was refused because it begins where the object has no bytes any more."""
    text = str(error)
    return any(sign in text for sign in _PAST_THE_END)


def is_broken_off(error: BaseException) -> bool:
    """Whether an answer ended too early and the client did not try again; it does not when the answer is an error."""
    text = explain(error)
    return "HTTP error" in text and "retries" not in text and "response body error" in text


def is_plain_conflict(error: PreconditionFailedError) -> bool:
    """Whether a conditional write was refused at its first try, since its condition did not hold: nothing is in doubt."""
    return _REFUSED_AT_ONCE.search(error.message) is not None


def translate(error: Exception, path: str) -> Exception:
    """The error that a storage raises when its client raised `error` about the object at `path`."""
    text, name = explain(error), type(error).__name__
    if isinstance(error, FileNotFoundError):
        if any(sign in text for sign in _NO_BUCKET):
            return StorageError(f"object store error: the bucket does not exist: {text}", ErrorKind.OBJECT_STORE)
        return ObjectNotFoundError(f"object not found: `{path}`")
    if name in ("AlreadyExistsError", "PreconditionError"):
        return PreconditionFailedError(f"object `{path}` is not what the write was conditional on: {text}")
    if name in ("PermissionDeniedError", "UnauthenticatedError"):
        return StorageError(
            f"object store error: not allowed, check the credentials and what they permit: {text}",
            ErrorKind.INVALID_CREDENTIALS,
        )
    if name == "NotSupportedError" or isinstance(error, NotImplementedError):
        return StorageError(f"object store error: this store cannot do that: {text}", ErrorKind.UNIMPLEMENTED)
    if isinstance(error, ValueError):
        return InvalidInputError(f"object store error: it cannot name `{path}`: {text}", ErrorKind.INVALID_PATH)
    if "501 Not Implemented" in text:
        return StorageError(
            "object store error: this store does not know conditional writes, by which commits are kept apart. To use it "
            f"all the same, {without_conditions()}; `storage.doctor()` tells more: {text}",
            ErrorKind.UNIMPLEMENTED,
        )
    if any(sign in text for sign in _ASKED_THE_MACHINE):
        return StorageError(
            "object store error: there are no credentials: none were given, and neither the environment of this process "
            "nor the machine has any. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or what the service takes) where "
            f"it runs, also in workers to which credentials did not travel: {text}",
            ErrorKind.INVALID_CREDENTIALS,
        )
    if any(sign in text for sign in _BUSY):
        return StorageError(f"object store error: it is busy: {text}", ErrorKind.THROTTLED)
    if "builder error" in text:
        text += " (a plain http:// endpoint needs allow_http=True)"
    return StorageError(f"object store error: {text}", ErrorKind.OBJECT_STORE)
