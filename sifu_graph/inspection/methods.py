"""The methods of `Graph` that predict and show predictions: generation, next nodes, scores, nodes and edges at rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sifu_graph.session import GraphSession, operations

if TYPE_CHECKING:
    import numpy as np

    from sifu_graph.generation.stream import Generation, Stream
    from sifu_graph.inspection.inspect import EdgeReport, NodeReport
    from sifu_graph.inspection.inspect_clone import CloneReport
    from sifu_graph.inspection.predictions import NextNodes, Score


@operations
class PredictionMethods(GraphSession):
    """An open graph with the methods that predict. `Graph` inherits them."""

    def generate(
        self,
        prompt: str | Sequence[str],
        *,
        tokens: int = 100,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = 0.9,
        greedy: bool = False,
        seed: int | None = None,
        stop: str | None = None,
        signal_vector: Sequence[float] | np.ndarray | None = None,
        explain: bool = False,
    ) -> Generation:
        """Continues a prompt and returns the whole text.

        Parameters
        ----------
        prompt
            The text to continue; at level ``tokens`` a list of tokens.
        tokens
            Tokens to generate, 0 or more.
        temperature
            Above 0; below 1 the probable tokens become more probable. 0: as ``greedy``.
        top_k, top_p
            Choose among the k most probable tokens, and among the most probable ones whose probabilities add up to this
            share (0 to 1). None: among all.
        greedy
            Always choose the most probable token.
        seed
            0 or more: the same graph, prompt, options and seed give the same text. None: a random seed.
        stop
            Generation ends where the text contains this; it is not part of the result.
        signal_vector
            The initial signal, float32 [d]. None: that of the graph.
        explain
            Record how each token was chosen (`Choice`).

        Returns
        -------
        Generation
            ``text`` is what follows the prompt; ``tokens`` their number, ``choices`` how they were chosen.

        Raises
        ------
        OptionError
            The prompt is empty or consists of unknown characters only, or an option has no meaning.

        Examples
        --------
        >>> graph.generate("春風", tokens=32, seed=1).text                            # doctest: +SKIP
        """
        from sifu_graph.generation.stream import GenerateOptions, generate

        options = GenerateOptions(
            tokens=tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            greedy=greedy,
            seed=seed,
            stop=stop,
            signal_vector=signal_vector,
            explain=explain,
        )
        return generate(self, prompt, options)

    def stream(
        self,
        prompt: str | Sequence[str],
        *,
        tokens: int = 100,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = 0.9,
        greedy: bool = False,
        seed: int | None = None,
        stop: str | None = None,
        signal_vector: Sequence[float] | np.ndarray | None = None,
        explain: bool = False,
    ) -> Stream:
        """Continues a prompt piece by piece, while it is generated.

        Parameters
        ----------
        prompt
            The text to continue; at level ``tokens`` a list of tokens.
        tokens, temperature, top_k, top_p, greedy, seed, stop, signal_vector, explain
            As in `generate`; the signal vector is float32 [d].

        Returns
        -------
        Stream
            An iterator over pieces of text, each of complete characters.

        Raises
        ------
        OptionError
            As in `generate`.

        Examples
        --------
        >>> for piece in graph.stream("春風", tokens=32):                             # doctest: +SKIP
        ...     print(piece, end="")
        """
        from sifu_graph.generation.stream import GenerateOptions, stream

        options = GenerateOptions(
            tokens=tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            greedy=greedy,
            seed=seed,
            stop=stop,
            signal_vector=signal_vector,
            explain=explain,
        )
        return stream(self, prompt, options)

    def next(self, text: str | Sequence[str], *, k: int = 10) -> NextNodes:
        """The most probable next nodes after a text, the best first.

        The probabilities are those that `generate` draws from at temperature 1 without ``top_k`` and ``top_p``. They
        leave <unk> out, which `score` and `evaluate` keep: where ``unknown_p`` of the result is large, theirs are
        lower.

        Parameters
        ----------
        text
            The text so far; at level ``tokens`` a list of tokens.
        k
            Number of nodes; fewer where fewer can follow.

        Returns
        -------
        NextNodes
            A list, each with ``name``, probability ``p`` (0 to 1), ``log_p`` (nats), ``count`` of the pair, and
            ``private``; its ``unknown_p`` is the probability of <unk>, which is left out.

        Raises
        ------
        OptionError
            The text is empty or consists of unknown characters only, or ``k`` is not positive.

        Examples
        --------
        >>> [(one.name, one.p) for one in graph.next("春", k=3)]                      # doctest: +SKIP
        """
        from sifu_graph.inspection.predictions import next_nodes

        return next_nodes(self, text, k=k)

    def score(self, text: str | Sequence[str]) -> Score:
        """How probable a text is, token by token.

        Parameters
        ----------
        text
            One document, as `evaluate` reads it: its end is a token too. At level ``tokens`` a list of tokens.

        Returns
        -------
        Score
            ``log_p`` (nats) of the text, ``tokens`` with the ``log_p`` of each, ``perplexity`` and
            ``bits_per_character``.

        Raises
        ------
        OptionError
            The text is empty.

        Examples
        --------
        >>> graph.score("春眠不覺曉").log_p                                            # doctest: +SKIP
        """
        from sifu_graph.inspection.predictions import score

        return score(self, text)

    def inspect(self, node: str, target: str | None = None, *, top: int = 10) -> NodeReport | CloneReport | EdgeReport:
        """One node or clone with its strongest edges, or one edge, in energies at rest (without context).

        Parameters
        ----------
        node
            The name of a node, or of a clone (``立>春``).
        target
            The name of a second node: the edge to it is shown. None: the node itself.
        top
            Number of edges in each list.

        Returns
        -------
        NodeReport, CloneReport or EdgeReport
            Counts, energies, probabilities (0 to 1) and neighbours.

        Raises
        ------
        OptionError
            A node or a clone is not known; the message has the nearest names.

        Examples
        --------
        >>> graph.inspect("春").targets_by_count[0].name                              # doctest: +SKIP
        >>> graph.inspect("春", "風").p                                               # doctest: +SKIP
        """
        from sifu_graph.inspection.inspect import inspect_edge, inspect_source

        return inspect_source(self, node, top=top) if target is None else inspect_edge(self, node, target)
