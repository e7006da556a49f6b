"""Serve models over HTTP and WebSockets, in the protocols that existing clients speak. Needs the extra ``server``."""
