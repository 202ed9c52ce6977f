"""Repair of references: names of commits that are missing or damaged, and commits whose line was cut.

Data is never changed, and no commit is deleted: a repair writes references, and deletes references whose commit is
unknown. Commits that no name reaches any more become undone commits, so that a garbage collection keeps them by its
usual rules. This module knows commits and references; not arrays.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sifu_store.errors import StoreDamagedError
from sifu_store.history import Commit, Lineage, read_all
from sifu_store.places import place_of
from sifu_store.refs import BEFORE, BRANCH, EMPTY, UNDONE, described, is_snapshot_id
from sifu_store.repository import Acknowledged


@dataclass(frozen=True, slots=True)
class Repair:
    """What a repair changes and what it leaves unchanged, a line each.

    Parameters
    ----------
    actions
        The changes. Empty: there is nothing that a repair can change.
    left
        Damage that only a backup repairs.
    names
        References to write: snapshot id by the name of their directory.
    names_dropped
        References to delete.
    """

    actions: tuple[str, ...]
    left: tuple[str, ...]
    names: dict[str, str]
    names_dropped: tuple[str, ...]


def plan_repair(directory: Path, lineage: Lineage, acknowledged: Acknowledged | None, fallback: str | None) -> Repair:
    """Decide what to repair. Nothing is changed.

    Parameters
    ----------
    directory, lineage
        The store.
    acknowledged
        Its record of the last commit; None: it is missing or damaged.
    fallback
        What was wrong with the newest commit, if an older one is read instead.
    """
    known = lineage.references
    commits, faults = read_all(lineage)
    actions = [] if fallback is None else [f"the current branch is set to the commit that can be read ({fallback})"]
    names = dict(known.lost)
    actions += [f"{described(name)} is set to the recorded commit {tip[:8]} again" for name, tip in names.items()]
    lost = _lost(directory, lineage, commits)
    before = _connections(lineage, {**commits, **lost}, acknowledged)
    for snapshot, previous in before.items():
        names[BRANCH + BEFORE + snapshot] = EMPTY if previous is None else previous.snapshot
        if previous is None:
            actions.append(f"{snapshot[:8]} becomes the first commit of its line: those before it are gone")
        else:
            actions.append(
                f"{previous.snapshot[:8]} ({previous.message}) becomes the commit before {snapshot[:8]} again"
            )
    dropped = tuple(name for name in known.unreadable if name not in names)
    actions += [
        f"{described(name)} is deleted ({known.unreadable[name]}; its commit is not recorded)" for name in dropped
    ]
    if known.unreadable:  # otherwise the others are remains of killed processes
        followed = {commit.parent for commit in lost.values()} | {each.snapshot for each in before.values() if each}
        for tip in (commit for snapshot, commit in lost.items() if snapshot not in followed):
            names[BRANCH + UNDONE + tip.snapshot] = tip.snapshot
            actions.append(
                f"{tip.snapshot[:8]} ({tip.message}), which no name reaches, becomes an undone commit (`branch()` "
                "gives it a name)"
            )
    if acknowledged is None:
        actions.append("the record of the last commit (the file `acknowledged`) is written again")
    return Repair(tuple(actions), faults.commits, names, dropped)


def carry_out(directory: Path, planned: Repair) -> None:
    """Make a planned repair. The caller then records the last commit."""
    place = place_of(directory)
    place.point(planned.names)
    place.drop(dict.fromkeys(planned.names_dropped))


def _connections(
    lineage: Lineage, commits: dict[str, Commit], acknowledged: Acknowledged | None
) -> dict[str, Commit | None]:
    """What comes before each commit whose reference to it is lost; None: nothing is left of it.

    It is the recorded commit; else the newest older one that nothing follows and no branch names; else the first one of
    the store, which comes before all others.
    """
    names = lineage.references
    followed = {commit.parent for commit in commits.values()}
    followed |= {*names.branches.values(), *names.redo.values(), *names.undone.values()}
    open_ends = [commit for commit in commits.values() if commit.snapshot not in followed]
    beginnings = [commit for commit in commits.values() if commit.parent is None]
    first = [commit for commit in beginnings if lineage.is_first(commit)]
    found: dict[str, Commit | None] = {}
    for cut in sorted(beginnings, key=lambda commit: commit.time, reverse=True):
        if cut in first:
            continue
        recorded = acknowledged.previous if acknowledged and acknowledged.snapshot == cut.snapshot else None
        possible = [commit for commit in open_ends if commit.time < cut.time]
        possible = possible or [commit for commit in first if commit.time < cut.time]
        newest = max(possible, key=lambda commit: commit.time, default=None)
        found[cut.snapshot] = commits.get(recorded or "") or newest
        open_ends = [commit for commit in open_ends if commit is not found[cut.snapshot]]
    return found


def _lost(directory: Path, lineage: Lineage, reached: dict[str, Commit]) -> dict[str, Commit]:
    """The commits that no reference reaches, by id."""
    found: dict[str, Commit] = {}
    for name in place_of(directory).snapshots():
        if is_snapshot_id(name) and name != EMPTY and name not in reached:
            try:
                found[name] = lineage.commit(name)
            except StoreDamagedError:
                continue
    return found
