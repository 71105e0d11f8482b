"""What reports show and no table of a run holds: measured while the data are at hand, kept in OUT/report."""
