"""The methods of `Graph` that write it in other formats, or give it as an object of another library.

The library is imported on first use.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sifu_graph.progress_bar import reporting
from sifu_graph.session import GraphSession, operations

if TYPE_CHECKING:
    import scipy.sparse

    from sifu_graph.interop.export import ExportReport
    from sifu_graph.progress import ProgressOption


@operations
class ConversionMethods(GraphSession):
    """An open graph with the methods that convert it. `Graph` inherits them."""

    def export(
        self,
        kind: Literal["slim", "safetensors", "brillm", "graphml", "scipy"],
        path: str | Path | None = None,
        *,
        clones: int = 0,
        half: bool = False,
        force: bool = False,
        progress: ProgressOption = None,
    ) -> ExportReport:
        """Writes the graph in another format. It appears at ``path`` when it is complete.

        Parameters
        ----------
        kind
            ``slim`` (one packed file to ship, for `import_safetensors`), ``safetensors`` (one file, for the same),
            ``brillm`` (a folder for the released BriLLM code), ``graphml``, or ``scipy`` (a folder of sparse matrices).
        path
            None: the name of the store with the format's ending, in the current folder.
        clones
            Of ``graphml``: at most this number of clones as nodes, those that gain most.
        half
            Of ``slim``: trained parameters in 16 bits instead of 32.
        force
            Replace a file, or a folder of an earlier export.
        progress
            How far it is: a callback, called with a `ProgressReport` ten times a second at most. None: a bar, where a
            person looks (in a terminal or a notebook). True: elsewhere lines on stderr, too. False: nothing.

        Returns
        -------
        ExportReport
            ``path``, ``files``, ``size_bytes`` and notes.

        Raises
        ------
        OptionError, StoreExistsError, DiskFullError
            The graph cannot be written so, the path is taken, or the disk is full.

        Examples
        --------
        >>> graph.export("slim", half=True).path                                    # doctest: +SKIP
        """
        from sifu_graph.interop.export import export

        return export(self, kind, path, clones=clones, half=half, force=force, progress=progress)

    def to_scipy(self, *, progress: ProgressOption = None) -> tuple[scipy.sparse.csr_array, scipy.sparse.csr_array]:
        """The private edges as two sparse matrices [n, n].

        Parameters
        ----------
        progress
            How far it is: a callback, called with a `ProgressReport` ten times a second at most. None: a bar, where a
            person looks (in a terminal or a notebook). True: elsewhere lines on stderr, too. False: nothing.

        Returns
        -------
        counts, energies : scipy.sparse.csr_array
            Counts (int64), and energies at the first step (float32).

        Examples
        --------
        >>> counts, energies = graph.to_scipy()                                     # doctest: +SKIP
        """
        from sifu_graph.interop.converters import to_scipy

        with reporting(progress) as stages:
            return to_scipy(self, stages=stages)

    def to_pandas(self, what: Literal["nodes", "edges", "history"] = "edges") -> Any:
        """A table of nodes, private edges or commits.

        Parameters
        ----------
        what
            ``nodes``: token, count, kind. ``edges``: source, target, count. ``history``: snapshot, time, kind, message,
            command, parent, undone.

        Returns
        -------
        pandas.DataFrame
            One row for each; counts are int64.

        Raises
        ------
        OptionError
            pandas is not installed.

        Examples
        --------
        >>> graph.to_pandas("edges").nlargest(10, "count")                          # doctest: +SKIP
        """
        from sifu_graph.interop.tables import to_pandas

        return to_pandas(self, what)

    def to_networkx(self, *, progress: ProgressOption = None) -> Any:
        """The private edges as a directed graph.

        Parameters
        ----------
        progress
            How far it is: a callback, called with a `ProgressReport` ten times a second at most. None: a bar, where a
            person looks (in a terminal or a notebook). True: elsewhere lines on stderr, too. False: nothing.

        Returns
        -------
        networkx.DiGraph
            Nodes with ``token`` and ``count``, edges with ``count`` and ``energy`` at the first step; about 500 bytes
            of memory for each edge.

        Raises
        ------
        OptionError
            networkx is not installed.

        Examples
        --------
        >>> graph.to_networkx().number_of_edges()                                   # doctest: +SKIP
        """
        from sifu_graph.interop.converters import to_networkx

        with reporting(progress) as stages:
            return to_networkx(self, stages=stages)

    def to_pyg(self, *, progress: ProgressOption = None) -> Any:
        """The private edges as data of PyTorch Geometric.

        Parameters
        ----------
        progress
            How far it is: a callback, called with a `ProgressReport` ten times a second at most. None: a bar, where a
            person looks (in a terminal or a notebook). True: elsewhere lines on stderr, too. False: nothing.

        Returns
        -------
        torch_geometric.data.Data
            ``x`` (biases of the nodes) float32 [n, d], ``edge_index`` int64 [2, edges], ``edge_attr`` (count, energy at
            the first step) float32 [edges, 2], and ``token``, the names.

        Raises
        ------
        OptionError
            torch-geometric is not installed.

        Examples
        --------
        >>> graph.to_pyg().edge_index.shape                                         # doctest: +SKIP
        """
        from sifu_graph.interop.converters import to_pyg

        with reporting(progress) as stages:
            return to_pyg(self, stages=stages)

    def to_torch_sparse(self, *, progress: ProgressOption = None) -> Any:
        """The private edges as a sparse tensor [n, n] of torch-sparse.

        Parameters
        ----------
        progress
            How far it is: a callback, called with a `ProgressReport` ten times a second at most. None: a bar, where a
            person looks (in a terminal or a notebook). True: elsewhere lines on stderr, too. False: nothing.

        Returns
        -------
        torch_sparse.SparseTensor
            Its values are the energies at the first step, float32.

        Raises
        ------
        OptionError
            torch-sparse is not installed.

        Examples
        --------
        >>> graph.to_torch_sparse().sizes()                                         # doctest: +SKIP
        """
        from sifu_graph.interop.converters import to_torch_sparse

        with reporting(progress) as stages:
            return to_torch_sparse(self, stages=stages)
