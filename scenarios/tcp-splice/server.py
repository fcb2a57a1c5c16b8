#!/usr/bin/python3
"""Sets up the server: listens, then goes to the background; returns once connections are taken."""

import os
import signal
import sys

sys.path.insert(0, os.environ.get("LAB_LIB", "/lab/lib"))
import background
import tcppeer as peer

listener = peer.listen()
background.detach()
peer.serve(listener)
signal.pause()
