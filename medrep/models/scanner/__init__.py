"""Scanners as a layer of the volume models: what each does to an image, estimated, and its inverse; see `harmonizer`."""

from medrep.models.scanner.harmonizer import ScannerHarmonizer

__all__ = ["ScannerHarmonizer"]
