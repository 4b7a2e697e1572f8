"""Encoders of positions, texts and images: fixed encodings, frozen backbones, and the networks on top of them."""
