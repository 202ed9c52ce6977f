"""The shared recurrence: the pair model, the losses and the gradients against naive versions in double precision."""

from __future__ import annotations

import ctypes
import math
from itertools import islice

import needs
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sifu_graph.kernels import native as kernel
from sifu_graph.model.base_forward import tensors
from sifu_graph.ops import recurrent_native as native_path
from sifu_graph.ops.pair_model import LeftOut, PairModel
from sifu_graph.ops.recurrent import Recurrent, StreamBatch
from sifu_graph.ops.recurrent_native import NativeRecurrent
from sifu_graph.ops.recurrent_torch import TorchRecurrent
from sifu_graph.text.clones import choose
from sifu_graph.text.encoded import Split
from sifu_graph.text.kneser_ney import estimate_discounts
from sifu_graph.text.pair_counts import count_pairs
from sifu_graph.text.streams import windows
from sifu_graph.training.pieces import Pieces


def random_text(seed: int, *, nodes: int, documents: int, length: int = 20) -> Split:
    """Documents over nodes of which the first are the most frequent."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(2, length, documents)
    weights = 1.0 / np.arange(1, nodes + 1)
    ids = rng.choice(nodes, sizes.sum(), p=weights / weights.sum()).astype(np.int32)
    return Split(ids, np.append(0, np.cumsum(sizes)))


def model_of(text: Split, nodes: int, *, clones: int = 0) -> PairModel:
    counts = count_pairs(text, n=nodes)
    return PairModel.of(counts, choose(text, counts, clones=clones, least_gain=-np.inf) if clones else None)


def naive_probability(pairs: dict[tuple[int, int], int], source: int, target: int, nodes: int) -> float:
    """p of the docstring of `pair_model`, from the counts."""
    d = (0.0, *estimate_discounts(np.array(list(pairs.values()), np.int64)))
    before = [len({u for u, v in pairs if v == node}) for node in range(nodes)]
    d_lower = (0.0, *estimate_discounts(np.array([a for a in before if a], np.int64)))
    a, floor = sum(before), sum(d_lower[min(x, 3)] for x in before)
    row = {v: c for (u, v), c in pairs.items() if u == source}
    mine = before[target]
    q = (mine - d_lower[min(mine, 3)]) / a + floor / a / nodes
    total = sum(row.values())
    if not total:
        return q
    left = sum(d[min(c, 3)] for c in row.values()) / total
    count = row.get(target, 0)
    return (count - d[min(count, 3)]) / total + left * q


def counted(text: Split, nodes: int) -> dict[tuple[int, int], int]:
    found = count_pairs(text, n=nodes)
    return {(int(u), int(v)): int(c) for u, v, c in zip(found.source, found.target, found.count, strict=True)}


@settings(max_examples=20)
@given(seed=st.integers(0, 2**16), nodes=st.integers(2, 12), documents=st.integers(1, 40))
def test_rows_are_those_of_the_counts(seed: int, nodes: int, documents: int) -> None:
    text = random_text(seed, nodes=nodes, documents=documents)
    model, pairs = model_of(text, nodes), counted(text, nodes)
    every = np.arange(nodes)
    rows = model.rows(every)
    assert np.exp(rows).sum(1) == pytest.approx(1.0)
    for u in range(nodes):
        for v in range(nodes):
            assert math.exp(rows[u, v]) == pytest.approx(naive_probability(pairs, u, v, nodes), rel=1e-9)


@settings(max_examples=40)
@given(seed=st.integers(0, 2**16), documents=st.integers(1, 30), streams=st.integers(1, 9), steps=st.integers(1, 12))
def test_streams_meet_every_pair_once(seed: int, documents: int, streams: int, steps: int) -> None:
    text = random_text(seed, nodes=5, documents=documents)
    text = Split(text.ids.astype([np.int32, np.uint16][seed % 2]), text.offsets)  # as in a file
    found: dict[tuple[int, int], int] = {}
    last: np.ndarray | None = None
    for window in windows(text, streams=streams, steps=steps):
        assert window.token.shape == window.target.shape == window.restart.shape
        for row in range(len(window.token)):
            for step, (token, target) in enumerate(zip(window.token[row], window.target[row], strict=True)):
                if target >= 0:
                    found[int(token), int(target)] = found.get((int(token), int(target)), 0) + 1
                    if step + 1 < steps and window.target[row, step + 1] >= 0:
                        assert window.token[row, step + 1] == target  # a document's last token is never scored
            if last is not None and last[row] >= 0 and window.target[row, 0] >= 0 and not window.restart[row, 0]:
                assert window.token[row, 0] == last[row]
        last = window.target[:, -1]
    assert found == counted(text, 5)


def random_model(seed: int, nodes: int, width: int) -> Recurrent:
    """All parameters away from their initial values, float64."""
    initial = Recurrent.initial(nodes, width, seed=seed, dtype=torch.float64).tensors()
    generator = torch.Generator().manual_seed(seed)
    return Recurrent(
        **{k: v + 0.3 * torch.randn(v.shape, generator=generator, dtype=v.dtype) for k, v in initial.items()}
    )


def with_edges(pairs: PairModel, seed: int) -> PairModel:
    """What some edges add, and pairs that are forbidden: none of these occurs."""
    rng = np.random.default_rng(seed)
    every = np.arange(pairs.nodes**2)
    counted = pairs.sources_of(np.arange(len(pairs.target))) * pairs.nodes + pairs.target
    forbidden = rng.permutation(np.setdiff1d(every, counted))[: pairs.nodes]
    edges = np.setdiff1d(rng.permutation(every)[: 3 * pairs.nodes], forbidden)
    return pairs.with_edges(edges, rng.standard_normal(len(edges)), np.sort(forbidden))


@settings(max_examples=20)
@given(seed=st.integers(0, 2**16), nodes=st.integers(2, 12), documents=st.integers(1, 40))
def test_what_edges_add_is_no_part_of_p(seed: int, nodes: int, documents: int) -> None:
    text = random_text(seed, nodes=nodes, documents=documents)
    plain, every = model_of(text, nodes), np.arange(nodes)
    model = with_edges(plain, seed)
    assert model.rows(every) == pytest.approx(plain.rows(every), abs=1e-12)
    (piece, out), (_, plain_out) = (Pieces(text, x).at(text.offsets[:1]) for x in (model, plain))
    first = np.full(nodes, int(piece[0]))
    wanted = plain.rows_without(every, first, plain_out)
    assert model.rows_without(every, first, out) == pytest.approx(wanted, abs=1e-12)
    added = model.added_rows(every)
    assert np.isneginf(added).sum() == min(nodes, nodes**2 - len(plain.target))
    u, v = (int(x) for x in np.argwhere(added != 0)[0])
    assert model.without_edge(u, v).added_rows(every)[u, v] == 0
    gone = model.without_node(0)
    assert gone.rows(every[:-1]) == pytest.approx(model.rows(every)[1:, 1:], abs=1e-12)
    assert np.array_equal(gone.added_rows(every[:-1]), added[1:, 1:])


def cast(model: Recurrent, dtype: torch.dtype) -> Recurrent:
    return Recurrent(**{name: value.to(dtype) for name, value in model.tensors().items()})


def native(pairs: PairModel, width: int, dtype: torch.dtype) -> NativeRecurrent:
    library = kernel.compiled("recurrent", width, dtype)
    if library is None:
        pytest.skip(needs.COMPILER)
    return NativeRecurrent(library, pairs, dtype)


def naive_losses(
    pairs: PairModel, model: Recurrent, token: list[int], target: list[int], *, out: LeftOut | None = None
) -> list[float]:
    """One document from its start, a loop over every node in plain numpy; without the first piece of ``out``."""
    W, gain, node, r, n, c, s, g, G, after = (x.numpy() for x in model.tensors().values())
    losses, path = [], list(token)
    for i, (u, t) in enumerate(zip(token, target, strict=True)):
        h = r @ W
        h = h - h.mean()
        z = gain * h / math.sqrt((h * h).mean() + 1e-6) + node[u]
        r = np.array([x * 0.5 * math.erfc(-x / math.sqrt(2)) for x in z])
        at = np.array([u])
        row = (pairs.rows(at) if out is None else pairs.rows_without(at, np.array([0]), out))[0]
        energy = [s[0] * row[v] + n[v] @ r + c[v] for v in range(pairs.nodes)]
        for v in range(pairs.nodes):
            once = sum(path[k] == v for k in range(i))
            after_one = sum(path[k] == v and path[k - 1] == u for k in range(1, i + 1))
            after_two = sum(path[k - 2 : k + 1] == [path[i - 1], u, v] for k in range(2, i + 1))
            z = 1 + pairs.log_lower[v] / 10
            a, b = g[v] + G @ [1, z, z * z]
            energy[v] += (a + b * math.log(once) if once else 0) + after @ [
                math.log1p(after_one),
                math.log1p(after_two),
            ]
        top = max(energy)
        losses.append(top + math.log(sum(math.exp(e - top) for e in energy)) - energy[t])
    return losses


@settings(max_examples=15)
@given(seed=st.integers(0, 2**16), nodes=st.integers(2, 40), length=st.integers(1, 12))
def test_torch_is_the_equations(seed: int, nodes: int, length: int) -> None:
    text = random_text(seed, nodes=nodes, documents=30)
    pairs, model = model_of(text, nodes), random_model(seed, nodes, 16)
    rng = np.random.default_rng(seed)
    token, target = rng.integers(0, nodes, (2, length)).astype(np.int32)
    first = torch.zeros(1, length, dtype=torch.bool)
    first[0, 0] = True
    tokens, targets = torch.from_numpy(token)[None], torch.from_numpy(target)[None]
    past = torch.cat([torch.zeros(1, 3, dtype=torch.int32), tokens], 1)
    batch = StreamBatch(tokens, tokens, targets, first, past, torch.arange(length, dtype=torch.int32)[None])
    backend = TorchRecurrent(pairs)
    r = backend.carry(model, tokens, first, torch.zeros(1, 16, dtype=torch.float64))
    found = backend.outcomes(model, batch, r)[0][0]
    assert found.tolist() == pytest.approx(naive_losses(pairs, model, token, target), rel=1e-9)
    _, out = Pieces(text, pairs).at(text.offsets[:1])
    piece, signal = torch.zeros_like(tokens), torch.zeros(1, 16, dtype=torch.float64)
    found, _ = backend.gradients(model, batch, signal, piece=piece, out=out, weight=1.0)
    assert found[0].tolist() == pytest.approx(naive_losses(pairs, model, token, target, out=out), rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@settings(max_examples=12)
@given(
    seed=st.integers(0, 2**16), nodes=st.integers(2, 70), documents=st.integers(1, 60), streams=st.integers(2, 5),
    steps=st.integers(1, 12), width=st.sampled_from([16, 32]),
)  # fmt: skip
def test_the_kernel_is_torch(
    dtype: torch.dtype, seed: int, nodes: int, documents: int, streams: int, steps: int, width: int
) -> None:
    text = random_text(seed, nodes=nodes, documents=documents)
    pairs, model = model_of(text, nodes, clones=seed % 3 * 20), random_model(seed, nodes, width)
    if seed % 2:
        pairs = with_edges(pairs, seed)
    torch_path, kernel_path = TorchRecurrent(pairs), native(pairs, width, dtype)
    close = {"rtol": 1e-9, "atol": 1e-11} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 2e-4}
    mine = cast(model, dtype)
    one, two, pieces = None, None, Pieces(text, pairs)
    for window in islice(windows(text, streams=streams, steps=steps, clones=pairs.tree), 3):
        batch = tensors(window, pairs)
        if one is None:
            one = torch.zeros(len(batch.token), width, dtype=torch.float64)
            two = torch.zeros(len(batch.token), width, dtype=dtype)
        assert two is not None
        before = one.clone(), two.clone()
        (wanted, ranks), (found, found_ranks) = (
            b.outcomes(m, batch, b.carry(m, batch.token, batch.restart, r)) for b, m, r in
            ((torch_path, model, before[0]), (kernel_path, mine, before[1]))
        )  # fmt: skip
        torch.testing.assert_close(found.double(), wanted, **close)
        if dtype == torch.float64:  # in float32 energies that are nearly equal may change places
            assert torch.equal(found_ranks, ranks)
        piece, out = pieces.at(window.place)
        more = {"piece": piece, "out": out, "weight": 0.5}
        keep = None if seed % 4 < 2 else 2.0 * torch.randint(2, (*batch.token.shape, width), dtype=torch.float64)
        wanted, wanted_gradient = torch_path.gradients(model, batch, one, keep=keep, **more)
        keep = None if keep is None else keep.to(dtype)
        found, found_gradient = kernel_path.gradients(mine, batch, two, keep=keep, **more)
        torch.testing.assert_close(found.double(), wanted, **close)
        torch.testing.assert_close(two.double(), one, **close)
        for name, gradient in wanted_gradient.tensors().items():
            size = float(gradient.abs().max()) if gradient.numel() else 0.0
            bound = {"rtol": close["rtol"], "atol": close["atol"] * max(1.0, size)}
            torch.testing.assert_close(found_gradient.tensors()[name].double(), gradient, **bound, msg=name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_structures_have_the_sizes_of_the_kernel(dtype: torch.dtype) -> None:
    backend = native(model_of(random_text(0, nodes=3, documents=3), 3), 16, dtype)
    library = kernel.compiled("recurrent", 16, dtype)
    assert library is not None
    structures = (
        native_path._Recurrence, native_path._RecurrenceGradient, native_path._Pairs, backend._candidates,
        native_path._CandidateGradient, native_path._LeftOut, native_path._Past,
    )  # fmt: skip
    sizes = (ctypes.c_int64 * len(structures))()
    library.sifu_recurrent_sizes(sizes)
    assert list(sizes) == [ctypes.sizeof(structure) for structure in structures]


def test_any_number_of_threads_gives_the_same_bits() -> None:
    text = random_text(1, nodes=300, documents=200)
    pairs, model = model_of(text, 300, clones=500), cast(random_model(1, 300, 32), torch.float32)
    backend = native(pairs, 32, torch.float32)
    window = next(windows(text, streams=7, steps=30, clones=pairs.tree))
    batch, (piece, out) = tensors(window, pairs), Pieces(text, pairs).at(window.place)
    usual, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            signal = torch.zeros(7, 32)
            losses, gradient = backend.gradients(model, batch, signal, piece=piece, out=out, weight=1.0)
            results.append([losses, signal, *gradient.tensors().values()])
    finally:
        torch.set_num_threads(usual)
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


def test_untrained_it_is_the_pair_model() -> None:
    text = random_text(3, nodes=30, documents=50)
    pairs, model = model_of(text, 30), Recurrent.initial(30, 16, seed=0, dtype=torch.float64)
    window = next(windows(text, streams=3, steps=12))
    backend, batch = TorchRecurrent(pairs), tensors(window, pairs)
    r = backend.carry(model, batch.token, batch.restart, torch.zeros(3, 16, dtype=torch.float64))
    found, _ = backend.outcomes(model, batch, r)
    scored = window.target >= 0
    rows = pairs.rows(window.token[scored].astype(np.int64))
    wanted = -rows[np.arange(len(rows)), window.target[scored]]
    assert found.numpy()[scored] == pytest.approx(wanted, rel=1e-12)
    assert not found.numpy()[~scored].any()
