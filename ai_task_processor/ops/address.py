"""Where the routes of the metrics port are, for somebody on this machine."""

HERE = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104  # not bound: where to ask instead


def url_here(host: str, port: int) -> str:
    """The address without a slash at its end; an interface that means all of them is asked over loopback."""
    host = HERE.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
