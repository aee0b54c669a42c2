"""`bench serve`: the site of the records in a browser on this machine."""

from __future__ import annotations

import functools
import http.server
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.cli.options import Plugins, load_plugins
from bench.cli.output import working


def serve(
    studies: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME|FILE]…", help="Studies, see `bench studies`; by default all of them."),
    ] = None,
    results: Annotated[Path, typer.Option(metavar="DIR", help="Folder of records.")] = Path("results"),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8000,
    plugins: Plugins = [],  # noqa: B006
) -> None:
    """Make the site of the records and show it at an address of this machine, until Ctrl-C.

    `bench report --site DIR` writes the same site to keep; it opens from disk without this.
    """
    load_plugins(plugins)
    from bench.reports import site
    from registry.errors import UsageError

    with tempfile.TemporaryDirectory() as folder:
        with working("writing the site"):
            site.write(folder, results, studies or [])
        try:
            server = http.server.ThreadingHTTPServer(
                ("127.0.0.1", port), functools.partial(_Handler, directory=folder)
            )
        except OSError as error:
            raise UsageError(
                f"port {port}: {error.strerror}; choose another by --port, or 0 for any"
            ) from None
        with server:
            typer.echo(f"http://127.0.0.1:{server.server_address[1]}/ until Ctrl-C")
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                typer.echo("stopped")


class _Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not told."""
