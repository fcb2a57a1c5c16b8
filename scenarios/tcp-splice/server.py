#!/usr/bin/python3
"""Sets up the server: listens, then goes to the background; returns once connections are taken."""

import signal

import peer

import background

listener = peer.listen()
background.detach()
peer.serve(listener)
signal.pause()
