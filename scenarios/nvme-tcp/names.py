"""What both ends must agree on."""

import os

SUBSYSTEM = "nqn.2014-08.org.example:kpatchlab"
PORT = 4420
BACKING = os.path.join(os.environ.get("LAB_TMP", "/tmp"), "nvme-backing")
