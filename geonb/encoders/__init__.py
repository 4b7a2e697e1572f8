"""Encoders of positions, texts and images: encodings, frozen backbones and networks."""
