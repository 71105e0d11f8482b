"""What can go wrong with a registry of models."""

from medrep.errors import MedrepError


class RegistryError(MedrepError):
    """A registry that cannot be reached, or a version in it that is absent, altered or not to be used."""
