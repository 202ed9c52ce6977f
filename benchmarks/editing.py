"""Counterfactual edits of one graph, made in several ways: what changes, what stays, and what an edit costs.

    python benchmarks/editing.py poems.sifu                       # 1 to 1,000 edits, some minutes
    python benchmarks/editing.py poems.sifu --edits 10000 --only edges
    python benchmarks/editing.py poems.sifu --edits 10 --seed 1 --limit 5000 --lr 0.003 --bound 0.1

For a graph whose edges share a base. Records and measures are those of ``sifu eval --edits`` (`edit.counterfactuals`).
The ways to edit are:

edges        what ``sifu eval --edits`` does: the edge of each record is boosted, one commit on a copy of the store
FT, W        steps of Adam on the matrix W that all edges share, through one step of the signal
FT, n        steps of Adam on the vectors n of all targets
FT-L, n      the same; no element of n changes by more than ``--bound``
rank one     ROME (arXiv 2202.05262, equation 2) on the matrix n: the row of each v changes by the least, in the norm
             of the second moment C of the signals r of training text, that makes v lead by `MARGIN` at its records

The steps of Adam minimise the mean of -log p(v) over the records, until every v leads all nodes by `MARGIN`, or
``--steps``. The last four ways change tensors in memory. Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sifu_graph import Graph
from sifu_graph.edit.counterfactuals import MARGIN, Counterfactuals, EditEffect, Share
from sifu_graph.generation.base_walk import BaseWalk
from sifu_graph.inspection.distributions import log_p_after
from sifu_graph.model.base import NAMES, Base
from sifu_graph.model.base_forward import documents_of
from sifu_graph.model.parameters import Parameters
from sifu_graph.ops.recurrent import Recurrent
from sifu_graph.ops.recurrent_torch import TorchRecurrent
from sifu_graph.text.encoded import Split
from sifu_graph.text.tokenizer import UNKNOWN

Changed = Mapping[str, Tensor]
"""New values of fields of `Recurrent`."""


@dataclass(frozen=True)
class Contexts:
    """What the N records of an experiment begin from.

    ``before`` and ``r`` are the signals [N, d] before and after the last token ``node`` [N]; ``rest`` [N, n] is what
    the energies have beside n . r, up to a constant of each record; ``v`` [N].
    """

    before: Tensor
    node: Tensor
    r: Tensor
    rest: Tensor
    v: Tensor

    @classmethod
    def of(cls, records: Counterfactuals) -> Contexts:
        parameters = records.parameters
        assert parameters.base is not None
        model, walk = parameters.base.model, BaseWalk(parameters, records.config)
        ids, begins, found = np.asarray(records.text.ids), records.text.begins(), {}
        wanted = set(records.place.values())
        for at, node in enumerate(ids.tolist()):
            before = model.start if begins[at] else walk.r.clone()
            (walk.start if begins[at] else walk.carry)(node)
            if at in wanted:
                walk.energies()
                log_p, r = torch.from_numpy(log_p_after(walk)).float(), walk.r.clone()
                log_p[UNKNOWN] = -torch.inf  # it never wins
                found[at] = before, r, log_p - model.target @ r
        before, r, rest = (
            torch.stack(part) for part in zip(*(found[at] for at in records.place.values()), strict=True)
        )
        places = list(records.place.values())
        return cls(
            before=before,
            node=torch.from_numpy(ids[places].astype(np.int64)),
            r=r,
            rest=rest,
            v=torch.tensor(list(records.target.values())),
        )

    def energies(self, model: Recurrent, pairs: TorchRecurrent) -> Tensor:
        """Those of all nodes at each record, [N, n], with other parameters; the signals before the last step stay."""
        r = pairs.carry(
            model, self.node[:, None], torch.zeros(len(self.node), 1, dtype=torch.bool), self.before.clone()
        )
        return self.rest + r[:, 0] @ model.target.T

    def lead(self, energies: Tensor) -> Tensor:
        """By how much v leads all other nodes, [N]."""
        v = self.v[:, None]
        return (energies.gather(1, v) - energies.scatter(1, v, -torch.inf).max(1, keepdim=True).values)[:, 0]


def tuned(base: Base, contexts: Contexts, field: str, *, lr: float, steps: int, bound: float = torch.inf) -> Changed:
    """Steps of Adam on one field. No element of it changes by more than ``bound``."""
    old = getattr(base.model, field)
    backend, value = TorchRecurrent(base.pairs), old.clone().requires_grad_()
    optimizer, model = torch.optim.Adam([value], lr=lr), dataclasses.replace(base.model, **{field: value})
    for _ in range(steps):
        energies = contexts.energies(model, backend)
        if bool((contexts.lead(energies) >= MARGIN).all()):
            break
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(energies, contexts.v).backward()
        optimizer.step()
        with torch.no_grad():
            value.clamp_(old - bound, old + bound)
    return {field: value.detach()}


def second_moment(parameters: Parameters, records: Counterfactuals, text: Split) -> Tensor:
    """The mean of r r' over a text, [d, d]."""
    walk, begins = BaseWalk(parameters, records.config), text.begins()
    total = torch.zeros(len(walk.r), len(walk.r), dtype=torch.float64)
    for at, node in enumerate(np.asarray(text.ids).tolist()):
        (walk.start if begins[at] else walk.carry)(node)
        r = walk.r.double()
        total += torch.outer(r, r)
    return total / text.tokens


