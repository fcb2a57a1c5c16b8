#!/usr/bin/python3
"""Sets up the server: the disk, the file system, NVMe's target; then goes to the background, for the client's orders."""

import os
import sys

sys.path.insert(0, os.environ["LAB_LIB"])
import node
import nvme_target
import orders

here = node.Node(node.SERVER)
here.device = node.disk()
nvme_target.export(here.device, os.environ["LAB_SERVER"])
orders.serve(here)
