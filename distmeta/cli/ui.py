"""`distmeta ui`: look at the runs in the browser."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Annotated

import typer

from distmeta.cli.output import JsonOption, print_json
from distmeta.core.errors import UserError
from distmeta.core.signals import Stopped
from distmeta.tracking.ui import MlflowServer
from distmeta.tracking.uris import mask_uri, sqlite_file, tracking_uri


def ui(
    uri: Annotated[
        str | None,
        typer.Option(
            help="The MLflow store (default: MLFLOW_TRACKING_URI, or sqlite:///mlflow.db in the working folder)."
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Interface to listen on. The server asks for no password: mind who can reach it.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 5000,
    as_json: JsonOption = False,
) -> None:
    """Open the recorded runs in the browser: serve the MLflow store of this machine until Ctrl-C."""
    store = tracking_uri(uri)
    database = sqlite_file(store)
    if database is not None and not database.exists():
        raise UserError(
            f"there are no runs in {mask_uri(store)}: the file {database} does not exist",
            where="--uri",
            allowed="the store of a run that has been started",
        )
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with MlflowServer(store, host, port) as server:
            if as_json:
                print_json({"address": server.address, "uri": mask_uri(store)})
            else:
                print(f"{mask_uri(store)} is served at {server.address}  (Ctrl-C ends it)", flush=True)
            server.wait()
    except (KeyboardInterrupt, Stopped):
        return


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