def rank_one(base: Base, contexts: Contexts, moment: Tensor) -> Changed:
    """ROME's closed form; rows with several records change by the least that serves all of them.

    A row n_v with the signals K [d, k] of its records and the wanted changes of its energies z [k] changes by
    C^-1 K (K' C^-1 K)^-1 z.
    """
    r, target = contexts.r.double(), base.model.target.clone()
    energies = contexts.rest.double() + r @ target.double().T
    wanted = energies.max(1).values + MARGIN - energies.gather(1, contexts.v[:, None])[:, 0]
    ridge = 1e-6 * moment.diagonal().mean() * torch.eye(len(moment), dtype=moment.dtype)
    for v in contexts.v.unique().tolist():
        mine = contexts.v == v
        keys = r[mine].T
        weighted = torch.linalg.solve(moment + ridge, keys)
        gram = keys.T @ weighted
        change = weighted @ torch.linalg.lstsq(gram, wanted[mine][:, None], driver="gelsd").solution[:, 0]
        target[v] += change.to(target.dtype)
    return {"target": target}


def with_changed(parameters: Parameters, changed: Changed) -> Parameters:
    """The parameters with other values of some fields of the base."""
    assert parameters.base is not None
    small = {**parameters.small, **{NAMES[field]: value for field, value in changed.items()}}
    return dataclasses.replace(parameters, small=small, base=Base.of(small, parameters.base.pairs))


def ways(graph: Graph, records: Counterfactuals, args: argparse.Namespace) -> dict[str, Callable[[], Changed]]:
    """The ways to edit in memory."""
    base, contexts = graph.parameters.base, Contexts.of(records)
    assert base is not None
    text, _ = documents_of(graph._tokens().train, args.limit, seed=0)
    moment = second_moment(graph.parameters, records, text)
    steps, lr, bound = args.steps, args.lr, args.bound
    return {
        "FT, W": lambda: tuned(base, contexts, "W", lr=lr, steps=steps),
        "FT, n": lambda: tuned(base, contexts, "target", lr=lr, steps=steps),
        "FT-L, n": lambda: tuned(base, contexts, "target", lr=lr, steps=steps, bound=bound),
        "rank one": lambda: rank_one(base, contexts, moment),
    }


def row(edits: str, way: str, effect: EditEffect, seconds: float, size_bytes: float, undo: str) -> str:
    """A row of the table; seconds and bytes are those of one edit."""

    def cell(found: Share) -> str:
        return "-" if found.share is None else f"{100 * found.share:.2f} % of {found.of:,}"

    shares = [cell(found) for found in (effect.efficacy, effect.paraphrase, effect.neighbourhood, effect.same_bits)]
    score = "-" if effect.score is None else f"{100 * effect.score:.1f}"
    perplexity = f"{effect.perplexity_before:.1f} to {effect.perplexity_after:.1f}"
    cost = f"{1000 * seconds:,.1f} ms, {size_bytes:,.0f} bytes"
    return f"| {' | '.join([edits, way, score, *shares, perplexity, cost, undo])} |"


def rows(graph: Graph, edits: int, args: argparse.Namespace) -> None:
    """Print the rows of the table for this number of edits."""
    if args.only in (None, "edges"):
        report = graph.evaluate_edits(edits, limit=args.limit, seed=args.seed)
        undo = "the same bits" if report.undo_exact else "OTHER BITS"
        print(
            row(f"{report.edits:,}", "edges", report, report.seconds_per_edit, report.bytes_per_edit, undo), flush=True
        )
    if args.only == "edges":
        return
    text, _ = documents_of(graph._tokens().heldout, args.limit, seed=0)
    frequency = graph.store.read("nodes/count")
    records = Counterfactuals(graph.parameters, graph.signal, text, edits=edits, frequency=frequency, seed=args.seed)
    for way, change in ways(graph, records, args).items():
        if args.only in (None, way):
            began = time.perf_counter()
            changed = change()
            seconds = (time.perf_counter() - began) / len(records.place)
            size = 0
            for field, value in changed.items():
                differs = (value != graph.parameters.small[NAMES[field]]).any(-1)
                size += int(differs.sum()) * value.shape[-1] * value.element_size()
            effect = records.effect(with_changed(graph.parameters, changed))
            print(row(f"{len(records.place):,}", way, effect, seconds, size / len(records.place), "-"), flush=True)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--edits", type=int, nargs="+", default=[1, 10, 100, 1000])
    parser.add_argument("--limit", type=int, default=30_000, help="held-out tokens")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", metavar="WAY", help="one way to edit")
    parser.add_argument("--lr", type=float, default=0.002, help="of Adam")
    parser.add_argument("--steps", type=int, default=500, help="of Adam, at most")
    parser.add_argument("--bound", type=float, default=0.4, help="of FT-L")
    args = parser.parse_args(argv)
    print("| edits | way | S | efficacy | paraphrase | neighbourhood | same bits | perplexity | an edit | undo |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    with Graph.open(args.store) as graph:
        for edits in args.edits:
            rows(graph, edits, args)


if __name__ == "__main__":
    main()
