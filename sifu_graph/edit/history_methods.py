"""The methods of `Graph` that move between its commits, and name them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sifu_graph.session import GraphSession, operations

if TYPE_CHECKING:
    from sifu_store.branching import Moved
    from sifu_store.history import History


@operations
class HistoryMethods(GraphSession):
    """An open graph with the methods of its history. `Graph` inherits them."""

    def log(self) -> History:
        """All commits: of every branch and tag, and those undone.

        Returns
        -------
        History
            ``commits`` (newest first), ``branches``, ``tags``, ``undone`` and the current ``branch``.

        Examples
        --------
        >>> graph.log().commits[0].message                                          # doctest: +SKIP
        """
        return self.store.tree()

    def undo(self, steps: int = 1) -> Moved:
        """Returns to an earlier commit of the current branch.

        Parameters
        ----------
        steps
            How many commits back, 1 or more.

        Returns
        -------
        Moved
            The commits that were undone, and the one that the graph is at.

        Raises
        ------
        StoreError
            There are fewer commits.

        Examples
        --------
        >>> graph.undo()                                                            # doctest: +SKIP
        """
        with self._writing() as store:
            return store.undo(steps)

    def redo(self, steps: int = 1) -> Moved:
        """Restores commits that `undo` took back.

        Parameters
        ----------
        steps
            How many, 1 or more.

        Returns
        -------
        Moved
            The commits that were restored, and the one that the graph is at.

        Raises
        ------
        StoreError
            Fewer were undone.

        Examples
        --------
        >>> graph.redo()                                                            # doctest: +SKIP
        """
        with self._writing() as store:
            return store.redo(steps)

    def branch(self, name: str, at: str = "HEAD") -> str:
        """Creates a branch. The current one stays.

        Parameters
        ----------
        name
            Its name.
        at
            The snapshot where it begins: ``HEAD``, a branch, a tag, or the beginning of an id, each with ``~N``.

        Returns
        -------
        str
            The id of that snapshot.

        Raises
        ------
        StoreError, OptionError
            The name is taken or not possible, or there is no such snapshot.

        Examples
        --------
        >>> graph.branch("trial")                                                   # doctest: +SKIP
        """
        with self._writing() as store:
            return store.create_branch(name, at)

    def switch(self, name: str) -> str:
        """Makes another branch the current one.

        Parameters
        ----------
        name
            The name of the branch.

        Returns
        -------
        str
            The id of its newest snapshot.

        Raises
        ------
        StoreError, OptionError
            There is no such branch.

        Examples
        --------
        >>> graph.switch("trial")                                                   # doctest: +SKIP
        """
        with self._writing() as store:
            return store.switch(name)

    def tag(self, name: str, at: str = "HEAD") -> str:
        """Creates a tag: a fixed name of a snapshot.

        Parameters
        ----------
        name
            Its name.
        at
            The snapshot: ``HEAD``, a branch, another tag, or the beginning of an id, each with ``~N``.

        Returns
        -------
        str
            The id of that snapshot.

        Raises
        ------
        StoreError, OptionError
            The name is taken or not possible, or there is no such snapshot.

        Examples
        --------
        >>> graph.tag("v1")                                                         # doctest: +SKIP
        """
        with self._writing() as store:
            return store.create_tag(name, at)
