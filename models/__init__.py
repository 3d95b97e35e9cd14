"""The paper's networks, and the way from a model's name to the model."""

from __future__ import annotations

from fxscale.models.overfeat import OverFeat, overfeat_fast
from fxscale.models.registry import FORMS, create, names, resnet34, resolve

__all__ = ["FORMS", "OverFeat", "create", "names", "overfeat_fast", "resnet34", "resolve"]
