"""What whoever opens a repository says about its virtual chunks, and what is said back.

Permission and credentials are given per container; `VirtualPolicy` holds what is decided for all of them: what happens
when a source is no longer what the references were made from, and whether public sources need no permission. Both hold
for one open repository and are never stored with it.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args
from urllib.parse import urlsplit

from icechunk._dataclass import dataclass
from icechunk.config.virtual import with_final_slash
from icechunk.credentials import AzureCredentials, Credentials, GcsCredentials, S3Credentials
from icechunk.display import Card, Plain, Row, Shown, masked_url, quoted
from icechunk.errors import ErrorKind, InvalidInputError
from icechunk.virtual_types import ObjectStoreConfig, VirtualChunkContainer

if TYPE_CHECKING:
    from icechunk.config import RepositoryConfig

log = logging.getLogger("icechunk.virtual")

Drift: TypeAlias = Literal["error", "warn", "ignore"]
"""What happens when a source has another etag, or is newer, than a reference says."""

_PACKAGE = os.path.dirname(os.path.abspath(__file__))
_S3 = (ObjectStoreConfig.S3, ObjectStoreConfig.S3Compatible, ObjectStoreConfig.Tigris)


class UnauthorizedContainersWarning(UserWarning):
    """The repository has virtual chunk containers that may not be read, since nobody authorized them."""


class SourceDriftWarning(UserWarning):
    """A virtual chunk was read from an object that changed after the reference to it was made."""


@dataclass(frozen=True, slots=True)
class VirtualPolicy:
    """What holds for all virtual chunk containers of one open repository.

    Attributes
    ----------
    drift : "error", "warn" or "ignore"
        What happens when an object is not what the reference to it was made from any more.
    anonymous : bool or tuple of str
        Which containers may be read without having been authorized, by requests that carry no credentials: none, all
        that are elsewhere, or those whose URL prefix begins with one of these.
    given : tuple of VirtualChunkContainer
        The containers that whoever opened the repository has set up, who so knows where requests to them go.
    """

    drift: Drift = "error"
    anonymous: bool | tuple[str, ...] = False
    given: tuple[VirtualChunkContainer, ...] = ()

    @classmethod
    def of(cls, drift: str, anonymous: bool | Collection[str]) -> VirtualPolicy:
        """The policy that arguments of a user ask for. Raises `ValueError`, `TypeError`."""
        if drift not in get_args(Drift):
            raise ValueError(f"virtual_drift is 'error', 'warn' or 'ignore', not {drift!r}")
        if isinstance(anonymous, bool):
            return cls(drift, anonymous)  # type: ignore[arg-type]
        if isinstance(anonymous, str):
            raise TypeError("anonymous_virtual_access is True, False or a list of URL prefixes, not one text")
        return cls(drift, tuple(with_final_slash(prefix) for prefix in anonymous))  # type: ignore[arg-type]

    def with_given(self, config: RepositoryConfig | None) -> VirtualPolicy:
        """The same, for somebody who also gave this configuration."""
        containers = (
            getattr(config, "virtual_chunk_containers", None) or {}
        )  # what is no configuration is refused later
        return replace(self, given=(*self.given, *containers.values())) if containers else self

    def check_way(self, container: VirtualChunkContainer, credentials: Any) -> None:
        """Raise `InvalidInputError` where stored options would send a secret elsewhere than to the service.

        Tokens and keys of Google and Azure tell everything to whoever gets them (a signature for S3 does not), and the
        options of a container are those that somebody stored with the repository.
        """
        option = None if container in self.given else leads_elsewhere(container.store, credentials)
        if option is not None:
            raise InvalidInputError(
                f"the virtual chunk container {masked_url(container.url_prefix)} is stored with the option `{option}`, by "
                "which your credentials would be sent to another place than the service they are for, or in another way. "
                "If that is meant, give the container yourself when you open the repository, in "
                "`config=icechunk.RepositoryConfig(virtual_chunk_containers={prefix: container})`",
                ErrorKind.INVALID_CREDENTIALS,
            )

    def anonymous_credentials(self, container: VirtualChunkContainer) -> Credentials | None:
        """What reads a container that was not authorized; None where the policy does not cover it.

        Local files are never covered, and hosts of this machine or network only where their prefix is named: a
        repository made by somebody else must not send us to places that only we can reach.
        """
        credentials = _without_a_key(container.store)
        if credentials is None or self.anonymous is False:
            return None
        if self.anonymous is True:
            return None if _is_nearby(container) else credentials
        prefix = with_final_slash(container.url_prefix)
        return credentials if prefix.startswith(self.anonymous) else None


def _without_a_key(store: Any) -> Credentials | None:
    if isinstance(store, _S3):
        return Credentials.S3(S3Credentials.Anonymous())
    if isinstance(store, ObjectStoreConfig.Gcs):
        return Credentials.Gcs(GcsCredentials.Anonymous())
    if isinstance(store, ObjectStoreConfig.Azure):
        return Credentials.Azure(AzureCredentials.Anonymous())
    if isinstance(store, ObjectStoreConfig.Http):
        return Credentials.HttpAccess()
    return None


_HARMLESS_OPTIONS = frozenset(
    {
        *(
            "account",
            "account_name",
            "bucket",
            "bucket_name",
            "container_name",
            "skip_signature",
            "default_content_type",
        ),
        *("allow_http", "connect_timeout", "read_timeout", "timeout", "user_agent", "http1_only", "http2_only"),
        *("http2_keep_alive_interval", "http2_keep_alive_timeout", "http2_keep_alive_while_idle"),
        *("pool_idle_timeout", "pool_max_idle_per_host", "randomize_addresses"),
    }
)
_ADDRESSES = frozenset({"base_url", "endpoint"})
_AZURE_HOSTS = ("core.windows.net", "core.chinacloudapi.cn", "core.usgovcloudapi.net", "fabric.microsoft.com")
# prefixes of the names of their options, and the domains that are theirs
_SERVICES: dict[Any, tuple[tuple[str, ...], tuple[str, ...]]] = {
    ObjectStoreConfig.Gcs: (("google_",), ("googleapis.com",)),
    ObjectStoreConfig.Azure: (("azure_storage_", "azure_"), _AZURE_HOSTS),
}


def leads_elsewhere(store: Any, credentials: Any) -> str | None:
    """The option of a container by which secrets would go elsewhere than to the service, None where there is none."""
    if type(store) not in _SERVICES or isinstance(
        getattr(credentials, "_0", None), (GcsCredentials.Anonymous, AzureCredentials.Anonymous)
    ):
        return None
    prefixes, hosts = _SERVICES[type(store)]
    options: dict[str, str] = store._0 or {}
    for name, value in options.items():
        plain = name.lower()
        plain = next((plain.removeprefix(prefix) for prefix in prefixes if plain.startswith(prefix)), plain)
        if plain in _HARMLESS_OPTIONS or (plain in _ADDRESSES and _is_address_of(str(value), hosts)):
            continue
        return name
    return None


def _is_address_of(url: str, hosts: tuple[str, ...]) -> bool:
    """Whether a URL leads to one of these domains, encrypted, or to this very machine."""
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".")
    if "@" in parts.netloc or "\\" in url:
        return False
    if host in ("localhost", "127.0.0.1", "::1"):
        return True
    return parts.scheme == "https" and any(host == domain or host.endswith(f".{domain}") for domain in hosts)


def _is_nearby(container: VirtualChunkContainer) -> bool:
    store = container.store
    urls = [container.url_prefix] if isinstance(store, ObjectStoreConfig.Http) else []
    if isinstance(store, _S3):
        urls += [store._0.endpoint_url] if store._0.endpoint_url else []
    elif isinstance(store, (ObjectStoreConfig.Gcs, ObjectStoreConfig.Azure)):
        urls += [value for value in (store._0 or {}).values() if "://" in value]
    return any(_is_nearby_host(urlsplit(url).hostname or "") for url in urls)


def _is_nearby_host(host: str) -> bool:
    import ipaddress  # rarely needed

    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return "." not in host.rstrip(".") or host.rstrip(".").endswith((".localhost", ".local", ".internal"))


# ------------------------------------------------------------------------------------------------------ what is missing


def authorization_entry(container: VirtualChunkContainer) -> str:
    """The entry of a dict that authorizes a container, as it is typed."""
    store = container.store
    how = "None"
    if isinstance(store, _S3):
        how = f"icechunk.s3_credentials({'anonymous' if store._0.anonymous else 'from_env'}=True)"
    elif isinstance(store, ObjectStoreConfig.Gcs):
        how = "icechunk.gcs_credentials(from_env=True)"
    elif isinstance(store, ObjectStoreConfig.Azure):
        how = "icechunk.azure_credentials(from_env=True)"
    return f"{quoted(masked_url(container.url_prefix))}: {how}"


def authorization_line(containers: Iterable[VirtualChunkContainer]) -> str:
    """The argument that authorizes containers, as it is typed."""
    entries = ", ".join(map(authorization_entry, containers))
    return f"authorize_virtual_chunk_access=icechunk.containers_credentials({{{entries}}})"


def report_unauthorized(containers: Sequence[VirtualChunkContainer], strays: Sequence[str] = ()) -> None:
    """Warn, once for all, of containers that were not authorized; old ones whose prefix is no URL are logged only.

    `strays` are prefixes that were authorized and that no container has.
    """
    missing = [item for item in containers if "://" in item.url_prefix]
    for item in containers:
        if "://" not in item.url_prefix:
            log.debug("the virtual chunk container %s has no URL and serves nothing", item.url_prefix)
    if not missing:
        return
    names = ", ".join(masked_url(item.url_prefix) + (f" ({item.name})" if item.name else "") for item in missing)
    text = (
        f"virtual chunks of this repository cannot be read from {names}, since that was not authorized. If they are "
        f"needed, open the repository with\n    {authorization_line(missing)}"
    )
    if strays:
        text += f"\n(no container has the prefix {', '.join(map(masked_url, strays))}, which was authorized)"
    warn_caller(text, UnauthorizedContainersWarning)


def warn_caller(text: str, category: type[Warning]) -> None:
    """A warning that points to the line outside of this package which brought it about."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame, level = frame.f_back, level + 1
    warnings.warn(text, category, stacklevel=level)


