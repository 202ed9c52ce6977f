"""``sifu serve``: answers requests over HTTP."""

from __future__ import annotations

import secrets
from pathlib import Path

import click

from sifu_cli.number_types import Integer
from sifu_cli.options import at_option, common_options
from sifu_cli.output.messages import say, warn
from sifu_cli.output.results import print_json


@click.command(
    "serve",
    short_help="Answer requests over HTTP.",
    epilog="""\b
Examples:
  sifu serve
  curl localhost:8000/v1/completions -d '{"prompt": "春風", "max_tokens": 30}'
  sifu serve --host 0.0.0.0 --token "$(openssl rand -hex 16)"
""",
)
@click.option("--host", metavar="ADDRESS", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option(
    "--port",
    type=Integer(min=0, max=65535),
    metavar="N",
    default=8000,
    show_default=True,
    help="Port; 0: any free one.",
)
@click.option(
    "--token",
    metavar="TEXT",
    envvar="SIFU_TOKEN",
    help="Clients must send it (Authorization: Bearer TEXT). Needed where other machines reach the address.  "
    "[default: $SIFU_TOKEN]",
)
@click.option(
    "--edit",
    is_flag=True,
    help="The page may change the graph: each change is a commit. The address that is printed has the token for it.",
)
@click.option(
    "--follow",
    is_flag=True,
    help="Serve new commits as they come (always with --edit); requests that run end as they began.",
)
@click.option(
    "--most-sequences",
    type=Integer(min=1),
    metavar="N",
    default=256,
    show_default=True,
    help="Continuations at the same time; a request beyond gets status 429.",
)
@click.option(
    "--most-tokens",
    type=Integer(min=1),
    metavar="N",
    default=16_384,
    show_default=True,
    help="Tokens of a prompt, and of a continuation.",
)
@at_option
@click.option("--host-memory", metavar="SIZE", help="Memory that the process may take: 512MiB, 50%.")
@click.option(
    "--precision",
    metavar="NAME",
    default="float32",
    show_default=True,
    help="Precision of the matrices of the edges in memory: float32, or bfloat16, which rounds them and halves it.",
)
@common_options
def command(
    *,
    host: str,
    port: int,
    token: str | None,
    edit: bool,
    follow: bool,
    most_sequences: int,
    most_tokens: int,
    at: str | None,
    host_memory: str | None,
    precision: str,
    store: Path,
    quiet: bool,
    as_json: bool,
) -> None:
    """Answer requests over HTTP with the completions API that clients of language models know, until Ctrl-C.

    The graph is only read, unless --edit is given. /v1/completions continues prompts, with exact log-probabilities of
    the prompt too (echo, logprobs); /v1/models, /health and /metrics say what is there. The page at / shows a text
    token by token: the candidates of each, and why it was chosen.

    With --json, prints an object with the address when requests are answered.
    """
    from sifu_store.places import require_store

    require_store(store)
    for name, chosen in (("follow", follow), ("edit", edit)):
        if chosen and at is not None:
            raise click.UsageError(f"--{name} needs the newest commit, and --at is another one: leave one of them out")
    try:
        from sifu_graph.serve import running
        from sifu_graph.serve.app import Limits
    except ModuleNotFoundError as error:
        raise click.ClickException(
            f"serving needs the package {error.name}: pip install 'sifu-graph[serve]'"
        ) from error
    from sifu_graph.serve.served_graph import ServedGraph

    running.check_address(host, token)
    with running.listen(host, port) as sock:
        graph = ServedGraph(store, at=at, host_memory=host_memory, precision=precision)
        opened = graph.current.graph
        if opened.warning:
            warn(opened.warning)
        shown = f"[{host}]" if ":" in host else host
        address = f"http://{shown}:{sock.getsockname()[1]}"

        edit_token = (token or secrets.token_urlsafe(16)) if edit else None

        def ready() -> None:
            snapshot = opened.store.snapshot
            if as_json:
                found = {"address": f"{address}/v1", "model": graph.name, "snapshot": snapshot}
                print_json(found if edit_token is None else {**found, "edit_token": edit_token})
                return
            page = f"{address}/" if edit_token is None else f"{address}/#token={edit_token}"
            say(f"serving {graph.name} ({snapshot[:8]}) at {address}/v1, page {page}; Ctrl-C ends it", quiet=quiet)

        server = running.make(
            graph,
            limits=Limits(prompt_tokens=most_tokens, tokens=most_tokens, sequences=most_sequences),
            token=token,
            follow=follow,
            edit_token=edit_token,
            ready=ready,
        )
        server.run(sockets=[sock])
