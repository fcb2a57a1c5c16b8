#!/usr/bin/python3
"""Sets up the server: listens for the client's orders, then goes to the background."""

import os
import sys

sys.path.insert(0, os.environ["LAB_LIB"])
import node
import orders

orders.serve(node.Node(node.SERVER))
