"""What of an address a route takes as the rest of it: all of it, to the last character."""

from starlette.convertors import PathConvertor, register_url_convertor

WHOLE = "whole"
"""The name of the convertor in a route's path."""


class WholeConvertor(PathConvertor):
    """Starlette's `path` stops at a line break, and leaves a last one out: `DELETE /threads/a%0A` would delete `a`."""

    regex = r"[\s\S]*"


register_url_convertor(WHOLE, WholeConvertor())
