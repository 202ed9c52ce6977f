"""Side by side with the released code (https://github.com/brillm05/BriLLM0.5): same text, sizes and parameters.

``model.py`` of a checkout is loaded as it is; nothing of it is copied here. Our graph is built with the preset
``brillm05``, and their model gets its nodes, its private edges and, for decoding, its parameters. In their favour:
candidates are drawn before the clock starts, and decoding runs without gradients, which their script does not do.
"""

from __future__ import annotations

import importlib.util
import itertools
import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import engine
import numpy as np
import torch
from report import Line
from sizes import Sizes

from sifu_graph.build import build_graph
from sifu_graph.config import OptimizerConfig
from sifu_graph.edge_index import EdgeIndex
from sifu_graph.generation.sampler import Sampler
from sifu_graph.generation.walk import Walk
from sifu_graph.graph import Graph
from sifu_graph.text.batches import chunk_table
from sifu_graph.training import step as steps
from sifu_graph.training.options import DEFAULT_BATCH

LENGTH = 32
PROMPT_TOKENS = 10
PROMPTS = 4
TRAINING_TIMES, DECODING_TIMES = 40.0, 20.0
THEIR_RATE = 5e-2  # learning rate of their training script


def load(path: Path) -> ModuleType:
    """``model.py`` of a checkout.

    Raises
    ------
    FileNotFoundError
    """
    file = path / "model.py"
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; --reference names a checkout of the released BriLLM code")
    spec = importlib.util.spec_from_file_location("released_model", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def our_graph(corpus: list[str], *, vocab: int, sparsify: float) -> Iterator[Graph]:
    """A graph of the given size with the mathematics of the released code, all of it in memory."""
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "graph.sifu"
        build_graph(corpus, store, vocab=vocab, sparsify=sparsify, length=LENGTH, signal="brillm05")
        with Graph.open(store) as graph:
            pool = graph.parameters.edges
            pool.configure(state=steps.edge_state_arrays(OptimizerConfig(), graph.parameters.width))
            engine.materialise(pool)
            yield graph


def their_model(module: ModuleType, graph: Graph) -> tuple[Any, Any]:
    """Their model and vocabulary, with the nodes and private edges of our graph, and its parameters."""
    nodes = {name: node for node, name in enumerate(graph.tokenizer.vocabulary)}
    vocab = module.Vocab.from_node_dict(nodes)
    parameters, index = graph.parameters, graph.parameters.index
    model = module.BraLM(parameters.width, zero_freq_edges=_default_edges(index, list(nodes)), vocab=vocab)
    model.prepare_network(vocab)
    assert len(model.weights) == index.edges + 1  # row 0 is the default edge, the others follow in (u, v) order
    with torch.no_grad():
        slot = torch.from_numpy(index.slots())
        model.weights[0], model.biases[0, 0] = parameters.default_W, parameters.default_b
        model.weights[1:], model.biases[1:, 0] = parameters.edges.W[slot], parameters.edges.b[slot]
        model.node_bias[:, 0] = parameters.node_bias
    model.to_device("cpu")
    return model, vocab


def _default_edges(index: EdgeIndex, names: list[str]) -> dict[str, set[str]]:
    """Their ``zero_freq_edges``: per source the targets that share the default edge (a set: found faster)."""
    every = set(names)
    return {name: every - {names[v] for v in index.target[index.row(u)]} for u, name in enumerate(names)}


def _full_chunks(graph: Graph, count: int, *, skip: int = 0) -> np.ndarray:
    """Chunks of `LENGTH` tokens of the training text, without padding [count, LENGTH]."""
    split = graph._tokens().train
    start, size = chunk_table(split, length=LENGTH)
    start = start[size == LENGTH]
    chosen = np.random.default_rng(0).permutation(len(start))[skip : skip + count]
    return np.stack([split.ids[at : at + LENGTH] for at in start[chosen]]).astype(np.int32)


# ---- training


def training(path: Path, corpus: list[str], sizes: Sizes) -> list[Line]:
    """Their step (sampled candidates, forward, backward, AdamW) and ours (exact softmax, fused update)."""
    module = load(path)
    with our_graph(corpus, vocab=sizes.reference_train_vocab, sparsify=sizes.sparsify) as graph:
        seconds = max(0.0, sizes.training_s / 4)
        ours = _our_training(graph, chunks=sizes.reference_batch, seconds=seconds)
        ours_default = _our_training(graph, chunks=DEFAULT_BATCH if seconds else 4, seconds=seconds)
        model, vocab = their_model(module, graph)
        theirs = _their_training(model, vocab, graph, sizes)
        nodes = graph.settings["nodes"]
    return [
        Line(
            measure=f"training against the released code, {nodes:,} nodes, batch {sizes.reference_batch}, "
            f"length {LENGTH}, theirs with {sizes.reference_candidates} sampled candidates, ours exact",
            must="at least 40 times",
            measured=f"{ours / theirs:.0f} times: {ours:,.0f} against {theirs:.1f} tokens/s; "
            f"with our default batch {ours_default / theirs:.0f} times ({ours_default:,.0f})",
            met=ours / theirs >= TRAINING_TIMES,
            figures={"ours_tokens_per_s": ours, "ours_default_batch": ours_default, "theirs_tokens_per_s": theirs},
        )
    ]


def _our_training(graph: Graph, *, chunks: int, seconds: float) -> float:
    """Tokens a second."""
    optimizer, lengths = OptimizerConfig(), np.full(chunks, LENGTH, np.int64)

    def one(step: int) -> int:
        tokens = _full_chunks(graph, chunks, skip=chunks * (step % 8))
        return steps.train(graph.parameters, graph.signal, optimizer, tokens, lengths[: len(tokens)], step=step)[1]

    one(1)
    seen, step, start = 0, 1, time.perf_counter()
    while step == 1 or time.perf_counter() - start < seconds:
        step += 1
        seen += one(step)
    return seen / (time.perf_counter() - start)


def _their_training(model: Any, vocab: Any, graph: Graph, sizes: Sizes) -> float:
    """Tokens a second of `model.py`'s forward, backward and the AdamW of their script."""
    random.seed(0)
    names = graph.tokenizer.vocabulary
    optimizer = torch.optim.AdamW(model.parameters(), lr=THEIR_RATE, weight_decay=0.0)
    seen, seconds = 0, 0.0
    for step in range(sizes.reference_steps + 1):  # the first does not count
        tokens = _full_chunks(graph, sizes.reference_batch, skip=sizes.reference_batch * step)
        neighbours = torch.tensor([_candidates(vocab, [names[v] for v in row], sizes) for row in tokens.tolist()])
        start = time.perf_counter()
        optimizer.zero_grad()
        model(neighbours).backward()  # [B, L - 1, 1 + candidates, 2]
        optimizer.step()
        if step:
            seconds += time.perf_counter() - start
            seen += neighbours.shape[0] * neighbours.shape[1]
    return seen / seconds


def _candidates(vocab: Any, tokens: list[str], sizes: Sizes) -> list[list[tuple[int, int]]]:
    """Per edge of a text the true edge, then sampled ones: what their data loader makes."""
    edges = vocab.to_path(tokens)
    sampled = (vocab.get_neighbor_of_edge(edge, sizes.reference_candidates) for edge in edges)
    return [[vocab(edge), *vocab(others)] for edge, others in zip(edges, sampled, strict=True)]


# ---- decoding


def decoding(path: Path, corpus: list[str], sizes: Sizes) -> list[Line]:
    """Greedy continuations of the same prompts with the same parameters."""
    module = load(path)
    with our_graph(corpus, vocab=sizes.reference_decode_vocab, sparsify=sizes.sparsify) as graph:
        prompts = _full_chunks(graph, PROMPTS)[:, :PROMPT_TOKENS].tolist()
        _our_decoding(graph, prompts[0], 5)
        start = time.perf_counter()
        our_text = [_our_decoding(graph, prompt, sizes.reference_tokens) for prompt in prompts]
        ours = PROMPTS * sizes.reference_tokens / (time.perf_counter() - start)
        model, vocab = their_model(module, graph)
        nodes = graph.settings["nodes"]
    random.seed(0)
    with torch.no_grad():
        _their_decoding(model, vocab, prompts[0], 5)
        start = time.perf_counter()
        their_text = [_their_decoding(model, vocab, prompt, sizes.reference_tokens) for prompt in prompts]
        theirs = PROMPTS * sizes.reference_tokens / (time.perf_counter() - start)
    pairs = [pair for mine, other in zip(our_text, their_text, strict=True) for pair in zip(mine, other, strict=True)]
    same = sum(a == b for a, b in pairs)
    return [
        Line(
            measure=f"decoding against the released code, {nodes:,} nodes, greedy, same parameters and prompts",
            must="at least 20 times",
            measured=f"{ours / theirs:.0f} times: {ours:,.0f} against {theirs:.1f} tokens/s; "
            f"{same:,} of {len(pairs):,} tokens are the same",
            met=ours / theirs >= DECODING_TIMES,
            figures={"ours_tokens_per_s": ours, "theirs_tokens_per_s": theirs, "same": same, "tokens": len(pairs)},
        )
    ]


def _our_decoding(graph: Graph, prompt: list[int], tokens: int) -> list[int]:
    """The nodes after the prompt. No node is forbidden: the released code may choose any."""
    walk = Walk(graph.parameters, graph.signal)
    sampler, rng = Sampler(temperature=0.0), np.random.default_rng(0)
    walk.start(prompt[0])
    for node in prompt[1:]:
        walk.carry(node)
    out = []
    for _ in range(tokens):
        out.append(walk.choose(sampler, rng))
        walk.carry(out[-1])
    return out


def _their_decoding(model: Any, vocab: Any, prompt: list[int], tokens: int) -> list[int]:
    """The same by their `decode`."""
    path = list(itertools.pairwise(prompt))
    edges = model.decode(path, vocab, max_new_tokens=tokens, temperature=0)
    return [v for _, v in edges[len(path) :]]
