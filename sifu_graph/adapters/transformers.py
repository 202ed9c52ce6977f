"""A graph as a causal language model of Hugging Face's `transformers` (which is not installed with sifu).

    from sifu_graph.adapters.transformers import load

    model, tokenizer = load("graph.sifu")
    inputs = tokenizer("春風", return_tensors="pt")
    print(tokenizer.decode(model.generate(**inputs, max_new_tokens=30)[0]))

Importing the module registers the classes with `AutoConfig`, `AutoModelForCausalLM` and `AutoTokenizer`, whose
`from_pretrained` reads a folder with a `config.json`: `model.save_pretrained(folder)` writes one that names the store.
`AutoModelForCausalLM.from_pretrained("graph.sifu", config=SifuConfig())` opens a store itself. The module knows tensors
and classes of that package; probabilities come from `inspection.distributions`. It is for inference: `Graph.train`
trains a graph.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from sifu_store.errors import OptionError
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    GenerationMixin,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizer,
)
from transformers.modeling_outputs import CausalLMOutput

from sifu_graph.arrays import Doubles
from sifu_graph.generation.base_walk import AnyWalk, walk_of
from sifu_graph.inspection import distributions
from sifu_graph.session import GraphSession, in_use
from sifu_graph.text.registry import read_tokenizer
from sifu_graph.text.tokenizer import Tokenizer

NO_TRAINING = "this model is for inference only: train the graph with `Graph.train`"
OF_AUTO = frozenset({"trust_remote_code", "adapter_kwargs", "revision", "local_files_only", "cache_dir", "token"})
"""Arguments of `from_pretrained` that the `Auto` classes add, or that concern downloads: they have no effect."""
IGNORED = -100  # a label that does not enter the loss


class SifuConfig(PretrainedConfig):
    """Which graph a model is, as ``config.json``.

    Attributes
    ----------
    store
        Directory of the graph. None: the folder that is opened.
    at
        Name of an older snapshot. None: the newest one.
    vocab_size
        Number of nodes.
    """

    model_type = "sifu"
    store: str | None = None
    at: str | None = None
    vocab_size: int | None = None


class SifuForCausalLM(PreTrainedModel, GenerationMixin):
    """A graph as a causal language model. `load` or `from_pretrained` opens one.

    Parameters
    ----------
    config
        Which graph; it gets the number of nodes.
    graph
        The open graph, which is only read.

    Attributes
    ----------
    graph
        The open graph. ``model.graph.close()`` closes it.
    """

    config_class = SifuConfig
    main_input_name = "input_ids"
    _is_stateful = True  # refuses assisted generation

    def __init__(self, config: SifuConfig, graph: GraphSession) -> None:
        config.vocab_size = len(graph.tokenizer)
        super().__init__(config)
        self.graph = graph
        graph._fit_memory()
        self._walk = walk_of(graph.parameters, graph.signal)
        self._generated: list[_Continued] = []
        separator = graph.tokenizer.separator
        self.generation_config = GenerationConfig(
            bos_token_id=separator, eos_token_id=separator, pad_token_id=separator
        )
        self.eval()

    @classmethod
    def from_pretrained(cls, path: str | Path, *_: Any, config: SifuConfig | None = None, **options: Any) -> Self:
        """Opens a graph.

        Parameters
        ----------
        path
            A folder that `save_pretrained` wrote, or, with ``config=SifuConfig()``, the directory of a graph.
        config
            Which graph. None: read from ``config.json`` in the folder.
        options
            ``store`` and ``at`` replace those of the config. Others are refused.

        Raises
        ------
        OptionError
            An option has no meaning for a graph.
        SifuError
            The graph cannot be opened.
        """
        if config is None:
            config = SifuConfig.from_pretrained(path)
        for name in ("store", "at"):
            if name in options:
                setattr(config, name, options.pop(name))
        meant = (name for name in options.keys() - OF_AUTO if name[0] != "_" and options[name] is not None)
        if others := sorted(meant):
            raise OptionError(f"`{others[0]}` has no meaning for a graph, which is read from its store unchanged")
        return cls(config, GraphSession.open(path if config.store is None else config.store, at=config.at))

    def save_pretrained(self, folder: str | Path, **_: Any) -> None:
        """Writes ``config.json``, which names the store, and the generation settings. The graph stays where it is."""
        store = self.graph.path.resolve()
        self.config.store = None if Path(folder).resolve() == store else str(store)
        self.config.architectures = [type(self).__name__]
        self.config.save_pretrained(folder)
        self.generation_config.save_pretrained(folder)

    def train(self, mode: bool = True) -> Self:
        """Refused: the model is for inference. Raises `OptionError`."""
        if mode:
            raise OptionError(NO_TRAINING)
        super().train(mode)
        return self

    @property
    def device(self) -> torch.device:
        """Where the logits are: on the CPU."""
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        """Of the logits: float64."""
        return torch.float64

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **_: Any
    ) -> dict[str, Any]:
        """The arguments of `forward` for the next token: the whole texts, integers [B, T], and their mask."""
        return {"input_ids": input_ids, "attention_mask": attention_mask, "generating": True}

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int = 0,
        *,
        generating: bool = False,
        **_: Any,
    ) -> CausalLMOutput:
        """Logits of the next node after each token.

        Parameters
        ----------
        input_ids
            Nodes, integers [B, T]; a text begins with the separator, which `SifuTokenizer` puts there.
        attention_mask
            0 for padding, [B, T]. None: there is none.
        labels
            Nodes, integers [B, T], as in ``input_ids``; -100: not in the loss. None: no loss.
        logits_to_keep
            The number of last positions with logits; 0: all.
        generating
            Only the logits after the last token, of generation: not of <unk>, and of texts that are not cut into
            chunks, as evaluation cuts them in a graph whose edges stand alone. `generate` sets it.

        Returns
        -------
        CausalLMOutput
            ``logits``, float64 [B, T, n]: log p, as `Graph.score` and `Graph.evaluate` compute it; 0 for padding.
            With ``generating`` [B, 1, n], not normalised. ``loss``: mean of -log p over the labels, in nats.

        Raises
        ------
        OptionError
            An id is no node, a text has no token, or, with ``generating``, ends with padding.
        """
        rows = self._texts(input_ids, attention_mask)
        with in_use(self.graph):
            if generating:
                if attention_mask is not None and not bool(attention_mask[:, -1].all()):
                    raise OptionError('a text ends with padding: pad on the left (`padding_side="left"`) to generate')
                return CausalLMOutput(logits=torch.stack([self._after(at, ids) for at, ids in enumerate(rows)]))
            logits = torch.zeros(*input_ids.shape, len(self.graph.tokenizer), dtype=torch.float64)
            mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
            for row, ids in enumerate(rows):
                logits[row, mask[row].bool()] = torch.stack(self._after_each(ids))
        loss = None if labels is None else _loss(logits, labels, mask)
        return CausalLMOutput(loss=loss, logits=logits[:, -logits_to_keep:])

    def _texts(self, input_ids: Tensor, mask: Tensor | None) -> list[list[int]]:
        nodes = len(self.graph.tokenizer)
        if input_ids.numel() and not 0 <= int(input_ids.min()) <= int(input_ids.max()) < nodes:
            raise OptionError(f"`input_ids` has {int(input_ids.max()):,}: the graph has the nodes 0 to {nodes - 1:,}")
        kept = torch.ones_like(input_ids) if mask is None else mask
        found = [row[each.bool()].tolist() for row, each in zip(input_ids, kept, strict=True)]
        if not all(found):
            raise OptionError("a text has no token: each begins with the separator, as `SifuTokenizer` writes it")
        return found

    def _after_each(self, ids: list[int]) -> list[Tensor]:
        """log p of every node after each token of a text, as evaluation computes it, float64 [n] each."""
        node = distributions.a_successor(self.graph, self.graph.parameters.index, ids[-1])
        if node is None:
            raise OptionError(f"no node can follow {self.graph.tokenizer.vocabulary[ids[-1]]!r}: allow an edge")
        return [torch.from_numpy(found) for found in distributions.of_text(self.graph, [*ids, node], self._walk)]

    def _after(self, row: int, ids: list[int]) -> Tensor:
        """Logits of every node after a text, as generation computes them, float64 [1, n]."""
        while len(self._generated) <= row:
            self._generated.append(_Continued(self.graph, beside=self._generated[0] if self._generated else None))
        return torch.from_numpy(self._generated[row].logits(ids))[None]


class _Continued:
    """A text in generation, which most often is the one before with one token more."""

    def __init__(self, graph: GraphSession, beside: _Continued | None) -> None:
        tokenizer = graph.tokenizer
        self._walk: AnyWalk = walk_of(
            graph.parameters,
            graph.signal,
            forbidden=tokenizer.never_generated,
            beside=None if beside is None else beside._walk,
        )
        self._separator, self._ids = tokenizer.separator, list[int]()

    def logits(self, ids: list[int]) -> Doubles:
        """Energy times scale of every node after a text, float64 [n]; -inf: it is not generated."""
        known = len(self._ids)
        if not known or ids[:known] != self._ids:
            known = 0
        for place, node in enumerate(ids[known:], known):
            (self._walk.start if place == 0 or node == self._separator else self._walk.carry)(node)
        self._ids = ids
        self._walk.energies()
        return distributions.logits_after(self._walk, self._walk.banned())


def _loss(logits: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """The mean of -log p of the labels [B, T] that follow a token, from log p [B, T, n]."""
    wanted = labels[:, 1:]
    counted = (wanted != IGNORED) & mask[:, :-1].bool()
    log_p = logits[:, :-1].gather(-1, wanted.clamp(min=0)[..., None])[..., 0]
    return -log_p[counted].mean()


class SifuTokenizer(PreTrainedTokenizer):
    """The tokenizer of a graph, with its ids. A text begins with the separator, if the graph has one.

    Parameters
    ----------
    nodes_file
        A file with the tokenizer of the store as JSON, which `save_pretrained` writes.
    graph_tokenizer
        The tokenizer itself instead.
    """

    vocab_files_names: ClassVar[dict[str, str]] = {"nodes_file": "sifu_tokenizer.json"}
    model_input_names: ClassVar[list[str]] = ["input_ids", "attention_mask"]

    def __init__(self, nodes_file: str | None = None, graph_tokenizer: Tokenizer | None = None, **options: Any) -> None:
        if graph_tokenizer is None:
            if nodes_file is None:
                raise OptionError("the tokenizer needs `nodes_file`, which `save_pretrained` writes")
            graph_tokenizer = read_tokenizer(json.loads(Path(nodes_file).read_text(encoding="utf-8")))
        self.nodes, self._names = graph_tokenizer, graph_tokenizer.vocabulary
        names, separator, unknown = self._names, self.nodes.separator, self.nodes.unknown
        mark = None if separator is None else names[separator]
        special = {"bos_token": mark, "eos_token": mark, "pad_token": mark, "padding_side": "left"}
        super().__init__(**{**special, "unk_token": None if unknown is None else names[unknown], **options})

    @property
    def vocab_size(self) -> int:
        """Number of nodes."""
        return len(self.nodes)

    def get_vocab(self) -> dict[str, int]:
        """Id by name of a node."""
        return {name: node for node, name in enumerate(self._names)}

    def __len__(self) -> int:
        return len(self.nodes)

    def tokenize(self, text: str, **_: Any) -> list[str]:
        """The names of the nodes of a text."""
        return [self._names[node] for node in self.nodes.encode(text).tolist()]

    def convert_tokens_to_string(self, tokens: Sequence[str]) -> str:
        """The text of nodes with these names."""
        return self.nodes.decode(self.convert_tokens_to_ids(list(tokens)))

    def build_inputs_with_special_tokens(self, first: list[int], second: list[int] | None = None) -> list[int]:
        """The ids of one text or of two in a row, after the separator."""
        begin = [] if self.nodes.separator is None else [self.nodes.separator]
        return [*begin, *first, *(second or [])]

    def save_vocabulary(self, folder: str, filename_prefix: str | None = None) -> tuple[str]:
        """Writes the tokenizer. Returns the path of the file."""
        name = self.vocab_files_names["nodes_file"]
        path = Path(folder) / (name if filename_prefix is None else f"{filename_prefix}-{name}")
        path.write_text(json.dumps(self.nodes.to_json(), ensure_ascii=False), encoding="utf-8")
        return (str(path),)

    def _convert_token_to_id(self, token: str) -> int | None:
        found = self.nodes.token_id(token)
        return self.nodes.unknown if found is None else found

    def _convert_id_to_token(self, index: int) -> str:
        return self._names[index]

    def _decode(self, token_ids: int | Sequence[int], skip_special_tokens: bool = False, **_: Any) -> str:
        ids = [token_ids] if isinstance(token_ids, int) else list(token_ids)
        special = {self.nodes.separator, self.nodes.unknown} if skip_special_tokens else set()
        return self.nodes.decode([node for node in ids if node not in special])


def load(store: str | Path, *, at: str | None = None) -> tuple[SifuForCausalLM, SifuTokenizer]:
    """Opens a graph as a model and its tokenizer.

    Parameters
    ----------
    store
        Directory of the graph.
    at
        Name of an older snapshot. None: the newest one.

    Raises
    ------
    SifuError
        The graph cannot be opened.
    """
    model = SifuForCausalLM.from_pretrained(store, config=SifuConfig(at=at))
    return model, SifuTokenizer(graph_tokenizer=model.graph.tokenizer)


AutoConfig.register("sifu", SifuConfig, exist_ok=True)
AutoModelForCausalLM.register(SifuConfig, SifuForCausalLM, exist_ok=True)
AutoTokenizer.register(SifuConfig, slow_tokenizer_class=SifuTokenizer, exist_ok=True)
