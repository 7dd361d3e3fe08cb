"""The core model: encoders, fusion, masked autoencoder, heads. Flat keyword arguments, never a recipe."""
