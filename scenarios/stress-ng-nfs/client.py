#!/usr/bin/python3
"""stress-ng's stressors of files, on a mount."""

import os
import sys

sys.path.insert(0, os.environ.get("LAB_LIB", "/lab/lib"))
import stressng

stressng.run_on_mount("/mnt/share")
