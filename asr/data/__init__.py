"""Prepared data: manifests, the prepared folder's header, audio, shards, texts and tokens."""
