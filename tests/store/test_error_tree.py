"""The tree of errors is a promise: scripts and `--json` rely on the kinds and exit codes."""

from __future__ import annotations

from sifu_store import errors


def tree(error: type[errors.SifuError]) -> dict[str, object]:
    return {child.__name__: (child.kind, child.exit_code, tree(child)) for child in error.__subclasses__()}


def test_the_tree_is_pinned() -> None:
    assert (errors.SifuError.kind, errors.SifuError.exit_code) == ("sifu", 1)
    defined = {name for name, value in vars(errors).items() if isinstance(value, type) and name != "ClassVar"}
    assert defined == {
        "SifuError",
        "OptionError",
        "OptionTypeError",
        "CorpusError",
        "DivergedError",
        "ForeignFileError",
        "ResourceError",
        "DiskFullError",
        "HostMemoryError",
        "DeviceMemoryError",
        "StoreError",
        "StoreNotFoundError",
        "StoreExistsError",
        "StoreLockedError",
        "StoreVersionError",
        "StoreChangedError",
        "StoreConflictError",
        "StoreUnreachableError",
        "StoreDamagedError",
    }
    assert tree(errors.SifuError) == {
        "OptionError": ("option", 2, {"OptionTypeError": ("option-type", 2, {})}),
        "CorpusError": ("corpus", 1, {}),
        "ForeignFileError": ("foreign-file", 1, {}),
        "DivergedError": ("diverged", 1, {}),
        "ResourceError": (
            "resource",
            1,
            {
                "DiskFullError": ("disk-full", 1, {}),
                "HostMemoryError": ("host-memory", 1, {}),
                "DeviceMemoryError": ("device-memory", 1, {}),
            },
        ),
        "StoreError": (
            "store",
            1,
            {
                "StoreNotFoundError": ("store-not-found", 1, {}),
                "StoreExistsError": ("store-exists", 1, {}),
                "StoreLockedError": ("store-locked", 1, {}),
                "StoreVersionError": ("store-version", 1, {}),
                "StoreChangedError": ("store-changed", 1, {}),
                "StoreConflictError": ("store-conflict", 1, {}),
                "StoreUnreachableError": ("store-unreachable", 1, {}),
                "StoreDamagedError": ("store-damaged", 1, {}),
            },
        ),
    }
    assert issubclass(errors.OptionError, ValueError)
    assert issubclass(errors.OptionTypeError, TypeError)


def test_code_in_messages_can_be_replaced() -> None:
    def spell(function: str | None, arguments: tuple[errors.Argument, ...]) -> str | None:
        if function is not None:
            return f"{function}{arguments}"
        [(name, value)] = arguments
        return None if name == "kept" else f"<{name}|{value}>"

    for message, expected in (
        ("lower `batch` or `host_memory`", "lower <batch|None> or <host_memory|None>"),
        ("pass `force=True`", "pass <force|True>"),
        ("pass `signal=\"paper-v1\"`, or 'x'", "pass <signal|paper-v1>, or 'x'"),
        ("call `build_graph()`", "call build_graph()"),
        ("call `f(a=1, b='c, d')`", "call f(('a', '1'), ('b', 'c, d'))"),
        ("`kept` and `graph.sifu` and `A b`", "`kept` and `graph.sifu` and `A b`"),
    ):
        assert errors.replace_code(message, spell) == expected
