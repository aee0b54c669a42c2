"""`bench serve`: the site of the records in a browser on this machine."""

from __future__ import annotations

import http.server
import mimetypes
import sys
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import unquote, urlsplit

import typer

from bench.cli.options import Plugins, Results
from bench.cli.output import working

# Names of this machine: a page of another site that points its own name here is refused.
HOSTS = ("localhost", "127.0.0.1")


def serve(
    studies: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME|FILE]…", help="Studies, see `bench studies`; by default all of them."),
    ] = None,
    results: Results = Path("results"),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8000,
    plugins: Plugins = [],  # noqa: B006
) -> None:
    """Make the site of the records and show it at an address of this machine, until Ctrl-C.

    `bench report --site DIR` writes the same site to keep; it opens from disk without this.
    """
    from registry.errors import UsageError

    try:
        server = _Server(("127.0.0.1", port), _Handler)
    except OSError as error:
        raise UsageError(f"port {port}: {error.strerror}; choose another by --port, or 0 for any") from None
    with server:
        typer.echo(f"making the site of the records in {results}", err=True)
        from bench.reports import site

        with working("reading records") as status:
            for name, content in site.files(results, studies or []):
                server.files[name] = content.encode() if isinstance(content, str) else content
                status.update(f"{len(server.files):,} files, now {name}")
        typer.echo(f"http://127.0.0.1:{server.server_address[1]}/ until Ctrl-C")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            typer.echo("stopped")


class _Server(http.server.ThreadingHTTPServer):
    """Holds the files of the site by their paths, so that no request reaches the disk."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.files: dict[str, bytes] = {}

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no error."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        """A file of the site, or one line of why not."""
        if _host(self.headers.get("Host", "")) not in HOSTS:
            self.send_error(403, explain=f"This server answers as {' and '.join(HOSTS)} alone.")
            return
        name = unquote(self.path.partition("?")[0]).removeprefix("/") or "index.html"
        content = self.server.files.get(name)
        if content is None:
            self.send_error(404)
            return
        kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
        self.send_response(200)
        self.send_header("Content-Type", f"{kind}; charset=utf-8" if kind.startswith("text/") else kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not told."""


def _host(header: str) -> str | None:
    """The name in a `Host:` header, without its port; None of what is no name."""
    try:
        return urlsplit(f"//{header}").hostname
    except ValueError:
        return None
