"""The machine that the lab runs on: packages, QEMU and its accelerator, Debian's mirror, room, noise."""
