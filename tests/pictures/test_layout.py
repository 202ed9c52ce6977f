"""The layout and the communities, against what they are by definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from bounds import assert_close
from hypothesis import given
from hypothesis import strategies as st

from sifu_graph.plot import map_layout


def cliques(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Three groups in which everybody is linked, and a link from each to the next."""
    pairs = [(g * size + a, g * size + b) for g in range(3) for a in range(size) for b in range(a)]
    pairs += [(0, size), (size, 2 * size)]
    source, target = np.array(pairs).T
    return source, target, np.ones(len(pairs))


@given(nodes=st.integers(1, 60), seed=st.integers(0, 5), block=st.sampled_from([1, 400, 1 << 20]))
def test_the_repulsion_is_that_of_every_pair(nodes: int, seed: int, block: int) -> None:
    rng = np.random.default_rng(seed)
    place = rng.normal(0, 5, (nodes, 2)).astype(np.float32)
    mass = rng.uniform(1, 9, nodes).astype(np.float32)
    wanted, size = np.zeros((nodes, 2)), np.zeros((nodes, 2))
    for i in range(nodes):
        for j in range(nodes):
            apart = place[i].astype(float) - place[j]
            near = float(apart @ apart) + 1e-2
            force = mass[i] * mass[j] * apart / near
            wanted[i] += force
            size[i] += abs(force)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(map_layout, "BLOCK_BYTES", block)
        found = map_layout._repulsion(place, mass)
    assert_close(found, wanted, terms=nodes, size=size, dtype=torch.float32)


def test_communities_are_found_and_the_largest_is_the_first() -> None:
    source, target, weight = cliques(6)
    source, target = np.append(source, [17, 18]), np.append(target, [18, 12])  # one more in the third
    found = map_layout.communities(20, source, target, np.append(weight, [1.0, 1.0]))
    assert len(set(found[:6])) == len(set(found[6:12])) == len(set(found[12:19])) == 1
    assert found[12] == 0
    assert len(set(found)) == 4  # node 19 has no link
    assert found.tolist() == map_layout.communities(20, source, target, np.append(weight, [1.0, 1.0])).tolist()


def test_links_in_both_directions_add_up() -> None:
    ring = np.arange(8)
    source, target = np.concatenate([ring, ring]), np.concatenate([(ring + 1) % 8, (ring - 1) % 8])
    weight = np.where(source % 2 == 0, np.where(target == source + 1, 2.0, 0.1), 0.1)
    assert len(set(map_layout.communities(8, source, target, weight))) == 4


def test_what_is_linked_lies_together() -> None:
    source, target, weight = cliques(12)
    group = np.zeros(36, np.int64)  # so that only the links speak
    place = map_layout.force_layout(source, target, weight, group)
    assert place.shape == (36, 2)
    assert place.dtype == np.float32
    assert np.hypot(*place.T).max() <= 1 + 1e-5
    apart = np.hypot(*(place[:, None] - place).transpose(2, 0, 1))
    same = np.arange(36)[:, None] // 12 == np.arange(36) // 12
    assert apart[same].mean() < 0.5 * apart[~same].mean()
    np.testing.assert_array_equal(place, map_layout.force_layout(source, target, weight, group))


def test_a_layout_of_hardly_anything() -> None:
    one = np.zeros(1, np.int64)
    for source, target, nodes in ((one, one + 1, 2), (one, one + 1, 5)):
        place = map_layout.force_layout(source, target, np.ones(1), np.zeros(nodes, np.int64))
        assert np.isfinite(place).all()
        assert len(np.unique(place, axis=0)) == nodes
