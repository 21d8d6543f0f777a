"""Redirects of the opening handshake, sans I/O."""

import pytest

from geventws import HandshakeError
from geventws.protocol.client_handshake import Response
from geventws.protocol.redirects import Redirects, Request
from geventws.protocol.urls import parse_url

HEADERS = [
    ("Authorization", "Bearer x"),
    ("cookie", "a=1"),
    ("HOST", "virtual.example"),
    ("Proxy-Authorization", "Basic x"),
    ("X-Other", "kept"),
]


def redirect(*locations, code=302):
    return Response(code, f"{code} Moved", [("Location", each) for each in locations])


def follow(url, *locations, limit=5):
    """The request after some redirects."""
    redirects = Redirects(limit)
    request = Request(parse_url(url), HEADERS)
    for location in locations:
        assert redirects.is_redirect(redirect(location))
        request = redirects.follow(request, redirect(location))
    return request


@pytest.mark.parametrize(
    ("url", "location", "target"),
    [
        ("ws://a/b/c?d", "/x", "ws://a/x"),
        ("ws://a/b/c?d", "x?y", "ws://a/b/x?y"),
        ("ws://a/b/c?d", "../x", "ws://a/x"),
        ("ws://a/b/c?d", "?y", "ws://a/b/c?y"),
        ("ws://a:81/b", "/x", "ws://a:81/x"),
        ("wss://a/b", "//c/x", "wss://c/x"),
        ("ws://a/b", "wss://a/b", "wss://a/b"),
        ("ws://a/b", "HTTPS://a/b", "wss://a/b"),
        ("ws://a/b", "http://c:81/x", "ws://c:81/x"),
        ("wss://a/b", "https://a/x#fragment", "wss://a/x"),
        ("ws://a/b", "ws://bücher.example/ü".encode().decode("latin-1"), "ws://bücher.example/ü"),
        ("ws://[fe80::1%25eth0]/b", "/x", "ws://[fe80::1%25eth0]/x"),
        ("ws://[::1]:81/b", "x", "ws://[::1]:81/x"),
    ],
)
def test_a_location_is_relative_to_the_url_and_names_a_websocket(url, location, target):
    assert follow(url, location).target == parse_url(target)


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_the_codes_of_redirects(code):
    assert Redirects(1).is_redirect(redirect("/x", code=code))
    assert not Redirects(0).is_redirect(redirect("/x", code=code))


@pytest.mark.parametrize(
    "response",
    [
        redirect("/x", code=101),
        redirect("/x", code=200),
        redirect("/x", code=201),
        redirect("/x", code=300),
        redirect("/x", code=304),
        redirect("/x", code=401),
        redirect(),
        redirect(""),
        redirect("/x", "/y"),
    ],
)
def test_what_is_no_redirect(response):
    assert not Redirects(5).is_redirect(response)


def test_the_same_origin_gets_all_headers_and_the_user():
    request = follow("ws://ada:secret@a/b", "/x", "http://A:80/y")
    assert request == (parse_url("ws://ada:secret@a/y"), HEADERS, False)


@pytest.mark.parametrize("location", ["ws://c/", "ws://a:81/", "wss://a/", "//a.c/", "ws://a./"])
def test_another_origin_gets_no_credentials(location):
    request = follow("ws://ada:secret@a/b", location)
    assert request.headers == [("X-Other", "kept")]
    assert request.target.userinfo == ""
    assert request.has_left_origin


def test_the_first_origin_gets_no_credentials_either_after_another_one():
    request = follow("ws://ada:secret@a/b", "ws://c/", "ws://a/x", "/y")
    assert request == (parse_url("ws://a/y"), [("X-Other", "kept")], True)


def test_a_user_in_a_location_is_not_sent():
    assert follow("ws://ada@a/", "ws://eve@c/").target.userinfo == ""
    assert follow("ws://ada@a/", "ws://eve@a/x").target.userinfo == "ada:"


@pytest.mark.parametrize(
    ("locations", "why"),
    [
        (["/a"], "redirects in a loop"),
        (["ws://HOST:80/a#x"], "redirects in a loop"),
        (["/b", "/c", "/b"], "redirects in a loop"),
        (["/b", "/c", "/d", "/e"], "more redirects than max_redirects, which is 3"),
        (["wss://host/a", "ws://host/b"], "from wss:// to ws://"),
        (["https://host/a", "http://c/b"], "from wss:// to ws://"),
        (["ftp://host/a"], "is not the URL of a WebSocket"),
        (["mailto:a"], "is not the URL of a WebSocket"),
        (["ws:"], "has no host"),
        (["ws://a b/"], "cannot be the name of a host"),
        (["ws://host:x/"], "[Pp]ort"),
        (["ws://host/\n"], "control characters"),
        (["\x01ws://c/"], "control characters"),
        (["\xff"], "cannot follow the redirect"),
        (["//["], "cannot follow the redirect"),
    ],
)
def test_a_redirect_that_is_not_followed(locations, why):
    with pytest.raises(HandshakeError, match=why) as caught:
        follow("ws://host/a", *locations, limit=3)
    assert caught.value.status == "302 Moved"
    assert caught.value.headers == [("Location", locations[-1])]
