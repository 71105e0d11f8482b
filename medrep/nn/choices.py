"""Choices that settings name and networks follow; settings are read without torch, which takes seconds to import."""

from typing import Literal

Conditioning = Literal["film", "concatenate"]
"""How covariates enter a network: they modulate features (FiLM, Perez 2018), or stand beside the input."""
