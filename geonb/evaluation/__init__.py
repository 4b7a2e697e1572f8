"""Evaluation: linear probes, cross-modal retrieval, spatial statistics and information measures."""