# ------------------------------------------------------------------------------------------------------ what was tried

AccessStatus: TypeAlias = Literal["readable", "unauthorized", "unused", "denied", "missing", "changed", "failed"]


@dataclass(frozen=True, slots=True)
class ContainerAccess:
    """Whether one virtual chunk container can be read.

    Attributes
    ----------
    url_prefix, name : str, str or None
        The container.
    status : str
        "readable"; "unauthorized": nobody authorized it; "unused": no reference to it was found, so nothing was tried;
        "denied": the credentials do not suffice; "missing": the object is not there; "changed": it is not what the
        reference was made from; "failed": it could not be asked for.
    location : str or None
        The object that was tried.
    detail : str
        What went wrong and what to do about it; empty where nothing is wrong.
    """

    url_prefix: str
    name: str | None
    status: AccessStatus
    location: str | None = None
    detail: str = ""

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return self.status in ("readable", "unused")

    def __str__(self) -> str:
        tried = f" (tried {masked_url(self.location)})" if self.location else ""
        return f"{self.status}{tried}" + (f": {self.detail}" if self.detail else "")


@dataclass(frozen=True, slots=True, repr=False)
class VirtualAccessReport(Shown):
    """Which virtual chunk containers can be read; `print` it.

    Attributes
    ----------
    snapshot_id : str
        The snapshot whose references were looked at.
    containers : tuple of ContainerAccess
        One per container.
    homeless : tuple of str
        Some locations of virtual chunks that no container serves.
    complete : bool
        Whether all references were looked at; if not, a container may be in use although it says "unused".
    """

    snapshot_id: str
    containers: tuple[ContainerAccess, ...]
    homeless: tuple[str, ...] = ()
    complete: bool = True

    @property
    def ok(self) -> bool:
        """Whether every virtual chunk can be expected to be readable."""
        return not self.homeless and all(item.ok for item in self.containers)

    def _card(self) -> Card:
        rows = [Row("snapshot_id", Plain(self.snapshot_id)), Row("ok", self.ok)]
        for item in self.containers:
            name = masked_url(item.url_prefix) + (f" ({item.name})" if item.name else "")
            rows.append(Row(name, Plain(item)))
        if self.homeless:
            rows.append(Row("without a container", Plain("\n".join(map(masked_url, self.homeless)))))
        if not self.complete:
            rows.append(Row("complete", self.complete))
        return Card("icechunk.virtual.VirtualAccessReport", rows)
