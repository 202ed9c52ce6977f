"""Pages of HTML that need no network: a template with its style, scripts and data, under a strict content policy.

Text of tokens cannot run. It is in the page's JSON only, in which ``<``, ``>`` and ``&`` are escaped; the scripts of
`templates` set it as text; and the content security policy allows only the scripts and the style whose hashes it
lists, and no request.

It knows the files in `templates`; it does not know the content of a page.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from importlib import resources
from string import Template
from typing import Any

from sifu_graph.output_file import UNSEEN

TEMPLATES = resources.files("sifu_graph") / "templates"
ESCAPED = re.compile(f"[<>&{UNSEEN}\ud800-\udfff]")
"""Characters of a page's JSON that are escaped: they could begin markup, are `UNSEEN`, or have no bytes (half a
surrogate pair)."""


def html_page(
    name: str,
    data: Mapping[str, Any],
    *,
    libraries: Mapping[str, str] | None = None,
    common: bool = False,
    allowed: str = "",
) -> str:
    """A page of HTML with its style, scripts and data.

    Parameters
    ----------
    name
        The page consists of ``name.html``, ``name.css`` and ``name.js`` in `templates`. The HTML has the placeholders
        ``$POLICY``, ``$STYLE``, ``$DATA`` and ``$SCRIPT``.
    data
        The content of the element for ``$DATA``, as JSON.
    libraries
        File in ``templates/vendor`` by the placeholder that stands for it.
    common
        The style and the script begin with ``common.css`` and ``common.js``.
    allowed
        What else the content security policy allows; by default no request.
    """
    parts = ["common", name] if common else [name]
    style, script = ("".join(_template(f"{part}.{kind}") for part in parts) for kind in ("css", "js"))
    sources = {
        placeholder: _without_source_map(_template(f"vendor/{file}")) for placeholder, file in (libraries or {}).items()
    }
    scripts = " ".join(f"'{_hash(source)}'" for source in (*sources.values(), script))
    policy = (
        f"default-src 'none'; script-src {scripts}; style-src '{_hash(style)}'; img-src data:; base-uri 'none'; "
        f"form-action 'none'{allowed and '; ' + allowed}"
    )
    return Template(_template(f"{name}.html")).substitute(
        sources, POLICY=policy, STYLE=style, SCRIPT=script, DATA=_json(data)
    )


def _template(name: str) -> str:
    return TEMPLATES.joinpath(*name.split("/")).read_text(encoding="utf-8")


def _json(data: Mapping[str, Any]) -> str:
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False)
    return ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _hash(text: str) -> str:
    """The hash of a script or a style as a content security policy spells it."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _without_source_map(script: str) -> str:
    """A script without the name of its source map: a browser would request that file."""
    return "\n".join(line for line in script.splitlines() if not line.startswith("//# sourceMappingURL="))
