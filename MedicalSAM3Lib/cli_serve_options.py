"""The options of ``medsam3 serve``, each with its help. What may be set is decided in ``server_settings``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

NETWORK, ENGINES, LOCAL = "Network", "Engines", "For a program that starts a server for itself"

Host = Annotated[
    str | None,
    typer.Option(metavar="ADDRESS", rich_help_panel=NETWORK, help="Where to listen; default: this machine only."),
]
Port = Annotated[
    int | None, typer.Option(metavar="N", rich_help_panel=NETWORK, help="Default: 8765; 0 takes a free one.")
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        rich_help_panel=NETWORK,
        help="A line 'NAME TOKEN [EXPIRES]' for each client; needed where others can reach the server.",
    ),
]
TlsCertificate = Annotated[
    Path | None, typer.Option(metavar="FILE", rich_help_panel=NETWORK, help="Certificate chain (PEM) for HTTPS.")
]
TlsKey = Annotated[Path | None, typer.Option(metavar="FILE", rich_help_panel=NETWORK, help="Its private key (PEM).")]
Model = Annotated[
    str | None, typer.Option("--model", "-m", metavar="NAME", rich_help_panel=ENGINES, help="Model to keep loaded.")
]
Devices = Annotated[
    str | None,
    typer.Option(metavar="LIST", rich_help_panel=ENGINES, help="An engine for each, such as cuda:0,cuda:1."),
]
Threads = Annotated[
    int | None, typer.Option(metavar="N", rich_help_panel=ENGINES, help="Threads of each engine on a processor.")
]
FeatureGb = Annotated[
    float | None,
    typer.Option(metavar="GB", rich_help_panel=ENGINES, help="Memory of each engine for recent volumes."),
]
Ray = Annotated[
    str | None,
    typer.Option(metavar="ADDRESS", rich_help_panel=ENGINES, help="Engines of a Ray cluster; 'local' starts one."),
]
Config = Annotated[Path | None, typer.Option(metavar="FILE", help="Settings in TOML; flags win.")]
More = Annotated[
    list[str], typer.Option("--set", metavar="NAME=VALUE", help="Any other setting of the file, such as queue=10.")
]
Local = Annotated[
    bool, typer.Option("--local", rich_help_panel=LOCAL, help="Free port, new token, told in a private file.")
]
ConnectionFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", rich_help_panel=LOCAL, help="That file; default: beside the user's models."),
]
Parent = Annotated[
    int | None,
    typer.Option(metavar="PID", rich_help_panel=LOCAL, help="End with this process; default: who started it."),
]
Idle = Annotated[float, typer.Option(metavar="SECONDS", rich_help_panel=LOCAL, help="End after this time without use.")]
