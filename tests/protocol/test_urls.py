"""WebSocket URLs, RFC 6455 section 3."""

import pytest

from geventws.protocol.urls import Target, parse_url


@pytest.mark.parametrize(
    ("url", "target", "authority"),
    [
        ("ws://example.com", (False, "example.com", 80, "/", ""), "example.com"),
        ("wss://example.com", (True, "example.com", 443, "/", ""), "example.com"),
        ("ws://example.com:80/", (False, "example.com", 80, "/", ""), "example.com"),
        ("ws://example.com:443/", (False, "example.com", 443, "/", ""), "example.com:443"),
        ("WS://EXAMPLE.com/A?b=C", (False, "example.com", 80, "/A?b=C", ""), "example.com"),
        ("ws://example.com?b", (False, "example.com", 80, "/?b", ""), "example.com"),
        ("ws://[::1]:8000/", (False, "::1", 8000, "/", ""), "[::1]:8000"),
        ("wss://[::1]/", (True, "::1", 443, "/", ""), "[::1]"),
        ("ws://bücher.example/", (False, "xn--bcher-kva.example", 80, "/", ""), None),
        ("ws://a/ü b%20?ß=1", (False, "a", 80, "/%C3%BC%20b%20?%C3%9F=1", ""), "a"),
        ("ws://ada:pass%20word@a/", (False, "a", 80, "/", "ada:pass word"), "a"),
        ("ws://%FF@a/", (False, "a", 80, "/", "\udcff"), "a"),
    ],
)
def test_a_url_has_its_parts_in_ascii(url, target, authority):
    assert parse_url(url) == target
    assert Target(*target).authority == (authority or target[1])


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://example.com/", "begins neither with ws:// nor with wss://"),
        ("example.com", "begins neither with ws:// nor with wss://"),
        ("ws:///path", "has no host"),
        ("ws://example.com/#", "has a fragment"),
        ("ws://example.com/\ud800", "lone surrogate"),
        ("ws://a..b/", "cannot be the name of a host"),
        (f"ws://{'a' * 64}.example/", "cannot be the name of a host"),
        (f"ws://{'a.' * 150}a/", "cannot be the name of a host"),
        ("ws://a b/", "cannot be the name of a host"),
        ("ws://a:65536/", "[Pp]ort"),
        ("ws://a:b/", "[Pp]ort"),
    ],
)
def test_a_url_that_is_none_is_refused(url, why):
    with pytest.raises(ValueError, match=why):
        parse_url(url)
