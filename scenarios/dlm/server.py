#!/usr/bin/python3
"""Sets up the server: listens for the client's orders, then goes to the background."""

import socket

import node

import background

listener = socket.create_server(("", node.PORT))
background.detach()
node.serve(listener)
