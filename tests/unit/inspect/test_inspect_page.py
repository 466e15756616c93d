"""The page's server: what it answers, and whom."""

import re
import socket

import numpy as np
import pytest
from starlette.testclient import TestClient

from memlm.errors import RunError
from memlm.inspect.page import HOST, build_app, listen
from tests.unit.inspect.conftest import MARKUP


@pytest.fixture(scope="module")
def client(shared):
    return TestClient(build_app(shared), base_url=f"http://{HOST}:1234")


def test_the_page_needs_nothing_but_itself(client):
    answer = client.get("/")
    policy = answer.headers["content-security-policy"]
    (nonce,) = set(re.findall(r'nonce="([^"]+)"', answer.text))
    assert f"script-src 'nonce-{nonce}'" in policy and policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert not re.search(r"(src|href)=\"(?!data:,\")|https?://|@import", answer.text)
    assert nonce not in client.get("/").text, "a nonce that comes again protects nobody"


def test_the_page_makes_no_markup_of_what_it_is_sent(client):
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|DOMParser", client.get("/").text)


def test_text_with_markup_comes_as_json_and_as_it_is(client):
    answer = client.get("/api/banks/0/search", params={"words": "onerror"})
    hits = answer.json()
    text = "".join(
        part for hit in hits for part in (hit["passage"]["before"], hit["passage"]["token"], hit["passage"]["after"])
    )
    assert MARKUP[:8] in text
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"] == "default-src 'none'"


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "192.168.0.7:1234", "[::1]:1234", ""])
def test_other_names_are_not_answered(client, host):
    for path in ("/", "/api/overview", "/api/banks/0/usage"):
        answer = client.get(path, headers={"host": host})
        assert answer.status_code == 400 and "slot" not in answer.text


@pytest.mark.parametrize("host", ["localhost:5", "127.0.0.1:5", "127.0.0.1"])
def test_this_machine_is_answered(client, host):
    assert client.get("/api/overview", headers={"host": host}).status_code == 200


def test_no_file_is_served(client):
    for path in (
        "/record.json",
        "/config.yaml",
        "/../record.json",
        "/%2e%2e/record.json",
        "/static/page.html",
        "/docs",
    ):
        assert client.get(path).status_code == 404
    assert client.get("/openapi.json").status_code == 404


def test_another_site_cannot_ask(client):
    """Browsers ask before they send JSON to another site, and are not allowed to."""
    headers = {"origin": "http://evil.example", "access-control-request-method": "POST"}
    assert "access-control-allow-origin" not in client.options("/api/reads", headers=headers).headers
    answer = client.get("/api/overview", headers={"origin": "http://evil.example"})
    assert "access-control-allow-origin" not in answer.headers


def test_answers_are_those_of_the_inspection(client, shared):
    assert client.get("/api/overview").json()["banks"][0]["n_slots"] == 64
    assert client.post("/api/reads", json={"text": "ka lo"}).json()["tokens"] == shared.read("ka lo").tokens
    card = client.get("/api/banks/0/slots/7").json()
    assert card["slot"] == 7 and card["value_norm"] == shared.card(0, 7).value_norm
    usage = client.get("/api/banks/0/usage", params={"layer": 1})
    assert np.frombuffer(usage.content, "<u4").tolist() == shared.usage(0, 1).tolist()


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/api/banks/0/slots/64", "slot 64: there is none"),
        ("/api/banks/9/slots/0", "bank 9: there is none"),
        ("/api/banks/9/usage", "bank 9: there is none"),
        ("/api/banks/0/usage?layer=5", "layer 5 does not read"),
        ("/api/banks/0/search?words=", "nothing to look for"),
    ],
)
def test_a_mistake_is_a_line(client, path, message):
    answer = client.get(path)
    assert answer.status_code == 400 and answer.json()["error"].startswith(message)


def test_a_text_that_is_too_long_is_a_line(client):
    answer = client.post("/api/reads", json={"text": "ka " * 99})
    assert answer.status_code == 400 and "give a part of it" in answer.json()["error"]
    assert client.post("/api/reads", json={"text": "a" * (1 << 21)}).status_code == 422
    assert client.get("/api/banks/zero/usage").status_code == 422


def test_a_socket_is_of_this_machine_alone():
    with listen(0) as listener:
        host, port = listener.getsockname()
        assert host == "127.0.0.1" and port > 0
        listener.listen()
        with pytest.raises(RunError, match=f"port {port}: cannot be used .*; leave --port out"):
            listen(port)
    with pytest.raises(RunError, match="port 70000"):
        listen(70000)
    assert socket.gethostbyname(HOST) == HOST
