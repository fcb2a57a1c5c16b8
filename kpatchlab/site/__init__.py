"""A static site of all nights: files that any server, or a browser alone, can show; no network, no scripts."""
