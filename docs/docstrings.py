"""Shows sections of docstrings that the site's parser does not know."""

import re

import griffe

_EXAMPLE = re.compile(r"^Example:\n((?:.+\n?)+)", re.MULTILINE)


class Sections(griffe.Extension):
    """Rewrites sections of docstrings in the style that the parser reads."""

    def on_object(self, *, obj, **kwargs):
        """Rewrites the docstring of an object."""
        if obj.docstring:
            obj.docstring.value = rewritten(obj.docstring.value)


def rewritten(text):
    """Returns a docstring with sections that the parser reads.

    Call arguments are shown as arguments are, examples as code, references as
    a list.
    """
    text = text.replace(
        "Call arguments:\n", "Other Parameters: Call arguments\n"
    )
    text = re.sub(
        r"^References?:\n+(?=- )", "**Reference**\n\n", text, flags=re.M
    )
    return _EXAMPLE.sub(lambda found: _section("Examples", found[1]), text)


def _section(title, body):
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    return f"{title}:\n{lines}"
