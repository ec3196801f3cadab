"""The frame of every page, and templates in which no text can become markup."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from mnv4_deploy.errors import missing_library
from mnv4_deploy.text import (
    brief,
    clean,
    layer_title,
    milliseconds,
    number_text,
    plural,
)

if TYPE_CHECKING:
    from jinja2 import Environment


def render_page(
    template: str, *, title: str, style: str = "", scripts: Iterable[str], **content: Any
) -> str:
    """The page that ``template``, a path below this folder, makes of ``content``.

    The browser runs ``scripts`` and no other, whatever a name should smuggle in. Raises
    MissingLibraryError where Jinja2 is missing.
    """
    page = environment().get_template(template)
    from markupsafe import Markup

    # A browser reads any line end as one of these, and so must the hash.
    texts = [script.replace("\r\n", "\n").replace("\r", "\n") for script in scripts]
    return page.render(
        title=title,
        style=Markup(resource("base.css") + style),
        scripts=list(map(Markup, texts)),
        script_sources=Markup(" ".join(map(_source, texts))),
        **content,
    )


def resource(name: str) -> str:
    """The text of a style or script, a path below this folder."""
    return files("mnv4_deploy.reports").joinpath(name).read_text("utf-8")


@lru_cache(maxsize=1)
def environment() -> Environment:
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        raise missing_library("A report page needs Jinja2", "profile") from error
    environment = Environment(
        loader=PackageLoader("mnv4_deploy", "reports"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "brief": brief,
        "layer_title": layer_title,
        "milliseconds": milliseconds,
        "number": number_text,
        "plural": plural,
    }
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    return environment


def _shown(value: Any) -> Any:
    """Text without characters that are not seen, coordinates without digits that are not."""
    if isinstance(value, float):
        return f"{value:.2f}".rstrip("0").rstrip(".")
    return clean(value) if type(value) is str else value


def _source(script: str) -> str:
    """``script`` as a source of a Content-Security-Policy."""
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"
