"""The conditional VAE: closed-form layers around a network."""
