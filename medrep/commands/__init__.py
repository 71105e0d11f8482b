"""One file a command: the straight path of its data. What a person types is parsed in ``cli``."""
