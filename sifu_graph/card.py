"""The model card of a graph: one Markdown page with its text, its settings, its sizes and its scores.

It knows reports and Markdown; it does not print.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sifu_store.errors import CorpusError
from sifu_store.places import place_of

from sifu_graph.evaluation import EvalReport, evaluate
from sifu_graph.progress import ProgressOption
from sifu_graph.settings import BuildSettings, GraphSettings

if TYPE_CHECKING:
    from sifu_graph.session import GraphSession

TOKENS = 20_000  # held-out tokens that the scores are computed over


def model_card(graph: GraphSession, *, progress: ProgressOption = None) -> str:
    """The model card of a graph, as Markdown.

    The scores are computed by this function over part of the held-out text, if the text can be read.
    ``progress``: see `progress_bar.reporting`.
    """
    info = graph.info()
    settings, build = info.settings, info.settings["build"]
    try:
        scores: EvalReport | str = evaluate(graph, None, limit=TOKENS, progress=progress)
    except CorpusError as error:
        scores = str(error)
    sections = [
        f"# {place_of(graph.path).title}",
        f"A SiFu graph of {info.nodes:,} nodes and {info.private_edges:,} private edges "
        f"(snapshot {info.snapshot[:8]}, format {info.format_version}, {settings['created_by']}).",
        "## Text",
        _table(_text(build)),
        "## Settings",
        _table(_settings(settings)),
        "## Size",
        _table(
            [
                ("nodes", f"{info.nodes:,}"),
                ("width of the signal", f"{info.width:,}"),
                ("private edges", f"{info.private_edges:,}"),
                ("stored parameters", f"{info.stored_parameters:,}, {info.ratio:.1%} of the dense graph's"),
                *(
                    [("parameters that all edges share", f"{info.base_parameters:,}")]
                    if info.base_parameters is not None
                    else []
                ),
                *([("clones", f"{info.clones:,}, nodes split by the nodes before them")] if info.clones else []),
                ("dense parameters", f"{info.dense_parameters:,}"),
                ("pairs of the text on private edges", f"{info.coverage:.1%}"),
                ("trained pages", f"{info.trained_pages:,} of {info.pages:,}"),
                ("store", f"{info.store_bytes / 2**20:,.1f} MiB, all snapshots together"),
            ]
        ),
        "## Scores",
        f"Not evaluated: {scores}." if isinstance(scores, str) else _scores(scores),
    ]
    return "\n\n".join(sections) + "\n"


def _text(build: BuildSettings) -> list[tuple[str, str]]:
    sources = build["corpus"]["sources"]
    level = f"level {build['level']}" + (", in lower case" if build.get("lowercase") else "")
    if not sources:
        came = build.get("imported", {})
        files = ", ".join(f"`{came[name]}`" for name in ("checkpoint", "file", "vocab", "frequency") if name in came)
        return [("imported from", files or "another format"), ("tokens", level)]
    return [
        *(
            (f"`{source['name']}`", f"{source['bytes']:,} bytes, SHA-256 `{source['sha256'][:16]}`")
            for source in sources
        ),
        (
            "tokens",
            f"{build['corpus_tokens']:,} for training, {build['heldout_tokens']:,} held out; {level}",
        ),
        ("distinct pairs", f"{build['distinct_pairs']:,}"),
    ]


def _settings(settings: GraphSettings) -> list[tuple[str, str]]:
    build, training = settings["build"], settings["training"]
    signal = ", ".join(f"{name} {value}" for name, value in settings["signal"].items())
    rows = [
        ("signal", f"{build['signal_preset'] or 'own'}: {signal}"),
        ("initialised from", settings["initial"]["method"]),
        ("length of a training text", f"{build['length']:,} tokens"),
        ("share of private pairs, at most", f"{build['sparsify']:.4g}"),
    ]
    if training is None:
        return [*rows, ("training", "none since it was built or imported")]
    chosen = ", ".join(f"{name} {value}" for name, value in training["optimizer"].items())
    candidates = training["candidates"] or "all nodes"
    return [
        *rows,
        ("training", f"{training['step']:,} steps, {training['tokens']:,} tokens, {training['batch']:,} texts a step"),
        ("optimizer", chosen),
        ("candidates of the softmax", f"{candidates}"),
    ]


def _scores(report: EvalReport) -> str:
    rows = [
        ("perplexity", f"{report.perplexity:,.1f}"),
        ("bits per token", f"{report.bits_per_token:.3f}"),
        ("top-1 accuracy", f"{report.top1:.1%}"),
        ("top-5 accuracy", f"{report.top5:.1%}"),
        ("perplexity over private edges", f"{report.private.perplexity:,.1f} ({report.private.tokens:,} tokens)"),
        ("perplexity over the default edge", f"{report.default.perplexity:,.1f} ({report.default.tokens:,} tokens)"),
    ]
    if report.unknown_share:
        rows.insert(1, ("perplexity without unknown tokens", f"{report.known.perplexity:,.1f}"))
        rows.insert(2, ("unknown tokens", f"{report.unknown_share:.1%}"))
    if report.bits_per_character is not None:
        rows.insert(2, ("bits per character", f"{report.bits_per_character:.3f}"))
    return f"Over {report.tokens:,} tokens of the {report.part} text.\n\n{_table(rows)}"


def _table(rows: list[tuple[str, str]]) -> str:
    cells = [(left.replace("|", "\\|"), right.replace("|", "\\|")) for left, right in rows]
    return "\n".join(["| | |", "|---|---|", *(f"| {left} | {right} |" for left, right in cells)])
