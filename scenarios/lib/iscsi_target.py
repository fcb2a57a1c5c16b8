"""An iSCSI target (LIO) on a file in tmpfs, set up through configfs: one LUN, any initiator, no password.

`python3 /lab/lib/iscsi_target.py` makes the file with what only the server has, and the target.
"""

import os
import sys

sys.path.insert(0, os.environ.get("LAB_LIB", "/lab/lib"))
import blockcheck
import configfs

NAME = "iqn.2003-01.org.example:kpatchlab"
PORT = 3260
BACKING = os.path.join(os.environ.get("LAB_TMP", "/tmp"), "iscsi-backing")


def set_up(address):
    """Make the backing file, and listen."""
    blockcheck.serve(BACKING)
    target = configfs.folder("target")
    store = f"{target}/core/fileio_0/disk"
    os.makedirs(store)
    configfs.put(f"{store}/control", f"fd_dev_name={BACKING},fd_dev_size={blockcheck.SIZE},fd_buffered_io=1")
    configfs.put(f"{store}/enable", 1)
    group = f"{target}/iscsi/{NAME}/tpgt_1"
    os.makedirs(group)
    lun = f"{group}/lun/lun_0"
    os.makedirs(lun)
    os.symlink(store, f"{lun}/disk")
    for name, value in (
        ("authentication", 0),
        ("generate_node_acls", 1),
        ("demo_mode_write_protect", 0),
        ("cache_dynamic_acls", 1),
    ):
        configfs.put(f"{group}/attrib/{name}", value)
    os.makedirs(f"{group}/np/{address}:{PORT}")
    configfs.put(f"{group}/enable", 1)


if __name__ == "__main__":
    set_up(os.environ["LAB_SERVER"])
