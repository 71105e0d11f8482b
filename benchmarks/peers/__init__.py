"""Other people's harmonisers, each run as a process of its own in an environment of its own."""
