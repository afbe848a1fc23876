import base64

import pytest

from ai_task_processor.domain.proxies import Proxies, Proxy, proxy_at, words_of

SECURE = Proxy("http://secure:3128", "HTTPS_PROXY", tunnels=True)
PLAIN = Proxy("http://plain:3128", "HTTP_PROXY", tunnels=False)


def proxies(no_proxy: str = "") -> Proxies:
    return Proxies(SECURE, PLAIN, words_of(no_proxy))


def test_without_a_proxy_nothing_goes_through_one() -> None:
    assert Proxies(direct=("*",)).for_url("https://api.openai.com/v1") is None


def test_each_scheme_has_its_own() -> None:
    assert proxies().for_url("https://api.openai.com") is SECURE
    assert proxies().for_url("http://ollama:11434/api/embed?a=b") is PLAIN
    assert Proxies(https=SECURE).for_url("http://ollama:11434") is None
    assert Proxies(http=PLAIN).for_url("https://api.openai.com") is None


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost:11434",
        "https://LOCALHOST/x",
        "http://api.localhost",
        "http://127.0.0.1:8000",
        "http://127.9.9.9",
        "http://[::1]:8000/x",
    ],
)
def test_this_machine_is_never_asked_through_one(url: str) -> None:
    assert proxies().for_url(url) is None


@pytest.mark.parametrize(
    ("no_proxy", "url", "is_direct"),
    [
        ("example.com", "https://example.com", True),
        ("EXAMPLE.com", "https://Example.COM/x", True),
        ("example.com", "https://api.example.com", True),
        (".example.com", "https://api.example.com", True),
        (".example.com", "https://example.com", True),
        ("*.example.com", "https://api.example.com", True),
        ("example.com.", "https://api.example.com.", True),
        ("example.com", "https://badexample.com", False),
        ("api.example.com", "https://example.com", False),
        ("example.com:8443", "https://api.example.com:8443", True),
        ("example.com:8443", "https://api.example.com", False),
        ("example.com:443", "https://api.example.com", True),
        ("example.com:80", "http://example.com", True),
        ("*", "https://api.example.com", True),
        ("other, *", "https://api.example.com", True),
        ("a.test, b.test c.test", "https://b.test", True),
        ("a.test, b.test c.test", "https://c.test", True),
        ("10.1.2.3", "http://10.1.2.3:11434", True),
        ("10.1.2.3:80", "http://10.1.2.3:11434", False),
        ("10.1.2.3:11434", "http://10.1.2.3:11434", True),
        ("10.0.0.0/8", "http://10.1.2.3", True),
        ("10.0.0.0/8", "http://11.1.2.3", False),
        ("10.1.2.3/8", "http://10.200.0.1", True),
        ("10.0.0.0/8", "http://[fd00::1]", False),
        ("fd00::/8", "http://[fd00::1]:11434", True),
        ("[fd00::1]", "http://[fd00::1]:11434", True),
        ("[fd00::1]:11434", "http://[fd00::1]:11434", True),
        ("10.0.0.0/8", "http://10.example.com", False),
        ("10.0.0.0/99, ., ,:80", "http://10.1.2.3", False),
        (".svc,.cluster.local", "http://ollama.ai.svc:11434", True),
        ("", "https://example.com", False),
    ],
)
def test_who_is_asked_directly(no_proxy: str, url: str, is_direct: bool) -> None:  # noqa: FBT001  # a table
    assert (proxies(no_proxy).for_url(url) is None) == is_direct


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("http://proxy.example.com:3128", "http://proxy.example.com:3128"),
        (" http://proxy.example.com:3128/ ", "http://proxy.example.com:3128"),
        ("http://proxy.example.com", "http://proxy.example.com:80"),
        ("HTTP://[fd00::1]:3128", "http://[fd00::1]:3128"),
        ("http://user:pass@proxy:3128", "http://proxy:3128"),
    ],
)
def test_where_a_proxy_is(address: str, url: str) -> None:
    assert proxy_at(address, setting="HTTPS_PROXY").url == url


@pytest.mark.parametrize(
    "address",
    [
        "proxy:3128",
        "https://proxy:3128",
        "socks5://proxy:1080",
        "http://",
        "http://user:hunter2@proxy:port",
        "http://user:hunter2/x@proxy:3128",
        "http://user:hunter2@proxy:3128/path",
        "http://proxy:3128?hunter2",
        "http://[hunter2",
    ],
)
def test_what_is_no_proxy_is_not_repeated(address: str) -> None:
    with pytest.raises(ValueError, match=r"http://proxy\.example\.com:3128") as caught:
        proxy_at(address, setting="HTTPS_PROXY")
    assert "hunter2" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_user_and_password_are_for_the_proxy_alone() -> None:
    basic = f"Basic {base64.b64encode('us:er:pä@ss'.encode()).decode()}"
    tunnel = proxy_at("http://us%3Aer:p%C3%A4%40ss@proxy:3128", setting="HTTPS_PROXY")
    assert tunnel.headers == {"Proxy-Authorization": basic}
    assert tunnel.forwarded_headers == {}, "the server would read them"
    assert proxy_at("http://us%3Aer:p%C3%A4%40ss@proxy", setting="HTTP_PROXY").forwarded_headers == tunnel.headers
    assert proxy_at("http://:token@proxy", setting="HTTP_PROXY").headers, "a user without a name"
    assert "Basic" not in repr(tunnel)
    assert repr(Proxies(tunnel)) == "Proxies(…)"


def test_words_say_where_and_what_to_do() -> None:
    assert "HTTPS_PROXY" in SECURE.unreachable("refused")
    assert "http://secure:3128" in SECURE.unreachable("refused")
    assert "user:password" in SECURE.refusal(407)
    assert "refuses user or password" in proxy_at("http://a:b@secure", setting="HTTPS_PROXY").refusal(407)
    assert "HTTP 503" in SECURE.refusal(503)
