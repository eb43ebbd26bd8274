"""Datasets that are made on first use, by the `download` step of their YAML."""
