"""WebSocket URLs, RFC 6455 section 3."""

import sys

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
        ("ws://%FF@a/", (False, "a", 80, "/", "\udcff:"), "a"),
        ("ws://token@a/", (False, "a", 80, "/", "token:"), "a"),
        ("ws://ada:@a/", (False, "a", 80, "/", "ada:"), "a"),
        ("ws://ada:a%3Ab:c@a/", (False, "a", 80, "/", "ada:a:b:c"), "a"),
        ("ws://@a/", (False, "a", 80, "/", ""), "a"),
        ("ws://[fe80::1%25eth0]:8000/", (False, "fe80::1%eth0", 8000, "/", ""), "[fe80::1]:8000"),
        ("wss://[fe80::1%25eth0]/", (True, "fe80::1%eth0", 443, "/", ""), "[fe80::1]"),
        ("ws://[fe80::1%eth0]/", (False, "fe80::1%eth0", 80, "/", ""), "[fe80::1]"),
        ("ws://[fe80::1%2525]/", (False, "fe80::1%25", 80, "/", ""), "[fe80::1]"),
        ("ws://[FE80::1%25Eth0]/", (False, "fe80::1%Eth0", 80, "/", ""), "[fe80::1]"),
        ("ws://[::ffff:127.0.0.1]/", (False, "::ffff:127.0.0.1", 80, "/", ""), None),
        ("ws://b%C3%BCcher.example/", (False, "xn--bcher-kva.example", 80, "/", ""), None),
        ("ws://a%2Db.example/", (False, "a-b.example", 80, "/", ""), None),
        ("ws://example.com./", (False, "example.com.", 80, "/", ""), "example.com."),
        ("ws://a_b.example/", (False, "a_b.example", 80, "/", ""), None),
    ],
)
def test_a_url_has_its_parts_in_ascii(url, target, authority):
    assert parse_url(url) == target
    host = target[1]
    expected = authority or (f"[{host}]" if ":" in host else host)
    assert Target(*target).authority == expected


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
        ("ws://ex%20ample/", "cannot be the name of a host"),
        ("ws://a%00b/", "cannot be the name of a host"),
        ("ws://a%FF/", "cannot be the name of a host"),
        ("ws://a%2Fb/", "cannot be the name of a host"),
        ("ws://a%40b/", "cannot be the name of a host"),
        ("ws://a%3A80/", "cannot be the name of a host"),
        ("ws://100%/", "cannot be the name of a host"),
        ("ws://a../", "cannot be the name of a host"),
        ("ws://./", "cannot be the name of a host"),
        ("ws://.a/", "cannot be the name of a host"),
        ("ws://\u3002a/", "cannot be the name of a host"),
        ("ws://\xad/", "cannot be the name of a host"),
        ("ws://a\xa0b/", "cannot be the name of a host"),
        ("ws://", "has no host"),
        ("ws:", "has no host"),
        ("ws:a", "has no host"),
        ("ws://:80/", "has no host"),
        ("ws://a@/", "has no host"),
        ("ws://a\tb/", "has control characters"),
        ("ws://a\nb/", "has control characters"),
        ("ws://a/b\rc", "has control characters"),
        ("ws://a\0b/", "has control characters"),
        ("ws://a/\x7f", "has control characters"),
        ("\x01ws://a/", "has control characters"),
        (" ws://a/", "begins with a space"),
        ("ws://[::1%25]]/", "."),
        ("ws://[::1%25a/b]/", "."),
        ("ws://[::1%25a%20b]/", "."),
        ("ws://[::1%]/", "."),
        ("ws://[::1%25a$b]/", "has a zone that is not the name"),
        ("ws://[::g]/", "."),
        ("ws://[a.example]/", "."),
        ("ws://[v1.a]/", "is not an IPv6 address"),
        ("ws://[127.0.0.1]/", "."),
        ("ws://[]/", "."),
        ("ws://a%3Ab:c@a/", "a user name with a colon"),
        ("ws://a:65536/", "[Pp]ort"),
        ("ws://a:b/", "[Pp]ort"),
    ],
)
def test_a_url_that_is_none_is_refused(url, why):
    with pytest.raises(ValueError, match=why):
        parse_url(url)


#: Names that IDNA 2008 and IDNA 2003 encode differently, with the result of each.
DEVIATIONS = [
    ("faß.de", "xn--fa-hia.de", "fass.de"),
    ("βόλος.com", "xn--nxasmm1c.com", "xn--nxasmq6b.com"),
    ("FAß.de", "xn--fa-hia.de", "fass.de"),
]


@pytest.mark.parametrize(("host", "new", "old"), DEVIATIONS)
def test_with_the_package_idna_a_name_is_encoded_by_idna_2008(host, new, old):
    assert parse_url(f"ws://{host}/").host == new


@pytest.mark.parametrize(("host", "new", "old"), DEVIATIONS)
def test_without_the_package_idna_a_name_is_encoded_by_idna_2003(host, new, old, monkeypatch):
    monkeypatch.setitem(sys.modules, "idna", None)  # as if it was not installed
    assert parse_url(f"ws://{host}/").host == old


@pytest.mark.parametrize("is_installed", [True, False])
@pytest.mark.parametrize("host", ["BÜCHER.example", "bücher。example", "bücher.example"])
def test_a_name_is_mapped_to_lower_case_and_full_stops_with_and_without_idna(
    host, is_installed, monkeypatch
):
    if not is_installed:
        monkeypatch.setitem(sys.modules, "idna", None)
    assert parse_url(f"ws://{host}/").host == "xn--bcher-kva.example"


@pytest.mark.parametrize("is_installed", [True, False])
@pytest.mark.parametrize("host", ["ä..de", "ä" * 64, "ä b.de", "\u200d.de"])
def test_a_name_that_cannot_be_encoded_is_refused_with_and_without_idna(
    host, is_installed, monkeypatch
):
    if not is_installed:
        monkeypatch.setitem(sys.modules, "idna", None)
    with pytest.raises(ValueError, match="cannot be the name of a host"):
        parse_url(f"ws://{host}/")
