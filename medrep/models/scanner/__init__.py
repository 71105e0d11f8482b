"""Scanners as a layer of the volume models: what each does to an image, estimated, and the way back; see `harmoniser`."""

from medrep.models.scanner.harmonizer import ScannerHarmoniser

__all__ = ["ScannerHarmoniser"]
