"""The Typer application of `distmeta bench`. Nothing here imports torch or Ray before a command needs it."""

from __future__ import annotations

import typer

from benchmarks.commands import cluster, engine, petl

_EXAMPLES = """\b
Examples:
  distmeta bench engine --rows sine_25x1,conv4_5w1s_1q_5
  distmeta bench engine --memory --out runs/bench
  distmeta bench memory --steps 5,10 --way 5 --shots 1
  distmeta bench data --json
  distmeta bench petl --rows 5w1s_t16_o2_k1 --no-memory
  distmeta bench server --workers 2,8,32 --payload 20
  distmeta bench scale --max-workers 1000 --out runs/bench
"""

app = typer.Typer(
    name="bench",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=_EXAMPLES,
    help="Measure the engine on this machine, beside higher, torchopt and a plain loop; and the server.\n\n"
    "higher and torchopt come with `pip install 'distmeta[dev]'`; without them their columns are left out.",
)
app.command("engine", help=engine.ENGINE_HELP)(engine.engine)
app.command("memory")(engine.memory)
app.command("data")(engine.data)
app.command("petl", help=petl.PETL_HELP)(petl.petl)
app.command("server")(cluster.server)
app.command("scale")(cluster.scale)
