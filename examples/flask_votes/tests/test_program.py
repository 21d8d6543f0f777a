"""The running program, with WebSocket clients of another make."""

import signal
import socket
import struct
import subprocess
import sys
from urllib.parse import urlsplit

import pytest
from votes_support import EXAMPLE, PATIENCE, Show, heading, receive, send, votes
from websockets.exceptions import ConnectionClosed, InvalidStatus

HANDSHAKE = (
    b"GET /live HTTP/1.1\r\nHost: 127.0.0.1\r\nCookie: votes_voter=xxxxxxxxxxxxxxxxxxxxxx\r\n"
    b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


def begin_handshake(show: Show) -> socket.socket:
    """A bare TCP connection of an audience page, which closes without a Close frame."""
    address = urlsplit(show.url)
    sock = socket.create_connection((address.hostname, address.port), PATIENCE)
    sock.sendall(HANDSHAKE)
    return sock


def test_a_vote_reaches_every_page_and_moves_when_it_is_changed(show: Show) -> None:
    with show.audience("ann") as ann, show.audience("bob") as bob, show.presenter() as presenter:
        now = receive(ann)["round"]
        send(ann, do="vote", round=now, option=0)
        for page in (ann, bob, presenter):
            receive(page, votes(1, 0))
        send(ann, do="vote", round=now, option=1)
        for page in (ann, bob, presenter):
            state = receive(page, votes(0, 1))
            assert state["mine"] == (1 if page is ann else None)


def test_two_pages_of_one_browser_share_one_vote_and_both_show_it(show: Show) -> None:
    with show.audience("ann") as first, show.audience("ann") as second:
        now = receive(first)["round"]
        send(first, do="vote", round=now, option=0)
        assert receive(second, votes(1, 0))["mine"] == 0
        send(second, do="vote", round=now, option=1)
        assert receive(first, votes(0, 1))["mine"] == 1


def test_the_presenter_opens_the_step_that_won_for_everybody(show: Show) -> None:
    with show.audience("ann") as ann, show.presenter() as presenter:
        now = receive(ann)["round"]
        send(ann, do="vote", round=now, option=1)
        receive(presenter, votes(0, 1))
        send(presenter, do="next", round=now)
        for page in (ann, presenter):
            state = receive(page, heading("The blue room"))
            assert (state["chosen"], state["tossed"]) == ("Take the blue door", False)
        send(presenter, do="restart", round=state["round"])
        for page in (ann, presenter):
            receive(page, heading("Two <b>doors</b>"))


@pytest.mark.parametrize("command", ["next", "restart"])
def test_the_audience_cannot_do_what_the_presenter_does(show: Show, command: str) -> None:
    with show.audience("ann") as ann:
        now = receive(ann)["round"]
        send(ann, do=command, round=now)
        assert receive(ann) == {"type": "refused", "reason": '"do" must be one of: vote.'}


def test_bad_input_is_refused_in_words_and_the_conversation_goes_on(show: Show) -> None:
    with show.audience("ann") as ann:
        assert receive(ann)["round"] == 1
        for command, reason in (
            ("vote!", "A command must be JSON."),
            ("[" * 500, "A command must be JSON."),
            (b"\xff", "A command must be JSON."),
            ("[1]", "A command must be a JSON object."),
            ("{}", '"do" must be one of: vote.'),
            ('{"do": ["vote"]}', '"do" must be one of: vote.'),
            ('{"do": "vote"}', '"round" must be a whole number.'),
            ('{"do": "vote", "round": 1}', '"option" must be a whole number.'),
            ('{"do": "vote", "round": 1, "option": true}', '"option" must be a whole number.'),
            ('{"do": "vote", "round": 1, "option": 1e0}', '"option" must be a whole number.'),
            ('{"do": "vote", "round": 1, "option": 2}', "There is no such option."),
            ('{"do": "vote", "round": 1, "option": -1}', "There is no such option."),
            ('{"do": "vote", "round": 0, "option": 1}', "That vote is closed,"),
        ):
            ann.send(command)
            answer = receive(ann)
            assert answer["type"] == "refused"
            assert answer["reason"].startswith(reason)
        send(ann, do="vote", round=1, option=0)
        receive(ann, votes(1, 0))


def test_a_command_that_is_too_long_ends_the_connection(show: Show) -> None:
    with show.audience("ann") as ann:
        receive(ann)
        ann.send("x" * 513)
        with pytest.raises(ConnectionClosed) as caught:
            receive(ann, lambda _: False)
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1009


def test_who_leaves_is_no_longer_counted(show: Show) -> None:
    with show.presenter() as presenter:
        with show.audience("ann"), show.audience("bob"):
            receive(presenter, lambda state: state["people"] == 2)
        receive(presenter, lambda state: state["people"] == 0)


def test_who_vanishes_without_a_word_is_no_longer_counted(show: Show) -> None:
    with show.presenter() as presenter:
        with begin_handshake(show):
            receive(presenter, lambda state: state["people"] == 1)
        receive(presenter, lambda state: state["people"] == 0)


def test_who_vanishes_during_the_handshake_is_no_error(show: Show) -> None:
    for _ in range(5):
        with begin_handshake(show) as sock:
            # With this, closing sends a RST: the server cannot even answer.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with show.presenter() as presenter:
        receive(presenter, lambda state: state["people"] == 0)


@pytest.mark.parametrize(
    ("path", "cookie", "status"),
    [
        ("live", "", 400),
        ("live", "votes_voter=made-up", 400),
        ("presenter/live", "", 403),
        ("presenter/live", "votes_presenter=guess", 403),
        ("nowhere", "", 404),
    ],
)
def test_who_may_not_connect_gets_an_http_response(
    show: Show, path: str, cookie: str, status: int
) -> None:
    with pytest.raises(InvalidStatus) as caught, show.connect(path, cookie):
        pass
    assert caught.value.response.status_code == status


def test_a_page_of_another_site_cannot_use_the_cookies_of_this_one(show: Show) -> None:
    cookie = f"votes_presenter={show.token}"
    options = {"origin": "http://elsewhere.example"}
    with (
        pytest.raises(InvalidStatus) as caught,
        show.connect("presenter/live", cookie, **options),
    ):
        pass
    assert caught.value.response.status_code == 403
    show.forget_errors("Refused a WebSocket")


def test_the_token_of_the_environment_is_the_one_that_counts(
    show: Show, monkeypatch: pytest.MonkeyPatch
) -> None:
    show.stop()
    monkeypatch.setenv("PRESENTER_TOKEN", "open sesame / 42")
    show.start()
    assert show.presenter_url.endswith("/presenter?token=open%20sesame%20/%2042")


def test_behind_a_proxy_the_public_address_is_shown_and_its_pages_may_connect(
    show: Show, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = show.url
    show.stop()
    monkeypatch.setenv("PUBLIC_URL", "https://votes.example/show")
    show.start()
    assert show.url == "https://votes.example/show/"
    show.url = local
    with show.connect("live", "votes_voter=" + "x" * 22, origin="https://votes.example") as ws:
        receive(ws)


def test_a_killed_program_has_lost_neither_votes_nor_step_nor_token(show: Show) -> None:
    with show.audience("ann") as ann, show.presenter() as presenter:
        now = receive(ann)["round"]
        send(ann, do="vote", round=now, option=0)
        receive(presenter, votes(1, 0))
        send(presenter, do="next", round=now)
        now = receive(ann, heading("The red room"))["round"]
        send(ann, do="vote", round=now, option=0)
        before = receive(ann, votes(1))
        token = show.token
        show.kill()
    show.start()
    assert show.token == token
    with show.audience("ann") as ann:
        assert receive(ann) == before


@pytest.mark.parametrize("wish", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_program_says_goodbye_to_its_pages(show: Show, wish: signal.Signals) -> None:
    with show.audience("ann") as ann:
        receive(ann)
        assert show.stop(wish) == 0
        with pytest.raises(ConnectionClosed) as caught:
            receive(ann, lambda _: False)
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1001


def run(show: Show) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "votes.py"],
        cwd=EXAMPLE,
        env=show.environment(),
        timeout=PATIENCE,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )


def test_a_mistake_in_the_story_is_told_at_the_start_in_one_line(show: Show) -> None:
    show.stop()
    show.story.write_text("title: T\n[a] A\nText\n* Go -> b\n")
    program = run(show)
    assert program.returncode == 1
    assert program.stderr == (
        "story.txt, line 4: option “Go” of step “a” leads to “b”, which does not exist.\n"
    )


def test_a_port_that_is_taken_is_told_in_one_line(show: Show) -> None:
    program = run(show)
    assert program.returncode == 1
    address = urlsplit(show.url).netloc
    told = f"Cannot listen on {address} (Address already in use). Set PORT to use another one.\n"
    assert program.stderr == told
