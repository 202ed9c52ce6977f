"""The compiled kernel of decoding against the same in Python: signals, sources, energies, choices; side by side."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import needs
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sifu_graph.config import PRESETS
from sifu_graph.edge_index import EdgeIndex
from sifu_graph.generation import base_walk
from sifu_graph.generation.base_walk import BaseWalk, choose_each
from sifu_graph.generation.plain_decoding import PlainText
from sifu_graph.generation.sampler import Sampler
from sifu_graph.kernels import native as kernel
from sifu_graph.model.base import NAMES, Base
from sifu_graph.ops import decoding_native, repetition
from sifu_graph.ops.decoding_native import NativeText
from sifu_graph.ops.pair_model import PairModel
from sifu_graph.ops.recurrent import Recurrent
from sifu_graph.text.clones import choose
from sifu_graph.text.encoded import Split
from sifu_graph.text.pair_counts import count_pairs

pytestmark = pytest.mark.skipif(kernel.compiler() is None, reason=needs.COMPILER)
SAMPLERS = st.builds(
    Sampler,
    temperature=st.sampled_from([0.0, 1e-300, 0.3, 1.0, 2.0, 1e6]),
    top_k=st.sampled_from([None, 1, 2, 7, 1000]),
    top_p=st.sampled_from([None, 1e-9, 0.3, 0.9, 1.0]),
)


def parameters_of(seed: int, *, nodes: int, count: str = "i4") -> Any:
    """Random parameters of a base, the counts of a random text with clones, edges that are edited or forbidden."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 40, 12)
    text = Split((rng.zipf(1.4, sizes.sum()) % nodes).astype(np.int32), np.append(0, np.cumsum(sizes)))
    counts = count_pairs(text, n=nodes)
    pairs = PairModel.of(counts, choose(text, counts, clones=60, least_gain=-np.inf))
    assert len(pairs.tree)
    pairs = dataclasses.replace(pairs, count=pairs.count.astype(count))
    some = np.unique(rng.integers(0, pairs.tree.sources * nodes, 40))
    pairs = pairs.with_edges(some[::2], rng.normal(size=len(some[::2])), some[1::2])
    model = Recurrent.initial(nodes, 16, seed=seed).tensors()
    small = {NAMES[name]: torch.from_numpy(rng.normal(size=value.shape)).float() for name, value in model.items()}
    small["signal/scale"] = small["signal/scale"].abs()
    index = EdgeIndex.from_slots(nodes, *(np.empty(0, kind) for kind in (np.int32, np.int32, np.int64)))
    return SimpleNamespace(base=Base.of(small, pairs), index=index)


def walks_of(parameters: Any, **options: Any) -> tuple[BaseWalk, BaseWalk]:
    """A walk of the kernel, and one in Python."""
    native = BaseWalk(parameters, PRESETS["recurrent"], **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base_walk.kernel, "compiled", lambda *_: None)
        plain = BaseWalk(parameters, PRESETS["recurrent"], **options)
    assert isinstance(native.text, NativeText) and isinstance(plain.text, PlainText)
    return native, plain


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**16), nodes=st.sampled_from([7, 64, 65, 300]), most=st.sampled_from([1, 3, 1024]),
    silent=st.frozensets(st.integers(0, 20), max_size=5), count=st.sampled_from(["i4", "i8"]), texts=st.integers(1, 3),
)  # fmt: skip
def test_the_kernel_is_the_walk_in_python(
    seed: int, nodes: int, most: int, silent: frozenset[int], count: str, texts: int
) -> None:
    rng = np.random.default_rng(seed)
    with pytest.MonkeyPatch.context() as patch:
        for module in (repetition, decoding_native):
            patch.setattr(module, "MOST_PAST", most)
        native, plain = walks_of(parameters_of(seed, nodes=nodes, count=count))
        native.silent = plain.silent = silent
        for _ in range(texts):
            for at, node in enumerate((rng.zipf(1.4, 25) % nodes).tolist()):
                for walk in (native, plain):
                    (walk.carry if at else walk.start)(node)
                found, wanted = native.energies()[0], plain.energies()[0]
                assert native.source == plain.source
                assert native.r.numpy() == pytest.approx(plain.r.numpy(), abs=1e-5)
                assert (np.isneginf(found) == np.isneginf(wanted)).all()
                assert found == pytest.approx(wanted, abs=1e-4)
                assert native.repetition() == pytest.approx(plain.repetition(), abs=1e-5)


