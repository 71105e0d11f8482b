"""Training of networks: the loop, its state, and several processes."""
