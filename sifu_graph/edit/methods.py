"""The methods of `Graph` that edit: each makes one commit, and calls one method of `edit.session.Edit`.

`edit.session` is imported on first use, so that opening a graph does not load torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from sifu_graph.command_text import command_text
from sifu_graph.edit.edge_methods import EdgeMethods
from sifu_graph.edit.edit_names import text_options
from sifu_graph.session import operations

if TYPE_CHECKING:
    from sifu_graph.edit.reports import AddNodeReport, CompactReport, EditNodeReport, PruneReport, RemoveNodeReport
    from sifu_graph.edit.session import Edit
    from sifu_graph.progress import ProgressOption
    from sifu_graph.text.corpus import Corpora


@operations
class EditMethods(EdgeMethods):
    """An open graph with the methods that edit it. `Graph` inherits them."""

    @contextmanager
    def edit(self, message: str, *, command: str = "edit") -> Iterator[Edit]:
        """Several edits as one commit; nothing is committed if an error is raised.

        Parameters
        ----------
        message
            The message of the commit.
        command
            What the history records as the command. None: the command line that makes the same edit.

        Yields
        ------
        Edit
            It has the methods of `Graph` that edit, without ``dry_run`` and ``command``.

        Raises
        ------
        OptionError
            A change has no meaning, or failed.
        StoreLockedError
            Another process writes to the store.

        Examples
        --------
        >>> with graph.edit("a new word") as e:        # doctest: +SKIP
        ...     e.add_node("江南", like="江")
        ...     e.forbid_edge("江", "南")
        """
        from sifu_graph.edit.session import editing

        with editing(self, message, command=command) as edit:
            yield edit

    def add_node(
        self,
        *tokens: str,
        like: str | None = None,
        corpus: Corpora | None = None,
        kind: str = "text",
        train_steps: int = 0,
        progress: ProgressOption = None,
        dry_run: bool = False,
        command: str | None = None,
    ) -> AddNodeReport:
        """Adds nodes. The tokenizer reads their texts before its own rules.

        Parameters
        ----------
        tokens
            The texts of the nodes.
        like
            A node whose private edges, bias and counts each new node gets.
        corpus
            A text in which the pairs of the new nodes are counted; the frequent ones become private edges.
        kind
            A label that is stored with the nodes: ``text``, ``image``, ...
        train_steps
            Steps of training of the edges of the new nodes alone, on that text or on the graph's own.
        progress
            How far it is: a callback, called with a `ProgressReport` ten times a second at most. None: a bar, where a
            person looks (in a terminal or a notebook). True: elsewhere lines on stderr, too. False: nothing.
        dry_run
            Report what would change, and commit nothing.
        command
            What the history records as the command. None: the command line that makes the same edit.

        Returns
        -------
        AddNodeReport
            The nodes and the number of private edges added, their occurrences, and the id of the commit.

        Raises
        ------
        OptionError
            A token is a node already, is empty, or can never be read from a text; or both ``like`` and ``corpus`` are
            given. A text without any of the tokens is a `CorpusError`.

        Examples
        --------
        >>> graph.add_node("江南", like="江")                                         # doctest: +SKIP
        """
        return self._edited(
            lambda edit: edit.add_node(*tokens, like=like, corpus=corpus, kind=kind, train_steps=train_steps),
            dry_run=dry_run,
            command=command
            or command_text(
                "add-node",
                *tokens,
                like=like,
                **text_options(corpus),
                kind=kind if kind != "text" else None,
                train_steps=train_steps or None,
            ),
            progress=progress,
        )

    def remove_node(self, *tokens: str, dry_run: bool = False, command: str | None = None) -> RemoveNodeReport:
        """Removes nodes and their edges. Their text is unknown afterwards.

        Parameters
        ----------
        tokens
            Names of the nodes.
        dry_run
            Report what would change, and commit nothing.
        command
            What the history records as the command. None: the command line that makes the same edit.

        Returns
        -------
        RemoveNodeReport
            The nodes and the number of private edges removed, and the id of the commit.

        Raises
        ------
        OptionError
            A node is not known, or is a special one.

        Examples
        --------
        >>> graph.remove_node("江南")                                                # doctest: +SKIP
        """
        return self._edited(
            lambda edit: edit.remove_node(*tokens),
            dry_run=dry_run,
            command=command or command_text("remove-node", *tokens),
        )

    def rename_node(self, token: str, new: str, *, dry_run: bool = False, command: str | None = None) -> EditNodeReport:
        """Changes the text of a node. Its edges stay; its old text is unknown afterwards.

        Parameters
        ----------
        token
            The name of the node.
        new
            Its new text.
        dry_run
            Report what would change, and commit nothing.
        command
            What the history records as the command. None: the command line that makes the same edit.

        Returns
        -------
        EditNodeReport
            The node ``before`` and ``after``, and the id of the commit.

        Raises
        ------
        OptionError
            The node is not known, or the text is a node already, or can never be read.

        Examples
        --------
        >>> graph.rename_node("江", "河")                                            # doctest: +SKIP
        """
        return self._edited(
            lambda edit: edit.rename_node(token, new),
            dry_run=dry_run,
            command=command or command_text("edit-node", token, rename=new),
        )

    def merge_node(self, token: str, into: str, *, dry_run: bool = False, command: str | None = None) -> EditNodeReport:
        """Merges a node into another: counts are added, edges averaged, both texts read as the other.

        Parameters
        ----------
        token
            The name of the node that goes.
        into
            The name of the node that stays.
        dry_run
            Report what would change, and commit nothing.
        command
            What the history records as the command. None: the command line that makes the same edit.

        Returns
        -------
        EditNodeReport
            The node ``before`` and ``after``, and the id of the commit.

        Raises
        ------
        OptionError
            A node is not known, or is a special one.

        Examples
        --------
        >>> graph.merge_node("江", into="河")                                        # doctest: +SKIP
        """
        return self._edited(
            lambda edit: edit.merge_node(token, into),
            dry_run=dry_run,
            command=command or command_text("edit-node", token, merge_into=into),
        )

    def set_bias(self, token: str, *, like: str, dry_run: bool = False, command: str | None = None) -> EditNodeReport:
        """Copies the bias of another node, with which a text that begins with the node starts.

        Parameters
        ----------
        token
            The name of the node.
        like
            The node whose bias it gets.
        dry_run
            Report what would change, and commit nothing.
        command
            What the history records as the command. None: the command line that makes the same edit.

        Returns
        -------
        EditNodeReport
            The node ``before`` and ``after``, and the id of the commit.

        Raises
        ------
        OptionError
            A node is not known.

        Examples
        --------
        >>> graph.set_bias("江", like="河")                                          # doctest: +SKIP
        """
        return self._edited(
            lambda edit: edit.set_bias(token, like=like),
            dry_run=dry_run,
            command=command or command_text("edit-node", token, bias_from=like),
        )

    def prune(
        self,
        *,
        to_ratio: float | None = None,
        min_count: int | None = None,
        by: Literal["count", "energy", "usage"] = "count",
        node: str | None = None,
        clones: int | None = None,
        evaluate: bool = False,
        progress: ProgressOption = None,
        dry_run: bool = False,
        command: str | None = None,
    ) -> PruneReport:
        """Makes private edges default edges, and removes clones.

        Parameters
        ----------
        to_ratio
            Keep at most this share (0 to 1) of all pairs private.
        min_count
            Keep private edges with at least this count.
        by
            Which go first under ``to_ratio``: the least by ``count``, ``energy`` or ``usage``.
        node
            Prune only the edges out of this node and into it, by ``min_count``. None: all edges.
        clones
            Keep at most this number of clones, those that gain most. None: all.
        evaluate
            Compute the held-out perplexity before and after.
        progress
            How far it is: a callback, called with a `ProgressReport` ten times a second at most. None: a bar, where a
            person looks (in a terminal or a notebook). True: elsewhere lines on stderr, too. False: nothing.
        dry_run
            Report what would change, and commit nothing.
        command
            What the history records as the command. None: the command line that makes the same edit.

        Returns
        -------
        PruneReport
            Edges and clones removed, bytes freed, the share of the text that used the edges, and the id of the commit.

        Raises
        ------
        OptionError
            Nothing says how far to prune, or a value has no meaning.

        Examples
        --------
        >>> graph.prune(min_count=3, dry_run=True).edges_removed                   # doctest: +SKIP
        """
        return self._edited(
            lambda edit: edit.prune(
                to_ratio=to_ratio, min_count=min_count, by=by, node=node, clones=clones, evaluate=evaluate
            ),
            dry_run=dry_run,
            command=command
            or command_text(
                "prune",
                to_ratio=to_ratio,
                min_count=min_count,
                by=by if by != "count" else None,
                node=node,
                clones=clones,
            ),
            progress=progress,
        )

    def grow(
        self,
        *,
        corpus: Corpora | None = None,
        to_ratio: float | None = None,
        min_count: int | None = None,
        init: Literal["counts", "default"] = "counts",
        clones: int | None = None,
        gain: float | None = None,
        evaluate: bool = False,
        progress: ProgressOption = None,
        dry_run: bool = False,
        command: str | None = None,
    ) -> PruneReport:
        """Makes default edges that a text uses often private, and adds clones.

        Parameters
        ----------
        corpus
            Files, folders, or a `Corpus`. None: the text that the graph was built from.
        to_ratio
            At most this share (0 to 1) of all pairs becomes private.
        min_count
            Only pairs with at least this count.
        init
            Parameters of the new edges: from their ``counts``, or those of the ``default`` edge.
        clones
            Add at most this number of clones. ``gain`` alone: as many as the graph has.
        gain
            Add only clones that are expected to gain more nats than this.
        evaluate
            Compute the held-out perplexity before and after.
        progress
            How far it is: a callback, called with a `ProgressReport` ten times a second at most. None: a bar, where a
            person looks (in a terminal or a notebook). True: elsewhere lines on stderr, too. False: nothing.
        dry_run
            Report what would change, and commit nothing.
        command
            What the history records as the command. None: the command line that makes the same edit.

        Returns
        -------
        PruneReport
            Edges and clones added, bytes, the share of the text that uses the edges, and the id of the commit.

        Raises
        ------
        OptionError
            Nothing says how far to grow, or a value has no meaning. A text that cannot be read is a `CorpusError`.

        Examples
        --------
        >>> graph.grow(min_count=3).edges_added                                    # doctest: +SKIP
        """
        more: dict[str, Any] = {"clones": clones, "gain": gain, "evaluate": evaluate}
        return self._edited(
            lambda edit: edit.grow(corpus=corpus, to_ratio=to_ratio, min_count=min_count, init=init, **more),
            dry_run=dry_run,
            command=command
            or command_text(
                "grow",
                **text_options(corpus),
                to_ratio=to_ratio,
                min_count=min_count,
                init=init if init != "counts" else None,
                clones=clones,
                gain=gain,
            ),
            progress=progress,
        )

    def compact(
        self,
        *,
        precision: str | None = None,
        codec: str | None = None,
        dry_run: bool = False,
        command: str | None = None,
        progress: ProgressOption = None,
    ) -> CompactReport:
        """Stores the edges of each row side by side and removes free slots; rounds or compresses pages if asked to.

        Without ``precision``, no result changes by a bit.

        Parameters
        ----------
        precision
            ``float32``, ``bfloat16`` or ``bitround:N`` (N bits of the fraction): W and b of all stored edges are
            rounded to it. The optimizer's state is not. Training makes it ``float32`` again. None: unchanged.
        codec
            ``none``, ``zstd``, ``blosc`` or ``pcodec``: how all pages are compressed, and those that later commits
            write. None: unchanged; rounded pages that are not compressed get ``blosc``.
        dry_run
            Report what would change, and commit nothing.
        command
            What the history records as the command. None: the command line that makes the same edit.
        progress
            As in `Graph.train`.

        Returns
        -------
        CompactReport
            Slots and runs before and after, bytes freed, how pages are stored, and the id of the commit.

        Raises
        ------
        OptionError
            The graph is open at an older snapshot, a name is unknown, values are rounded without a codec, or the edges
            share a base, so that no page is stored.
        StoreError
            The library of the codec is not installed.

        Examples
        --------
        >>> graph.compact(precision="bfloat16").codec                              # doctest: +SKIP
        'blosc'
        """
        before = self.store.page_bytes()
        report = self._edited(
            lambda edit: edit.compact(precision=precision, codec=codec),
            dry_run=dry_run,
            command=command or command_text("compact", precision=precision, codec=codec),
            progress=progress,
        )
        after = None if dry_run else self.store.page_bytes()
        return dataclasses.replace(report, page_bytes_before=before, page_bytes_after=after)
