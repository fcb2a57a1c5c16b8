#!/usr/bin/python3
"""Sets up the server: listens, then goes to the background; returns once connections are taken."""

import os
import signal

import carrier

import background

carrier.set_up()
listener = carrier.smc.listen(os.environ["LAB_SERVER"])
background.detach()
carrier.smc.serve(listener)
signal.pause()
