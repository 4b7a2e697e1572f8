"""Probes, cross-modal retrieval, spatial statistics and information measures."""
