"""JSON that every parser reads."""

import json
import math


def strict_json(value, indent: int | None = None) -> str:
    """As JSON, which has neither NaN nor infinity: both become null.

    Example:
        >>> strict_json({"losses": [0.5, float("nan")]})
        '{"losses": [0.5, null]}'
    """
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value):
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
