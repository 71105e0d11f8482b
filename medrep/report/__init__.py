"""The page of a run, built from the files of the run alone: one HTML file that opens from disk, without network or server."""
