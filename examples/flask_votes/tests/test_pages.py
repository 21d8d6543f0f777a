"""The pages over plain HTTP, through Flask's test client."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from ballots import opened
from flask.testing import FlaskClient
from stage import Stage
from story import parse
from votes import create_app
from votes_support import STORY

TOKEN = "tökén & more"


@pytest.fixture
def client(tmp_path: Path) -> Iterator[FlaskClient]:
    with opened(tmp_path / "votes.sqlite3") as ballots:
        app = create_app(Stage(parse(STORY), ballots), TOKEN, "http://10.0.0.7:80/")
        app.testing = True
        yield app.test_client()


def test_the_audience_page_names_the_browser_once(client: FlaskClient) -> None:
    first = client.get("/")
    assert "HttpOnly" in first.headers["Set-Cookie"]
    assert "SameSite=Lax" in first.headers["Set-Cookie"]
    assert "Set-Cookie" not in client.get("/").headers


def test_a_name_that_was_not_given_here_is_replaced(client: FlaskClient) -> None:
    client.set_cookie("votes_voter", "x" * 500)
    assert "votes_voter=" in client.get("/").headers["Set-Cookie"]


def test_markup_in_the_story_is_shown_as_text(client: FlaskClient) -> None:
    assert "&lt;i&gt;Fish &amp; &#34;chips&#34;&lt;/i&gt;" in client.get("/").text
    assert "<i>" not in client.get("/").text


@pytest.mark.parametrize("path", ["/presenter", "/presenter?token=guess", "/presenter?token="])
def test_without_the_token_nobody_sees_the_presenters_page(client: FlaskClient, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 403
    assert "<h1>This page is for the presenter</h1>" in response.text
    assert "Forbidden" not in response.text
    assert "Close the vote" not in response.text


def test_a_wrong_cookie_does_not_open_the_presenters_page(client: FlaskClient) -> None:
    client.set_cookie("votes_presenter", "guess")
    assert client.get("/presenter").status_code == 403


def test_the_presenters_link_moves_the_token_out_of_the_address_bar(client: FlaskClient) -> None:
    response = client.get("/presenter", query_string={"token": TOKEN})
    assert response.status_code == 302
    assert response.headers["Location"] == "/presenter"
    assert "HttpOnly" in response.headers["Set-Cookie"]
    assert client.get("/presenter").status_code == 200


def test_the_presenters_page_shows_how_to_take_part(client: FlaskClient) -> None:
    page = client.get("/presenter", query_string={"token": TOKEN}, follow_redirects=True).text
    assert ">10.0.0.7:80<" in page
    assert 'class="qr"' in page


@pytest.mark.parametrize("path", ["/", "/presenter", "/nowhere", "/static/votes.css"])
def test_every_response_carries_the_content_security_policy(client: FlaskClient, path: str) -> None:
    with client.get(path) as response:
        assert "default-src 'none'" in response.headers["Content-Security-Policy"]
        assert response.headers["X-Content-Type-Options"] == "nosniff"


def test_a_page_that_does_not_exist_says_so_in_the_same_clothes(client: FlaskClient) -> None:
    response = client.get("/nowhere")
    assert response.status_code == 404
    assert "votes.css" in response.text
