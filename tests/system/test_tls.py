"""TLS in front of a guarded server: nginx by the very file of the documentation."""

import re
import shutil
import ssl
import subprocess

import httpx
import pytest
from tests.system.installation import ROOT, Installation, free_port, require, wait_until

from reckeeper.client import Client

NAME = "reckeeper.example.org"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """Return the files of a certificate that signs itself, and of its key."""
    folder = tmp_path_factory.mktemp("certificate")
    files = folder / "reckeeper.pem", folder / "reckeeper.key"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "2", "-subj", f"/CN={NAME}"),
            *("-addext", f"subjectAltName=DNS:{NAME}"),
            *("-out", files[0], "-keyout", files[1]),
        ],
        check=True,
        capture_output=True,
    )
    return files


class Named(httpx.HTTPTransport):
    """Connects to this machine as DNS would lead there by the name."""

    def handle_request(self, request):
        request.extensions["sni_hostname"] = NAME
        request.headers["Host"] = NAME
        return super().handle_request(request)


@pytest.fixture(scope="module")
def front(tmp_path_factory, trained_once, certificate):
    """Give an installation with a key, behind nginx, and the way to it by TLS."""
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    require(nginx, "no nginx is installed")
    folder = tmp_path_factory.mktemp("tls")
    with Installation(folder, RECKEEPER_ALLOWED_HOSTS=NAME) as made:
        made.take_over(trained_once)
        made.key = made.run("keys", "create", "alice", "--role", "admin").stdout.strip()
        made.guarded = made.start_server()
        port = free_port()
        config = nginx_file(made, port, certificate)
        made.start("nginx", [nginx, "-e", "stderr", "-c", str(config), "-p", str(folder)])
        made.tls_url = f"https://127.0.0.1:{port}"
        made.trusted = ssl.create_default_context(cafile=str(certificate[0]))
        wait_until(lambda: answers(made), "nginx answers")
        yield made


def asked(front, path, address=None, **headers):
    """Ask by TLS, from an address of this machine."""
    transport = Named(verify=front.trusted, local_address=address)
    with httpx.Client(transport=transport) as client:
        return client.get(f"{front.tls_url}{path}", headers=headers)


def answers(front):
    try:
        return asked(front, "/health/live").status_code == 200
    except httpx.TransportError:
        return False


def nginx_file(made, port, certificate):
    """Write the documentation's server for nginx, with this machine's ports and files in it."""
    page = (ROOT / "docs" / "operate" / "access.md").read_text(encoding="utf-8")
    (server,) = re.findall(r"```nginx\n(.*?)```", page, re.DOTALL)
    for there, here in (
        ("listen 443", f"listen 127.0.0.1:{port}"),
        ("127.0.0.1:8000", f"127.0.0.1:{made.server_port}"),
        ("/etc/ssl/reckeeper.pem", str(certificate[0])),
        ("/etc/ssl/reckeeper.key", str(certificate[1])),
    ):
        assert there in server
        server = server.replace(there, here)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    places = "".join(f"{kind}_temp_path {made.folder}/{kind};\n" for kind in kinds)
    config = made.folder / "nginx.conf"
    config.write_text(
        f"daemon off;\npid {made.folder}/nginx.pid;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{places}{server}}}\n"
    )
    return config


def test_a_key_opens_what_is_behind_tls_and_nothing_else_does(front):
    assert asked(front, "/health/ready").status_code == 200
    refused = asked(front, "/models")
    assert (refused.status_code, refused.headers["WWW-Authenticate"]) == (401, "Bearer")
    answer = asked(front, "/models", Authorization=f"Bearer {front.key}")
    assert [model["version"] for model in answer.json()["models"]] == [2, 1]
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(front.tls_url, trust_env=False)


def test_the_address_of_a_caller_comes_through_and_not_what_it_says(front):
    """Or who fails too often would be everybody behind the same proxy, or nobody."""
    wrong = {"Authorization": "Bearer rk_wrong", "X-Forwarded-For": "192.0.2.7"}
    assert asked(front, "/models", address="127.0.0.2", **wrong).status_code == 401
    (line,) = front.guarded.events("key_refused")
    assert line["address"] == "127.0.0.2"
    assert "wrong" not in str(line)


def test_the_events_of_a_job_and_large_bodies_go_through(front):
    row = {"item_id": "i1", "interaction_type": "click"}
    rows = [{"user_id": f"u{number}", **row} for number in range(10_000)]
    with Client(front.tls_url, key=front.key, transport=Named(verify=front.trusted)) as client:
        assert [job.status for job in client.follow_job(1)] == ["succeeded"]
        assert client.send(rows).accepted == 10_000
