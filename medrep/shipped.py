"""Where the shipped configurations and gates are: in the package once installed, beside it in a checkout."""

from pathlib import Path

SHIPPED = next(
    folder for folder in (Path(__file__).parent / "configs", Path(__file__).parents[1] / "configs") if folder.is_dir()
)
