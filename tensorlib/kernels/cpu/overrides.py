"""Imports every family of overrides, which registers them."""

from __future__ import annotations
