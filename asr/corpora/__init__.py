"""Corpora on their way to manifests: downloads, archives, layouts that several recipes share, importers."""
