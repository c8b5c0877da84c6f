import functools
import http.server
import os
import threading
from pathlib import Path

import pytest

from tests.browser import chromium

ROOT = Path(__file__).parent.parent.parent
SITE = ROOT / "out" / "site"

if not os.environ.get("PROFIT_BROWSER"):
    raise pytest.UsageError("tests/browser opens the built site in a browser: make docs-browser")
if not chromium.find():
    raise pytest.UsageError(f"tests/browser needs one of {', '.join(chromium.NAMES)}, or its path in CHROMIUM")
if not SITE.is_dir():
    raise pytest.UsageError("tests/browser opens the site that is in out/site: make docs-browser")


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_request(self, *args):
        pass

    def log_error(self, *args):
        pass


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    opened = chromium.Browser(chromium.find(), tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def serve():
    """A function that serves a folder on this machine, and returns its address."""
    servers = []

    def start(folder):
        handler = functools.partial(Quiet, directory=str(folder))
        servers.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="session")
def site(serve):
    return serve(SITE)
