from __future__ import annotations

from evaluation.conftest import checkpoint  # a model smaller than tiny

__all__ = ["checkpoint"]
