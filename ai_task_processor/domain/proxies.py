"""Which proxy a request goes through, and what is said of one that does not do its part."""

import base64
import re
from collections.abc import Mapping
from functools import lru_cache
from http import HTTPStatus
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import unquote, urlsplit

from ai_task_processor.domain.confidential import Confidential

AUTHORIZATION = "Proxy-Authorization"

_PORTS = {"http": 80, "https": 443}
_WITH_PORT = re.compile(r"(.+):(\d+)")


class Proxy(Confidential, frozen=True):
    """Where a proxy is, without user and password; ``setting`` names the variable that says so.

    One that ``tunnels`` is asked by CONNECT to pass on what only the server can read; another one is sent requests.
    """

    url: str
    setting: str
    tunnels: bool
    authorization: str = ""

    @property
    def headers(self) -> Mapping[str, str]:
        """What the proxy alone is to be told."""
        return {AUTHORIZATION: self.authorization} if self.authorization else {}

    @property
    def forwarded_headers(self) -> Mapping[str, str]:
        """The same for a request which the proxy reads; none where the server would read them."""
        return {} if self.tunnels else self.headers

    def unreachable(self, reason: str) -> str:
        """What to say where it is not there, or does not answer."""
        return f"the proxy {self.url} gives no connection ({reason}): check {self.setting} and NO_PROXY"

    def refusal(self, status: int) -> str:
        """What to say where it does not do what it was asked for; ``status`` is that of its answer."""
        if status != HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
            return f"the proxy {self.url} gives no connection (HTTP {status}): see what it allows, and check NO_PROXY"
        wish = "refuses user or password" if self.authorization else "wants http://user:password@host:port"
        return f"the proxy {self.url} {wish} (HTTP {status}): check {self.setting}"


class Proxies(Confidential, frozen=True):
    """The proxies for servers that speak ``https`` or ``http``; those that ``direct`` covers are asked without one.

    Each word of ``direct`` is a host, a domain with all hosts in it (with or without a dot before it), an address, a
    network like ``10.0.0.0/8``, any of them with a port, or ``*`` for all.
    """

    https: Proxy | None = None
    http: Proxy | None = None
    direct: tuple[str, ...] = ()

    def for_url(self, url: str) -> Proxy | None:
        """The proxy on the way to ``url``; this machine is never asked through one."""
        if self.https is None and self.http is None:
            return None
        path = url.find("/", url.find("://") + 3)
        return _for_origin(self, url if path < 0 else url[:path])


def proxy_at(address: str, *, setting: str) -> Proxy:
    """The proxy at ``address``, which may hold user and password, and so is not in the words of the ValueError."""
    try:
        parts = urlsplit(address.strip())
        port = parts.port or _PORTS["http"]
    except ValueError:
        raise _no_proxy() from None
    if parts.scheme != "http" or not parts.hostname or parts.path.strip("/") or parts.query or parts.fragment:
        raise _no_proxy()
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    named = parts.username or parts.password
    authorization = _basic(parts.username or "", parts.password or "") if named else ""
    return Proxy(f"http://{host}:{port}", setting, tunnels=setting == "HTTPS_PROXY", authorization=authorization)


def words_of(no_proxy: str) -> tuple[str, ...]:
    """The words of NO_PROXY, between which are commas or spaces."""
    return tuple(no_proxy.lower().replace(",", " ").split())


def _no_proxy() -> ValueError:
    return ValueError("is no proxy; give one like http://proxy.example.com:3128 or http://user:password@host:port")


def _basic(user: str, password: str) -> str:
    return f"Basic {base64.b64encode(f'{unquote(user)}:{unquote(password)}'.encode()).decode()}"


@lru_cache(maxsize=64)
def _for_origin(proxies: Proxies, origin: str) -> Proxy | None:
    """A daemon asks three servers, and one of them for each task anew."""
    parts = urlsplit(origin)
    proxy = proxies.https if parts.scheme == "https" else proxies.http
    host, port = (parts.hostname or "").rstrip("."), parts.port or _PORTS.get(parts.scheme, 0)
    if _is_here(host) or any(_covers(word, host, port) for word in proxies.direct):
        return None
    return proxy


def _is_here(host: str) -> bool:
    address = _address(host)
    return address.is_loopback if address else host == "localhost" or host.endswith(".localhost")


def _covers(word: str, host: str, port: int) -> bool:
    network, address = _network(word), _address(host)
    if network:
        return address is not None and address in network
    if with_port := _WITH_PORT.fullmatch(word):
        return int(with_port[2]) == port and _covers(with_port[1], host, port)
    domain = word.removeprefix("*").strip(".")
    return word == "*" or host == domain or (domain != "" and host.endswith(f".{domain}"))


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def _network(word: str) -> IPv4Network | IPv6Network | None:
    """An address is a network of one."""
    try:
        return ip_network(word.replace("[", "").replace("]", ""), strict=False)
    except ValueError:
        return None