class Uniform:
    """A generator that draws a given number."""

    def __init__(self, value: float) -> None:
        self.value = value

    def random(self) -> float:
        return min(max(self.value, 0.0), 1.0)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**16), nodes=st.sampled_from([7, 64, 65, 300]), sampler=SAMPLERS,
    uniform=st.one_of(st.sampled_from([0.0, 1 - 2**-53]), st.floats(0, 1, exclude_max=True)),
)  # fmt: skip
def test_the_kernel_chooses_as_the_sampler_does(seed: int, nodes: int, sampler: Sampler, uniform: float) -> None:
    rng = np.random.default_rng(seed)
    banned = np.unique(rng.integers(0, nodes, 3)).tolist()
    walk = BaseWalk(parameters_of(seed, nodes=nodes), PRESETS["recurrent"], forbidden=banned)
    walk.start(int(rng.integers(nodes)))
    chosen = walk.choose(sampler, Uniform(uniform))  # type: ignore[arg-type]
    logits = walk.last_energies()[0].copy()
    logits[banned] = -np.inf
    assert np.isfinite(logits[chosen])
    if sampler.greedy:
        assert chosen == int(logits.argmax())
        return
    near = [sampler.choose(logits, -np.inf, 0, Uniform(uniform + gap))[0] for gap in (-1e-5, 0, 1e-5)]  # type: ignore
    weights = sampler.weights(logits, -np.inf, 0)[0]
    # the weights of the kernel are float32, so that it may end the fewest greatest one candidate earlier or later
    assert chosen in near or (sampler.top_p is not None and abs(at_the_edge(sampler, logits)) < 1e-5), weights


def at_the_edge(sampler: Sampler, logits: np.ndarray) -> float:
    """How far the share of the fewest greatest is from the one that is asked for, at the nearest number of them."""
    free = dataclasses.replace(sampler, top_p=None)
    p = np.sort(free.weights(logits, -np.inf, 0)[0])[::-1]
    return float(np.abs(np.cumsum(p) / p.sum() - sampler.top_p).min())


def test_many_choices_have_the_probabilities_of_the_softmax() -> None:
    walk = BaseWalk(parameters_of(3, nodes=7), PRESETS["recurrent"])
    walk.start(2)
    p = np.exp(walk.energies()[0].astype(np.float64))
    p /= p.sum()
    rng, sampler, draws = np.random.default_rng(0), Sampler(), 20_000
    found = np.bincount([walk.choose(sampler, rng) for _ in range(draws)], minlength=7) / draws
    assert found == pytest.approx(p, abs=5 / np.sqrt(draws))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_texts_side_by_side_have_the_bits_of_a_text_alone(threads: int) -> None:
    rng = np.random.default_rng(threads)
    parameters, other = parameters_of(1, nodes=300), parameters_of(2, nodes=65)
    first = BaseWalk(parameters, PRESETS["recurrent"])
    walks = [first, *(BaseWalk(parameters, PRESETS["recurrent"], beside=first) for _ in range(29))]
    walks += [BaseWalk(other, PRESETS["recurrent"]), walks_of(other)[1]]
    for walk in walks:
        path = rng.integers(0, 65, rng.integers(1, 9)).tolist()
        walk.start(path[0])
        for node in path[1:]:
            walk.carry(node)
    samplers = [Sampler(temperature=rng.choice([0.0, 1.0]), top_p=rng.choice([0.5, 1.0])) for _ in walks]
    wanted, energies = [], []
    for k, (walk, sampler) in enumerate(zip(walks, samplers, strict=True)):
        wanted.append(walk.choose(sampler, np.random.default_rng(k)))
        energies.append(walk.last_energies()[0].copy())
    choices = [(walk, samplers[k], np.random.default_rng(k)) for k, walk in enumerate(walks)]
    assert choose_each(choices, threads=threads) == wanted
    for walk, energy in zip(walks, energies, strict=True):
        assert np.array_equal(walk.last_energies()[0], energy)


def test_a_path_of_any_length_takes_the_same_memory() -> None:
    """A path is moved back where its buffer ends: what it says then is what a new one says."""
    parameters = parameters_of(5, nodes=30)
    walk, again = (BaseWalk(parameters, PRESETS["recurrent"]) for _ in range(2))
    path = np.random.default_rng(0).integers(0, 30, 5000).tolist()
    walk.start(path[0])
    for at, node in enumerate(path[1:], 1):
        walk.carry(node)
        if at in (1024, 1025, 2048, 2049, 2050, 3076, 4999):
            again.start(path[max(0, at - 1024)])
            for other in path[max(0, at - 1024) + 1 : at + 1]:
                again.carry(other)
            assert np.array_equal(walk.repetition(), again.repetition())
            assert walk.source == again.source


def test_a_node_that_is_none_is_refused() -> None:
    walk = BaseWalk(parameters_of(0, nodes=7), PRESETS["recurrent"])
    for node in (-1, 7):
        with pytest.raises(ValueError, match="is not one of the 7 nodes"):
            walk.start(node)
